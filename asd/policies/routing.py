"""Which stage answers first, by a rule that reads the prompt alone; from there on another policy decides.

    complexity   the largest stage where the complexity score (`asd.evidence.prompt.complexity`) reaches
                 0.6, below the utilisation target max(0.4, 0.6 - (target - utilisation)), x 0.8 if lam > 2
    taxonomy     the stage that the published recommendation scores highest for prompts of this kind
    prediction   the stage of largest lam * p - cost, p being a fitted predictor's (the five-model ensemble's)

The complexity rule is published: the less the largest stage is used, the lower the bar. A larger lam buys
more quality here; the formula is kept as printed, so its factor applies at large lam too. Scope: utilisation
is read from the caller's gauge, predictors are fitted elsewhere (`asd.evidence.prompt`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError
from asd.evidence.prompt.complexity import complexity_score
from asd.evidence.prompt.taxonomy import classify, recommend
from asd.policies import Policy, Reroutable
from asd.policies.checks import check_lam
from asd.types import STOP, Action, Decision, Drafts, Query, Verification

__all__ = ["ComplexityRule", "PredictionRule", "Routed", "Rule", "TaxonomyRule"]

Array = npt.NDArray[np.float64]

THRESHOLD, LEAST_THRESHOLD = 0.6, 0.4
LARGE_LAM, LARGE_LAM_FACTOR = 2.0, 0.8


class Rule(Protocol):
    """Chooses the first stage."""

    @property
    def name(self) -> str:
        """The name with its settings."""

    def first(self, prompt: str) -> str | None:
        """The stage that answers first; None: the one that the policy would choose."""


@dataclass(frozen=True, slots=True)
class Routed:
    """A rule before a policy.

    Attributes:
        rule: Chooses the first stage.
        otherwise: Decides where the rule chooses none, and after the first answer.
        largest: Last stage of the ladder; its answer to the prompt alone is returned.
        out: Stages that cannot be asked.
    """

    rule: Rule
    otherwise: Policy
    largest: str
    out: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The name with its settings, as in `complexity(L,lam=2,target=0.5),else=always(S)`."""
        return f"{self.rule.name},else={self.otherwise.name}"

    def decide(self, query: Query, drafts: Drafts, verification: Verification | None = None) -> Decision:
        """Route a new prompt; stop after the largest stage alone has answered; else ask the other policy."""
        if not drafts:
            first = self.rule.first(query.prompt)
            if first is not None and first not in self.out:
                return Decision(Action.draft(first), None)
        if list(drafts) == [self.largest]:
            return Decision(STOP, self.largest)
        return self.otherwise.decide(query, drafts, verification)

    def without(self, stages: Collection[str]) -> Routed:
        """The same without these stages; `ConfigError` where the other policy cannot do without them."""
        if not isinstance(self.otherwise, Reroutable):
            raise ConfigError(f"policy {self.otherwise.name!r} cannot do without {sorted(stages)}")
        return replace(self, otherwise=self.otherwise.without(stages), out=self.out | frozenset(stages))


@dataclass(frozen=True, slots=True)
class ComplexityRule:
    """Prompts that look complex go to the largest stage, as published.

    Attributes:
        largest: Name of the largest stage.
        lam: Cost units that one fully right answer is worth.
        target: Share of the largest stage that should be in use, in [0, 1].
        utilisation: Reads the share that is in use now, in [0, 1].

    Raises:
        ConfigError: `lam` is negative or not finite, or `target` is no share.
    """

    largest: str
    lam: float
    target: float
    utilisation: Callable[[], float]

    def __post_init__(self) -> None:
        check_lam(self.lam)
        if not 0.0 <= self.target <= 1.0:
            raise ConfigError(f"the utilisation target must lie in [0, 1], got {self.target}")

    @property
    def name(self) -> str:
        """The name with its settings, as in `complexity(L,lam=2,target=0.5)`."""
        return f"complexity({self.largest},lam={self.lam:g},target={self.target:g})"

    def first(self, prompt: str) -> str | None:
        """The largest stage, or none; `ConfigError` where the gauge reads no share."""
        return self.largest if complexity_score(prompt) >= self.threshold() else None

    def threshold(self) -> float:
        """Complexity from which the largest stage answers, at the utilisation of this moment.

        Raises:
            ConfigError: The gauge reads no share.
        """
        utilisation = self.utilisation()
        if not 0.0 <= utilisation <= 1.0:
            raise ConfigError(f"utilisation must lie in [0, 1], the gauge reads {utilisation}")
        room = max(0.0, self.target - utilisation)
        threshold = max(LEAST_THRESHOLD, THRESHOLD - room)
        return threshold * (LARGE_LAM_FACTOR if self.lam > LARGE_LAM else 1.0)


@dataclass(frozen=True, slots=True)
class TaxonomyRule:
    """The stage recommended for the prompt's domain and complexity.

    Attributes:
        stages: Names in ladder order.
    """

    stages: tuple[str, ...]

    @property
    def name(self) -> str:
        """`taxonomy`."""
        return "taxonomy"

    def first(self, prompt: str) -> str:
        """The stage of the largest score; of equals the smallest."""
        return self.stages[int(recommend(classify(prompt), len(self.stages)).argmax())]


@dataclass(frozen=True, slots=True)
class PredictionRule:
    """The stage worth most by a predictor of success that has seen the prompt only.

    Attributes:
        stages: Names in ladder order.
        p: Success probability of every stage on every prompt, shape (prompts, stages).
        costs: Mean cost of every stage alone, cost units.
        lam: Cost units that one fully right answer is worth.
    """

    stages: tuple[str, ...]
    p: Callable[[Sequence[str]], Array]
    costs: tuple[float, ...]
    lam: float

    def __post_init__(self) -> None:
        check_lam(self.lam)

    @property
    def name(self) -> str:
        """The name with its lam, as in `prediction(lam=2)`."""
        return f"prediction(lam={self.lam:g})"

    def first(self, prompt: str) -> str:
        """The stage of largest lam * p - cost; of equals the smallest."""
        return self.stages[int((self.lam * self.p([prompt])[0] - np.array(self.costs)).argmax())]
