"""What the policy itself costs: one decision on the hot path, and solving a problem of realistic size."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from asd.evaluation.problems import subset_problem, verified_problem
from asd.evidence import Judgement
from asd.policies import ListPolicy, OptimalPolicy
from asd.stopping.graph import Graph
from asd.stopping.recursion import solve
from asd.types import Draft, Query
from bench.metrics.cells import overhead_cell
from bench.metrics.measurements import Record
from bench.metrics.overhead import Overhead, time_call
from bench.run.session import Session


@dataclass(frozen=True)
class DecisionCase:
    """The adaptive policy, and a query that the smallest stage has answered."""

    policy: OptimalPolicy | ListPolicy
    query: Query
    drafts: Mapping[str, Draft]


@dataclass(frozen=True)
class RememberedEvidence:
    """Evidence that has been weighed before: what is left of a decision is the lookup."""

    judgement: Judgement

    def judge(self, *_: object) -> Judgement:
        """The one judgement there is."""
        return self.judgement


@pytest.fixture
def situation(session: Session) -> DecisionCase:
    """The first question of the first dataset, at the largest lambda."""
    dataset, lam = session.matrix.datasets[0], session.matrix.lams[-1]
    policy = session.replay(dataset, "optimal", lam).contender.policy
    assert isinstance(policy, OptimalPolicy | ListPolicy)
    smallest = session.matrix.ladder.stages[0].name
    trace = session.outcomes[dataset].traces[0]
    return DecisionCase(policy, trace.query, {smallest: trace.outcomes[smallest].draft})


@pytest.fixture
def tell(record: Record, clocked: Callable[..., None]) -> Callable[[str, str, Overhead], None]:
    """Records what was timed, and shows it."""

    def record_and_show(policy: str, name: str, timed: Overhead) -> None:
        record(lambda: overhead_cell(policy, name, timed.seconds), timed.turns)
        clocked(timed.seconds.ravel())

    return record_and_show


def test_decision(session: Session, situation: DecisionCase, tell: Callable[..., None]) -> None:
    """Judging the smallest stage's draft and looking the action up."""

    def decide() -> object:
        return situation.policy.decide(situation.query, situation.drafts)

    timed = time_call(session, "decision", decide, rounds=50, repetitions=20)
    tell("optimal", "decision_s", timed)
    assert timed.result == decide()


def test_lookup(session: Session, situation: DecisionCase, tell: Callable[..., None]) -> None:
    """Looking up what to do once the evidence is weighed: the policy's share of a decision."""
    state = situation.policy.evidence.judge(situation.query, situation.drafts)
    policy = replace(situation.policy, evidence=RememberedEvidence(state))

    def look_up() -> object:
        return policy.decide(situation.query, situation.drafts)

    timed = time_call(session, "lookup", look_up, rounds=50, repetitions=100)
    tell("lookup", "lookup_s", timed)
    assert timed.result == situation.policy.decide(situation.query, situation.drafts)


@pytest.mark.parametrize(
    ("name", "problem"), [("recursion", subset_problem), ("recursion-verified", verified_problem)]
)
def test_solve(session: Session, tell: Callable[..., None], name: str, problem: Callable[..., Graph]) -> None:
    """Four stages, in any order or also reading the answers of smaller ones; 50 bins, 100 lambdas."""
    graph = problem("ABCD", n_bins=50, rng=np.random.default_rng(0))
    lams = np.geomspace(0.1, 100, 100)
    timed = time_call(session, name, lambda: solve(graph, lams), rounds=20)
    tell(name, "solve_s", timed)
    assert timed.result is not None
