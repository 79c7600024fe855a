"""What the named settings take of the hardware, beside the largest stage alone on the very same hardware.

    device-seconds   seconds of the live passes x devices held / queries: the stages share the devices, so all
                     of them are held while one stage works
    memory           weights of the stages that the contender asked at least once; without them it cannot run
    TTFT             wait for the first token that a reader may see, without queueing: a cascade shows nothing
                     before it has stopped; a stage that always answers streams; lossless speculation streams
                     from the first token on that the largest stage has verified
    all memory       the largest stage alone on the memory of the whole ladder: where the smaller stages'
                     weights were, lie the caches of so many more queries a call (the longest timed query
                     counts for each). Both call sizes are timed in turns on all timed items, as many
                     waiting at once as four of the larger calls hold

No time of a contender is left out: what its smaller stages take, they take from the same devices. What larger
calls cost is latency, which the column of TTFT shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asd.engines import Engine, alone
from asd.engines.batches import in_batches
from asd.engines.checkpoints.sizes import cache_mib, weights_mib
from asd.engines.timing import take_turns
from asd.evaluation.live import TimedPasses, unit_size
from asd.evaluation.replay import calls
from asd.measurement.timing import Turns, warm_up
from asd.policies import FixedStage, Lossless, Oracle, Policy
from asd.types import Completion, Query
from bench.metrics.headline import live_of, live_turns, side_by_side
from bench.run.session import Session, Setting

__all__ = ["ALL_MEMORY", "Footprint", "contenders", "footprint", "larger_call", "ttft_s", "turns"]

Array = NDArray[np.float64]

ALL_MEMORY, USUAL = "all-memory", "usual"
"""Names of the largest stage alone on the memory of the whole ladder, and in calls of the usual size."""

N_FIRST = 6
"""Calls of each dataset whose first token is timed."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """One contender over all datasets.

    Attributes:
        name: Of the setting.
        seconds: Of the live passes, shape (passes, units).
        largest: Of the largest stage alone in calls of the usual size, likewise.
        n_queries: Answered in one pass.
        n_devices: Held.
        ttft_s: One a query.
        memory_mib: Of weights; None where it is not known.
        batch: Most queries a call.
    """

    name: str
    seconds: Array
    largest: Array
    n_queries: int
    n_devices: int
    ttft_s: Array
    memory_mib: float | None
    batch: int

    @property
    def device_s(self) -> float:
        """Device-seconds a query, median over the passes."""
        return float(np.median(self.seconds.sum(axis=1))) * self.n_devices / self.n_queries


def contenders(session: Session) -> list[str]:
    """The largest stage alone, every named setting, and the largest stage on all the memory."""
    names = [session.largest[0], *session.settings]
    return names if larger_call(session) is None else [*names, ALL_MEMORY]


def turns(session: Session, name: str) -> list[Turns[Any, Any]]:
    """What the seconds of a contender are made of."""
    return [_on_all_memory(session)] if name == ALL_MEMORY else live_turns(session)


def footprint(session: Session, name: str) -> Footprint:
    """What one contender takes, as far as it has been timed."""
    if name == ALL_MEMORY:
        return _of_all_memory(session)
    setting = session.settings.get(name, session.largest)
    timed = live_of(session, setting)
    asked, first = _asked(session, setting), _first_token_s(session)
    return Footprint(
        name=name,
        seconds=side_by_side([one.seconds for one in timed]),
        largest=side_by_side([one.largest for one in timed]),
        n_queries=sum(len(one.completions) for one in timed),
        n_devices=_devices(session, asked),
        ttft_s=np.array([seconds for one in timed for seconds in _visible(one, first)]),
        memory_mib=_memory(session, asked),
        batch=session.matrix.batch,
    )


def _asked(session: Session, setting: Setting) -> set[str]:
    """Stages that were asked at least once, and those that draft for them while they write."""
    replays = [session.replay(dataset, *setting) for dataset in session.matrix.datasets]
    asked = {call.stage for replay in replays for done in replay.completions for call in calls(done)}
    if not replays[0].contender.drafter:
        return asked
    stages = session.matrix.ladder.stages
    return asked | {s.drafter.stage for s in stages if s.name in asked and s.drafter is not None}


def _devices(session: Session, asked: set[str]) -> int:
    """Devices that stages are spread over; of a CPU the whole is one."""
    stages = session.matrix.ladder.stages
    return max(stage.tensor_parallel for stage in stages if stage.name in asked)


def _memory(session: Session, asked: set[str]) -> float | None:
    matrix = session.matrix
    each = [weights_mib(s, matrix.device) for s in matrix.ladder.stages if s.name in asked]
    known = [mib for mib in each if mib is not None]
    return sum(known) if len(known) == len(each) else None


def _visible(timed: TimedPasses, first: Mapping[str, float]) -> list[float]:
    return [ttft_s(done, timed.contender.policy, first) for done in timed.completions]


def ttft_s(done: Completion, policy: Policy, first: Mapping[str, float]) -> float:
    """Seconds inside calls until a token may be shown.

    Args:
        done: A timed answer.
        policy: What decided.
        first: Seconds to the first token of a stage that answers at once, by stage.
    """
    alone = isinstance(policy, Lossless) and len(done.drafts) == 1  # the others are for other domains
    if alone or isinstance(policy, FixedStage | Oracle):
        return first[done.stage]
    # the last call of a lossless chain continues from tokens that are the largest stage's own already
    drafts = done.drafts[:-1] if isinstance(policy, Lossless) else done.drafts
    return sum(draft.seconds for draft in drafts) + sum(read.seconds for read in done.verifications)


def _first_token_s(session: Session) -> dict[str, float]:
    """Median seconds of a call that decodes one token, by stage."""
    size, engines = session.matrix.batch, session.engines
    units = [
        [replace(query, max_new_tokens=1) for query in queries[start : start + size]]
        for queries in map(partial(_timed_queries, session), session.matrix.datasets)
        for start in range(0, min(len(queries), N_FIRST * size), size)
    ]
    answering = {name: engine.generate for name, engine in engines.items()}
    make = partial(take_turns, answering, engines, units, session.clock)
    seconds = session.timings("first token", make).seconds
    return {name: float(np.median(of_stage.min(axis=0))) for name, of_stage in seconds.items()}


def _timed_queries(session: Session, dataset: str) -> list[Query]:
    traces = session.outcomes[dataset].traces
    return [trace.query for trace in traces[: session.matrix.n_timed]]


def larger_call(session: Session) -> int | None:
    """Queries a call of the largest stage alone, on the memory of all; None where memory is not known."""
    matrix, largest = session.matrix, session.matrix.ladder.stages[-1]
    freed = _memory(session, {stage.name for stage in matrix.ladder.stages[:-1]})
    usages = [
        trace.outcomes[largest.name].draft.usage
        for outcomes in session.outcomes.values()
        for trace in outcomes.traces[: matrix.n_timed]
    ]
    longest = max(usage.n_prompt + usage.n_decoded for usage in usages)
    room = cache_mib(largest, matrix.device, longest)
    return None if freed is None or room is None else matrix.batch + math.floor(freed / room)


def _waiting(session: Session, batch: int) -> list[list[Query]]:
    """All timed queries, in units of four of these calls."""
    size = unit_size(batch)
    return [
        queries[start : start + size]
        for queries in map(partial(_timed_queries, session), session.matrix.datasets)
        for start in range(0, len(queries), size)
    ]


def _on_all_memory(session: Session) -> Turns[list[Query], int]:
    """The largest stage, calls of the usual size and larger ones taking turns on the same waiting queries."""
    engine, batch = alone(session.engines[session.matrix.ladder.stages[-1].name]), larger_call(session)
    assert batch is not None
    units = _waiting(session, batch)

    def make() -> Turns[list[Query], int]:
        run = {
            name: partial(_answer_all, engine, size)
            for name, size in ((USUAL, session.matrix.batch), (ALL_MEMORY, batch))
        }
        warm_up(
            partial(engine.generate, units[0][:batch]), synchronise=engine.synchronise, clock=session.clock
        )
        return Turns(run, units, synchronise=engine.synchronise, clock=session.clock)

    return session.turns(ALL_MEMORY, make)


def _of_all_memory(session: Session) -> Footprint:
    engine, batch = alone(session.engines[session.matrix.ladder.stages[-1].name]), larger_call(session)
    assert batch is not None
    units = _waiting(session, batch)
    short = [[replace(query, max_new_tokens=1) for query in unit[:batch]] for unit in units]
    make = partial(take_turns, {"first": engine.generate}, {"first": engine}, short, session.clock)
    first = session.timings(f"first token, {ALL_MEMORY}", make).seconds["first"]
    seconds = _on_all_memory(session).timings.seconds
    return Footprint(
        name=ALL_MEMORY,
        seconds=seconds[ALL_MEMORY],
        largest=seconds[USUAL],
        n_queries=sum(map(len, units)),
        n_devices=_devices(session, {engine.stage_name}),
        ttft_s=np.asarray(first.min(axis=0)),
        memory_mib=_memory(session, {engine.stage_name}),
        batch=batch,
    )


def _answer_all(engine: Engine, batch: int, queries: Sequence[Query]) -> int:
    return sum(len(drafts) for drafts in in_batches(engine, queries, batch))
