"""Timing what the policy itself does: calls of microseconds, many in each unit of work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from asd.measurement.timing import Turns, warm_up
from bench.run.session import Session

__all__ = ["Overhead", "time_call"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Overhead:
    """A call that is timed: rounds of so many repetitions each, in passes."""

    turns: Turns[int, object]
    repetitions: int

    @property
    def seconds(self) -> Array:
        """Of one call, shape (passes, rounds)."""
        [of_rounds] = self.turns.timings.seconds.values()
        return np.asarray(of_rounds / self.repetitions)

    @property
    def result(self) -> object:
        """What the call returned last."""
        [results] = self.turns.timings.results.values()
        return results[-1]


def time_call(
    session: Session, name: str, call: Callable[[], object], *, rounds: int, repetitions: int = 1
) -> Overhead:
    """Time a call that needs no model."""

    def repeat(_: int) -> object:
        for _ in range(repetitions - 1):
            call()
        return call()

    def make() -> Turns[int, object]:
        warm_up(partial(repeat, 0), synchronise=_nothing, clock=session.clock)
        return Turns({name: repeat}, range(rounds), synchronise=_nothing, clock=session.clock)

    return Overhead(session.turns(name, make), repetitions)


def _nothing() -> None:
    """No device to wait for."""
