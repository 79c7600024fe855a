"""What a rule for the first stage changes, against the same policy without it, on recorded held-out outcomes.

The complexity rule is played twice: while the largest stage is idle, which lowers its bar, and while it is as
busy as the rule wants it. Provenance `replayed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from asd.evaluation.replay import Contender, Outcomes, Replay, optimal
from asd.evaluation.statistics import Bootstrap, Loss, paired_loss
from asd.policy.artifact import PolicyArtifact
from asd.policy.route import TARGET, routed

__all__ = ["Effect", "effects"]


@dataclass(frozen=True, slots=True)
class Effect:
    """One rule at one lam, over all rows.

    Attributes:
        lam: Of the policy.
        rule: Its name; empty: the policy without a rule.
        moved: Share of the queries that another stage answers first than without it.
        quality: Mean score.
        cost: Mean priced cost, cost units.
        lost: Of lam * quality - cost, in units, against the policy without the rule; paired, 95 %.
    """

    lam: float
    rule: str
    moved: float
    quality: float
    cost: float
    lost: Loss


def effects(
    outcomes: Outcomes, fitted: PolicyArtifact, routes: Sequence[str], lams: Sequence[float]
) -> Iterator[Effect]:
    """The policy of every lam without a rule, then behind every rule; rules as `asd.policy.route` names them.

    Raises:
        ConfigError: A lam is out of range, or a predictor is of other stages.
        DataError: A route is no rule and no file of a predictor.
    """
    for lam in lams:
        plain = optimal(outcomes, fitted, lam)
        default = outcomes.walk(plain)
        yield _effect("", default, default, lam)
        for name, route, use in _rules(routes):
            policy = routed(
                route, plain.policy, fitted, lam=lam, batch=outcomes.batch, utilisation=partial(float, use)
            )
            yield _effect(name, outcomes.walk(Contender(name, lam, policy)), default, lam)


def _rules(routes: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    """Name, route and utilisation."""
    for route in routes:
        if route == "complexity":
            yield "complexity, idle", route, 0.0
            yield "complexity, busy", route, TARGET
        else:
            yield route, route, 0.0


def _effect(name: str, replay: Replay, default: Replay, lam: float) -> Effect:
    first, before = ([walk[0] for walk in played.walks] for played in (replay, default))
    was, now = (lam * played.quality - played.cost for played in (default, replay))
    return Effect(
        lam=lam,
        rule=name,
        moved=sum(a != b for a, b in zip(first, before, strict=True)) / len(first),
        quality=float(replay.quality.mean()),
        cost=float(replay.cost.mean()),
        lost=paired_loss(was, now, "higher", Bootstrap(seed=0), relative=False),
    )
