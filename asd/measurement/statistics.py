"""Is a metric worse than it was, and by how much: paired over items, or over interleaved passes.

A `Loss` is signed: positive is worse. For values per item, the items of both runs are paired. The interval
is a percentile bootstrap over items; the p-value is exact where the values are right or wrong (McNemar: under
"no change" a discordant pair goes either way like a fair coin) and the bootstrap's normal one elsewhere. An
item counts once however many lambdas it was answered at, because its answers are not independent.

Times are compared as logarithms with Welch's t over passes. Few passes, but interleaved ones: each is one
draw of the machine's mood, and a ratio has its yardstick inside the same pass. What differs between two runs
and not between the passes of one (memory layout, clocks, neighbours) is not in that interval; a metric's
tolerance has to hold it.

The border: numbers in, numbers out; no verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from asd.measurement.records import Direction

__all__ = ["Loss", "holm", "paired_loss", "passes_loss", "samples_needed"]

Array = NDArray[np.float64]
_N_RESAMPLES = 1999


@dataclass(frozen=True, slots=True)
class Loss:
    """How much worse, the two-sided interval around it, and the p-value of "no worse" (one-sided)."""

    estimate: float
    low: float
    high: float
    p_value: float


def paired_loss(
    before: ArrayLike,
    after: ArrayLike,
    direction: Direction,
    rng: np.random.Generator,
    *,
    relative: bool,
    confidence: float = 0.95,
) -> Loss:
    """Loss from `before` to `after`, both of shape (cells, items) or (items,), paired by item.

    Args:
        before: Values of the stored run.
        after: Values of the new run, same shape.
        direction: Which way is better; with "same" either way is a loss.
        rng: Draws the resamples.
        relative: Loss as a share of the stored mean, instead of in the metric's own unit.
        confidence: Of the interval.

    Raises:
        ValueError: A relative loss of a mean that is not positive.
    """
    if direction == "same":
        return _either_way(before, after, rng, relative=relative, confidence=confidence)
    old, new = np.atleast_2d(np.asarray(before, float)), np.atleast_2d(np.asarray(after, float))
    change = (new - old).mean(axis=0) * (1 if direction == "lower" else -1)
    level = old.mean(axis=0) if relative else np.ones_like(change)
    if level.mean() <= 0:
        raise ValueError(f"a loss relative to a mean of {level.mean()} is not defined")
    estimate = float(change.mean() / level.mean())
    if np.ptp(change) == 0:
        return Loss(estimate, estimate, estimate, 0.0 if estimate > 0 else 1.0)
    bootstrap = stats.bootstrap(
        (change, level), _ratio_of_means, paired=True, vectorized=True, method="percentile",
        n_resamples=_N_RESAMPLES, confidence_level=confidence, rng=rng,
    )  # fmt: skip
    is_binary = np.isin(old, (0, 1)).all() and np.isin(new, (0, 1)).all()
    p_value = _mcnemar(change) if is_binary else stats.norm.sf(estimate / bootstrap.standard_error)
    interval = bootstrap.confidence_interval
    return Loss(estimate, float(interval.low), float(interval.high), float(p_value))


def passes_loss(before: ArrayLike, after: ArrayLike, direction: Direction, confidence: float = 0.95) -> Loss:
    """Relative loss in time between two runs of interleaved passes, each of shape (cells, passes).

    A loss of 0.2 reads "takes 1.2 times as long": for speed-ups (direction "higher") it is stored / new - 1.
    Cells of one pass are averaged first (geometric mean), because one pass shares one state of the machine.
    With fewer than two passes on either side the interval is unbounded.
    """
    old, new = (np.log(np.atleast_2d(np.asarray(side, float))).mean(axis=0) for side in (before, after))
    slower, yardstick = (new, old) if direction == "lower" else (old, new)
    estimate = float(np.expm1(slower.mean() - yardstick.mean()))
    if min(old.size, new.size) < 2:
        return Loss(estimate, -1.0, math.inf, 1.0)
    if np.ptp(old) == np.ptp(new) == 0:
        return Loss(estimate, estimate, estimate, 0.0 if estimate > 0 else 1.0)
    test = stats.ttest_ind(slower, yardstick, equal_var=False)
    interval = test.confidence_interval(confidence)
    p_value = stats.t.sf(test.statistic, test.df)
    return Loss(estimate, float(np.expm1(interval.low)), float(np.expm1(interval.high)), float(p_value))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: rejecting those at or below alpha errs anywhere with probability <= alpha."""
    adjusted, floor = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        floor = max(floor, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = floor
    return adjusted


def samples_needed(quantile: float, confidence: float = 0.95) -> int:
    """Samples whose maximum bounds the quantile with this confidence: 59 for P95, 299 for P99.

    The maximum of n draws lies above the q-quantile with probability 1 - q^n.
    """
    return math.ceil(math.log(1 - confidence) / math.log(quantile))


def _either_way(
    before: ArrayLike, after: ArrayLike, rng: np.random.Generator, *, relative: bool, confidence: float
) -> Loss:
    up, down = (
        paired_loss(before, after, way, rng, relative=relative, confidence=confidence)
        for way in ("lower", "higher")
    )
    worse = max(up, down, key=lambda loss: loss.estimate)
    return replace(worse, p_value=min(1.0, 2 * worse.p_value))


def _ratio_of_means(change: Array, level: Array, axis: int = -1) -> Array:
    return np.asarray(change.mean(axis=axis) / level.mean(axis=axis))


def _mcnemar(change: Array) -> float:
    """Exact: of the items that changed, as many or more got worse under a fair coin."""
    n_worse, n_better = int((change > 0).sum()), int((change < 0).sum())
    if n_worse + n_better == 0:
        return 1.0
    return float(stats.binomtest(n_worse, n_worse + n_better, 0.5, alternative="greater").pvalue)
