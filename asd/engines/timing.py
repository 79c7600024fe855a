"""Stages timed against each other: the same calls, stages taking turns, after a warm-up each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from asd.engines import Engine
from asd.measurement.timing import Clock, Timings, Turns, warm_up
from asd.types import Draft, Query

__all__ = ["take_turns", "time_calls", "time_stages"]

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
    turns = take_turns(calls, engines, units, clock)
    turns.walk(n_passes)
    return turns.timings


def take_turns(
    calls: Mapping[str, Callable[[list[Query]], R]],
    engines: Mapping[str, Engine],
    units: Sequence[list[Query]],
    clock: Clock,
) -> Turns[list[Query], R]:
    """The same before any pass is made, every call warmed up."""

    def synchronise() -> None:
        for engine in engines.values():
            engine.synchronise()

    for call in calls.values():
        warm_up(partial(call, units[0]), synchronise=synchronise, clock=clock)
    return Turns(calls, units, synchronise=synchronise, clock=clock)
