"""The published optimiser and the published router for the largest stage, as printed, live on the state."""

from __future__ import annotations

from dataclasses import dataclass, field

from asd.errors import ConfigError
from asd.evidence import Evidence
from asd.operations.state import SystemState
from asd.policies import ClosedForm, Policy
from asd.policies.routing import ComplexityRule, Routed

__all__ = ["PublishedOptimizer", "Router"]


@dataclass(slots=True, eq=False)
class PublishedOptimizer:
    """The published optimiser as printed: multipliers on the costs of its closed-form thresholds.

    Mean latency above 1.2 x target: the smallest stage x .95, the largest x 1.05; mean utilisation above .85:
    all x 1.05; a queue longer than 10: that stage x 1.1; all within [.5, 3].

    Attributes:
        stages: In ladder order.
        costs: Of each stage alone, any common unit.
        lam: Of its thresholds, within [.1, 10].
        evidence: What is known about the answers so far.
        target_s: Mean latency that it aims at.
        interval_s: Seconds between two looks.
    """

    stages: tuple[str, ...]
    costs: tuple[float, ...]
    lam: float
    evidence: Evidence
    target_s: float = 0.2
    interval_s: float = 30.0
    _multipliers: dict[str, float] = field(default_factory=dict)
    _made: dict[tuple[float, ...], ClosedForm] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.1 <= self.lam <= 10.0:
            raise ConfigError(f"the published optimiser keeps lam within 0.1 and 10, got {self.lam:g}")
        self._multipliers = dict.fromkeys(self.stages, 1.0)

    @property
    def name(self) -> str:
        """The name with its lam."""
        return f"published(lam={self.lam:g})"

    @property
    def multipliers(self) -> dict[str, float]:
        """As they are, by stage."""
        return dict(self._multipliers)

    def policy(self, state: SystemState | None) -> ClosedForm:
        """Thresholds at the costs of this moment."""
        if state is not None:
            self._adapt(state)
        factors = tuple(round(self._multipliers[stage], 3) for stage in self.stages)
        if factors not in self._made:
            costs = tuple(cost * factor for cost, factor in zip(self.costs, factors, strict=True))
            self._made[factors] = ClosedForm(self.stages, costs, self.lam, self.evidence)
        return self._made[factors]

    def _adapt(self, state: SystemState) -> None:
        if state.latency_s is not None and state.latency_s > 1.2 * self.target_s:
            self._multiply(self.stages[0], 0.95)
            self._multiply(self.stages[-1], 1.05)
        utilisations = [stage.utilisation for stage in state.stages.values()]
        if sum(utilisations) / len(utilisations) > 0.85:
            for stage in self.stages:
                self._multiply(stage, 1.05)
        for name, stage_state in state.stages.items():
            if stage_state.n_waiting > 10:
                self._multiply(name, 1.1)

    def _multiply(self, stage: str, factor: float) -> None:
        self._multipliers[stage] = min(3.0, max(0.5, self._multipliers[stage] * factor))


@dataclass(slots=True, eq=False)
class Router:
    """Prompts that look complex go to the largest stage, the more of them the less it is used.

    Attributes:
        otherwise: Decides about all others.
        largest: Name of the largest stage.
        lam: Of the rule.
        target: Share of the largest stage that should be in use.
        interval_s: Seconds between two looks.
    """

    otherwise: Policy
    largest: str
    lam: float
    target: float = 0.7
    interval_s: float = 30.0
    _made: dict[float, Routed] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name with its settings."""
        return f"router(lam={self.lam:g},else={self.otherwise.name})"

    def policy(self, state: SystemState | None) -> Routed:
        """The rule at the largest stage's utilisation, to a twentieth."""
        seen = 0.0 if state is None else state.stages[self.largest].utilisation
        use = round(20.0 * seen) / 20.0
        if use not in self._made:
            rule = ComplexityRule(self.largest, self.lam, self.target, lambda: use)
            self._made[use] = Routed(rule, self.otherwise, self.largest)
        return self._made[use]
