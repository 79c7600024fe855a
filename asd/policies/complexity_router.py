"""The published router: prompts that look complex go straight to the largest stage.

threshold = 0.6,    below the utilisation target max(0.4, 0.6 - (target - utilisation)),    x 0.8 if lam > 2

A prompt whose complexity score (`asd.evidence.prompt.complexity`) reaches the threshold is answered by the
largest stage; all others are left to another policy. The less that stage is used, the lower the bar. A
baseline, as printed: it looks at words, not at evidence. Scope: one more `asd.policies.Policy`;
utilisation is read from the caller's gauge and measured nowhere here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from asd.errors import ConfigError
from asd.evidence.prompt.complexity import complexity_score
from asd.policies import Policy
from asd.types import STOP, Decision, Draft, Query, Verification

__all__ = ["ComplexityRouter"]

THRESHOLD, LEAST_THRESHOLD = 0.6, 0.4
LARGE_LAM, LARGE_LAM_FACTOR = 2.0, 0.8


@dataclass(frozen=True, slots=True, eq=False)
class ComplexityRouter:
    """Complex prompts to the largest stage, the rest to another policy.

    Attributes:
        largest: Name of the stage.
        otherwise: Decides about every other prompt.
        lam: Cost units that one fully right answer is worth.
        target: Share of the largest stage's capacity that should be in use, in [0, 1].
        utilisation: Reads the share that is in use now, in [0, 1].

    Raises:
        ConfigError: `lam` is negative or not finite, or `target` is no share.
    """

    largest: str
    otherwise: Policy
    lam: float
    target: float
    utilisation: Callable[[], float]

    def __post_init__(self) -> None:
        if not 0.0 <= self.lam < math.inf:
            raise ConfigError(f"lam must be finite and not negative, got {self.lam}")
        if not 0.0 <= self.target <= 1.0:
            raise ConfigError(f"the utilisation target must lie in [0, 1], got {self.target}")

    @property
    def name(self) -> str:
        """The name with its settings, as in `router(L,lam=2,target=0.5,else=always(S))`."""
        return f"router({self.largest},lam={self.lam:g},target={self.target:g},else={self.otherwise.name})"

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

    def decide(
        self, query: Query, drafts: Mapping[str, Draft], verification: Verification | None = None
    ) -> Decision:
        """Route a new prompt; stop after the largest stage alone has answered; else ask the other policy."""
        if not drafts and complexity_score(query.prompt) >= self.threshold():
            return Decision(self.largest, None)
        if list(drafts) == [self.largest]:
            return Decision(STOP, self.largest)
        return self.otherwise.decide(query, drafts, verification)
