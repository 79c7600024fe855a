"""Is a metric worse than it was, and by how much: paired by item.

A `Loss` is signed: positive is worse. The interval is a percentile bootstrap over items; the p-value is exact
where the values are right or wrong (McNemar: under "no change" a discordant pair goes either way like a fair
coin) and the bootstrap's normal one elsewhere. An item counts once however many lambdas it was answered at,
because its answers are not independent.

Times are the seconds of every unit of work (usually an item) in every pass. What is compared is the ratio of
totals of one whole pass, in units of what the largest stage took for the same units in the same pass, and of
several passes the median: totals, because a busy machine takes a share of every second, which cancels in
their ratio and does not in that of minima or of medians by item; the median, because one stalled call spoils
one pass. Resampling units (paired, with all their passes) measures the jitter of the calls. What differs
between two runs and not within one (memory layout, clocks, neighbours) is not in that interval: a metric's
tolerance has to hold it, so the p-value of a time is that of "no slower than the tolerance".

An interval of one value is over the draw of its items: the bootstrap for means and ratios of totals, order
statistics for quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from asd.measurement.records import Direction

__all__ = [
    "Bootstrap",
    "Loss",
    "holm",
    "mean_interval",
    "paired_loss",
    "quantile_interval",
    "ratio_interval",
    "samples_needed",
    "student_interval",
    "time_loss",
]

Array = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of items, drawn once for each number of items: what is compared together varies together.

    Attributes:
        seed: Of the draws, so that a verdict is a function of the two runs.
        n_resamples: Drawn.
        confidence: Of the intervals.
    """

    seed: int = 0
    n_resamples: int = 1999
    confidence: float = 0.95
    _drawn: dict[int, Array] = field(default_factory=dict, repr=False, compare=False)

    def weights(self, n: int) -> Array:
        """Share of every item in every resample, shape (resamples, n); rows sum to one."""
        if n not in self._drawn:
            rng = np.random.default_rng([self.seed, n])
            self._drawn[n] = rng.multinomial(n, np.full(n, 1 / n), size=self.n_resamples) / n
        return self._drawn[n]

    def interval(self, draws: Array) -> Interval:
        """The central part of what the resamples came to."""
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(draws, [tail, 1 - tail])
        return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Loss:
    """How much worse, the two-sided interval around it, and the p-value of "no worse" (one-sided).

    Of times it is that of "no worse than the tolerance".
    """

    estimate: float
    low: float
    high: float
    p_value: float


def paired_loss(
    before: ArrayLike,
    after: ArrayLike,
    direction: Direction,
    bootstrap: Bootstrap,
    *,
    relative: bool,
    exact: bool = False,
) -> Loss:
    """Loss from `before` to `after`, both of shape (items,), paired by item.

    Args:
        before: Values of the stored run.
        after: Values of the new run, same shape.
        direction: Which way is better; with "same" either way is a loss.
        bootstrap: The resamples.
        relative: Loss as a share of the stored mean, instead of in the metric's own unit.
        exact: Values are right or wrong (or means of such over one item's answers): McNemar's p-value.

    Raises:
        ValueError: A relative loss of a mean that is not positive.
    """
    if direction == "same":
        return _either_way(before, after, bootstrap, relative=relative, exact=exact)
    old, new = np.asarray(before, float), np.asarray(after, float)
    change = (new - old) * (1 if direction == "lower" else -1)
    level = old if relative else np.ones_like(change)
    if level.mean() <= 0:
        raise ValueError(f"a loss relative to a mean of {level.mean()} is not defined")
    estimate = float(change.mean() / level.mean())
    if np.ptp(change) == 0:
        return Loss(estimate, estimate, estimate, 0.0 if estimate > 0 else 1.0)
    weights = bootstrap.weights(len(old))
    # a resample may consist of items that cost nothing
    draws = (weights @ change) / np.maximum(weights @ level, np.finfo(float).tiny)
    # every item dearer by the same factor has no spread at all
    noise = max(float(draws.std(ddof=1)), np.finfo(float).tiny)
    p_value = _mcnemar(change) if exact else float(stats.norm.sf(estimate / noise))
    return Loss(estimate, *bootstrap.interval(draws), p_value)


def time_loss(
    before: ArrayLike,
    after: ArrayLike,
    bootstrap: Bootstrap,
    *,
    tolerance: float,
    references: tuple[ArrayLike, ArrayLike] | None = None,
) -> Loss:
    """Relative loss in total seconds over the same units in two runs: 0.2 reads "takes 1.2 times as long".

    Args:
        before: Seconds in the stored run, shape (passes, units).
        after: Seconds in the new run, same units and as many passes.
        bootstrap: The resamples of units.
        tolerance: Loss up to which nothing got worse; the p-value (Student's t on the logarithm) is of that.
        references: What the reference took for the same units in the stored and in the new run; the loss is
            then that of the ratio of totals, which a machine that is slower altogether does not move.
    """
    old, new = np.asarray(before, float), np.asarray(after, float)
    ones = np.ones_like(old)
    old_unit, new_unit = (np.asarray(side, float) for side in references or (ones, ones))

    def growth(weights: Array) -> Array:
        return np.asarray(_total_ratio(new, new_unit, weights) / _total_ratio(old, old_unit, weights) - 1)

    n = old.shape[1]
    estimate = float(growth(np.full((1, n), 1 / n))[0])
    if n < 2:
        return Loss(estimate, -1.0, math.inf, 1.0)
    draws = growth(bootstrap.weights(n))
    noise = max(float(np.log1p(draws).std(ddof=1)), np.finfo(float).eps)
    p_value = float(stats.t.sf((math.log1p(estimate) - math.log1p(tolerance)) / noise, n - 1))
    return Loss(estimate, *bootstrap.interval(draws), p_value)


def mean_interval(values: ArrayLike, bootstrap: Bootstrap) -> Interval:
    """Of the mean over items, shape (items,)."""
    items = np.asarray(values, float)
    return bootstrap.interval(bootstrap.weights(len(items)) @ items)


def student_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Of the mean of a few repeats, at least two, shape (repeats,): Student's, which takes them as normal."""
    repeats = np.asarray(values, float)
    reach = stats.t.ppf((1 + confidence) / 2, len(repeats) - 1) * stats.sem(repeats)
    return float(repeats.mean() - reach), float(repeats.mean() + reach)


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike, bootstrap: Bootstrap) -> Interval:
    """Of a ratio of totals over the same items; the median over passes where there are several.

    Args:
        numerators: Shape (items,) or (passes, items).
        denominators: Likewise, with a positive total.
        bootstrap: The resamples.
    """
    above, below = (np.atleast_2d(np.asarray(side, float)) for side in (numerators, denominators))
    return bootstrap.interval(_total_ratio(above, below, bootstrap.weights(above.shape[1])))


def quantile_interval(values: ArrayLike, quantile: float, confidence: float = 0.95) -> Interval:
    """Of a quantile of the workload, from one value an item: order statistics, no assumption.

    So many of n values lie below the quantile as successes come in n trials of that probability.
    """
    ordered = np.sort(np.asarray(values, float))
    ranks = stats.binom.ppf([(1 - confidence) / 2, (1 + confidence) / 2], len(ordered), quantile)
    low, high = np.clip(ranks + np.array([-1, 0]), 0, len(ordered) - 1).astype(int)
    return float(ordered[low]), float(ordered[high])


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: rejecting those at or below alpha errs anywhere with probability <= alpha."""
    adjusted, floor = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        floor = max(floor, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = floor
    return adjusted


def samples_needed(quantile: float, confidence: float = 0.95) -> int:
    """Items whose maximum bounds the quantile with this confidence: 59 for P95, 299 for P99.

    The maximum of n draws lies above the q-quantile with probability 1 - q^n. Passes over one item are no
    further draws.
    """
    return math.ceil(math.log(1 - confidence) / math.log(quantile))


def _total_ratio(above: Array, below: Array, weights: Array) -> Array:
    """Of totals of shape (passes, units), the median over the passes; one for each row of weights."""
    totals = np.maximum(below @ weights.T, np.finfo(float).tiny)
    return np.asarray(np.median((above @ weights.T) / totals, axis=0))


def _either_way(
    before: ArrayLike, after: ArrayLike, bootstrap: Bootstrap, *, relative: bool, exact: bool
) -> Loss:
    ways: tuple[Direction, Direction] = ("lower", "higher")
    up, down = (paired_loss(before, after, way, bootstrap, relative=relative, exact=exact) for way in ways)
    worse = max(up, down, key=lambda loss: loss.estimate)
    return replace(worse, p_value=min(1.0, 2 * worse.p_value))


def _mcnemar(change: Array) -> float:
    """Exact: of the items that changed, as many or more got worse under a fair coin."""
    n_worse, n_better = int((change > 0).sum()), int((change < 0).sum())
    if n_worse + n_better == 0:
        return 1.0
    return float(stats.binomtest(n_worse, n_worse + n_better, 0.5, alternative="greater").pvalue)
