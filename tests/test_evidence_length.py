"""The scale of a query against costs that are known to follow its token counts."""

from __future__ import annotations

import numpy as np
import pytest

from asd.evidence.length import LengthScale, fit_length_scale
from asd.types import Usage


def usages(n: int = 500, seed: int = 0) -> list[Usage]:
    rng = np.random.default_rng(seed)
    return [Usage(int(p), int(d), int(d)) for p, d in rng.integers(30, 200, (n, 2))]


def test_a_power_law_is_recovered() -> None:
    """Cost = 3 (1 + prompt)^.4 (1 + decoded)^.8 without noise: both exponents come back."""
    rows = usages()
    costs = np.array([3 * (1 + u.n_prompt) ** 0.4 * (1 + u.n_decoded) ** 0.8 for u in rows])
    fitted = fit_length_scale(rows, costs)
    assert (fitted.w_prompt, fitted.w_decoded) == pytest.approx((0.4, 0.8))
    assert [fitted(u) for u in rows] == pytest.approx(costs / costs.mean())


def test_mean_scale_of_the_fitting_rows_is_one() -> None:
    """Noisy costs: the scale is a share of the mean query all the same."""
    rows, rng = usages(), np.random.default_rng(1)
    costs = np.array([u.n_decoded for u in rows]) * rng.lognormal(0, 1, len(rows))
    assert np.mean([fit_length_scale(rows, costs)(u) for u in rows]) == pytest.approx(1.0, abs=0.02)


def test_lengths_that_say_nothing_move_nothing() -> None:
    """Costs unrelated to the counts: no scale is further than 15 % from 1."""
    rows = usages(2000)
    costs = np.random.default_rng(2).lognormal(0, 0.5, len(rows))
    fitted = fit_length_scale(rows, costs)
    assert max(abs(fitted(u) - 1) for u in rows) < 0.15


def test_a_count_that_never_varied_gets_no_weight() -> None:
    """A prompt length unseen so far must not be extrapolated from an intercept."""
    rows = [Usage(10, d, d) for d in range(1, 50)]
    fitted = fit_length_scale(rows, np.array([float(u.n_decoded) for u in rows]))
    assert fitted(Usage(1000, 20, 20)) == pytest.approx(fitted(Usage(10, 20, 20)))


def test_free_calls_do_not_break_the_fit() -> None:
    """A cost of zero has no logarithm and is taken as a small one."""
    rows = usages(100)
    costs = np.array([0.0 if i % 10 == 0 else float(u.n_decoded) for i, u in enumerate(rows)])
    assert all(0.125 <= fit_length_scale(rows, costs)(u) <= 8.0 for u in rows)


@pytest.mark.parametrize(("n_decoded", "scale"), [(10**9, 8.0), (0, 0.125)])
def test_scale_is_clipped(n_decoded: int, scale: float) -> None:
    """No query counts as more than 8 mean queries or less than an eighth of one."""
    extreme = LengthScale(bias=-5.0, w_prompt=0.0, w_decoded=1.0)
    assert extreme(Usage(10, n_decoded, 1)) == pytest.approx(scale)


def test_default_is_the_mean_query() -> None:
    """Three zeros: every query counts as 1."""
    assert LengthScale()(Usage(1234, 5678, 1)) == 1.0
