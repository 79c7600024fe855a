"""Policies that climb the ladder by thresholds: one for all stages, or the published closed form."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from asd.errors import ConfigError, PolicyMismatchError
from asd.evidence import Evidence, Judgement
from asd.policies.checks import check_lam, check_stages
from asd.types import STOP, Action, Decision, Drafts, Query, Verification

__all__ = ["ClosedForm", "StaticWalk"]


@dataclass(frozen=True, slots=True, eq=False)
class StaticWalk:
    """Climb the ladder one stage at a time until the best answer so far is likely enough to be right.

    Attributes:
        stages: Names in the order of the climb.
        threshold: Stop as soon as the calibrated success probability is at least this.
        evidence: What is known about the answers so far.

    Raises:
        ConfigError: there is no stage, one is named twice, or the threshold is not a number.
    """

    stages: tuple[str, ...]
    threshold: float
    evidence: Evidence

    def __post_init__(self) -> None:
        check_stages(self.stages)
        if math.isnan(self.threshold):
            raise ConfigError("threshold must be a number, got nan")

    @property
    def name(self) -> str:
        """The name with its threshold, as in `walk(p>=0.8)`."""
        return f"walk(p>={self.threshold:g})"

    def decide(self, query: Query, drafts: Drafts, verification: Verification | None = None) -> Decision:  # noqa: ARG002
        """Stop at the threshold or at the top, else run the next stage."""
        if not drafts:
            return Decision(Action.draft(self.stages[0]), None)
        state = self.evidence.judge(query, drafts)
        answer = _answer(state)
        left = [stage for stage in self.stages if stage not in drafts]
        stops = not left or state.p_good[answer] >= self.threshold
        return Decision(STOP if stops else Action.draft(left[0]), answer, state.p_good)

    def without(self, stages: Collection[str]) -> StaticWalk:
        """The climb over the other stages; `ConfigError` where none is left."""
        left = tuple(stage for stage in self.stages if stage not in stages)
        return StaticWalk(left, self.threshold, self.evidence)


@dataclass(frozen=True, slots=True, eq=False)
class ClosedForm:
    """Thresholds published for this idea, theta_i = (1 - 0.5 * c_i / c_(i+1)) / (1 + lam), as printed.

    Stage i's answer is returned if its own success probability is at least theta_i; the last stage's always.
    A baseline: its quality *falls* as lam grows, so sweep it over its own grid on frontiers.

    Attributes:
        stages: Names in the order of the climb.
        costs: Cost of each stage alone, any common unit.
        lam: The formula's parameter.
        evidence: What is known about the answers so far.

    Raises:
        ConfigError: stages and costs do not pair up, a cost is not positive, or `lam` is negative.
    """

    stages: tuple[str, ...]
    costs: tuple[float, ...]
    lam: float
    evidence: Evidence

    def __post_init__(self) -> None:
        check_stages(self.stages)
        check_lam(self.lam)
        if len(self.costs) != len(self.stages):
            raise ConfigError(f"every stage needs one cost, got {self.costs} for {self.stages}")
        if not all(math.isfinite(cost) and cost > 0 for cost in self.costs):
            raise ConfigError(f"costs must be positive and finite, got {self.costs}")

    @property
    def name(self) -> str:
        """The name with its lam, as in `closed-form(lam=2)`."""
        return f"closed-form(lam={self.lam:g})"

    @property
    def thresholds(self) -> tuple[float, ...]:
        """theta_i of every stage but the last."""
        pairs = zip(self.costs, self.costs[1:], strict=False)
        return tuple((1 - 0.5 * cost / after) / (1 + self.lam) for cost, after in pairs)

    def decide(self, query: Query, drafts: Drafts, verification: Verification | None = None) -> Decision:  # noqa: ARG002
        """Return the latest answer if it clears its threshold or is the last stage's, else climb."""
        if not drafts:
            return Decision(Action.draft(self.stages[0]), None)
        state = self.evidence.judge(query, drafts)
        latest = next(reversed(list(drafts)))
        rung = self.stages.index(latest)
        stops = rung == len(self.stages) - 1 or state.p_good[latest] >= self.thresholds[rung]
        action = STOP if stops else Action.draft(self.stages[rung + 1])
        return Decision(action, latest, state.p_good)

    def without(self, stages: Collection[str]) -> ClosedForm:
        """The formula over the other stages and their costs; `ConfigError` where none is left."""
        left = [pair for pair in zip(self.stages, self.costs, strict=True) if pair[0] not in stages]
        names, costs = tuple(name for name, _ in left), tuple(cost for _, cost in left)
        return ClosedForm(names, costs, self.lam, self.evidence)


def _answer(state: Judgement) -> str:
    if state.answer is None:
        raise PolicyMismatchError(f"the evidence names no best answer at node {state.node!r}")
    return state.answer
