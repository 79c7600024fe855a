"""Timing that compares like with like: arms take turns on the same unit of work, between synchronisations.

A machine drifts: clocks, heat, neighbours. Timing one arm after the other turns drift into a difference
between arms. Here every arm runs on a unit of work before any arm runs on the next unit, and the order of
the arms rotates and turns round, so that none profits from its place or from always following another. A
pass is one walk over all units; ratios are formed within a pass. How many passes are made is decided by the
caller and never by how arms compare: who may draw again until the draw is good compares a run that was lucky.
How long a pass of all arms takes is no such thing (`Turns.walk_within`).

Nothing but the call is between the two readings of the clock: the devices are idle before the first and
after the second, the garbage collector is off, nothing is printed.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Budget", "Clock", "Timed", "Timings", "Turns", "interleave", "timed", "warm_up"]

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


@dataclass(frozen=True, slots=True)
class Budget:
    """How many passes are made: `most`, or as many as fit into `seconds`, but at least `least`.

    Of two passes the one that something spoilt is seen beside the other; of one it is not.
    """

    most: int
    seconds: float = math.inf
    least: int = 2


class Turns(Generic[U, R]):
    """Arms that take turns on units of work, in as many passes as are asked for, now or later.

    Args:
        arms: By name, what is timed; called with one unit.
        units: Batches of work.
        synchronise: Returns when every device that an arm may use is idle.
        clock: Reads seconds.

    Raises:
        ValueError: No arm or no unit.
    """

    def __init__(
        self,
        arms: Mapping[str, Callable[[U], R]],
        units: Sequence[U],
        *,
        synchronise: Callable[[], None],
        clock: Clock,
    ) -> None:
        if not arms or not units:
            raise ValueError(f"nothing to time: {len(arms)} arms, {len(units)} units")
        self.arms, self.units = arms, units
        self._synchronise, self._clock = synchronise, clock
        self._seconds: dict[str, list[list[float]]] = {name: [] for name in arms}
        self._results: dict[str, list[R]] = {}

    @property
    def n_passes(self) -> int:
        """Passes made so far."""
        return len(next(iter(self._seconds.values())))

    def walk(self, n_passes: int) -> None:
        """Make so many further passes.

        Raises:
            ValueError: It is not positive.
        """
        if n_passes < 1:
            raise ValueError(f"nothing to time: {n_passes} passes")
        for _ in range(n_passes):
            runs = self._pass(self.n_passes)
            for name, of_arm in runs.items():
                self._seconds[name].append([run.seconds for run in of_arm])
                self._results[name] = [run.result for run in of_arm]

    def walk_within(self, budget: Budget) -> None:
        """Make as many passes as the budget allows.

        The first pass, all arms together, says how many fit: what any arm took decides nothing.
        """
        if not self.n_passes:
            self.walk(1)
        first_s = float(sum(seconds[0].sum() for seconds in self.timings.seconds.values()))
        fits_all = first_s * budget.most <= budget.seconds
        fit = budget.most if fits_all else max(budget.least, int(budget.seconds / first_s))
        more = min(budget.most, fit) - self.n_passes
        if more > 0:
            self.walk(more)

    @property
    def timings(self) -> Timings[R]:
        """What all passes so far saw."""
        return Timings(
            {name: np.array(of_arm) for name, of_arm in self._seconds.items()}, dict(self._results)
        )

    def _pass(self, turn: int) -> dict[str, list[Timed[R]]]:
        """Every arm's runs, one a unit."""
        runs: dict[str, list[Timed[R]]] = {name: [] for name in self.arms}
        for j, unit in enumerate(self.units):
            for name in _order(list(self.arms), turn + j):
                runs[name].append(timed(partial(self.arms[name], unit), self._synchronise, self._clock))
        return runs


def interleave(
    arms: Mapping[str, Callable[[U], R]],
    units: Sequence[U],
    n_passes: int,
    *,
    synchronise: Callable[[], None],
    clock: Clock,
) -> Timings[R]:
    """Run every arm on every unit, `n_passes` times, arms taking turns on each unit (`Turns`).

    Raises:
        ValueError: No arm, no unit or no pass.
    """
    turns = Turns(arms, units, synchronise=synchronise, clock=clock)
    turns.walk(n_passes)
    return turns.timings


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
