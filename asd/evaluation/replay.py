"""Every policy of a run, walked over the recorded outcomes of that same run: quality, cost, tokens, stages.

The engines are played back, so what a policy returns here is what the models wrote; provenance `replayed`.
Cost is in units of the mean run of the largest stage alone over the rows the policy was fitted on, and so is
lambda: a unit that does not move with the questions of a run. Prices, unit and policy are those of the batch
size, so that nothing is bought that does not pay there. Beside the adaptive policy stand "unverified",
the same where drafts are thrown away, and "lossless", the largest stage's own answers, drafted by
smaller ones; "drafted" is the largest stage with its own drafter, which policies have too. The single stages
that all is compared with write alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asd.cascade import Cascade
from asd.engines.replay import ReplayEngine
from asd.ladder import Ladder
from asd.policies import ClosedForm, FixedStage, Myopic, Oracle, Policy, RandomMix, StaticWalk
from asd.policy.artifact import PolicyArtifact
from asd.prices import Prices
from asd.types import STOP, Completion, Draft, Trace, Verification

__all__ = ["SHARES", "Contender", "Outcomes", "Replay", "contenders", "optimal", "walk_of"]

Array = NDArray[np.float64]
Walk = tuple[str, ...]

SHARES = (0.95, 0.99)
"""Of the largest stage's quality, that the named settings are to keep."""

STATIC_THRESHOLD = 0.8
"""The fixed confidence at which the static walk stops."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A policy in the comparison.

    Attributes:
        name: Short.
        lam: Its lambda, if it has one.
        policy: The policy itself.
        drafter: Its stages draft while they write, where they have drafters.
    """

    name: str
    lam: float | None
    policy: Policy
    drafter: bool = True


@dataclass(frozen=True)
class Outcomes:
    """What every stage of a ladder answered to the items of one dataset.

    Attributes:
        dataset: Its name.
        ladder: Supplies the prices.
        traces: One an item.
        unit: One cost unit, priced.
        batch: Queries a call that prices and policies are for.
    """

    dataset: str
    ladder: Ladder
    traces: tuple[Trace, ...]
    unit: float
    batch: int = 1

    @property
    def prices(self) -> dict[str, Prices]:
        """What a query costs in calls of that size, by stage."""
        return self.ladder.prices_at(self.batch)

    @property
    def largest(self) -> str:
        """Name of the largest stage."""
        return self.ladder.stages[-1].name

    def costs(self, stage: str) -> Array:
        """Priced cost of a stage alone on every item, raw price unit."""
        return np.array([self.prices[stage].cost(t.outcomes[stage].draft.usage.alone) for t in self.traces])

    @property
    def verified(self) -> bool:
        """Whether larger stages have read the drafts of smaller ones."""
        return all(trace.verifications for trace in self.traces)

    def verifications(self, pair: str) -> list[Verification]:
        """What one stage said of another's draft, item by item; empty where it has read none."""
        return [t.verifications[pair] for t in self.traces if pair in t.verifications]

    def walk(self, contender: Contender) -> Replay:
        """Let a policy decide on every item, the stages played back."""
        engines = {
            s.name: ReplayEngine(s.name, self.traces, drafter=contender.drafter) for s in self.ladder.stages
        }
        queries = [trace.query for trace in self.traces]
        cascade = Cascade(engines, contender.policy, self.prices, only=self.ladder.only)
        completions = cascade.run(queries, batch_size=len(queries))
        scores = [t.outcomes[c.stage].score for t, c in zip(self.traces, completions, strict=True)]
        return Replay(self, contender, tuple(completions), np.array(scores, dtype=float))


@dataclass(frozen=True)
class Replay:
    """One policy's way over one dataset; `quality` has one score an item."""

    outcomes: Outcomes
    contender: Contender
    completions: tuple[Completion, ...]
    quality: Array

    @property
    def cost(self) -> Array:
        """Per item, in runs of the largest stage."""
        return np.array([completion.cost for completion in self.completions]) / self.outcomes.unit

    @property
    def walks(self) -> tuple[Walk, ...]:
        """Per item, the actions taken, in order, and the stage whose answer was returned."""
        return tuple(walk_of(completion) for completion in self.completions)

    @property
    def n_decoded(self) -> Array:
        """Tokens decoded per item, all stages together."""
        return np.array([sum(call.usage.n_decoded for call in calls(c)) for c in self.completions], float)

    @property
    def n_verified(self) -> Array:
        """Draft tokens read per item, all stages together."""
        return np.array([sum(v.usage.n_verified for v in c.verifications) for c in self.completions], float)

    @property
    def n_accepted(self) -> Array:
        """Draft tokens accepted per item, all stages together."""
        return np.array([sum(v.n_accepted for v in c.verifications) for c in self.completions], float)

    @property
    def n_passes(self) -> Array:
        """Forward passes per item, all stages together."""
        return np.array([sum(call.usage.n_passes for call in calls(c)) for c in self.completions], float)

    @property
    def shares(self) -> dict[str, float]:
        """Share of the items answered by each stage, in ladder order."""
        returned = [completion.stage for completion in self.completions]
        return {s.name: returned.count(s.name) / len(returned) for s in self.outcomes.ladder.stages}


def calls(completion: Completion) -> tuple[Draft | Verification, ...]:
    """Everything that was paid for."""
    return (*completion.drafts, *completion.verifications)


def walk_of(completion: Completion) -> Walk:
    """The actions taken, in order, and the stage whose answer was returned."""
    actions = (str(decision.action) for decision in completion.decisions if decision.action != STOP)
    return (*actions, completion.stage)


def optimal(outcomes: Outcomes, fitted: PolicyArtifact, lam: float) -> Contender:
    """The adaptive policy at one lambda, verifying drafts if the stages can."""
    verify = outcomes.verified
    policy = fitted.policy(lam, ladder=outcomes.ladder, verify=verify, batch=outcomes.batch)
    return Contender("optimal", lam, policy)


def keeping(outcomes: Outcomes, fitted: PolicyArtifact, share: float) -> Contender:
    """The adaptive policy at the lambda chosen on the fitting rows to keep a share of the largest's quality.

    It is the largest stage alone if no lambda kept the share there.
    """
    lam = fitted.cheapest_lam(share, outcomes.batch)
    if lam is None:
        return Contender(f"optimal@{share:g}", None, FixedStage(outcomes.largest))
    return Contender(f"optimal@{share:g}", None, optimal(outcomes, fitted, lam).policy)


def contenders(outcomes: Outcomes, fitted: PolicyArtifact, lams: Sequence[float]) -> Iterator[Contender]:
    """The adaptive policy at every lambda, and everything it is compared with."""
    stages = tuple(stage.name for stage in outcomes.ladder.stages)
    batch, evidence = outcomes.batch, fitted.evidence()
    graph = fitted.graph(verify=outcomes.verified, batch=batch)
    for stage in stages:
        yield Contender(f"always-{stage}", None, FixedStage(stage), drafter=False)
    if outcomes.prices[outcomes.largest].per_drafted is not None:
        yield Contender("drafted", None, FixedStage(outcomes.largest))
    yield Contender("random", None, RandomMix(dict.fromkeys(stages, 1.0), seed=0))
    yield Contender("static", None, StaticWalk(stages, STATIC_THRESHOLD, evidence))
    if fitted.verifies and outcomes.verified:
        yield Contender("lossless", None, fitted.lossless(batch))
    for share in SHARES:
        yield keeping(outcomes, fitted, share)
    costs = tuple(float(outcomes.costs(stage).mean()) for stage in stages)
    for lam in lams:
        yield optimal(outcomes, fitted, lam)
        if fitted.verifies and outcomes.verified:
            policy = fitted.policy(lam, verify=False, batch=batch)
            yield Contender("unverified", lam, policy)
        yield Contender("myopic", lam, Myopic(evidence, graph, lam))
        yield Contender("closed-form", lam, ClosedForm(stages, costs, lam, evidence))
        oracle = Oracle.from_traces(outcomes.traces, outcomes.prices, outcomes.unit, lam)
        yield Contender("oracle", lam, oracle)
