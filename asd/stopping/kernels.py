"""Estimating the stopping problem from records: bins, kernels, means by bin; made for few rows.

All estimates shrink towards what is known without the bin, by as much as the data ask for:

- A kernel row counts the rows of nearby source bins too, with weight exp(-distance / width), and one
  imagined row drawn from the target's marginal m:
      s_bb' = sum_c exp(-|b - c| / width) n_cb',    P(b'|b) = (s_bb' + m_b') / (s_b + 1).
  The width (in bins; 0: the own bin only; infinite: the marginal) is the one that predicts every row best
  from all the others (leave-one-out likelihood, closed form). Bins without an order are therefore safe: no
  width helps them, and the own bin or the marginal wins. Shrinking to the marginal alone was tried: with ten
  rows per bin it misses the next mean by about four times as much as plain counts do, because it forgets
  that a likely answer stays likely.
- A mean by bin is shrunk to the overall mean by  n_b / (n_b + a),  a = variance within bins / variance
  between them (method of moments, one-way random effects): bins that differ by no more than noise are pooled.

Scope: which rows go in (fit or calibrate, never test) is the caller's business.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import overload

import numpy as np

from asd.errors import ConfigError, DataError
from asd.stopping.graph import FloatArray, IntArray

__all__ = ["Binning", "estimate_kernel", "mean_by_bin"]

WIDTHS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, math.inf)
"""Widths tried by `estimate_kernel`, in source bins."""


@dataclass(frozen=True, slots=True)
class Binning:
    """Half-open bins of a number: bin k holds edges[k-1] <= p < edges[k]; below the first edge is bin 0.

    Attributes:
        edges: Inner borders, strictly ascending; one fewer than there are bins.

    Raises:
        ConfigError: the edges are not finite or not strictly ascending.
    """

    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.edges)) or any(
            high <= low for low, high in zip(self.edges, self.edges[1:], strict=False)
        ):
            raise ConfigError(f"bin edges must be finite and strictly ascending, got {self.edges}")

    @classmethod
    def fit(cls, p: FloatArray, n_bins: int) -> Binning:
        """Bins of equal mass on `p`, none of them empty there; fewer than `n_bins` where values repeat.

        Raises:
            ConfigError: fewer than one bin is asked for.
            DataError: `p` is empty or not finite.
        """
        if n_bins < 1:
            raise ConfigError(f"n_bins must be at least 1, got {n_bins}")
        if p.size == 0:
            raise DataError("bins are fitted on at least one value, got none")
        if not np.isfinite(p).all():
            raise DataError(f"bins are fitted on finite values, got {p[~np.isfinite(p)][0]}")
        # "higher" makes every edge a value that occurs, so that the bin above it is not empty
        edges = np.unique(np.quantile(p, np.arange(1, n_bins) / n_bins, method="higher"))
        return cls(tuple(edges[edges > p.min()].tolist()))

    @property
    def n_bins(self) -> int:
        """How many bins there are."""
        return len(self.edges) + 1

    @overload
    def index(self, p: float) -> int: ...
    @overload
    def index(self, p: FloatArray) -> IntArray: ...
    def index(self, p: float | FloatArray) -> int | IntArray:
        """The bin of a number, or of every number of an array (same shape)."""
        if isinstance(p, float):
            return bisect_right(self.edges, p)
        return np.searchsorted(np.array(self.edges), p, side="right")


def estimate_kernel(
    source: IntArray, target: IntArray, n_source: int, n_target: int, width: float | None = None
) -> FloatArray:
    """Distribution of the target's bin given the source's, from pairs of bins seen.

    Args:
        source: Bin at the source of every row, shape (N,).
        target: Bin at the target of every row, shape (N,).
        n_source: Number of bins of the source.
        n_target: Number of bins of the target.
        width: How far rows of other source bins count, in bins; None: chosen by leave-one-out likelihood.

    Returns:
        Rows that sum to 1, shape (n_source, n_target), none of them zero where the target was ever seen.

    Raises:
        DataError: there are no rows, or the two bin vectors differ in length or leave their range.
        ConfigError: `width` is negative or not a number.
    """
    _check_bins(source, n_source)
    _check_bins(target, n_target)
    if len(source) != len(target):
        raise DataError(f"every row needs both bins, got {len(source)} sources and {len(target)} targets")
    if width is not None and not width >= 0:
        raise ConfigError(f"width must be 0 or more bins, got {width}")
    counts = np.zeros((n_source, n_target))
    np.add.at(counts, (source, target), 1)
    if width is None:
        width = max(WIDTHS, key=lambda candidate: _left_out_log_likelihood(counts, candidate))
    near = _neighbourhood(n_source, width) @ counts
    marginal = counts.sum(axis=0) / counts.sum()
    return np.asarray((near + marginal) / (near.sum(axis=1, keepdims=True) + 1))


def mean_by_bin(
    values: FloatArray, bins: IntArray, n_bins: int, *, like: FloatArray | None = None
) -> FloatArray:
    """Mean of the values of every bin, shrunk to the overall mean as far as the noise asks, shape (n_bins,).

    Args:
        values: One number per row, shape (N,).
        bins: Bin of every row, shape (N,).
        n_bins: Number of bins; one without rows gets the overall mean.
        like: Numbers whose noise decides how much is shrunk, shape (N,); default: the values themselves.

    Raises:
        DataError: there are no rows, a value is not finite, lengths differ, or a bin leaves its range.
    """
    _check_bins(bins, n_bins)
    if len(values) != len(bins) or not np.isfinite(values).all():
        raise DataError(f"need one finite value per row, got {len(values)} values for {len(bins)} rows")
    counts: FloatArray = np.bincount(bins, minlength=n_bins).astype(np.float64)
    sums: FloatArray = np.bincount(bins, weights=values, minlength=n_bins).astype(np.float64)
    overall = values.mean()
    weight = _own_weight(values if like is None else like, bins, counts)
    own = np.divide(sums, counts, out=np.full(n_bins, overall), where=counts > 0)
    shrunk = overall + weight * (own - overall)
    # rounding must not carry a probability past 1
    return np.asarray(np.clip(shrunk, values.min(), values.max()))


def _check_bins(bins: IntArray, n_bins: int) -> None:
    if len(bins) == 0:
        raise DataError("nothing can be estimated from no rows: collect traces for this edge first")
    if bins.min() < 0 or bins.max() >= n_bins:
        raise DataError(f"bins must be 0 to {n_bins - 1}, got {bins.min()} to {bins.max()}")


def _neighbourhood(n_bins: int, width: float) -> FloatArray:
    """Weight of a row of bin c in the estimate for bin b, shape (n_bins, n_bins)."""
    distance = np.abs(np.subtract.outer(np.arange(n_bins), np.arange(n_bins)))
    if width == 0:
        return np.eye(n_bins)
    return np.asarray(np.exp(-distance / width))


def _left_out_log_likelihood(counts: FloatArray, width: float) -> float:
    """Sum over rows of the log-probability of the row's target, estimated from all other rows.

    The marginal of the others is smoothed by half a row per bin: a target bin seen once must not get
    probability zero.
    """
    near = _neighbourhood(len(counts), width) @ counts
    marginal = (counts.sum(axis=0) - 0.5) / (counts.sum() - 1 + 0.5 * counts.shape[1])
    rows, columns = np.nonzero(counts)
    left_out = (near[rows, columns] - 1 + marginal[columns]) / near.sum(axis=1)[rows]
    return float(counts[rows, columns] @ np.log(left_out))


def _own_weight(values: FloatArray, bins: IntArray, counts: FloatArray) -> FloatArray:
    """Share of each bin's own mean in its estimate, n_b / (n_b + within / between), shape (n_bins,)."""
    sums = np.bincount(bins, weights=values, minlength=len(counts))
    seen, pooled = counts > 0, np.zeros(len(counts))
    n, n_seen = len(values), seen.sum()
    if n_seen in (1, n):  # one bin, or one row in each: nothing separates noise from difference
        return pooled
    means = np.divide(sums, counts, out=np.zeros(len(counts)), where=seen)
    within = ((values - means[bins]) ** 2).sum() / (n - n_seen)
    spread = (counts * (means - values.mean()) ** 2).sum()
    between = (spread - (n_seen - 1) * within) / (n - (counts**2).sum() / n)
    if between <= 0:
        return pooled
    np.divide(counts, counts + within / between, out=pooled, where=seen)
    return pooled
