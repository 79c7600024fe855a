"""A stage under load: a queue, replicas that each make one call at a time, and calls of several queries.

It behaves as a desk of `asd.dispatch.Dispatcher` does: a replica that becomes free calls for the request that
has waited longest and for others that wait for the same action, at most `batch` of them; nobody waits for a
batch to fill. How long a call lasts is told by what its queries add to it (`asd.operations.demand`).
Stages of one device take turns as they do there: whose requests have waited longest, all together, is called
next. Where not all fit into its memory together, a call of one that is not there begins with its load, for
which the longest unused ones leave (`asd.engines.residency`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any, Protocol

import numpy as np

from asd.dispatch import LINGER
from asd.errors import ConfigError
from asd.operations.demand import call_seconds
from asd.operations.occupancy import Occupancy
from asd.operations.population import Situation, Step
from asd.types import Action

__all__ = [
    "Agenda",
    "CallObserver",
    "DeviceGauge",
    "EndedCalls",
    "Request",
    "SharedDevice",
    "StageServer",
    "Station",
    "gauge_of",
]


@dataclass(frozen=True, slots=True)
class StageServer:
    """How a stage is run.

    Attributes:
        replicas: Copies of it, each of which makes one call at a time.
        batch: Most queries in a call.
        place: Device whose calls take turns, of all stages that name it; None: it has its own.
        load_s: Seconds to load it, where not all stages of its device fit into memory together.
    """

    replicas: int = 1
    batch: int = 16
    place: str | None = None
    load_s: float = 0.0

    def __post_init__(self) -> None:
        if self.replicas < 1 or self.batch < 1:
            raise ConfigError(f"a stage needs at least one replica and calls of at least one query: {self}")


class Agenda:
    """What happens next, and what time it is."""

    __slots__ = ("_heap", "_number", "n_events", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.n_events = 0
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._number = count()

    def at(self, time: float, act: Callable[[Any], None], what: Any = None) -> None:
        """Let something happen; of things at the same time, what was planned first happens first."""
        heappush(self._heap, (time, next(self._number), act, what))

    def run(self, until: float) -> None:
        """Let everything happen that is planned up to then."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, act, what = heappop(heap)
            self.n_events += 1
            act(what)
        self.now = until


class SharedDevice:
    """A device that stages share: one call works at a time (`asd.dispatch`).

    Args:
        agenda: Where its pauses end.
        room: Stages that fit into its memory together; None: all of them.

    Attributes:
        stations: Of the stages.
    """

    __slots__ = ("_agenda", "_busy", "_expected", "_resident", "_room", "_until", "stations")

    def __init__(self, agenda: Agenda, room: int | None = None) -> None:
        self._agenda = agenda
        self._room = room
        self._resident: dict[Station, None] = {}  # longest unused first
        self.stations: list[Station] = []
        self._busy = False
        self._until = 0.0
        self._expected = 0

    @property
    def filled(self) -> float | None:
        """Share of its room that is taken; None: it has room for all."""
        return None if self._room is None else len(self._resident) / self._room

    def holds(self, station: Station) -> bool:
        """Whether a stage is in memory."""
        return self._room is None or station in self._resident

    def admit(self, station: Station) -> float:
        """Seconds until a stage is in memory, for which the longest unused ones leave."""
        if self._room is None:
            return 0.0
        load_s = 0.0 if station in self._resident else station.load_s
        self._resident.pop(station, None)
        while len(self._resident) >= self._room:
            del self._resident[next(iter(self._resident))]
        self._resident[station] = None
        return load_s

    def call_next(self) -> None:
        """Begin a call of the stage whose requests have waited longest, if the device is free."""
        waiting, now = [station for station in self.stations if station.may_call], self._agenda.now
        few = max((station.n_waiting for station in waiting), default=0) < self._expected
        if self._busy or not waiting or (few and now < self._until):
            return
        self._busy = True
        max(waiting, key=lambda station: station.waited(now)).begin()

    def ended(self, n: int, seconds: float) -> None:
        """A call of so many has ended; for a moment the next one waits for as many."""
        self._busy = False
        self._expected, self._until = n, self._agenda.now + LINGER * seconds
        self.call_next()
        if n > 1:
            self._agenda.at(self._until, lambda _: self.call_next())


@dataclass(slots=True, eq=False)
class Request:
    """One query under way.

    Attributes:
        arrived: When.
        situation: What has been bought for it.
        step: What is being done; at the end, the answer that is returned, or None.
        joined: When it joined the queue of its stage.
        cost: Priced so far, cost units.
        lost: Stages that failed it.
        n_calls: Made for what is being done, with those that the network lost.
    """

    arrived: float
    situation: Situation
    step: Step | None = None
    joined: float = 0.0
    cost: float = 0.0
    lost: frozenset[str] = frozenset()
    n_calls: int = 1

    @property
    def doing(self) -> Step:
        """What is being done, where something is."""
        assert self.step is not None
        return self.step


@dataclass(slots=True, eq=False)
class _BatchInService:
    started: float
    batch: list[Request]
    load_s: float
    dropped: bool = False
    n_lost: int = 0


@dataclass(slots=True)
class EndedCalls:
    """Calls that ended since somebody last looked.

    Attributes:
        n_calls: How many.
        calls_s: How long they took together.
        n_visits: Requests in them.
        visits_s: Time from joining the queue to the end of the call, of all of them.
    """

    n_calls: int = 0
    calls_s: float = 0.0
    n_visits: int = 0
    visits_s: float = 0.0


class CallObserver(Protocol):
    """Told of the calls of a station."""

    def begun(self, batch: Sequence[Request], delay_s: float) -> None:
        """A call for these has begun, which a fault makes longer by `delay_s`."""

    def ended(self, batch: Sequence[Request], seconds: float) -> None:
        """A call has ended that was not lost with its replica; its requests have not decided what is next."""


@dataclass(slots=True, eq=False)
class Station:
    """One stage of a simulated cascade.

    Attributes:
        name: Of the stage.
        agenda: Where its calls end.
        done: Told of every request whose call has ended.
        failed: Told of every request that the stage has lost.
        replicas: Up.
        batch: Most queries in a call now.
        place: Shared with other stages; None: it has its own.
        load_s: Seconds to load it, where it is not in the memory of that place.
        slowdown: What the length of calls is multiplied with.
        delay_s: Added to every call.
        p_lost: Probability that the network loses a call.
        timeout_s: After which a lost call is made again.
        network: Draws which calls are lost.
        visits: Requests that wait or are worked on.
        calls: Calls under way; their number is that of busy replicas.
        n_waiting: Requests in the queue.
        ended: Since the last look; whoever looks puts a new one here.
        observer: Told of calls, if anybody wants to know.
    """

    name: str
    agenda: Agenda
    done: Callable[[Request], None]
    failed: Callable[[Request], None]
    replicas: int
    batch: int
    place: SharedDevice | None = None
    load_s: float = 0.0
    slowdown: float = 1.0
    delay_s: float = 0.0
    p_lost: float = 0.0
    timeout_s: float = math.inf
    network: np.random.Generator | None = None
    visits: Occupancy = field(default_factory=Occupancy)
    calls: Occupancy = field(default_factory=Occupancy)
    n_waiting: int = 0
    ended: EndedCalls = field(default_factory=EndedCalls)
    observer: CallObserver | None = None
    _queues: dict[Action, deque[Request]] = field(default_factory=dict)
    _running: dict[_BatchInService, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.place is not None:
            self.place.stations.append(self)

    @property
    def n_in_flight(self) -> int:
        """Requests in calls."""
        return self.visits.n - self.n_waiting

    @property
    def n_calls(self) -> int:
        """Calls under way."""
        return self.calls.n

    @property
    def is_resident(self) -> bool:
        """Whether a call begins without a load."""
        return self.place is None or self.place.holds(self)

    def join(self, request: Request) -> None:
        """Wait, and be called for if a replica is free."""
        now = self.agenda.now
        request.joined = now
        self.visits.enter(now)
        self._queue(request.doing.action).append(request)
        self.n_waiting += 1
        self._call()

    def resize(self, replicas: int) -> None:
        """Take replicas away or add some; calls on those that go are lost and, if any stay, made again."""
        self.replicas = replicas
        while self.calls.n > replicas:
            self._drop(next(reversed(self._running)))
        if not replicas:
            for queue in self._queues.values():
                while queue:
                    self._send_away(queue.popleft())
        self._call()

    def inside(self) -> Iterator[Request]:
        """Everybody who waits or is worked on."""
        for queue in self._queues.values():
            yield from queue
        for call in self._running:
            yield from call.batch

    def calls_started(self) -> list[float]:
        """When every call under way began."""
        return [call.started for call in self._running]

    def _queue(self, action: Action) -> deque[Request]:
        queue = self._queues.get(action)
        if queue is None:
            queue = self._queues[action] = deque()
        return queue

    @property
    def may_call(self) -> bool:
        """Whether somebody waits and a replica is free."""
        return self.n_waiting > 0 and self.calls.n < self.replicas

    def waited(self, now: float) -> float:
        """Seconds that the requests in the queue have waited, all together."""
        return sum(now - request.joined for queue in self._queues.values() for request in queue)

    def begin(self) -> None:
        """Call for the request that has waited longest and for others that wait for the same action."""
        waiting = [queue for queue in self._queues.values() if queue]
        queue = waiting[0] if len(waiting) == 1 else min(waiting, key=_first_joined)
        size, now = min(self.batch, len(queue)), self.agenda.now
        load_s = 0.0 if self.place is None else self.place.admit(self)
        call = _BatchInService(now, [queue.popleft() for _ in range(size)], load_s)
        self.n_waiting -= size
        self._running[call] = None
        self.calls.enter(now)
        self._send(call)
        if self.observer is not None:
            self.observer.begun(call.batch, self.delay_s)

    def _send(self, call: _BatchInService) -> None:
        """Plan the end of a call, or, where the network loses it, that it is made again."""
        if call.dropped:
            self._end(call)
            return
        now, call.load_s = self.agenda.now + call.load_s, 0.0
        if self.p_lost and self.network is not None and self.network.random() < self.p_lost:
            call.n_lost += 1
            self.agenda.at(now + self.timeout_s, self._send, call)
            return
        priced = call_seconds([demand for request in call.batch if (demand := request.doing.demand)])
        self.agenda.at(now + self.slowdown * priced + self.delay_s, self._end, call)

    def _call(self) -> None:
        if self.place is not None:
            self.place.call_next()
            return
        while self.may_call:
            self.begin()

    def _end(self, call: _BatchInService) -> None:
        if not call.dropped:
            self._hand_out(call)
        if self.place is not None:
            self.place.ended(len(call.batch), self.agenda.now - call.started)

    def _hand_out(self, call: _BatchInService) -> None:
        """Let those who were called for continue, and begin what may begin."""
        now = self.agenda.now
        del self._running[call]
        self.calls.leave(now, call.started)
        ended, leave, done = self.ended, self.visits.leave, self.done
        ended.n_calls += 1
        ended.calls_s += now - call.started
        ended.n_visits += len(call.batch)
        if self.observer is not None:
            self.observer.ended(call.batch, now - call.started)
        for request in call.batch:
            request.n_calls += call.n_lost
            leave(now, request.joined)
            ended.visits_s += now - request.joined
        for request in call.batch:
            done(request)
        self._call()

    def _drop(self, call: _BatchInService) -> None:
        """Lose a call: who was in it waits again, first of all, or is sent away where no replica is left."""
        call.dropped = True
        del self._running[call]
        self.calls.leave(self.agenda.now, call.started)
        self.n_waiting += len(call.batch)
        for request in reversed(call.batch):
            self._queue(request.doing.action).appendleft(request)

    def _send_away(self, request: Request) -> None:
        self.n_waiting -= 1
        self.visits.leave(self.agenda.now, request.joined)
        self.failed(request)


@dataclass(frozen=True, slots=True)
class DeviceGauge:
    """What stands before a call of a stage whose device others share (`asd.operations.traffic.Gauge`)."""

    station: Station
    place: SharedDevice

    @property
    def n_waiting(self) -> int:
        """Requests that wait for a call of any of its stages."""
        return sum(station.n_waiting for station in self.place.stations)

    @property
    def n_calls(self) -> int:
        """Calls under way, of whatever stage."""
        return sum(station.n_calls for station in self.place.stations)

    @property
    def replicas(self) -> int:
        """One, while the stage is up: calls take turns."""
        return min(1, self.station.replicas)

    @property
    def batch(self) -> int:
        """Most queries in a call."""
        return self.station.batch

    @property
    def is_resident(self) -> bool:
        """Whether a call begins without a load."""
        return self.station.is_resident


def gauge_of(station: Station) -> Station | DeviceGauge:
    """What can be read off a stage at any moment."""
    return station if station.place is None else DeviceGauge(station, station.place)


def _first_joined(queue: deque[Request]) -> float:
    return queue[0].joined
