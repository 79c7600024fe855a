"""The recursion itself: how long it takes by stages and bins, and that it finds what trying everything finds.

Problems are made up: every set of stages a node, random probabilities and kernels. The check enumerates all
policies of small ones and follows the distribution over states forwards, which shares nothing with backward
induction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np

from asd.evaluation.problems import subset_problem
from asd.measurement.timing import Clock
from asd.research.study.record import StudyTable
from asd.stopping.graph import Graph
from asd.stopping.recursion import solve

__all__ = ["exactness_table", "solving_table", "tried"]

LAMS = tuple(float(lam) for lam in np.geomspace(0.1, 100.0, 100))
SIZES = tuple(product((2, 3, 4, 5), (10, 20, 50)))
"""Stages and bins."""

N_REPEATS = 3
N_CASES = 50
LETTERS = "ABCDE"

Choices = Mapping[tuple[str, int], int]
"""By node and bin, -1 to stop or the index of an outgoing edge."""


def solving_table(seed: int, clock: Clock) -> StudyTable:
    """Milliseconds to solve for a hundred lambdas, the fastest of some repeats."""
    rng = np.random.default_rng(seed)
    rows = []
    for n_stages, n_bins in SIZES:
        problem = subset_problem(LETTERS[:n_stages], n_bins, rng)
        fastest = min(_seconds(problem, clock) for _ in range(N_REPEATS))
        rows.append((n_stages, n_bins, len(problem.nodes), len(problem.edges), fastest * 1e3))
    return StudyTable(
        name="solving",
        title="Time to solve the stopping problem",
        provenance="timing-only",
        measured_on=f"made-up problems, {len(LAMS)} lambdas, one thread",
        n=len(rows),
        columns=("stages", "bins", "nodes", "edges", "solve_ms"),
        rows=tuple(rows),
        note=f"Fastest of {N_REPEATS}; n counts problems.",
    )


def _seconds(problem: Graph, clock: Clock) -> float:
    began = clock()
    solve(problem, LAMS)
    return clock() - began


def exactness_table(seed: int) -> StudyTable:
    """Largest difference between the recursion's value and that of the best of all policies."""
    rng = np.random.default_rng(seed)
    rows = []
    for stages, n_bins in (("A", 3), ("AB", 1), ("AB", 2)):
        differences, n_policies = [], 0
        for _ in range(N_CASES):
            problem, lam = subset_problem(stages, n_bins, rng), float(rng.uniform(0.5, 20.0))
            values = [lam * quality - cost for quality, cost in tried(problem)]
            differences.append(abs(max(values) - float(solve(problem, [lam]).expected_value[0])))
            n_policies = len(values)
        rows.append((len(stages), n_bins, N_CASES, n_policies, max(differences)))
    return StudyTable(
        name="exactness",
        title="Backward induction against trying every policy",
        provenance="simulated",
        measured_on="made-up problems",
        n=N_CASES,
        columns=("stages", "bins", "problems", "policies_each", "largest_difference"),
        rows=tuple(rows),
        note="Difference of values, cost units; n counts problems of a size.",
    )


def tried(graph: Graph) -> Iterator[tuple[float, float]]:
    """Expected quality and cost of every deterministic policy."""
    states = [(node, b) for node in graph.nodes for b in range(node.n_bins)]
    open_to = [range(-1 if n.may_stop else 0, len(graph.outgoing(n.name))) for n, _ in states]
    names = [(node.name, b) for node, b in states]
    for chosen in product(*open_to):
        yield _followed(graph, dict(zip(names, chosen, strict=True)))


def _followed(graph: Graph, choices: Choices) -> tuple[float, float]:
    mass = {node.name: np.zeros(node.n_bins) for node in graph.nodes}
    mass[graph.root.name] = graph.start.copy()
    quality = cost = 0.0
    for node in graph.nodes:
        edges = graph.outgoing(node.name)
        for b, here in enumerate(mass[node.name].tolist()):
            choice = choices[node.name, b]
            if choice == -1:
                quality += here * float(node.p[b])
                continue
            cost += here * float(edges[choice].cost[b])
            mass[edges[choice].target] += here * edges[choice].kernel[b]
    return quality, cost
