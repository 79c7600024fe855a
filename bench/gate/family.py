"""The family of a run: every loss that has to be proved, and one error rate for all of them together.

A run compares hundreds of numbers with the baseline. Holm's procedure tests each at a level that falls with
how many there are, whatever they measure, so that a run in which nothing changed raises an alarm anywhere
with probability `ErrorRates.alpha` at most. What did not change at all is no candidate: it cannot raise an
alarm, and which comparisons remain says nothing of their direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from asd.evaluation.statistics import Bootstrap, Loss, holm
from bench.gate.verdicts import Finding, Verdict

__all__ = ["Candidate", "ErrorRates", "decide"]


@dataclass(frozen=True, slots=True)
class ErrorRates:
    """How sure the gate wants to be.

    Attributes:
        alpha: Probability with which a whole run in which nothing changed may raise a false alarm (Holm over
            everything that is compared; the tolerances make it smaller still).
        bootstrap: Resamples and confidence of the intervals that a PASS needs.
    """

    alpha: float = 0.005
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    @property
    def least(self) -> int:
        """Items without which nothing is significant: of fewer, all get worse by chance too often."""
        return math.ceil(-math.log2(self.alpha))

    def verdict(self, loss: Loss, adjusted_p: float, tolerance: float, n: int) -> Verdict:
        """REGRESSED: significant and above the tolerance. PASS: the interval excludes that.

        Args:
            loss: Estimate and interval.
            adjusted_p: Its p-value, adjusted for the family.
            tolerance: Largest loss that is none.
            n: Items it rests on; what is not clear from fewer than `least` cannot be judged.
        """
        if loss.estimate > tolerance and adjusted_p <= self.alpha:
            return Verdict.REGRESSED
        if loss.high <= tolerance:
            return Verdict.PASS
        return Verdict.INCONCLUSIVE if n >= self.least else Verdict.CANNOT_JUDGE


@dataclass(frozen=True, slots=True)
class Candidate:
    """A loss that has to be proved.

    Attributes:
        loss: From the baseline to the run.
        tolerance: Largest loss that is none.
        n: Items that it rests on.
        tell: From the verdict, and a note where it needs one, to findings.
    """

    loss: Loss
    tolerance: float
    n: int
    tell: Callable[[Verdict, str], list[Finding]]


def decide(candidates: Sequence[Candidate], limits: ErrorRates) -> list[Finding]:
    """What is said of all of them, each beside all others."""
    adjusted = holm([candidate.loss.p_value for candidate in candidates])
    findings: list[Finding] = []
    for candidate, p in zip(candidates, adjusted, strict=True):
        verdict = limits.verdict(candidate.loss, p, candidate.tolerance, candidate.n)
        too_few = f"{candidate.n} items are too few to tell a loss from luck; it takes {limits.least}"
        findings += candidate.tell(verdict, too_few if verdict is Verdict.CANNOT_JUDGE else "")
    return findings
