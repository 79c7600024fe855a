"""Queries that come and go at any time, on engines that answer in batches: the cascade without rounds.

Every query walks by itself: decide, wait for its stage, decide again. A stage that becomes free calls its
engine for all the queries that wait for the same action, at most `batch_size` of them: nobody waits for a
batch to fill, and no query waits for the end of another's walk.

Engines compute in threads. One that says how many calls it takes at once (`asd.engines.Concurrent`: servers)
gets that many, of one query each, and batches by itself. All others take turns, by `device` where they have
one, because they share its memory and its cores. An engine serves one dispatcher at a time.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from asd.engines import Concurrent, Engine
from asd.errors import ConfigError
from asd.journey import Journey
from asd.types import VERIFY

__all__ = ["CarriesOut", "Dispatcher"]


class CarriesOut(Protocol):
    """What a dispatcher needs of a cascade (`asd.cascade.Cascade`)."""

    @property
    def engines(self) -> Mapping[str, Engine]:
        """One engine a stage, by stage name."""

    def decide(self, journey: Journey) -> None:
        """Begin a round."""

    def carry_out(self, action: str, group: Sequence[Journey], batch_size: int) -> None:
        """Call a stage; every journey takes what became of it."""


class _Desk:
    """The queries that wait for one stage, and the calls of its engine that run.

    Args:
        cascade: Carries out the calls.
        width: Calls that may run at once.
        batch_size: Most queries in one of them.
        place: Held during a call; None: nothing is shared.
        threads: Where the calls run.
    """

    def __init__(
        self,
        cascade: CarriesOut,
        width: int,
        batch_size: int,
        place: threading.Lock | None,
        threads: ThreadPoolExecutor,
    ) -> None:
        self._cascade = cascade
        self._width = width
        self._batch_size = batch_size
        self._place = place
        self._threads = threads
        self._waiting: deque[tuple[Journey, asyncio.Future[None]]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def serve(self, journey: Journey) -> None:
        """Until this round's decision of the journey was carried out; raises what the engine raised."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((journey, done))
        self._call_next()
        await done

    def _call_next(self) -> None:
        while len(self._running) < self._width and (batch := self._take()):
            task = asyncio.create_task(self._call(batch))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._call_next()

    def _take(self) -> list[tuple[Journey, asyncio.Future[None]]]:
        """The first that waits, and others that wait for the same action; who has gone is left out."""
        here = [entry for entry in self._waiting if not entry[1].done()]
        action = here[0][0].chosen.action if here else None
        batch = [entry for entry in here if entry[0].chosen.action == action][: self._batch_size]
        taken = {id(journey) for journey, _ in batch}
        self._waiting = deque(entry for entry in here if id(entry[0]) not in taken)
        return batch

    async def _call(self, batch: list[tuple[Journey, asyncio.Future[None]]]) -> None:
        group = [journey for journey, _ in batch]
        error: BaseException | None = None
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._carry_out, group)
        except Exception as raised:
            error = raised
        for journey, done in batch:
            if done.done():  # who waited has gone
                continue
            if error is None or journey.is_carried_out:
                done.set_result(None)
            else:
                done.set_exception(error)

    def _carry_out(self, group: Sequence[Journey]) -> None:
        if self._place is None:
            self._cascade.carry_out(group[0].chosen.action, group, self._batch_size)
            return
        with self._place:
            self._cascade.carry_out(group[0].chosen.action, group, self._batch_size)


class Dispatcher:
    """The walks of all queries that are open, on the event loop that is running.

    Args:
        cascade: Decides, and carries out the calls.
        batch_size: Most queries in one call of an engine that does not batch by itself.

    Raises:
        ConfigError: `batch_size` is not positive.
    """

    def __init__(self, cascade: CarriesOut, batch_size: int = 16) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
        self.loop = asyncio.get_running_loop()
        self._cascade = cascade
        widths = {name: _width(engine) for name, engine in cascade.engines.items()}
        self._threads = ThreadPoolExecutor(sum(width or 1 for width in widths.values()), "asd-stage")
        places: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._desks = {
            name: _Desk(cascade, 1, batch_size, places[_place(cascade.engines[name])], self._threads)
            if width is None
            else _Desk(cascade, width, 1, None, self._threads)
            for name, width in widths.items()
        }

    async def walk(self, journey: Journey) -> None:
        """Bring one query to its end, or to where no stage is left for it.

        Cancelling it takes the query out of the queue of its stage; a call that runs already ends by itself.

        Raises:
            PolicyError: The policy breaks its protocol, or raises what is no `AsdError`.
            EngineError: A stage could not answer, and the cascade has no `health`.
        """
        while True:
            self._cascade.decide(journey)
            if journey.decision is None or journey.has_stopped:
                return
            stage = journey.chosen.action.removeprefix(VERIFY)
            await self._desks[stage].serve(journey)

    def close(self) -> None:
        """Let go of the threads once the calls that run have ended; further walks are refused."""
        self._threads.shutdown(wait=False)


def _width(engine: Engine) -> int | None:
    return engine.concurrency if isinstance(engine, Concurrent) else None


def _place(engine: Engine) -> str:
    """What the engine shares with others: its device; engines that name none share one."""
    return str(getattr(engine, "device", "this process"))
