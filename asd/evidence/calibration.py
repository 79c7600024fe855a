"""From a classifier's log-odds to a probability that means what it says.

Three maps are fitted: a temperature (Guo et al. 2017), Platt's sigmoid (Platt 1999) and isotonic regression
(Zadrozny and Elkan 2002); the one with the smallest log-loss on held-out folds is kept. Scope: one score
in, one probability out; what the score was made of is not known here.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asd.evidence.crossfit import out_of_fold
from asd.evidence.logistic import fit_logistic, smoothed_targets
from asd.evidence.metrics import log_loss
from asd.schema import msgspec

__all__ = [
    "Calibrated",
    "Calibration",
    "Isotonic",
    "Platt",
    "choose",
    "fit_isotonic",
    "fit_platt",
    "fit_temperature",
    "sigmoid",
]

Array = npt.NDArray[np.float64]
_LARGEST_LOG_SLOPE = 5.0


class Platt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="platt"):
    """`sigmoid(slope * logit + offset)`."""

    slope: float
    offset: float

    def __call__(self, logit: float) -> float:
        """Probability of one score."""
        return sigmoid(self.slope * logit + self.offset)


class Isotonic(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="isotonic"):
    """Piecewise linear through the knots `(logits[i], p[i])`, both non-decreasing; flat outside."""

    logits: tuple[float, ...]
    p: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.logits or len(self.logits) != len(self.p):
            raise ValueError("an isotonic map needs as many probabilities as knots, at least one")

    def __call__(self, logit: float) -> float:
        """Probability of one score."""
        i = bisect_right(self.logits, logit)
        if i == 0:
            return self.p[0]
        if i == len(self.logits):
            return self.p[-1]
        low, high = self.logits[i - 1], self.logits[i]
        return self.p[i - 1] + (logit - low) / (high - low) * (self.p[i] - self.p[i - 1])


Calibration = Platt | Isotonic


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """The map that was kept, fitted on all rows, and each row's probability by a map that had not seen it."""

    map: Calibration
    p_out_of_fold: Array


def sigmoid(x: float) -> float:
    """`1 / (1 + exp(-x))` without overflow."""
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    odds = math.exp(x)
    return odds / (1.0 + odds)


def fit_temperature(logits: Array, scores: Array) -> Platt:
    """The sigmoid without an offset, `slope = 1 / temperature`, of least log-loss on smoothed targets."""
    from scipy.optimize import minimize_scalar  # noqa: PLC0415 - needed when fitting only
    from scipy.special import expit  # noqa: PLC0415

    targets = smoothed_targets(scores)

    def loss(log_slope: float) -> float:
        return log_loss(expit(math.exp(log_slope) * logits), targets)

    fitted = minimize_scalar(loss, bounds=(-_LARGEST_LOG_SLOPE, _LARGEST_LOG_SLOPE), method="bounded")
    return Platt(slope=math.exp(fitted.x), offset=0.0)


def fit_platt(logits: Array, scores: Array) -> Platt:
    """Platt's sigmoid: an unpenalised logistic regression on the one score, his smoothed targets included."""
    fitted = fit_logistic(logits[:, None], scores, strength=np.inf)
    return Platt(slope=fitted.weights[0], offset=fitted.bias)


def fit_isotonic(logits: Array, scores: Array) -> Isotonic:
    """Isotonic regression, kept `1 / (n + 2)` away from 0 and 1: `n` rows cannot show more than that."""
    from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415 - needed when fitting only

    least = 1.0 / (len(scores) + 2.0)
    fitted = IsotonicRegression(y_min=least, y_max=1.0 - least).fit(logits, scores)
    return Isotonic(logits=tuple(fitted.X_thresholds_.tolist()), p=tuple(fitted.y_thresholds_.tolist()))


def choose(logits: Array, scores: Array, folds: npt.NDArray[np.intp]) -> Calibrated:
    """The map with the smallest log-loss on held-out folds; the one with the fewest numbers where they tie.

    Args:
        logits: Log-odds of rows the classifier was not fitted on, shape (n,).
        scores: Quality in [0, 1], shape (n,).
        folds: Fold of every row, shape (n,).
    """

    def held_out(fit: Callable[[Array, Array], Calibration]) -> Array:
        return out_of_fold(logits, scores, folds, lambda x, y: np.vectorize(fit(x, y), otypes=[np.float64]))

    candidates = [(fit, held_out(fit)) for fit in (fit_temperature, fit_platt, fit_isotonic)]
    fit, p = min(candidates, key=lambda candidate: log_loss(candidate[1], scores))
    return Calibrated(fit(logits, scores), p)
