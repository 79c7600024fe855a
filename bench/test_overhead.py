"""What the policy itself costs: one decision on the hot path, and solving a problem of realistic size."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from asd.evaluation.problems import subset_problem, verified_problem
from asd.evidence import Judgement
from asd.measurement.records import Cell
from asd.policies import OptimalPolicy
from asd.stopping.recursion import solve
from asd.types import Draft, Query
from bench.cells import overhead_cell
from bench.session import Session

Record = Callable[[Cell], None]


@dataclass(frozen=True)
class Situation:
    """The optimal policy, and a query with the smallest stage's draft in hand."""

    policy: OptimalPolicy
    query: Query
    drafts: Mapping[str, Draft]


@dataclass(frozen=True)
class Judged:
    """Evidence that has been weighed before: what is left of a decision is the lookup."""

    judgement: Judgement

    def judge(self, *_: object) -> Judgement:
        """The one judgement there is."""
        return self.judgement


@pytest.fixture
def situation(session: Session) -> Situation:
    """The first question of the first dataset, at the largest lambda."""
    dataset, lam = session.matrix.datasets[0], session.matrix.lams[-1]
    policy = session.replay(dataset, "optimal", lam).contender.policy
    assert isinstance(policy, OptimalPolicy)
    smallest = session.matrix.ladder.stages[0].name
    trace = session.outcomes[dataset].traces[0]
    return Situation(policy, trace.query, {smallest: trace.outcomes[smallest].draft})


def test_decision(situation: Situation, record: Record, benchmark: Any) -> None:
    """Judging the smallest stage's draft and looking the action up."""
    decision = benchmark.pedantic(
        situation.policy.decide,
        args=(situation.query, situation.drafts),
        rounds=50,
        iterations=20,
        warmup_rounds=2,
    )
    record(overhead_cell("optimal", "decision_s", benchmark.stats.stats.data))
    assert decision.answer in situation.drafts


def test_lookup(situation: Situation, record: Record, benchmark: Any) -> None:
    """Looking up what to do once the evidence is weighed: the policy's share of a decision."""
    state = situation.policy.evidence.judge(situation.query, situation.drafts)
    policy = replace(situation.policy, evidence=Judged(state))
    decision = benchmark.pedantic(
        policy.decide, args=(situation.query, situation.drafts), rounds=50, iterations=100, warmup_rounds=2
    )
    record(overhead_cell("lookup", "lookup_s", benchmark.stats.stats.data))
    assert decision.answer in situation.drafts


def test_solve(record: Record, benchmark: Any) -> None:
    """Four stages in any order, 50 bins, 100 lambdas."""
    graph = subset_problem("ABCD", n_bins=50, rng=np.random.default_rng(0))
    lams = np.geomspace(0.1, 100, 100)
    solution = benchmark.pedantic(solve, args=(graph, lams), rounds=20, iterations=1, warmup_rounds=1)
    record(overhead_cell("recursion", "solve_s", benchmark.stats.stats.data))
    assert len(solution.lams) == len(lams)


def test_solve_with_verification(record: Record, benchmark: Any) -> None:
    """Four stages, each of which can read the answers of smaller ones, 50 bins, 100 lambdas."""
    graph = verified_problem("ABCD", n_bins=50, rng=np.random.default_rng(0))
    lams = np.geomspace(0.1, 100, 100)
    solution = benchmark.pedantic(solve, args=(graph, lams), rounds=20, iterations=1, warmup_rounds=1)
    record(overhead_cell("recursion-verified", "solve_s", benchmark.stats.stats.data))
    assert len(solution.lams) == len(lams)
