"""Stages timed against each other: one query at a time, stages taking turns, after a warm-up each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial

from asd.engines import Engine
from asd.measurement.timing import Clock, Timings, interleave, warm_up
from asd.types import Draft, Query

__all__ = ["time_stages"]


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

    def synchronise() -> None:
        for engine in engines.values():
            engine.synchronise()

    for engine in engines.values():
        first = partial(engine.generate, queries[:1])
        warm_up(first, synchronise=synchronise, clock=clock)
    arms = {name: engine.generate for name, engine in engines.items()}
    units = [[query] for query in queries]
    return interleave(arms, units, n_passes, synchronise=synchronise, clock=clock)
