"""Stages timed against each other: the same calls, stages taking turns, after a warm-up each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from asd.engines import Engine
from asd.measurement.timing import Clock, Timings, interleave, warm_up
from asd.types import Draft, Query

__all__ = ["time_calls", "time_stages"]

R = TypeVar("R")


def time_stages(
    engines: Mapping[str, Engine],
    queries: Sequence[Query],
    n_passes: int = 3,
    clock: Clock = time.perf_counter,
) -> Timings[list[Draft]]:
    """Seconds of every stage on every query at batch 1, shape (passes, queries) by stage name.

    Raises:
        ValueError: No engine, no query or no pass.
        EngineError: A stage cannot answer.
    """
    calls = {name: engine.generate for name, engine in engines.items()}
    return time_calls(calls, engines, [[query] for query in queries], n_passes, clock)


def time_calls(
    calls: Mapping[str, Callable[[list[Query]], R]],
    engines: Mapping[str, Engine],
    units: Sequence[list[Query]],
    n_passes: int,
    clock: Clock,
) -> Timings[R]:
    """The same for any calls of these engines, each of a unit's queries; seconds by the calls' names."""

    def synchronise() -> None:
        for engine in engines.values():
            engine.synchronise()

    for call in calls.values():
        warm_up(partial(call, units[0]), synchronise=synchronise, clock=clock)
    return interleave(calls, units, n_passes, synchronise=synchronise, clock=clock)
