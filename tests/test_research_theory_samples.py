"""Training queries: a slope is that of a power law, and no interval is told from a handful of draws."""

from __future__ import annotations

import numpy as np
import pytest

from asd.research.theory.samples import ENOUGH, sample_slope, sample_tables
from tests.conducted import material

SIZES = (20, 40, 80, 160)


def losses(n_draws: int, noise: float = 0.2) -> dict[int, np.ndarray]:
    """Falling as n^(-1/2), every draw a little off."""
    rng = np.random.default_rng(0)
    return {n: n**-0.5 * (1 + noise * rng.uniform(-1, 1, n_draws)) for n in SIZES}


def test_a_power_law_has_its_exponent() -> None:
    """Within the interval, from the first size to the last."""
    first, last, slope, low, high = sample_slope(losses(50), np.random.default_rng(0))
    assert (first, last) == (20, 160)
    assert slope == pytest.approx(-0.5, abs=0.05)
    assert low < slope < high


@pytest.mark.parametrize(("n_draws", "told"), [(ENOUGH - 1, False), (ENOUGH, True)])
def test_an_interval_takes_enough_draws(n_draws: int, told: bool) -> None:
    """The slope is told in any case."""
    *_, slope, low, high = sample_slope(losses(n_draws), np.random.default_rng(0))
    assert slope is not None
    assert (low is not None, high is not None) == (told, told)


def test_the_fit_ends_where_a_resample_loses_nothing() -> None:
    """No resample is dropped: the sizes from there on are, those before stay; one size has no slope."""
    found = losses(50)
    found[80] = found[80] - found[80].mean() + 1e-6
    assert sample_slope(found, np.random.default_rng(0))[:2] == (20, 40)
    found[40] = found[80]
    assert sample_slope(found, np.random.default_rng(0)) == (None,) * 5


@pytest.mark.slow
def test_points_of_few_draws_have_no_interval() -> None:
    """In the table too."""
    for n_draws, told in ((2, False), (ENOUGH, True)):
        points, _ = sample_tables(material(), n_draws=n_draws, n_fit_draws=0)
        assert {low is not None for low in points.column("lost_low")} == {told}
