"""Is a difference between two methods on the same questions more than chance, and how large is it?

Everything is paired by question and comes from scipy and statsmodels: the paired t-test and Wilcoxon's
signed-rank test for costs and seconds, McNemar's exact test where quality is 0 or 1, a BCa bootstrap
interval of the mean difference, Cohen's d of the differences, Holm's and Bonferroni's adjustment over the
whole family, the power achieved and the questions needed. Scope: vectors in, numbers out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from asd.errors import DataError

__all__ = ["SMALLEST_EFFECT", "Adjusted", "Difference", "achieved_power", "adjust", "compare", "needed"]

Array = npt.NDArray[np.float64]

N_RESAMPLES = 999

SMALLEST_EFFECT = 1e-4
"""To find a smaller one takes more than 1e9 questions."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Method minus reference, per question.

    Attributes:
        mean: Of the differences.
        low: Lower end of the 95 % BCa interval.
        high: Upper end.
        t: Statistic of the paired t-test; 0 where nothing differs.
        p_t: Its two-sided p-value.
        p_wilcoxon: Two-sided.
        p_mcnemar: Two-sided and exact; None where values are not all 0 or 1.
        cohens_d: Mean difference over the standard deviation of the differences; None where that is zero
            and the mean is not.
        n: Questions.
    """

    mean: float
    low: float
    high: float
    t: float
    p_t: float
    p_wilcoxon: float
    p_mcnemar: float | None
    cohens_d: float | None
    n: int


def compare(method: Array, reference: Array, rng: np.random.Generator) -> Difference:
    """All paired statistics of two vectors of one number a question.

    Raises:
        DataError: Fewer than two questions, lengths differ, or a value is not finite.
    """
    if method.shape != reference.shape or method.ndim != 1 or len(method) < 2:
        raise DataError(f"pairs need two vectors of one length, got {method.shape} and {reference.shape}")
    if not (np.isfinite(method).all() and np.isfinite(reference).all()):
        raise DataError("a value to compare is not finite")
    change = method - reference
    p_mcnemar = _mcnemar(method, reference) if _is_binary(method) and _is_binary(reference) else None
    if np.ptp(change) == 0:
        return _constant(float(change[0]), len(change), p_mcnemar)
    interval = stats.bootstrap(
        (change,), np.mean, method="BCa", n_resamples=N_RESAMPLES, rng=rng
    ).confidence_interval
    test = stats.ttest_rel(method, reference)
    return Difference(
        mean=float(change.mean()),
        low=float(interval.low),
        high=float(interval.high),
        t=float(test.statistic),
        p_t=float(test.pvalue),
        p_wilcoxon=float(stats.wilcoxon(change).pvalue),
        p_mcnemar=p_mcnemar,
        cohens_d=float(change.mean() / change.std(ddof=1)),
        n=len(change),
    )


def _constant(change: float, n: int, p_mcnemar: float | None) -> Difference:
    """Every question differs by the same amount: no spread, so no test but for the sign."""
    p_sign = 1.0 if change == 0 else float(stats.binomtest(n, n, 0.5).pvalue)
    d = 0.0 if change == 0 else None
    return Difference(change, change, change, 0.0, p_sign, p_sign, p_mcnemar, d, n)


def _is_binary(values: Array) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _mcnemar(method: Array, reference: Array) -> float:
    table = [[((method == i) & (reference == j)).sum() for j in (1, 0)] for i in (1, 0)]
    return float(mcnemar(table, exact=True).pvalue)


@dataclass(frozen=True, slots=True)
class Adjusted:
    """p-values of one family, adjusted so that an error anywhere has at most the stated probability."""

    holm: tuple[float, ...]
    bonferroni: tuple[float, ...]


def adjust(p_values: Sequence[float]) -> Adjusted:
    """Holm's and Bonferroni's adjustment, in the order given."""
    methods = ("holm", "bonferroni")
    holm, bonferroni = (tuple(map(float, multipletests(p_values, method=m)[1])) for m in methods)
    return Adjusted(holm, bonferroni)


def achieved_power(cohens_d: float, n: int, alpha: float = 0.05) -> float:
    """Probability that a paired t-test on n questions finds a true effect of this size.

    Raises:
        DataError: Fewer than three questions.
    """
    if n < 3:
        raise DataError(f"the power of a test on {n} questions is not defined; use 3 or more")
    # The test is symmetric; statsmodels' far tail is NaN for some positive effects, not for negative ones.
    return float(TTestPower().power(-abs(cohens_d), n, alpha))


def needed(cohens_d: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Questions a paired t-test needs to find an effect of this size with this probability, at least three.

    Searched for among whole numbers: statsmodels' own solver does not converge for large effects.

    Raises:
        DataError: The effect is smaller than `SMALLEST_EFFECT`: no number that could be asked is enough.
    """
    if not abs(cohens_d) >= SMALLEST_EFFECT:
        raise DataError(f"no number of questions shows an effect of size {cohens_d:g}")
    enough = 3
    while achieved_power(cohens_d, enough, alpha) < power:
        enough *= 2
    return bisect_left(range(enough + 1), power, lo=3, key=lambda n: achieved_power(cohens_d, n, alpha))
