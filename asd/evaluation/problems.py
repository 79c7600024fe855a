"""Stopping problems of realistic size, to time the recursion on: every set of stages is a node."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from asd.stopping.graph import Edge, Graph, Node
from asd.stopping.states import moves, states
from asd.types import Action, pair_name

__all__ = ["subset_problem", "verified_problem"]


def subset_problem(stages: str, n_bins: int, rng: np.random.Generator) -> Graph:
    """All 2^K sets of stages as nodes, one more stage in any order as edges; bins and kernels are random.

    Args:
        stages: One letter a stage, cheapest first; each costs twice the one before.
        n_bins: Bins of every node.
        rng: Draws probabilities and kernels.
    """
    sets = ["".join(chosen) for size in range(len(stages) + 1) for chosen in combinations(stages, size)]
    nodes = tuple(Node(name, np.sort(rng.uniform(size=n_bins)), may_stop=bool(name)) for name in sets)
    edges = tuple(
        Edge(
            source=source,
            target="".join(sorted({*source, stage}, key=stages.index)),
            action=Action.draft(stage),
            cost=np.full(n_bins, 2.0 ** stages.index(stage)),
            kernel=rng.dirichlet(np.ones(n_bins), size=n_bins),
        )
        for source in sets
        for stage in stages
        if stage not in source
    )
    return Graph(nodes, edges, np.full(n_bins, 1 / n_bins))


def verified_problem(stages: str, n_bins: int, rng: np.random.Generator) -> Graph:
    """A ladder whose larger stages can all read the answers of smaller ones; bins and kernels are random.

    Args:
        stages: One letter a stage, cheapest first; each costs twice the one before, reading a tenth of that.
        n_bins: Bins of every node.
        rng: Draws probabilities and kernels.
    """
    pairs = [pair_name(*pair) for pair in combinations(stages, 2)]
    nodes = tuple(
        Node(state.name, np.sort(rng.uniform(size=n_bins)), may_stop=bool(state.answered))
        for state in states(stages, pairs)
    )
    edges = tuple(
        Edge(
            source=move.source.name,
            target=move.target.name,
            action=move.action,
            cost=np.full(
                n_bins, 2.0 ** stages.index(move.stage) * (1.0 if move.target.verifier is None else 0.1)
            ),
            kernel=rng.dirichlet(np.ones(n_bins), size=n_bins),
        )
        for move in moves(stages, pairs)
    )
    return Graph(nodes, edges, np.full(n_bins, 1 / n_bins))
