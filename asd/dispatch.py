"""Queries that come and go at any time, on engines that answer in batches: the cascade without rounds.

Every query walks by itself: decide, wait for its stage, decide again. A stage that may run calls its engine
for all the queries that wait for the same action by then, at most `batch_size` of them: nobody waits for a
batch to fill, and no query waits for the end of another's walk.

Cascades that share their engines share one dispatcher, each with a policy of its own: their queries are
called together where they choose tokens alike (`Acceptance`).

Engines compute in threads. One that says how many calls it takes at once (`asd.engines.Concurrent`: servers)
gets that many, of one query each, and batches by itself. All others take turns, by `device` where they have
one, because they share its memory and its cores. An engine serves one dispatcher at a time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from asd.cancellation import CancelToken, cancellable
from asd.engines import Acceptance, Concurrent, Engine
from asd.errors import ConfigError
from asd.journey import DispatchedCall, Journey
from asd.types import Action

__all__ = ["CarriesOut", "Dispatcher", "servers_of"]

LINGER = 0.05
"""Share of the seconds of a call for which the next one waits for those who come back."""


class CarriesOut(Protocol):
    """What a dispatcher needs of a cascade (`asd.cascade.Cascade`)."""

    @property
    def acceptance(self) -> Acceptance:
        """How its stages choose tokens; queries of cascades that agree in it are called together."""

    def decide(self, journey: Journey) -> None:
        """Begin a round."""

    def carry_out(self, action: Action, group: Sequence[Journey], batch_size: int) -> None:
        """Call a stage; every journey takes what became of it."""


class _Waiting(NamedTuple):
    cascade: CarriesOut
    journey: Journey
    done: asyncio.Future[None]
    token: CancelToken
    since: float

    def is_called_with(self, other: _Waiting) -> bool:
        """Whether one call may be for both."""
        same = self.journey.chosen.action == other.journey.chosen.action
        return same and self.cascade.acceptance == other.cascade.acceptance


class _RunningCall(NamedTuple):
    """A call that runs."""

    batch: list[_Waiting]
    began: float


class _Desk:
    """The queries that wait for one stage, and the calls of its engine that run.

    Args:
        place: Where the calls run.
        batch_size: Most queries in one of them.
        threads: They compute in these.

    Attributes:
        place, batch_size: As given.
    """

    def __init__(self, place: _Place, batch_size: int, threads: ThreadPoolExecutor) -> None:
        self.place = place
        self.batch_size = batch_size
        self._threads = threads
        self._waiting: list[_Waiting] = []
        self._running: dict[asyncio.Task[None], _RunningCall] = {}
        place.desks.append(self)

    async def serve(self, cascade: CarriesOut, journey: Journey) -> None:
        """Until this round's decision of the journey was carried out; raises what the engine raised."""
        loop, token = asyncio.get_running_loop(), CancelToken()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append(_Waiting(cascade, journey, done, token, loop.time()))
        self.place.call_next()
        try:
            await done
        except asyncio.CancelledError:
            token.cancel()
            raise

    def calls_for(self, journey: Journey) -> list[asyncio.Task[None]]:
        """The calls that run now and are for this query too."""
        return [
            task
            for task, call in self._running.items()
            if any(entry.journey is journey for entry in call.batch)
        ]

    @property
    def n_waiting(self) -> int:
        """Queries in the queue."""
        return len(self._here())

    def waited(self, now: float) -> float:
        """Seconds that the queries in the queue have waited, all together."""
        return sum(now - entry.since for entry in self._here())

    @property
    def n_in_flight(self) -> int:
        """Queries in calls that run."""
        return sum(len(call.batch) for call in self._running.values())

    @property
    def n_running(self) -> int:
        """Calls that run."""
        return len(self._running)

    def call(self) -> None:
        """Begin a call for the first query that waits, and for others that may be called with it."""
        batch = self._take()
        task = asyncio.create_task(self._call(batch))
        self._running[task] = _RunningCall(batch, asyncio.get_running_loop().time())
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.place.ended(self._running.pop(task))

    def _here(self) -> list[_Waiting]:
        """Those that wait, without those that have gone."""
        return [entry for entry in self._waiting if not entry.done.done()]

    def _take(self) -> list[_Waiting]:
        here = self._here()
        batch = [entry for entry in here if entry.is_called_with(here[0])][: self.batch_size]
        taken = {id(entry) for entry in batch}
        self._waiting = [entry for entry in here if id(entry) not in taken]
        return batch

    async def _call(self, batch: list[_Waiting]) -> None:
        loop, error = asyncio.get_running_loop(), None
        action, began = batch[0].journey.chosen.action, loop.time()
        try:
            await loop.run_in_executor(self._threads, self._carry_out, batch)
        except BaseException as raised:  # whatever it is, nobody may wait for ever
            error = raised
        ended = loop.time()
        for entry in batch:
            call = DispatchedCall(action, entry.since, began, ended, len(batch), entry.journey.result)
            entry.journey.calls.append(call)
            if entry.done.done():  # who waited has gone
                continue
            if error is None or entry.journey.is_carried_out:
                entry.done.set_result(None)
            else:
                entry.done.set_exception(error)

    def _carry_out(self, batch: Sequence[_Waiting]) -> None:
        cascade, group = batch[0].cascade, [entry.journey for entry in batch]
        asked, tokens = [journey.query for journey in group], [entry.token for entry in batch]
        with cancellable(asked, tokens):
            cascade.carry_out(group[0].chosen.action, group, self.batch_size)


class _Place:
    """What the calls of some stages share: a device, or what one server takes.

    When there is room for a call, the stage is called whose queries have waited longest, all together. That
    lets batches grow (the longest queue first, the weight of max-weight scheduling), and no query starves:
    what it has waited grows until its stage comes first.

    Clients that ask in a loop come back a few milliseconds after a call has ended, all at once. Without a
    pause the first of them would be called alone, and all others would wait for that call; so for `LINGER`
    of a call's seconds the next one begins only with as many queries as it had.

    Args:
        width: Calls that may run at once.

    Attributes:
        width: As given.
        desks: Those of the stages.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.desks: list[_Desk] = []
        self._until = 0.0
        self._expected = 0

    def call_next(self) -> None:
        """Begin the calls that there is room for."""
        while sum(desk.n_running for desk in self.desks) < self.width:
            waiting, now = [desk for desk in self.desks if desk.n_waiting], asyncio.get_running_loop().time()
            few = max((desk.n_waiting for desk in waiting), default=0) < self._expected
            if not waiting or (few and now < self._until):
                return
            max(waiting, key=lambda desk: desk.waited(now)).call()

    def ended(self, call: _RunningCall) -> None:
        """A call has ended: begin the next, at once or when those who come back had time to."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._expected, self._until = len(call.batch), now + LINGER * (now - call.began)
        self.call_next()
        if self._expected > 1:
            loop.call_at(self._until, self._go_on, self._until)

    def _go_on(self, until: float) -> None:
        """Whoever has not come back by now is not waited for; timers may be a little early."""
        if self._until == until:
            self._expected = 0
        self.call_next()


class Dispatcher:
    """The walks of all queries that are open, on the event loop that is running.

    Args:
        engines: One a stage, by stage name: those of every cascade that is walked here.
        batch_size: Most queries in one call of an engine that does not batch by itself.

    Raises:
        ConfigError: `batch_size` is not positive.
    """

    def __init__(self, engines: Mapping[str, Engine], batch_size: int = 16) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
        self.loop = asyncio.get_running_loop()
        widths = {name: _width(engine) for name, engine in engines.items()}
        self._threads = ThreadPoolExecutor(sum(width or 1 for width in widths.values()), "asd-stage")
        shared: defaultdict[str, _Place] = defaultdict(lambda: _Place(1))
        self._desks = {
            name: _Desk(shared[_place(engines[name])], batch_size, self._threads)
            if width is None
            else _Desk(_Place(width), 1, self._threads)
            for name, width in widths.items()
        }

    async def walk(self, cascade: CarriesOut, journey: Journey) -> None:
        """Bring one query to its end, or to where no stage is left for it; cancelling it as of `step`.

        Raises:
            PolicyError: The policy breaks its protocol, or raises what is no `AsdError`.
            EngineError: A stage could not answer, and the cascade has no `health`.
        """
        while await self.step(cascade, journey):
            pass

    async def step(self, cascade: CarriesOut, journey: Journey) -> bool:
        """Decide once and carry the decision out; False: the walk has come to its end.

        Cancelling it takes the query out of the queue of its stage; a call that runs already is cancelled
        (`asd.cancellation`) and ends soon after (`settled`). Raises as `walk`.
        """
        cascade.decide(journey)
        if journey.decision is None or journey.has_stopped:
            return False
        await self._desks[journey.chosen.action.stage].serve(cascade, journey)
        return True

    async def settled(self, journey: Journey) -> None:
        """Until no call works for the query, of which nobody waits any more; then it holds all it bought."""
        for desk in self._desks.values():
            if calls := desk.calls_for(journey):
                await asyncio.wait(calls)

    @property
    def places(self) -> list[tuple[str, ...]]:
        """Stages that take turns, together; every other one by itself."""
        found: defaultdict[_Place, list[str]] = defaultdict(list)
        for name, desk in self._desks.items():
            found[desk.place].append(name)
        return [tuple(names) for names in found.values()]

    def width(self, stage: str) -> int:
        """Calls that a stage takes at once."""
        return self._desks[stage].place.width

    def batch(self, stage: str) -> int:
        """Most queries in a call of a stage."""
        return self._desks[stage].batch_size

    def ahead(self, stage: str) -> tuple[int, int]:
        """Calls that run on a stage's device, of whatever stage, and queries that wait for one there."""
        desks = self._desks[stage].place.desks
        return sum(desk.n_running for desk in desks), sum(desk.n_waiting for desk in desks)

    def n_waiting(self, stage: str) -> int:
        """Queries that wait for a stage."""
        return self._desks[stage].n_waiting

    def n_in_flight(self, stage: str) -> int:
        """Queries in calls of a stage that run."""
        return self._desks[stage].n_in_flight

    def utilisation(self, stage: str) -> float:
        """Calls of a stage that run, over those that it takes at once: a share in [0, 1]."""
        desk = self._desks[stage]
        return desk.n_running / desk.place.width

    def close(self) -> None:
        """Let go of the threads once the calls that run have ended; further walks are refused."""
        self._threads.shutdown(wait=False)


def servers_of(engines: Mapping[str, Engine], batch_size: int) -> dict[str, tuple[int, int]]:
    """Calls that every stage takes at once, and most queries in one of them (`Dispatcher.width`, `batch`)."""
    widths = {name: _width(engine) for name, engine in engines.items()}
    return {name: (1, batch_size) if width is None else (width, 1) for name, width in widths.items()}


def _width(engine: Engine) -> int | None:
    return engine.concurrency if isinstance(engine, Concurrent) else None


def _place(engine: Engine) -> str:
    """What the engine shares with others: its device; engines that name none share one."""
    return str(getattr(engine, "device", "this process"))
