"""Quantiles of many positive numbers in little memory: a histogram on a logarithmic scale.

A quantile is off by at most half a percent, the mean is exact. Histograms add, so those of windows make up
that of a run.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["Quantiles"]

_GROWTH = math.log(1.01)
_LEAST = 1e-6
_N_BINS = 2800
"""From a microsecond to more than ten days."""


class Quantiles:
    """A distribution of seconds."""

    __slots__ = ("_counts", "n", "total")

    def __init__(self) -> None:
        self.n = 0
        self.total = 0.0
        self._counts = [0] * _N_BINS

    def add(self, seconds: float) -> None:
        """Count one; less than a microsecond counts as one."""
        self.n += 1
        self.total += seconds
        at = int(math.log(seconds / _LEAST) / _GROWTH) if seconds > _LEAST else 0
        self._counts[min(at, _N_BINS - 1)] += 1

    def merge(self, other: Quantiles) -> None:
        """Add all of another."""
        self.n += other.n
        self.total += other.total
        self._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]

    @property
    def mean(self) -> float:
        """Exact; 0 of nothing."""
        return self.total / self.n if self.n else 0.0

    def at(self, share: float) -> float | None:
        """The quantile; None where fewer than three would lie beyond it (59 for P95, 299 for P99)."""
        if self.n * (1.0 - share) < 2.95:
            return None
        counts: npt.NDArray[np.int64] = np.cumsum(self._counts)
        place = int(np.searchsorted(counts, share * self.n))
        return _LEAST * math.exp((place + 0.5) * _GROWTH)
