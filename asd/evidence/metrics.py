"""How good predicted success probabilities are, against scores in [0, 1].

A score between 0 and 1 counts as that share of a success, so every measure here is the usual one on binary
scores and its expectation on graded ones. Scope: numbers in, numbers out; nothing is fitted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.schema import msgspec

__all__ = ["BinaryRows", "Reliability", "as_binary", "auroc", "calibration_error", "log_loss", "reliability"]

Array = npt.NDArray[np.float64]
_LEAST_P = 1e-12


class BinaryRows(NamedTuple):
    """Graded rows as weighted binary ones: row `row[i]` with `label[i]` counts `weight[i]`."""

    row: npt.NDArray[np.intp]
    label: Array
    weight: Array


class Reliability(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One predictor on `n` rows it was not fitted on.

    Attributes:
        n: Rows.
        base_rate: Mean score.
        log_loss: Mean negative log-likelihood, natural logarithm.
        brier: Mean squared error of the probability.
        calibration_error: Expected calibration error over ten bins of equal count.
        auroc: Probability that a success is ranked above a failure (None: all rows alike).
    """

    n: int
    base_rate: float
    log_loss: float
    brier: float
    calibration_error: float
    auroc: float | None


def as_binary(scores: Array) -> BinaryRows:
    """Every row as a success of weight `score` and a failure of weight `1 - score`, empty ones left out."""
    good, bad = np.flatnonzero(scores > 0.0), np.flatnonzero(scores < 1.0)
    return BinaryRows(
        np.concatenate([good, bad]),
        np.concatenate([np.ones(len(good)), np.zeros(len(bad))]),
        np.concatenate([scores[good], 1.0 - scores[bad]]),
    )


def log_loss(p: Array, scores: Array) -> float:
    """Mean of `-score log p - (1 - score) log(1 - p)`, probabilities kept 1e-12 away from 0 and 1."""
    p = np.clip(p, _LEAST_P, 1.0 - _LEAST_P)
    return float(-np.mean(scores * np.log(p) + (1.0 - scores) * np.log1p(-p)))


def calibration_error(p: Array, scores: Array, n_bins: int = 10) -> float:
    """Mean over equal-count bins of |mean predicted - mean observed|, weighted by rows."""
    parts = np.array_split(np.argsort(p, kind="stable"), min(n_bins, len(p)))
    return float(sum(abs(np.sum(p[part] - scores[part])) for part in parts) / len(p))


def auroc(p: Array, scores: Array) -> float | None:
    """Weighted Mann-Whitney statistic, ties counted half; None where all rows are alike."""
    rows = as_binary(scores)
    _, rank = np.unique(p[rows.row], return_inverse=True)
    good = np.bincount(rank, rows.weight * rows.label)
    bad = np.bincount(rank, rows.weight * (1.0 - rows.label))
    pairs = float(good.sum() * bad.sum())
    below = np.cumsum(bad) - bad / 2.0
    return float(good @ below) / pairs if pairs > 0.0 else None


def reliability(p: Array, scores: Array) -> Reliability:
    """All measures at once; `p` and `scores` have the same length, at least one row."""
    return Reliability(
        n=len(p),
        base_rate=float(np.mean(scores)),
        log_loss=log_loss(p, scores),
        brier=float(np.mean((p - scores) ** 2)),
        calibration_error=calibration_error(p, scores),
        auroc=auroc(p, scores),
    )
