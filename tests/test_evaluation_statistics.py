"""Paired losses against cases worked by hand and against scipy's own tests."""

import numpy as np
import pytest
from scipy import stats

from asd.evaluation.statistics import (
    Bootstrap,
    holm,
    mean_interval,
    paired_loss,
    quantile_interval,
    ratio_interval,
    samples_needed,
    time_loss,
)

BOOTSTRAP = Bootstrap()


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_exact_p_value_is_mcnemars():
    """Of 9 discordant pairs 8 got worse: P(8 or 9 heads of 9) = 10/512."""
    before = np.array([1] * 8 + [0] + [1] * 91)
    after = np.array([0] * 8 + [1] + [1] * 91)
    loss = paired_loss(before, after, "higher", BOOTSTRAP, relative=False, exact=True)
    assert loss.p_value == pytest.approx(10 / 512)
    assert loss.estimate == pytest.approx(0.07)


def test_a_gain_is_a_negative_loss_and_no_evidence():
    """The direction decides what is worse."""
    before, after = np.zeros(50), np.r_[np.ones(10), np.zeros(40)]
    assert paired_loss(before, after, "higher", BOOTSTRAP, relative=False, exact=True).estimate == -0.2
    assert paired_loss(before, after, "higher", BOOTSTRAP, relative=False, exact=True).p_value == 1.0
    assert paired_loss(before, after, "lower", BOOTSTRAP, relative=False, exact=True).p_value == 2.0**-10


def test_relative_loss_is_a_share_of_the_stored_mean():
    """Every item 5 % dearer is a loss of exactly 0.05, without an interval to speak of."""
    before = rng().gamma(2, 1, 100)
    loss = paired_loss(before, before * 1.05, "lower", BOOTSTRAP, relative=True)
    assert (loss.estimate, loss.low, loss.high) == pytest.approx((0.05, 0.05, 0.05))
    assert loss.p_value < 1e-12


@pytest.mark.parametrize("factor", [1.05, 2.0])
def test_the_same_factor_on_every_item_is_certain(factor: float):
    """Rounding may or may not leave a spread; neither may break the p-value."""
    before = rng().gamma(2, 1, 100)
    assert paired_loss(before, before * factor, "lower", BOOTSTRAP, relative=True).p_value < 1e-12
    assert paired_loss(before, before / factor, "lower", BOOTSTRAP, relative=True).p_value > 0.999


def test_the_same_change_on_every_item_needs_no_resampling():
    """A constant change has no spread; the loss is certain."""
    loss = paired_loss(np.ones(5), np.full(5, 1.5), "lower", BOOTSTRAP, relative=False)
    assert (loss.low, loss.estimate, loss.high, loss.p_value) == (0.5, 0.5, 0.5, 0.0)


def test_interval_covers_the_truth_as_often_as_it_says():
    """At 90 %, the interval of a mean change misses in about one of ten worlds."""
    worlds, bootstrap = np.random.default_rng(1), Bootstrap(confidence=0.9)
    hits = 0
    for _ in range(100):
        before = worlds.gamma(2, 1, 60)
        after = before + worlds.normal(0.1, 0.5, 60)
        loss = paired_loss(before, after, "lower", bootstrap, relative=False)
        hits += loss.low <= 0.1 <= loss.high
    assert 82 <= hits <= 97


def test_either_way_counts_the_worse_direction_at_twice_the_p_value():
    """What should not move is a loss both up and down."""
    before, after = np.zeros(50), np.r_[np.ones(10), np.zeros(40)]
    for old, new in ((before, after), (after, before)):
        loss = paired_loss(old, new, "same", BOOTSTRAP, relative=False, exact=True)
        assert loss.estimate == pytest.approx(0.2)
        assert loss.p_value == pytest.approx(2 * 2.0**-10)


def test_a_relative_loss_of_nothing_is_refused():
    """Five per cent of zero is not a tolerance."""
    with pytest.raises(ValueError, match="not defined"):
        paired_loss(np.zeros(3), np.ones(3), "lower", BOOTSTRAP, relative=True)


def passes(seconds: np.ndarray, noise: np.random.Generator, spread: float = 0.1) -> np.ndarray:
    """What a clock says of these units in three passes."""
    return seconds * np.exp(noise.normal(0, spread, (3, len(seconds))))


def test_time_loss_is_that_of_the_totals():
    """Long calls weigh what they take: (6 + 1) / (4 + 1) - 1."""
    loss = time_loss([[4.0, 1.0]], [[6.0, 1.0]], BOOTSTRAP, tolerance=0.1)
    assert loss.estimate == pytest.approx(0.4)
    assert loss.low <= loss.estimate <= loss.high


def test_a_machine_that_is_slower_altogether_is_taken_out_by_the_reference():
    """Twice as slow in everything is no loss of the ratio."""
    seconds = passes(rng().gamma(2, 1, 20), rng())
    both = (seconds * 3, seconds * 6)
    assert time_loss(seconds, 2 * seconds, BOOTSTRAP, tolerance=0.1, references=both).estimate == (
        pytest.approx(0.0)
    )
    assert time_loss(seconds, 2 * seconds, BOOTSTRAP, tolerance=0.1).estimate == pytest.approx(1.0)


def test_a_busy_machine_that_takes_a_share_of_every_second_is_no_loss():
    """Long calls are always interrupted, short ones seldom: totals bear it, the fastest passes would not."""
    noise = np.random.default_rng(3)
    long, short = np.full((3, 400), 0.1), np.full((3, 400), 0.01)

    def busy(seconds: np.ndarray) -> np.ndarray:
        return seconds + 0.02 * noise.poisson(seconds / 0.04)

    loss = time_loss(short, busy(short), BOOTSTRAP, tolerance=0.1, references=(long, busy(long)))
    fastest = [busy(seconds).min(axis=0).sum() for seconds in (short, long)]
    assert abs(loss.estimate) < 0.1
    assert fastest[0] / fastest[1] < 0.085


def test_one_spoilt_pass_of_three_does_not_move_the_loss():
    """The ratio is formed within each pass, and of the passes the median counts."""
    before = passes(rng().gamma(2, 1, 20), np.random.default_rng(2))
    after = before.copy()
    after[1] *= 50
    assert time_loss(before, after, BOOTSTRAP, tolerance=0.1).estimate < 0.2


def test_a_time_is_tested_against_its_tolerance():
    """However certain a loss below the tolerance is, it is no evidence of one above."""
    noise = np.random.default_rng(2)
    before = rng().gamma(2, 1, 20)
    loss = {
        factor: time_loss(passes(before, noise), passes(before * factor, noise), BOOTSTRAP, tolerance=0.15)
        for factor in (1.1, 2.0)
    }
    assert loss[1.1].low > 0
    assert loss[1.1].p_value > 0.5
    assert loss[2.0].p_value < 1e-6


def test_the_p_value_of_times_is_students():
    """Of the logarithm, with as many degrees of freedom as units less one."""
    noise = np.random.default_rng(2)
    old, new = (passes(np.ones(20), noise, 0.3) for _ in range(2))
    weights = BOOTSTRAP.weights(20)
    draws = np.log(np.median(new @ weights.T, axis=0)) - np.log(np.median(old @ weights.T, axis=0))
    loss = time_loss(old, new, BOOTSTRAP, tolerance=0.05)
    t = (np.log1p(loss.estimate) - np.log(1.05)) / draws.std(ddof=1)
    assert loss.p_value == pytest.approx(stats.t(19).sf(t))


def test_one_timed_unit_proves_nothing():
    """Without two units there is no spread to judge by."""
    loss = time_loss([[1.0]], [[9.0]], BOOTSTRAP, tolerance=0.1)
    assert (loss.low, loss.high, loss.p_value) == (-1.0, np.inf, 1.0)


def test_intervals_of_means_and_ratios_cover_the_truth():
    """Of 100 draws of 60 items, at 90 %."""
    worlds, bootstrap = np.random.default_rng(1), Bootstrap(confidence=0.9)
    hits = np.zeros(2)
    for _ in range(100):
        costs = worlds.gamma(2, 1, 60)
        units = np.stack([costs, costs]) * np.exp(worlds.normal(0, 0.2, (2, 60)))
        of_mean = mean_interval(costs, bootstrap)
        of_ratio = ratio_interval(3 * units, np.stack([costs, costs]), bootstrap)
        hits += of_mean[0] <= 2.0 <= of_mean[1], of_ratio[0] <= 3 * np.exp(0.02) <= of_ratio[1]
    assert (hits >= 82).all()
    assert (hits <= 98).all()


def test_the_interval_of_a_quantile_is_that_of_order_statistics():
    """Of the median of 20: between the 6th and the 15th, as tables have it (95.9 %)."""
    assert quantile_interval(range(1, 21), 0.5) == (6.0, 15.0)


def test_holm_by_hand():
    """0.01 x 3, then max(0.03, 0.02 x 2), then max(0.04, 0.03 x 1), in the order given."""
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_samples_needed_for_tail_percentiles():
    """1 - 0.95^59 is the first above 0.95, and 1 - 0.99^299 likewise."""
    assert (samples_needed(0.95), samples_needed(0.99)) == (59, 299)
    assert 1 - 0.95**58 < 0.95 <= 1 - 0.95**59
