"""The hull and what is read off it, by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from asd.stopping.hull import Hull, aiq, apgr, call_share_at

THOUSANDTHS = st.integers(0, 1000).map(lambda n: n / 1000)
"""Differences that the solver's tolerance of 1e-7 does not take for none."""

POINTS = st.lists(st.tuples(st.floats(0, 10), THOUSANDTHS), min_size=1, max_size=8)


def test_hull_by_hand() -> None:
    """Dominated and sagging points are not corners; between corners costs are mixed."""
    hull = Hull([(1, 0.5), (2, 0.55), (3, 0.9), (4, 0.8), (5, 1.0), (1, 0.4)])
    assert hull.costs.tolist() == [1, 3, 5]
    assert hull.cost_at(0.7) == pytest.approx(2)
    assert hull.cost_at(0.2) == 1
    assert hull.cost_at(1.01) is None
    assert hull.quality_at([0, 4, 9]).tolist() == pytest.approx([0.5, 0.95, 1.0])


@pytest.mark.slow
@given(POINTS, THOUSANDTHS)
def test_hull_is_the_cheapest_mix(points: list[tuple[float, float]], wanted: float) -> None:
    """Cost at a quality equals the linear programme over all mixtures that reach at least it."""
    best = max(quality for _, quality in points)
    costs, qualities = np.array(points).T
    mix = linprog(costs, A_ub=[-qualities], b_ub=[-wanted * best], A_eq=[np.ones(len(points))], b_eq=[1.0])
    assert Hull(points).cost_at(wanted * best) == pytest.approx(mix.fun, abs=1e-6)


def test_aiq_and_apgr_by_hand() -> None:
    """Areas of triangles: a router on the straight line recovers half the gap, a perfect one more."""
    assert aiq(Hull([(1, 0.5), (3, 1.0)]), 1, 3) == pytest.approx(0.75)
    assert aiq(Hull([(1, 0.5)]), 1, 1) is None
    assert apgr([], 0.5, 0.9) == pytest.approx(0.5)
    assert apgr([(0.5, 0.9)], 0.5, 0.9) == pytest.approx(0.75)
    assert call_share_at([(0.5, 0.9)], 0.5, 0.9, 0.5) == pytest.approx(0.25)
    assert call_share_at([], 0.5, 0.9, 0.8) == pytest.approx(0.8)
    assert apgr([], 0.9, 0.5) is None
    assert call_share_at([], 0.9, 0.5, 0.5) is None


def test_points_on_a_line_and_beside_it_are_no_corners() -> None:
    """Neither a dearer point of the same quality, nor one between two others; several may go at once."""
    assert Hull([(1, 0.5), (2, 0.5)]).costs.tolist() == [1]
    assert Hull([(0, 0.0), (1, 0.5), (2, 1.0)]).costs.tolist() == [0, 2]
    assert Hull([(0, 0.0), (1, 0.1), (2, 0.3), (3, 1.0)]).costs.tolist() == [0, 3]


def test_the_best_quality_is_reached_at_its_own_cost() -> None:
    """And below it by mixing."""
    hull = Hull([(1, 0.5), (3, 0.75)])
    assert (hull.cost_at(0.75), hull.cost_at(0.625)) == (3, 2)


def test_the_mean_height_over_a_part_of_the_hull() -> None:
    """By hand: from 1 to 3 the hull rises from .5 over .6 to .65, its corners at 0, 2 and 4."""
    hull = Hull([(0, 0.4), (2, 0.6), (4, 0.7)])
    assert aiq(hull, 1, 3) == pytest.approx((0.55 + 0.625) / 2)
