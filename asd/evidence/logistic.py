"""Logistic regression: fitted by scikit-learn, applied in plain Python.

Scope: rows of numbers in, log-odds out; what the numbers mean is not known here. scikit-learn is
imported when something is fitted, never when something is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul

import numpy as np
import numpy.typing as npt

from asd.evidence.metrics import as_binary
from asd.schema import msgspec

__all__ = ["Logistic", "fit_logistic", "smoothed_targets"]

Array = npt.NDArray[np.float64]


class Logistic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`logit = bias + weights @ x`; the scaling of the features is folded into the numbers."""

    weights: tuple[float, ...]
    bias: float

    def logit(self, row: Sequence[float]) -> float:
        """Log-odds of one row: a few dozen products are faster in plain Python than in numpy."""
        return sum(map(mul, self.weights, row), start=self.bias)

    def logits(self, rows: Array) -> Array:
        """Log-odds of many rows, shape (n, number of weights)."""
        return np.asarray(self.bias + rows @ np.array(self.weights))


def fit_logistic(rows: Array, scores: Array, *, strength: float) -> Logistic:
    """Penalised maximum likelihood on standardised features; graded scores count as shares of a success.

    Targets are smoothed as Platt (1999) does, to `(N+ + 1) / (N+ + 2)` and `1 / (N- + 2)`: a stage that is
    always right, or never, and a feature that separates the classes get finite log-odds.

    Args:
        rows: Features, shape (n, d).
        scores: Quality in [0, 1], shape (n,).
        strength: Inverse of the L2 penalty, scikit-learn's `C`; `numpy.inf` for none.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - needed when fitting only

    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    spread[spread < 1e-9] = 1.0
    binary = as_binary(smoothed_targets(scores))
    x = ((rows - mean) / spread)[binary.row]
    model = LogisticRegression(C=strength, max_iter=10_000, tol=1e-6)
    model.fit(x, binary.label, sample_weight=binary.weight)
    weights = model.coef_[0] / spread
    return Logistic(weights=tuple(weights.tolist()), bias=float(model.intercept_[0] - weights @ mean))


def smoothed_targets(scores: Array) -> Array:
    """Platt's targets: what `N+` successes and `N-` failures can show of a probability."""
    good = float(scores.sum())
    bad = len(scores) - good
    return scores * (good + 1.0) / (good + 2.0) + (1.0 - scores) / (bad + 2.0)
