"""What the policy itself costs: one decision on the hot path, and solving a problem of realistic size."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from asd.measurement.records import Cell
from asd.stopping.graph import Edge, Graph, Node
from asd.stopping.recursion import solve
from bench.cells import overhead_cell
from bench.session import Session

Record = Callable[[Cell], None]


def test_decision(session: Session, record: Record, benchmark: Any) -> None:
    """Judging the smallest stage's draft and looking the action up."""
    dataset, lam = session.matrix.datasets[0], session.matrix.lams[-1]
    policy = session.replay(dataset, "optimal", lam).contender.policy
    smallest = session.matrix.ladder.stages[0].name
    trace = session.outcomes[dataset].traces[0]
    drafts = {smallest: trace.outcomes[smallest].draft}
    decision = benchmark.pedantic(
        policy.decide, args=(trace.query, drafts), rounds=50, iterations=20, warmup_rounds=2
    )
    record(overhead_cell("optimal", "decision_s", benchmark.stats.stats.data))
    assert decision.answer == smallest


def test_solve(record: Record, benchmark: Any) -> None:
    """Four stages on a chain, 50 bins, 100 lambdas."""
    rng = np.random.default_rng(0)
    names = ["root", "A", "A+B", "A+B+C", "A+B+C+D"]
    nodes = tuple(Node(name, np.sort(rng.uniform(size=50)), may_stop=name != "root") for name in names)
    edges = tuple(
        Edge(
            source=source,
            target=target,
            action=target[-1],
            cost=np.full(50, 2.0**k),
            kernel=rng.dirichlet(np.ones(50), size=50),
        )
        for k, (source, target) in enumerate(pairwise(names))
    )
    graph = Graph(nodes, edges, np.full(50, 1 / 50))
    lams = np.geomspace(0.1, 100, 100)
    solution = benchmark.pedantic(solve, args=(graph, lams), rounds=20, iterations=1, warmup_rounds=1)
    record(overhead_cell("recursion", "solve_s", benchmark.stats.stats.data))
    assert len(solution.lams) == len(lams)
