"""Paired losses against cases worked by hand and against scipy's own tests."""

import numpy as np
import pytest
from scipy import stats

from asd.evaluation.statistics import holm, paired_loss, samples_needed, time_loss


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_exact_p_value_is_mcnemars():
    """Of 9 discordant pairs 8 got worse: P(8 or 9 heads of 9) = 10/512."""
    before = np.array([1] * 8 + [0] + [1] * 91)
    after = np.array([0] * 8 + [1] + [1] * 91)
    loss = paired_loss(before, after, "higher", rng(), relative=False, exact=True)
    assert loss.p_value == pytest.approx(10 / 512)
    assert loss.estimate == pytest.approx(0.07)


def test_a_gain_is_a_negative_loss_and_no_evidence():
    """The direction decides what is worse."""
    before, after = np.zeros(50), np.r_[np.ones(10), np.zeros(40)]
    assert paired_loss(before, after, "higher", rng(), relative=False, exact=True).estimate == -0.2
    assert paired_loss(before, after, "higher", rng(), relative=False, exact=True).p_value == 1.0
    assert paired_loss(before, after, "lower", rng(), relative=False, exact=True).p_value == 2.0**-10


def test_relative_loss_is_a_share_of_the_stored_mean():
    """Every item 5 % dearer is a loss of exactly 0.05, without an interval to speak of."""
    before = rng().gamma(2, 1, 100)
    loss = paired_loss(before, before * 1.05, "lower", rng(), relative=True)
    assert (loss.estimate, loss.low, loss.high) == pytest.approx((0.05, 0.05, 0.05))
    assert loss.p_value < 1e-12


@pytest.mark.parametrize("factor", [1.05, 2.0])
def test_the_same_factor_on_every_item_is_certain(factor: float):
    """Rounding may or may not leave a spread; neither may break the p-value."""
    before = rng().gamma(2, 1, 100)
    assert paired_loss(before, before * factor, "lower", rng(), relative=True).p_value < 1e-12
    assert paired_loss(before, before / factor, "lower", rng(), relative=True).p_value > 0.999


def test_the_same_change_on_every_item_needs_no_resampling():
    """A constant change has no spread; the loss is certain."""
    loss = paired_loss(np.ones(5), np.full(5, 1.5), "lower", rng(), relative=False)
    assert (loss.low, loss.estimate, loss.high, loss.p_value) == (0.5, 0.5, 0.5, 0.0)


def test_interval_covers_the_truth_as_often_as_it_says():
    """At 90 %, the interval of a mean change misses in about one of ten worlds."""
    worlds = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        before = worlds.gamma(2, 1, 60)
        loss = paired_loss(
            before, before + worlds.normal(0.1, 0.5, 60), "lower", rng(), relative=False, confidence=0.9
        )
        hits += loss.low <= 0.1 <= loss.high
    assert 82 <= hits <= 97


def test_either_way_counts_the_worse_direction_at_twice_the_p_value():
    """What should not move is a loss both up and down."""
    before, after = np.zeros(50), np.r_[np.ones(10), np.zeros(40)]
    for old, new in ((before, after), (after, before)):
        loss = paired_loss(old, new, "same", rng(), relative=False, exact=True)
        assert loss.estimate == pytest.approx(0.2)
        assert loss.p_value == pytest.approx(2 * 2.0**-10)


def test_a_relative_loss_of_nothing_is_refused():
    """Five per cent of zero is not a tolerance."""
    with pytest.raises(ValueError, match="not defined"):
        paired_loss(np.zeros(3), np.ones(3), "lower", rng(), relative=True)


def test_time_loss_is_that_of_the_totals():
    """Long calls weigh what they take: (6 + 1) / (4 + 1) - 1."""
    loss = time_loss([4.0, 1.0], [6.0, 1.0], rng())
    assert loss.estimate == pytest.approx(0.4)
    assert loss.low <= loss.estimate <= loss.high


def test_yardstick_takes_out_a_machine_that_is_slower_altogether():
    """Twice as slow in everything is no loss of the ratio."""
    seconds = rng().gamma(2, 1, 20)
    loss = time_loss(seconds, 2 * seconds, rng(), yardsticks=(seconds * 3, seconds * 6))
    assert loss.estimate == pytest.approx(0.0)
    assert time_loss(seconds, 2 * seconds, rng()).estimate == pytest.approx(1.0)


def test_time_p_value_is_wilcoxons_on_log_ratios():
    """One stalled call moves the mean, and the evidence by one rank only."""
    noise = np.random.default_rng(2)
    before = noise.gamma(2, 1, 20)
    after = before * np.exp(noise.normal(0.02, 0.1, 20))
    after[3] += 50
    expected = stats.wilcoxon(np.log(after) - np.log(before), alternative="greater").pvalue
    assert time_loss(before, after, rng()).p_value == pytest.approx(expected)


def test_one_timed_item_proves_nothing():
    """Without two items there is no spread to judge by."""
    loss = time_loss([1.0], [9.0], rng())
    assert (loss.low, loss.high, loss.p_value) == (-1.0, np.inf, 1.0)


def test_holm_by_hand():
    """0.01 x 3, then max(0.03, 0.02 x 2), then max(0.04, 0.03 x 1), in the order given."""
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_samples_needed_for_tail_percentiles():
    """1 - 0.95^59 is the first above 0.95, and 1 - 0.99^299 likewise."""
    assert (samples_needed(0.95), samples_needed(0.99)) == (59, 299)
    assert 1 - 0.95**58 < 0.95 <= 1 - 0.95**59
