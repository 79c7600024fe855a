"""The betting p-value against the paper's formula and exact enumeration, and testing in a fixed order."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.errors import ConfigError, DataError
from asd.guarantee.p_values import betting_p_value, kept, n_needed, n_passed, within

KEEP, DELTA = 0.9, 0.1


def capital(rows: list[float], low: float, high: float, delta: float) -> list[float]:
    """K_t of arXiv 2010.09686, one row after the other, as the paper prints it."""
    m, n = -low / (high - low), len(rows)
    path, k, seen, squares, variance = [], 1.0, 0.0, 0.0, 0.25
    for t, row in enumerate(rows, start=1):
        x = (row - low) / (high - low)
        bet = min(math.sqrt(2 * math.log(1 / delta) / (n * variance)), 0.75 / m)
        k *= 1 + bet * (x - m)
        path.append(k)
        seen += x
        squares += (x - (0.5 + seen) / (t + 1)) ** 2
        variance = (0.25 + squares) / (t + 1)
    return path


@given(
    rows=st.lists(st.floats(-0.5, 1.0), min_size=1, max_size=30),
    delta=st.sampled_from([0.01, 0.1, 0.5]),
)
def test_the_p_value_is_one_over_the_largest_capital(rows: list[float], delta: float) -> None:
    """Against a plain loop over the published formula."""
    expected = min(1.0, 1.0 / max(capital(rows, -0.5, 1.0, delta)))
    assert betting_p_value(np.array(rows), -0.5, 1.0, delta) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("p_gained", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("level", [0.05, 0.1, 0.3])
def test_a_true_null_is_rejected_no_more_often_than_the_level(p_gained: float, level: float) -> None:
    """Exact: every sequence of eight paired outcomes, at the border of the null."""
    values = np.array([-KEEP, 1 - KEEP, 1.0])  # lost, both right, gained
    p_both = KEEP * (1 - p_gained) - p_gained
    p = np.array([1 - p_both - p_gained, p_both, p_gained])
    assert values @ p == pytest.approx(0)
    which = np.array(list(product(range(3), repeat=8)))
    rejected = betting_p_value(values[which], -KEEP, 1.0, DELTA) <= level
    assert rejected.any()
    assert p[which].prod(axis=1)[rejected].sum() <= level


def test_a_true_null_with_graded_scores_is_rejected_within_the_level() -> None:
    """Ten thousand draws of 300 graded rows whose mean is exactly at the border."""
    rng = np.random.default_rng(0)
    x = rng.beta(2, 3, (10_000, 300)) - 0.4
    rate = (betting_p_value(x, -0.4, 0.6, DELTA) <= DELTA).mean()
    assert 0.02 < rate <= DELTA


def test_a_clear_margin_is_found_where_hoeffding_finds_nothing() -> None:
    """Three points above the border on 1,000 paired rows: nearly always certified, never by Hoeffding."""
    rng = np.random.default_rng(1)
    x = rng.choice([0.05, 1.0, -0.95, 0.0], p=[0.75, 0.02, 0.03, 0.2], size=(500, 1000))
    assert (betting_p_value(x, -0.95, 1.0, DELTA) <= DELTA).mean() > 0.9
    hoeffding = np.exp(-2 * 1000 * x.mean(axis=1).clip(0) ** 2 / 1.95**2)
    assert (hoeffding <= DELTA).mean() < 0.01


def test_quality_kept_compares_with_the_scaled_reference() -> None:
    """The same rows pass at 80 % and fail at 100 % of the reference."""
    rng = np.random.default_rng(2)
    reference = (rng.random(400) < 0.9).astype(float)
    quality = reference * (rng.random(400) < 0.93)
    assert kept(quality, reference, 0.8, DELTA) < 0.01
    assert kept(quality, reference, 1.0, DELTA) == 1.0


def test_a_budget_is_promised_only_for_costs_up_to_the_bound() -> None:
    """Costs beyond the bound count as the bound; a mean above the cap is never promised."""
    cost = np.random.default_rng(3).uniform(0.1, 0.5, 300)
    assert within(cost, 0.4, 2.0, DELTA) < 0.01
    assert within(cost, 0.29, 2.0, DELTA) == pytest.approx(1.0, abs=0.3)
    outlier = np.append(cost, 1e9)
    assert within(outlier, 0.4, 2.0, DELTA) == within(np.append(cost, 2.0), 0.4, 2.0, DELTA)


def test_testing_stops_at_the_first_setting_that_does_not_pass() -> None:
    """A later small p-value does not count."""
    p_values = np.array([[0.01, 0.1, 0.2, 0.01], [0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert n_passed(p_values, DELTA).tolist() == [2, 0, 4]


@pytest.mark.slow
def test_a_sequence_makes_a_false_promise_within_the_level() -> None:
    """Forty settings, the later half false: how often any false one passes, over 2,000 draws."""
    rng = np.random.default_rng(4)
    p_right = np.linspace(0.6, 0.4, 40)[:, None, None]
    x = (rng.random((1, 2000, 200)) < p_right) - 0.5
    p_values = betting_p_value(x, -0.5, 0.5, DELTA).T
    assert (n_passed(p_values, DELTA) > np.flatnonzero(p_right.ravel() <= 0.5)[0]).mean() <= DELTA


def test_the_rows_needed_give_about_even_odds() -> None:
    """With that many rows of the same kind, a promise is made in 35 to 75 % of draws."""
    rng = np.random.default_rng(5)
    values, p = np.array([0.05, 1.0, -0.95, 0.0]), [0.75, 0.02, 0.03, 0.2]
    n = n_needed(rng.choice(values, p=p, size=200_000), DELTA)
    draws = rng.choice(values, p=p, size=(2000, n))
    assert 0.35 < (betting_p_value(draws, -0.95, 1.0, DELTA) <= DELTA).mean() < 0.75
    assert n_needed(np.array([-0.1, 0.05]), DELTA) is None


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: betting_p_value(np.zeros(3), -1, 1, 0.0), ConfigError, "delta"),
        (lambda: betting_p_value(np.zeros(3), 0, 1, 0.1), ConfigError, "enclose 0"),
        (lambda: betting_p_value(np.zeros(0), -1, 1, 0.1), DataError, "0 rows"),
        (lambda: betting_p_value(np.array([2.0]), -1, 1, 0.1), DataError, "between"),
        (lambda: betting_p_value(np.array([np.nan]), -1, 1, 0.1), DataError, "between"),
        (lambda: kept(np.ones(3), np.ones(3), 1.2, 0.1), ConfigError, "keep"),
        (lambda: within(np.ones(3), 0.0, 1.0, 0.1), ConfigError, "cap"),
    ],
)
def test_wrong_input_is_named(call, error, words) -> None:
    """Levels, bounds, shares and rows out of range raise."""
    with pytest.raises(error, match=words):
        call()
