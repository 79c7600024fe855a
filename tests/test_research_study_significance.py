"""Paired statistics equal their libraries' own answers on cases worked by other means."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import tt_solve_power

from asd.errors import DataError
from asd.research.study.significance import achieved_power, adjust, compare, needed


def pairs(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    reference = rng.gamma(2, size=n)
    return reference + rng.normal(0.1, 0.5, size=n), reference


def test_a_difference_is_that_of_scipy() -> None:
    """Mean, t, p and d by their formulas; the interval holds the mean."""
    method, reference = pairs()
    found = compare(method, reference, np.random.default_rng(1))
    change = method - reference
    assert found.mean == pytest.approx(change.mean())
    assert found.t == pytest.approx(change.mean() / (change.std(ddof=1) / np.sqrt(len(change))))
    assert found.p_t == pytest.approx(2 * stats.t.sf(abs(found.t), len(change) - 1))
    assert found.cohens_d == pytest.approx(found.t / np.sqrt(len(change)))
    assert found.low < found.mean < found.high
    assert found.p_mcnemar is None


def test_right_and_wrong_answers_get_mcnemars_exact_test() -> None:
    """Nine questions lost and one won: the binomial tail, twice."""
    reference = np.array([1.0] * 50 + [0.0] * 50)
    method = reference.copy()
    method[:9], method[50] = 0, 1
    found = compare(method, reference, np.random.default_rng(0))
    assert found.p_mcnemar == pytest.approx(2 * stats.binom.cdf(1, 10, 0.5))
    assert found.mean == pytest.approx(-0.08)


def test_no_difference_and_a_constant_one() -> None:
    """Equal vectors: p is 1 and d is 0; the same shift everywhere: significant, and d is not defined."""
    _, reference = pairs(30)
    same = compare(reference, reference, np.random.default_rng(0))
    assert (same.mean, same.p_t, same.cohens_d) == (0.0, 1.0, 0.0)
    level = np.zeros(30)
    shifted = compare(level + 2.0, level, np.random.default_rng(0))
    assert shifted.cohens_d is None
    assert shifted.p_t == pytest.approx(2**-29)


@pytest.mark.slow
def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Of 200 intervals around skewed differences about 95 % hold the true mean."""
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        change = rng.exponential(size=60)
        found = compare(change, np.zeros(60), rng)
        held += found.low <= 1.0 <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_families_are_adjusted() -> None:
    """Holm by hand; Bonferroni multiplies by the size of the family."""
    adjusted = adjust([0.01, 0.04, 0.03])
    assert adjusted.holm == pytest.approx((0.03, 0.06, 0.06))
    assert adjusted.bonferroni == pytest.approx((0.03, 0.12, 0.09))


@pytest.mark.parametrize(("d", "n"), [(0.2, 50), (0.5, 34), (-0.3, 100)])
def test_power_agrees_with_statsmodels_and_with_simulation(d: float, n: int) -> None:
    """Three digits against the solver; a hundredth or two against drawing samples."""
    power = achieved_power(d, n)
    assert power == pytest.approx(tt_solve_power(effect_size=abs(d), nobs=n, alpha=0.05), abs=5e-4)
    draws = np.random.default_rng(0).normal(d, 1, size=(4000, n))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert power == pytest.approx(found.mean(), abs=0.03)


def test_the_number_needed_is_the_smallest() -> None:
    """It reaches the power, and one fewer does not."""
    n = needed(0.3)
    assert achieved_power(0.3, n) >= 0.8 > achieved_power(0.3, n - 1)
    assert needed(-0.3) == n


@pytest.mark.parametrize(
    ("method", "reference", "message"),
    [([1.0], [1.0], "one length"), ([1.0, 2.0], [1.0], "one length"), ([1.0, np.nan], [1.0, 1.0], "finite")],
)
def test_bad_pairs_are_refused(method: list[float], reference: list[float], message: str) -> None:
    """Too few, unequal, or not finite."""
    with pytest.raises(DataError, match=message):
        compare(np.array(method), np.array(reference), np.random.default_rng(0))


@pytest.mark.parametrize("d", [2.0, 5.0, 20.0])
def test_large_effects_have_a_power_and_a_number(d: float) -> None:
    """Where statsmodels' far tail is NaN and its solver does not converge."""
    assert achieved_power(d, 160) == achieved_power(-d, 160) == pytest.approx(1.0)
    n = needed(d)
    assert achieved_power(d, n) >= 0.8
    assert n == 3 or achieved_power(d, n - 1) < 0.8


def test_too_few_questions_have_no_power() -> None:
    """Two questions leave one degree of freedom, where the power is not to be had."""
    with pytest.raises(DataError, match="use 3 or more"):
        achieved_power(0.5, 2)


@pytest.mark.parametrize("d", [0.0, 1e-9])
def test_an_effect_of_nothing_needs_no_number(d: float) -> None:
    """There is no n for it that anybody could ask, so it is an error and not infinity."""
    with pytest.raises(DataError, match="no number of questions"):
        needed(d)
