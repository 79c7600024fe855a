"""Timing that compares like with like: arms take turns on the same unit of work, between synchronisations.

A machine drifts: clocks, heat, neighbours. Timing one arm after the other turns drift into a difference
between arms. Here every arm runs on a unit of work before any arm runs on the next unit, and the order of
the arms rotates and turns round, so that none profits from its place or from always following another. A
pass is one walk over all units; ratios are formed within a pass. A pass that was disturbed is dropped whole,
all arms of it, so that calm is never chosen for one arm alone.

Nothing but the call is between the two readings of the clock: the devices are idle before the first and
after the second, the garbage collector is off, nothing is printed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Clock", "Timed", "Timings", "interleave", "timed", "warm_up"]

Clock = Callable[[], float]
"""Reads seconds, for example `time.perf_counter`."""

U = TypeVar("U")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Timings(Generic[R]):
    """What interleaving saw.

    Attributes:
        seconds: By arm, an array of shape (passes, units).
        results: By arm, what it returned in the last pass, one a unit.
    """

    seconds: Mapping[str, NDArray[np.float64]]
    results: Mapping[str, list[R]]

    def ratios(self, numerator: str, denominator: str) -> NDArray[np.float64]:
        """Total seconds of one arm over total seconds of the other, one a pass."""
        return np.asarray(self.seconds[numerator].sum(axis=1) / self.seconds[denominator].sum(axis=1))


@dataclass(frozen=True, slots=True)
class Timed(Generic[R]):
    """A result and the seconds it took."""

    result: R
    seconds: float


Pass = dict[str, list[Timed[R]]]
"""By arm, its runs, one a unit."""

AGREE = 1.1
"""Passes agree when the slowest took at most so many times as long as the fastest."""


def interleave(
    arms: Mapping[str, Callable[[U], R]],
    units: Sequence[U],
    n_passes: int,
    *,
    synchronise: Callable[[], None],
    clock: Clock,
    n_spare: int = 0,
) -> Timings[R]:
    """Run every arm on every unit, `n_passes` times, arms taking turns on each unit.

    Args:
        arms: By name, what is timed; called with one unit.
        units: Batches of work.
        n_passes: Walks over all units that are kept.
        n_spare: Further walks at most, made while the calmest `n_passes` do not agree; those are then kept.
        synchronise: Returns when every device that an arm may use is idle.
        clock: Reads seconds.

    Raises:
        ValueError: No arm, no unit or no pass.
    """
    if not arms or not units or n_passes < 1:
        raise ValueError(f"nothing to time: {len(arms)} arms, {len(units)} units, {n_passes} passes")
    passes: list[Pass[R]] = []
    for i in range(n_passes + n_spare):
        passes.append(_walk(arms, units, i, synchronise, clock))
        calmest = sorted(passes, key=_seconds_of)[:n_passes]
        if len(passes) >= n_passes and _seconds_of(calmest[-1]) <= AGREE * _seconds_of(calmest[0]):
            break
    return Timings(
        {name: np.array([[run.seconds for run in one[name]] for one in calmest]) for name in arms},
        {name: [run.result for run in passes[-1][name]] for name in arms},
    )


def timed(call: Callable[[], R], synchronise: Callable[[], None], clock: Clock) -> Timed[R]:
    """One call between two synchronised readings of the clock."""
    with _collector_off():
        synchronise()
        start = clock()
        result = call()
        synchronise()
        return Timed(result, clock() - start)


def warm_up(
    call: Callable[[], object],
    *,
    synchronise: Callable[[], None],
    clock: Clock,
    tolerance: float = 0.1,
    at_most: int = 20,
) -> int:
    """Call until two runs in a row are no faster than the best before by more than `tolerance`.

    First calls pay for graph capture, compilation, caches and clocks that rise; what follows is timed. Gives
    up after `at_most` calls: a machine that noisy shows in the intervals.

    Returns:
        How often it was called.
    """
    best, n_calm = float("inf"), 0
    for n_calls in range(1, at_most + 1):
        seconds = timed(call, synchronise, clock).seconds
        n_calm = 0 if seconds < best * (1 - tolerance) else n_calm + 1
        best = min(best, seconds)
        if n_calm == 2:
            return n_calls
    return at_most


def _walk(
    arms: Mapping[str, Callable[[U], R]],
    units: Sequence[U],
    turn: int,
    synchronise: Callable[[], None],
    clock: Clock,
) -> Pass[R]:
    """One pass: every arm's runs, one a unit."""
    runs: Pass[R] = {name: [] for name in arms}
    for j, unit in enumerate(units):
        for name in _order(list(arms), turn + j):
            runs[name].append(timed(partial(arms[name], unit), synchronise, clock))
    return runs


def _seconds_of(one: Pass[R]) -> float:
    return sum(run.seconds for runs in one.values() for run in runs)


def _order(names: list[str], turn: int) -> list[str]:
    start = turn % len(names)
    rotated = names[start:] + names[:start]
    return rotated[::-1] if turn % 2 else rotated


@contextmanager
def _collector_off() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
