"""Is a metric worse than it was, and by how much: paired by item.

A `Loss` is signed: positive is worse. The interval is a percentile bootstrap over items; the p-value is exact
where the values are right or wrong (McNemar: under "no change" a discordant pair goes either way like a fair
coin) and the bootstrap's normal one elsewhere. An item counts once however many lambdas it was answered at,
because its answers are not independent.

Times are paired by item as well: each item's seconds are those of its fastest interleaved pass (what the call
takes when nobody disturbs it; on a shared CPU a third to a half less noisy than the median), in units of
what the largest stage took for the same items. Resampling items then measures the jitter of the calls, with
as many degrees of freedom as items, where three passes would have two; the p-value is Wilcoxon's signed-rank
one, which a neighbour that takes the core away during one call does not move far. What differs between two
runs and not within one (memory layout, clocks, neighbours) is not in that interval; a metric's tolerance has
to hold it.

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

__all__ = ["Loss", "holm", "paired_loss", "samples_needed", "time_loss"]

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
    exact: bool = False,
    confidence: float = 0.95,
) -> Loss:
    """Loss from `before` to `after`, both of shape (items,), paired by item.

    Args:
        before: Values of the stored run.
        after: Values of the new run, same shape.
        direction: Which way is better; with "same" either way is a loss.
        rng: Draws the resamples.
        relative: Loss as a share of the stored mean, instead of in the metric's own unit.
        exact: Values are right or wrong (or means of such over one item's answers): McNemar's p-value.
        confidence: Of the interval.

    Raises:
        ValueError: A relative loss of a mean that is not positive.
    """
    if direction == "same":
        return _either_way(before, after, rng, relative=relative, exact=exact, confidence=confidence)
    old, new = np.asarray(before, float), np.asarray(after, float)
    change = (new - old) * (1 if direction == "lower" else -1)
    level = old if relative else np.ones_like(change)
    if level.mean() <= 0:
        raise ValueError(f"a loss relative to a mean of {level.mean()} is not defined")
    estimate = float(change.mean() / level.mean())
    if np.ptp(change) == 0:
        return Loss(estimate, estimate, estimate, 0.0 if estimate > 0 else 1.0)
    bootstrap = stats.bootstrap(
        (change, level), _ratio_of_means, paired=True, vectorized=True, method="percentile",
        n_resamples=_N_RESAMPLES, confidence_level=confidence, rng=rng,
    )  # fmt: skip
    # every item dearer by the same factor has no spread at all
    noise = max(float(bootstrap.standard_error), np.finfo(float).tiny)
    p_value = _mcnemar(change) if exact else stats.norm.sf(estimate / noise)
    interval = bootstrap.confidence_interval
    return Loss(estimate, float(interval.low), float(interval.high), float(p_value))


def time_loss(
    before: ArrayLike,
    after: ArrayLike,
    rng: np.random.Generator,
    *,
    yardsticks: tuple[ArrayLike, ArrayLike] | None = None,
    confidence: float = 0.95,
) -> Loss:
    """Relative loss in total seconds over the same items in two runs: 0.2 reads "takes 1.2 times as long".

    Args:
        before: Seconds per item in the stored run, shape (items,).
        after: Seconds per item in the new run, same items.
        rng: Draws the resamples.
        yardsticks: What the yardstick took for the same items in the stored and in the new run; the loss is
            then that of the ratio of totals, which a machine that is slower altogether does not move.
        confidence: Of the interval.
    """
    old, new = np.asarray(before, float), np.asarray(after, float)
    ones = np.ones_like(old)
    old_unit, new_unit = (np.asarray(side, float) for side in yardsticks or (ones, ones))
    estimate = float(_growth(old, new, old_unit, new_unit))
    if old.size < 2:
        return Loss(estimate, -1.0, math.inf, 1.0)
    bootstrap = stats.bootstrap(
        (old, new, old_unit, new_unit), _growth, paired=True, vectorized=True, method="percentile",
        n_resamples=_N_RESAMPLES, confidence_level=confidence, rng=rng,
    )  # fmt: skip
    interval = bootstrap.confidence_interval
    slower = np.log(new / new_unit) - np.log(old / old_unit)
    p_value = 1.0 if np.allclose(slower, 0) else float(stats.wilcoxon(slower, alternative="greater").pvalue)
    return Loss(estimate, float(interval.low), float(interval.high), p_value)


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
    before: ArrayLike,
    after: ArrayLike,
    rng: np.random.Generator,
    *,
    relative: bool,
    exact: bool,
    confidence: float,
) -> Loss:
    ways: tuple[Direction, Direction] = ("lower", "higher")
    up, down = (
        paired_loss(before, after, way, rng, relative=relative, exact=exact, confidence=confidence)
        for way in ways
    )
    worse = max(up, down, key=lambda loss: loss.estimate)
    return replace(worse, p_value=min(1.0, 2 * worse.p_value))


def _ratio_of_means(change: Array, level: Array, axis: int = -1) -> Array:
    return np.asarray(change.mean(axis=axis) / level.mean(axis=axis))


def _growth(old: Array, new: Array, old_unit: Array, new_unit: Array, axis: int = -1) -> Array:
    """Growth of total seconds in units of the yardstick's total."""
    then = old.mean(axis=axis) / old_unit.mean(axis=axis)
    now = new.mean(axis=axis) / new_unit.mean(axis=axis)
    return np.asarray(now / then - 1)


def _mcnemar(change: Array) -> float:
    """Exact: of the items that changed, as many or more got worse under a fair coin."""
    n_worse, n_better = int((change > 0).sum()), int((change < 0).sum())
    if n_worse + n_better == 0:
        return 1.0
    return float(stats.binomtest(n_worse, n_worse + n_better, 0.5, alternative="greater").pvalue)
