"""Little's law on sample paths, and quantiles from a histogram."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.errors import SimulationError
from asd.operations.occupancy import Occupancy, Stay
from asd.operations.quantiles import Quantiles


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0.001, 50)), min_size=1, max_size=30), st.floats(0.5, 40)
)
def test_both_sides_agree_in_every_window(stays: list[tuple[float, float]], window: float) -> None:
    """Any path, any windows: the integral is what a fine count by hand gives, and so is the sum."""
    occupancy = Occupancy()
    events = sorted(
        [(a, 0, a) for a, _ in stays] + [(a + d, 1, a) for a, d in stays],
    )
    closes = [window * k for k in range(1, int(100 / window) + 2)]
    for close in closes:
        while events and events[0][0] <= close:
            now, leaves, entered = events.pop(0)
            occupancy.leave(now, entered) if leaves else occupancy.enter(now)
        stay = occupancy.close(close, [a for a, d in stays if a <= close < a + d])
        by_hand = sum(max(0.0, min(a + d, close) - max(a, close - window)) for a, d in stays)
        assert stay.integral_s == pytest.approx(by_hand, abs=1e-9)
        stay.check("here")


def test_a_head_too_many_is_named() -> None:
    with pytest.raises(SimulationError, match="here: 1 inside and 2 arrivals are not 2 inside and 0 dep"):
        Stay(10.0, 1, 2, 2, 0, 20.0, 20.0).check("here")
    with pytest.raises(SimulationError, match=r"here: the integral .* 20\.0 s, .* 20\.001 s"):
        Stay(10.0, 1, 2, 1, 0, 20.0, 20.001).check("here")


def test_quantiles_within_half_a_percent() -> None:
    """Against numpy on a long-tailed sample, in parts and together."""
    values = np.random.default_rng(0).lognormal(0.0, 2.0, 6000)
    parts = [Quantiles(), Quantiles()]
    for i, value in enumerate(values.tolist()):
        parts[i % 2].add(value)
    parts[0].merge(parts[1])
    for share in (0.5, 0.95, 0.99):
        assert parts[0].at(share) == pytest.approx(np.quantile(values, share), rel=0.006)
    assert parts[0].mean == pytest.approx(values.mean())


def test_few_numbers_have_no_tail() -> None:
    few = Quantiles()
    for _ in range(58):
        few.add(1.0)
    assert few.at(0.95) is None
    few.add(0.0)
    assert few.at(0.95) == pytest.approx(1.0, rel=0.006)
