"""A promise about a mean that holds with probability 1 - delta over the draw of the calibration rows.

Learn then Test (Angelopoulos et al., arXiv 2110.01052). Settings of a policy stand in an order that was
fixed on other rows. Setting k is one hypothesis, "the mean of x_k is not above 0", where x is what the
promise is about, per calibration row: `score - keep * reference_score`, or `cap - cost` for a budget.
Hypotheses are tested in order, each at level delta, up to the first that is not rejected (fixed-sequence
testing). A wrong promise needs the first true hypothesis to be rejected, and that has probability <= delta,
however many settings there are.

The p-value is a betting one (Waudby-Smith and Ramdas, arXiv 2010.09686). Rows are scaled to [0, 1], the null
becomes "the mean is at most m", and the rows are bet on one after the other:

    K_t = prod_{i<=t} (1 + bet_i (x_i - m)),   bet_t = min(sqrt(2 log(1/delta) / (n var_{t-1})), 3/4 / m)

`bet_t` uses rows before t only, so K is a non-negative supermartingale under the null and P(max_t K_t >= 1/a)
<= a (Ville): p = 1 / max_t K_t. It needs bounds and independent rows, nothing else, and takes scores of any
grain. For 0/1 scores of two policies on the same rows x has four values; an exact binomial test on the lost
answers alone is valid too and has no power once the policy also gains answers (with 3 % gained and 5 % lost,
keep .95, 1,000 rows: 0 against .67), and a maximum of exact tails over the unknown share of gains does no
better than the bet at 300 rows. Hoeffding's would need ten times the rows.

Scope: numbers in, numbers out; which rows and settings is the caller's business
(`asd.guarantee.record`).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError, DataError

__all__ = [
    "betting_p_value",
    "check_cap",
    "check_keep",
    "check_level",
    "kept",
    "n_needed",
    "n_passed",
    "within",
]

Array = npt.NDArray[np.float64]

_MOST_AT_STAKE = 0.75
"""Largest share of the capital that one row can lose; 1 could lose everything."""


def betting_p_value(x: Array, low: float, high: float, delta: float) -> Array:
    """P-values of "the mean is at most 0".

    Args:
        x: Independent rows along the last axis, in random order, shape (..., n).
        low: Least possible value, below 0.
        high: Largest possible value, above 0.
        delta: Level the bets are tuned to; the p-values are valid at every level.

    Returns:
        Shape (...).

    Raises:
        DataError: There are no rows, or one lies outside the bounds.
        ConfigError: The bounds do not enclose 0, or `delta` is not between 0 and 1.
    """
    check_level(delta)
    if not low < 0.0 < high:
        raise ConfigError(f"bounds must enclose 0, got {low} and {high}")
    n = x.shape[-1]
    if n == 0 or not (x.min() >= low and x.max() <= high):
        raise DataError(f"{n} rows, all of which should lie between {low} and {high}")
    x, m = (x - low) / (high - low), -low / (high - low)
    seen = np.arange(2, n + 2)
    mean = (0.5 + np.cumsum(x, axis=-1)) / seen
    variance = (0.25 + np.cumsum((x - mean) ** 2, axis=-1)) / seen
    before = np.concatenate([np.full((*x.shape[:-1], 1), 0.25), variance[..., :-1]], axis=-1)
    bets = np.minimum(np.sqrt(2.0 * math.log(1.0 / delta) / (n * before)), _MOST_AT_STAKE / m)
    log_capital = np.cumsum(np.log1p(bets * (x - m)), axis=-1)
    return np.asarray(np.exp(-np.maximum(log_capital.max(axis=-1), 0.0)))


def kept(quality: Array, reference: Array, keep: float, delta: float) -> Array:
    """P-values of "mean quality is at most `keep` times the reference's", rows along the last axis.

    Args:
        quality: Scores in [0, 1], shape (..., n).
        reference: The reference's scores on the same rows, shape broadcastable to that of `quality`.
        keep: Share of the reference's quality, in (0, 1].
        delta: Level the bets are tuned to.

    Raises:
        DataError: A score lies outside [0, 1], or there are none.
        ConfigError: `keep` or `delta` is out of range.
    """
    if not 0.0 < keep <= 1.0:
        raise ConfigError(
            f"keep must be a share of the reference's quality, above 0 and at most 1, got {keep}"
        )
    return betting_p_value(quality - keep * reference, -keep, 1.0, delta)


def within(cost: Array, cap: float, most: float, delta: float) -> Array:
    """P-values of "the mean of min(cost, most) is at least `cap`", rows along the last axis.

    A mean of costs that could be anything cannot be bounded from rows, so the promise is about costs up to
    `most`, which has to come from other rows.

    Args:
        cost: Not negative, shape (..., n).
        cap: What the mean has to stay below, positive.
        most: Costs beyond this count as this.
        delta: Level the bets are tuned to.

    Raises:
        DataError: A cost is negative or not a number, or there are none.
        ConfigError: `cap` is not positive, or `delta` is out of range.
    """
    check_cap(cap)
    most = max(most, 2.0 * cap)
    return betting_p_value(cap - np.minimum(cost, most), cap - most, cap, delta)


def n_passed(p_values: Array, delta: float) -> npt.NDArray[np.intp]:
    """Fixed-sequence testing along the last axis: how many settings pass before the first that does not."""
    return np.asarray(np.logical_and.accumulate(p_values <= delta, axis=-1).sum(axis=-1))


def n_needed(x: Array, delta: float) -> int | None:
    """Rows with which this p-value would reach `delta` at even odds, if all rows were like these.

    Where K of the module's docstring reaches 1/delta by its drift: n = 2 log(1/delta) var(x) / mean(x)^2.
    None where the mean is not above 0: then no number of such rows would do.
    """
    mean = float(x.mean())
    if mean <= 0.0:
        return None
    return math.ceil(2.0 * math.log(1.0 / delta) * float(x.var()) / mean**2)


def check_level(delta: float) -> None:
    """`ConfigError` unless `delta` is a probability strictly between 0 and 1."""
    if not 0.0 < delta < 1.0:
        raise ConfigError(f"delta, the probability of a wrong promise, must be between 0 and 1, got {delta}")


def check_keep(keep: float) -> None:
    """`ConfigError` unless `keep` is a share above 0 and at most 1."""
    if not 0.0 < keep <= 1.0:
        raise ConfigError(f"keep, the share of the reference's quality, must be in (0, 1], got {keep}")


def check_cap(cap: float) -> None:
    """`ConfigError` unless `cap` is a positive cost."""
    if not 0.0 < cap < math.inf:
        raise ConfigError(f"a cap on cost must be a positive number, got {cap}")
