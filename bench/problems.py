"""A stopping problem of realistic size, to time the recursion on: every set of stages is a node."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from asd.stopping.graph import Edge, Graph, Node

__all__ = ["subset_problem"]


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
            action=stage,
            cost=np.full(n_bins, 2.0 ** stages.index(stage)),
            kernel=rng.dirichlet(np.ones(n_bins), size=n_bins),
        )
        for source in sets
        for stage in stages
        if stage not in source
    )
    return Graph(nodes, edges, np.full(n_bins, 1 / n_bins))
