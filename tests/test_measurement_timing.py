"""Timing: turns, rotation, synchronisation and warm-up, on a clock that only moves when told to."""

import gc
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from asd.measurement.timing import Budget, Turns, interleave, timed, warm_up
from asd.testing import FakeClock


def arms(clock: FakeClock, log: list[tuple[str, int]], **seconds: float) -> dict[str, Callable[[int], str]]:
    def make(name: str) -> Callable[[int], str]:
        def run(unit: int) -> str:
            log.append((name, unit))
            clock.advance(seconds[name])
            return f"{name}{unit}"

        return run

    return {name: make(name) for name in seconds}


def nothing() -> None:
    """No device to wait for."""


def test_every_arm_runs_on_a_unit_before_any_runs_on_the_next():
    """Drift over units hits all arms alike."""
    clock, log = FakeClock(), []
    interleave(arms(clock, log, a=1, b=2, c=3), [10, 20], 2, synchronise=nothing, clock=clock)
    units = [unit for _, unit in log]
    assert units == [10] * 3 + [20] * 3 + [10] * 3 + [20] * 3
    assert all({name for name, _ in log[i : i + 3]} == {"a", "b", "c"} for i in range(0, 12, 3))


def test_no_arm_is_always_first_or_always_after_the_same():
    """Over many units every arm has every place, and more than one forerunner."""
    clock, log = FakeClock(), []
    interleave(arms(clock, log, a=1, b=1, c=1), list(range(12)), 1, synchronise=nothing, clock=clock)
    names = [name for name, _ in log]
    assert set(names[0::3]) == set(names[1::3]) == set(names[2::3]) == {"a", "b", "c"}
    before = Counter((names[i], names[i + 1]) for i in range(36) if i % 3 < 2)
    assert {pair for pair in before if pair[1] == "b"} == {("a", "b"), ("c", "b")}


def test_passes_begin_with_another_arm():
    """A single unit is begun by every arm in turn too."""
    clock, log = FakeClock(), []
    interleave(arms(clock, log, a=1, b=1, c=1), [0], 6, synchronise=nothing, clock=clock)
    assert {name for name, _ in log[0::3]} == {"a", "b", "c"}


def test_seconds_and_results_land_with_their_arm():
    """Rotation changes the order of running, not what belongs to whom."""
    clock, log = FakeClock(), []
    timings = interleave(arms(clock, log, a=1, b=4), [1, 2, 3], 2, synchronise=nothing, clock=clock)
    assert np.array_equal(timings.seconds["a"], np.full((2, 3), 1.0))
    assert np.array_equal(timings.seconds["b"], np.full((2, 3), 4.0))
    assert timings.results["b"] == ["b1", "b2", "b3"]
    assert timings.ratios("b", "a").tolist() == [4.0, 4.0]


def test_further_passes_join_those_made_before():
    """Whatever the first ones saw: none is dropped, and the turns go on where they were."""
    clock, log = FakeClock(), []
    turns = Turns(arms(clock, log, a=1, b=4), [1, 2], synchronise=nothing, clock=clock)
    assert turns.n_passes == 0
    turns.walk(2)
    clock.advance(100)
    turns.walk(1)
    at_once = []
    interleave(arms(clock, at_once, a=1, b=4), [1, 2], 3, synchronise=nothing, clock=clock)
    assert (turns.n_passes, log) == (3, at_once)
    assert turns.timings.seconds["b"].tolist() == [[4, 4], [4, 4], [4, 4]]
    assert turns.timings.results["a"] == ["a1", "a2"]


@pytest.mark.parametrize(("pass_s", "expected"), [(1, 3), (20, 3), (20.1, 2), (25, 2), (31, 2), (500, 2)])
def test_long_passes_are_fewer_but_never_alone(pass_s: float, expected: int) -> None:
    """Three where they fit a minute, else as many as fit, and two in any case."""
    clock = FakeClock()
    turns = Turns(arms(clock, [], a=pass_s / 8, b=pass_s * 3 / 8), [0, 1], synchronise=nothing, clock=clock)
    turns.walk_within(Budget(3, 60))
    assert turns.n_passes == expected
    assert clock.now == pytest.approx(expected * pass_s)


def test_the_budget_of_passes_scales_with_them_and_may_be_endless() -> None:
    """Of nine passes of 25 s four fit 100 s; without a limit all are made; those made before count."""
    for budget_s, expected in ((100, 4), (math.inf, 9)):
        clock = FakeClock()
        turns = Turns(arms(clock, [], a=25.0), [0], synchronise=nothing, clock=clock)
        turns.walk_within(Budget(9, budget_s))
        assert turns.n_passes == expected
    turns.walk_within(Budget(9))
    assert turns.n_passes == 9


def test_one_pass_is_one_pass() -> None:
    """Who asks for one gets one, however many would fit."""
    clock = FakeClock()
    turns = Turns(arms(clock, [], a=1.0), [0], synchronise=nothing, clock=clock)
    turns.walk_within(Budget(1, 60))
    assert turns.n_passes == 1


def test_devices_are_idle_at_both_readings():
    """Work still queued before the call is not billed to it; work queued by the call is."""
    clock, pending = FakeClock(), [5.0]

    def synchronise() -> None:
        clock.advance(sum(pending))
        pending.clear()

    run = timed(lambda: pending.append(2.0), synchronise, clock)
    assert run.seconds == 2.0


@pytest.mark.parametrize("was_on", [True, False])
def test_collector_is_off_inside_and_as_before_after(was_on: bool):
    """A collection inside the timed region would be billed to whoever is unlucky."""
    (gc.enable if was_on else gc.disable)()
    try:
        assert timed(gc.isenabled, nothing, FakeClock()).result is False
        assert gc.isenabled() is was_on
    finally:
        gc.enable()


@pytest.mark.parametrize(("n_arms", "units", "n_passes"), [(0, [1], 1), (1, [], 1), (1, [1], 0)])
def test_nothing_to_time_is_refused(n_arms: int, units: list[int], n_passes: int):
    """An empty timing would yield ratios of nothing."""
    chosen = {f"arm{i}": str for i in range(n_arms)}
    with pytest.raises(ValueError, match="nothing to time"):
        interleave(chosen, units, n_passes, synchronise=nothing, clock=FakeClock())


def test_warm_up_ends_when_calls_stop_getting_faster():
    """8, 4, 2 and then two calls no faster: five calls."""
    clock, durations = FakeClock(), iter([8.0, 4.0, 2.0, 2.0, 2.1, 0.1])
    n_calls = warm_up(lambda: clock.advance(next(durations)), synchronise=nothing, clock=clock)
    assert n_calls == 5


def test_warm_up_gives_up_on_a_machine_that_never_calms_down():
    """It must end even if every call is faster than the last."""
    clock, durations = FakeClock(), iter(0.5**k for k in range(99))
    n_calls = warm_up(lambda: clock.advance(next(durations)), synchronise=nothing, clock=clock, at_most=7)
    assert n_calls == 7
