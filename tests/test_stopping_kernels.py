"""Bins, kernels and means by bin: against counts done by hand and against a known process."""

from __future__ import annotations

import math

import numpy as np
import pytest

from asd.errors import ConfigError, DataError
from asd.stopping.kernels import WIDTHS, Binning, estimate_kernel, mean_by_bin


def test_bins_hold_equal_mass():
    """A hundred different values in four bins: twenty-five each."""
    p = np.random.default_rng(0).permutation(100) / 100
    binning = Binning.fit(p, 4)
    assert binning.edges == (0.25, 0.5, 0.75)
    assert np.bincount(binning.index(p)).tolist() == [25, 25, 25, 25]


def test_a_bin_holds_its_lower_edge():
    """Half-open bins: an edge belongs to the bin above it, and everything outside to the ends."""
    binning = Binning((0.2, 0.6))
    assert [binning.index(p) for p in (-1.0, 0.19, 0.2, 0.59, 0.6, 2.0)] == [0, 0, 1, 1, 2, 2]
    assert binning.index(np.array([[0.1, 0.2], [0.6, 0.5]])).tolist() == [[0, 1], [2, 1]]
    assert binning.n_bins == 3


def test_repeated_values_make_fewer_bins():
    """One value makes one bin, two common ones two, however many are asked for; a rare one makes none."""
    assert Binning.fit(np.full(10, 0.3), 5).edges == ()
    assert Binning.fit(np.array([0.1] * 5 + [0.7] * 5), 5).edges == (0.7,)
    assert Binning.fit(np.array([0.1] * 19 + [0.7]), 5).edges == ()


@pytest.mark.parametrize("edges", [(0.5, 0.5), (0.6, 0.2), (math.nan,), (math.inf,)], ids=str)
def test_edges_must_ascend(edges):
    """Edges that repeat, fall or are not finite are refused."""
    with pytest.raises(ConfigError, match="strictly ascending"):
        Binning(edges)


def test_bins_need_values():
    """No values, a value that is no number, or no bin asked for: an error each."""
    with pytest.raises(DataError, match="at least one value, got none"):
        Binning.fit(np.array([]), 3)
    with pytest.raises(DataError, match="finite values, got nan"):
        Binning.fit(np.array([0.5, math.nan]), 3)
    with pytest.raises(ConfigError, match="n_bins must be at least 1, got 0"):
        Binning.fit(np.array([0.5]), 0)


def test_without_width_a_kernel_is_counts_and_one_imagined_row():
    """By hand: marginal (1/4, 3/4); bin 0 saw (1, 1), bin 1 saw (0, 2), bin 2 nothing."""
    kernel = estimate_kernel(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 3, 2, width=0)
    expected = [[1.25 / 3, 1.75 / 3], [0.25 / 3, 2.75 / 3], [0.25, 0.75]]
    np.testing.assert_allclose(kernel, expected)


def test_a_neighbour_counts_by_its_distance():
    """By hand: width 1 / ln 2 halves the weight per bin, so bin 2 sees a quarter of bin 0's row."""
    kernel = estimate_kernel(np.array([0, 1]), np.array([0, 1]), 3, 2, width=1 / math.log(2))
    np.testing.assert_allclose(kernel[0], [(1 + 0.5) / 2.5, (0.5 + 0.5) / 2.5])
    np.testing.assert_allclose(kernel[2], [(0.25 + 0.5) / 1.75, (0.5 + 0.5) / 1.75])


def test_infinite_width_is_the_marginal():
    """All source bins alike: every row is the share of each target bin."""
    kernel = estimate_kernel(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 2, 2, width=math.inf)
    np.testing.assert_allclose(kernel, [[0.25, 0.75]] * 2)


def test_with_few_rows_the_chosen_width_beats_plain_counts_and_the_marginal():
    """Two hundred rows of a known smooth process over 20 bins: nearer to it than either extreme."""
    rng = np.random.default_rng(3)
    bins = np.arange(20)
    truth = np.exp(-0.5 * (np.subtract.outer(bins, bins) / 3) ** 2)
    truth /= truth.sum(axis=1, keepdims=True)
    source = rng.integers(20, size=200)
    target = np.array([rng.choice(20, p=truth[b]) for b in source])
    error = {
        width: np.abs(estimate_kernel(source, target, 20, 20, width) - truth).sum()
        for width in (None, 0.0, math.inf)
    }
    assert error[None] < 0.7 * min(error[0.0], error[math.inf])


def test_bins_without_an_order_are_left_alone():
    """A process that jumps from bin to bin is not blurred: the chosen rows are those of width 0."""
    source = np.tile(np.arange(6), 30)
    target = (5 * source + 2) % 6
    chosen = estimate_kernel(source, target, 6, 6)
    np.testing.assert_array_equal(chosen, estimate_kernel(source, target, 6, 6, width=0))


def test_a_source_that_says_nothing_gets_nearly_the_marginal():
    """Independent bins: rows differ by a tenth of what plain counts make them differ."""
    rng = np.random.default_rng(5)
    source, target = rng.integers(10, size=300), rng.integers(2, size=300)
    chosen, plain = (estimate_kernel(source, target, 10, 2, width) for width in (None, 0.0))
    assert np.ptp(chosen[:, 0]) < 0.1 * np.ptp(plain[:, 0])


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ([], [], "no rows"),
        ([0, 1], [0], "2 sources and 1 targets"),
        ([0, 2], [0, 0], "0 to 1, got 0 to 2"),
        ([0, 1], [-1, 0], "0 to 1, got -1 to 0"),
    ],
)
def test_a_kernel_needs_pairs_of_bins(source, target, message):
    """Missing rows, unpaired rows and bins out of range are refused, and the value named."""
    with pytest.raises(DataError, match=message):
        estimate_kernel(np.array(source, dtype=int), np.array(target, dtype=int), 2, 2)


@pytest.mark.parametrize("width", [-1.0, math.nan])
def test_a_width_must_not_be_negative(width):
    """A width below zero or not a number is refused."""
    with pytest.raises(ConfigError, match=f"width must be 0 or more bins, got {width}"):
        estimate_kernel(np.array([0]), np.array([0]), 1, 1, width)


def test_means_that_differ_by_noise_only_are_pooled():
    """Equal bin means with noise inside: the overall mean everywhere."""
    means = mean_by_bin(np.array([1.0, 3.0, 1.0, 3.0]), np.array([0, 0, 1, 1]), 3)
    np.testing.assert_allclose(means, [2.0, 2.0, 2.0])


def test_means_without_noise_are_kept():
    """No variance within bins: every bin its own mean, an empty one the overall mean."""
    means = mean_by_bin(np.array([1.0, 1.0, 4.0, 4.0]), np.array([0, 0, 1, 1]), 3)
    np.testing.assert_allclose(means, [1.0, 4.0, 2.5])


def test_means_are_shrunk_by_the_ratio_of_variances():
    """By hand: means 2 and 6, within 2, between (16 - 2) / 2 = 7, so the own weight is 2 / (2 + 2 / 7)."""
    means = mean_by_bin(np.array([1.0, 3.0, 5.0, 7.0]), np.array([0, 0, 1, 1]), 2)
    np.testing.assert_allclose(means, [4 - 2 * 0.875, 4 + 2 * 0.875])


def test_rounding_never_carries_a_mean_past_the_values():
    """Three times .1 adds up to more than .3, but its mean by bin is no more than .1."""
    assert mean_by_bin(np.array([0.1, 0.1, 0.1]), np.array([0, 0, 0]), 1).max() <= 0.1


def test_one_row_per_bin_tells_nothing_apart():
    """Where no bin has two rows, or only one bin has any, the overall mean is all there is."""
    np.testing.assert_allclose(mean_by_bin(np.array([1.0, 3.0]), np.array([0, 1]), 2), [2.0, 2.0])
    np.testing.assert_allclose(mean_by_bin(np.array([1.0, 3.0]), np.array([1, 1]), 2), [2.0, 2.0])


def test_means_need_a_finite_value_per_row():
    """A missing or broken value is refused."""
    with pytest.raises(DataError, match="1 values for 2 rows"):
        mean_by_bin(np.array([1.0]), np.array([0, 1]), 2)
    with pytest.raises(DataError, match="finite value per row"):
        mean_by_bin(np.array([1.0, math.nan]), np.array([0, 1]), 2)


def test_counts_shrunk_like_their_cost_add_up_to_it():
    """Prices times the means of counts are the mean of prices times counts, shrinkage included."""
    rng = np.random.default_rng(3)
    bins = rng.integers(0, 5, 200)
    counts = rng.poisson(3 + bins[:, None], (200, 3)).astype(float)
    prices = np.array([2.0, 0.5, 7.0])
    cost = counts @ prices
    means = np.column_stack([mean_by_bin(count, bins, 5, like=cost) for count in counts.T])
    assert means @ prices == pytest.approx(mean_by_bin(cost, bins, 5))
    alone = np.column_stack([mean_by_bin(count, bins, 5) for count in counts.T])
    assert alone @ prices != pytest.approx(mean_by_bin(cost, bins, 5))


@pytest.mark.parametrize("seed", range(12))
def test_the_width_is_the_one_that_predicts_left_out_rows_best(seed):
    """Every row predicted from all the others: own and near bins, and one row of a smoothed marginal."""
    rng = np.random.default_rng(seed)
    n, n_source, n_target = 25, 7, 3
    source = rng.integers(n_source, size=n)
    blur = (0.2, 0.8, 3.0)[seed % 3]
    target = np.clip(np.round(source / 3 + blur * rng.normal(size=n)), 0, 2).astype(int)

    def likelihood(width: float) -> float:
        total = 0.0
        for i in range(n):
            other = np.arange(n) != i
            near = np.abs(source[other] - source[i])
            weight = np.where(near == 0, 1.0, 0.0) if width == 0 else np.exp(-near / width)
            same = target[other] == target[i]
            marginal = (same.sum() + 0.5) / (n - 1 + 0.5 * n_target)
            total += math.log((weight[same].sum() + marginal) / (weight.sum() + 1))
        return total

    best = estimate_kernel(source, target, n_source, n_target, max(WIDTHS, key=likelihood))
    np.testing.assert_array_equal(estimate_kernel(source, target, n_source, n_target), best)
