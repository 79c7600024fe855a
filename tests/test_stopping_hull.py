"""The hull and what is read off it, by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from asd.stopping.hull import Hull, aiq, apgr, call_share_at

POINTS = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=8)


def test_hull_by_hand() -> None:
    """Dominated and sagging points are not corners; between corners costs are mixed."""
    hull = Hull([(1, 0.5), (2, 0.55), (3, 0.9), (4, 0.8), (5, 1.0), (1, 0.4)])
    assert hull.costs.tolist() == [1, 3, 5]
    assert hull.cost_at(0.7) == pytest.approx(2)
    assert hull.cost_at(0.2) == 1
    assert hull.cost_at(1.01) is None
    assert hull.quality_at([0, 4, 9]).tolist() == pytest.approx([0.5, 0.95, 1.0])


@pytest.mark.slow
@given(POINTS, st.floats(0, 1))
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
