"""The state of a cascade that answers now, from its dispatcher: the same types that the simulator fills.

    meter = Meter(dispatcher, stages, engines=engines)
    controller.watch(meter.gauges)                # the policy reads the queues at every decision
    meter.sample()                                # every second or so; engines are asked in the background
    meter.ended(completion, seconds)              # after every request
    policy = controller.policy(meter.state(n, booked))    # every 30 s

A server that holds requests back, ours or those of others, lets go of (running + waiting) / call a second of
them (Little's law). So a request that joins waits there as long as in a queue of `held` times the calls that
we may have under way, where `held` is the share of the server's requests that wait.

Scope: numbers are read, nothing is decided, and nobody is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from asd.dispatch import Dispatcher
from asd.engines import Engine, Gauged, TakesTurns
from asd.operations.state import StageState, SystemState
from asd.types import Completion

__all__ = ["Booked", "EngineLoad", "EngineLoads", "LiveGauge", "Meter"]

_LOG = logging.getLogger(__name__)

_LEAST_FOR_P95 = 59
_MOST_LATENCIES = 10_000
"""Latest latencies of which a percentile is known."""
_SILENT_S = 60.0
"""For so long an engine that told nothing is not asked again."""


class Booked(NamedTuple):
    """What the books say, in the ladder's price unit.

    Attributes:
        now_s: When, seconds since 1970, by the clock that their days are counted by.
        today: Spent since midnight (UTC).
        ever: Spent for ever.
    """

    now_s: float
    today: float
    ever: float


class EngineLoad(NamedTuple):
    """What an engine told of itself last.

    Attributes:
        gauges: By name, as `asd.engines.Gauged` has them; empty: nothing.
        n_others: Requests that its server has from others than us; None: it does not tell.
    """

    gauges: Mapping[str, float]
    n_others: float | None = None

    @property
    def held(self) -> float:
        """Share of its server's requests that wait there, in [0, 1]."""
        waiting = self.gauges.get("waiting", 0.0)
        return waiting / (waiting + self.gauges.get("running", 0.0)) if waiting else 0.0

    @property
    def memory(self) -> float | None:
        """Share of its memory in use."""
        return self.gauges.get("kv cache in use", self.gauges.get("memory"))


_UNTOLD = EngineLoad({})


class EngineLoads:
    """Asks engines how busy they are, in threads.

    Args:
        dispatcher: Knows which of the requests are ours.
        engines: By stage; those that are `asd.engines.Gauged` are asked.
        clock: Reads seconds.

    Attributes:
        latest: By stage, of those that told something when they were last asked.
    """

    def __init__(
        self, dispatcher: Dispatcher, engines: Mapping[str, Engine], clock: Callable[[], float]
    ) -> None:
        self.latest: dict[str, EngineLoad] = {}
        self._dispatcher = dispatcher
        self._engines = {stage: engine for stage, engine in engines.items() if isinstance(engine, Gauged)}
        self._clock = clock
        self._due = dict.fromkeys(self._engines, -math.inf)
        self._asking: dict[str, asyncio.Task[None]] = {}

    def of(self, stage: str) -> EngineLoad:
        """The latest of a stage."""
        return self.latest.get(stage, _UNTOLD)

    def ask(self) -> None:
        """Begin to ask every engine that has answered by now; one that told nothing, once a minute."""
        for stage, engine in self._engines.items():
            if stage not in self._asking and self._clock() >= self._due[stage]:
                self._asking[stage] = asyncio.create_task(self._ask(stage, engine))

    async def _ask(self, stage: str, engine: Gauged) -> None:
        try:
            told = await asyncio.to_thread(engine.gauges)
        except Exception as error:  # an engine of somebody's own: then nothing is known
            _LOG.warning("stage %r cannot tell its load: %s", stage, error)
            told = {}
        finally:
            del self._asking[stage]
        self._due[stage] = -math.inf if told else self._clock() + _SILENT_S
        self.latest.pop(stage, None)
        if told:
            self.latest[stage] = EngineLoad(told, self._others(stage, told))

    def _others(self, stage: str, told: Mapping[str, float]) -> float | None:
        if not {"running", "waiting"} & told.keys():
            return None
        there = told.get("running", 0.0) + told.get("waiting", 0.0)
        return max(0.0, there - self._dispatcher.n_in_flight(stage))


@dataclass(frozen=True, slots=True)
class LiveGauge:
    """What stands before a call of a stage now (`asd.operations.traffic.Gauge`).

    Stages of one device take turns, so those that run or wait there are counted whatever their stage; so are
    those that its server holds back.
    """

    dispatcher: Dispatcher
    loads: EngineLoads
    stage: str
    turns: TakesTurns | None = None

    @property
    def n_waiting(self) -> float:
        """Requests that wait for a call."""
        return self.dispatcher.ahead(self.stage)[1] + self.loads.of(self.stage).held * self.replicas

    @property
    def replicas(self) -> int:
        """Calls that it takes at once."""
        return self.dispatcher.width(self.stage)

    @property
    def n_calls(self) -> int:
        """Calls under way; all that there may be, where its server holds some back."""
        own = self.dispatcher.ahead(self.stage)[0]
        return max(own, self.replicas) if self.loads.of(self.stage).held else own

    @property
    def batch(self) -> int:
        """Most queries in a call."""
        return self.dispatcher.batch(self.stage)

    @property
    def place(self) -> tuple[str, ...]:
        """The stages that take turns with it, itself among them."""
        return next(stages for stages in self.dispatcher.places if self.stage in stages)

    @property
    def is_resident(self) -> bool:
        """Whether a call begins without a load."""
        return self.turns is None or self.turns.is_resident


@dataclass(slots=True)
class _StageSums:
    """Of one stage since the last look: sums over samples of what runs, and over calls that ended."""

    n_samples: int = 0
    utilisation: float = 0.0
    n_calls: float = 0.0
    n_in_flight: int = 0
    n_ended: int = 0
    ended_s: float = 0.0


class Meter:
    """Adds up what happens between two looks.

    Args:
        dispatcher: Walks the requests.
        stages: Names, in ladder order.
        clock: Reads seconds.
        engines: Of the stages, of which some tell of themselves.

    Attributes:
        gauges: By stage, what can be read at any moment.
        loads: What engines told last.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        stages: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
        engines: Mapping[str, Engine] = MappingProxyType({}),
    ) -> None:
        self.loads = EngineLoads(dispatcher, engines, clock)
        turns = {stage: engine for stage, engine in engines.items() if isinstance(engine, TakesTurns)}
        self.gauges = {stage: LiveGauge(dispatcher, self.loads, stage, turns.get(stage)) for stage in stages}
        self._dispatcher = dispatcher
        self._clock = clock
        self._began = clock()
        self._booked: Booked | None = None
        self._forget()

    def _forget(self) -> None:
        self._n_arrived = self._n_answered = self._n_lost = 0
        self._latency = 0.0
        self._latencies: deque[float] = deque(maxlen=_MOST_LATENCIES)
        self._seen = {stage: _StageSums() for stage in self.gauges}

    def arrived(self) -> None:
        """A request was taken."""
        self._n_arrived += 1

    def ended(self, completion: Completion | None, seconds: float) -> None:
        """It has an answer after so many seconds; None: it has none."""
        if completion is None:
            self._n_lost += 1
            return
        self._n_answered += 1
        self._latency += seconds
        self._latencies.append(seconds)
        for call in completion.bought:
            if call.seconds > 0.0:
                seen = self._seen[call.stage]
                seen.n_ended += 1
                seen.ended_s += call.seconds

    def sample(self) -> None:
        """Read every stage once; utilisation and the size of calls are means over these readings.

        Engines that tell of themselves are asked again, and answer later.
        """
        self.loads.ask()
        for stage, seen in self._seen.items():
            now = self.now(stage)
            seen.n_samples += 1
            seen.utilisation += now.utilisation
            seen.n_calls += now.utilisation * now.replicas
            seen.n_in_flight += now.n_in_flight

    def now(self, stage: str) -> StageState:
        """A stage at this moment; nothing is known of what has ended."""
        dispatcher, load = self._dispatcher, self.loads.of(stage)
        return StageState(
            replicas=dispatcher.width(stage),
            n_waiting=dispatcher.n_waiting(stage),
            n_in_flight=dispatcher.n_in_flight(stage),
            utilisation=dispatcher.utilisation(stage),
            wait_s=None,
            call_s=None,
            per_call=None,
            memory=load.memory,
            n_others=load.n_others,
            is_resident=self.gauges[stage].is_resident,
        )

    def state(
        self, n_inside: int, booked: Booked | None = None, out: frozenset[str] = frozenset()
    ) -> SystemState:
        """What there was since the last look, which ends with this one.

        Args:
            n_inside: Requests that are open now.
            booked: What the books say now; None: there are none, and `spent` is not known.
            out: Stages that rest after failures.
        """
        now, n = self._clock(), self._n_answered
        seconds = max(now - self._began, 1e-9)
        n_ended = n + self._n_lost
        enough = len(self._latencies) >= _LEAST_FOR_P95
        state = SystemState(
            now_s=now if booked is None else booked.now_s,
            seconds=seconds,
            stages={stage: self._stage(stage, seen) for stage, seen in self._seen.items()},
            n_inside=n_inside,
            request_rate=self._n_arrived / seconds,
            error_rate=self._n_lost / n_ended if n_ended else 0.0,
            latency_s=self._latency / n if n else None,
            p95_s=float(np.quantile(np.array(self._latencies), 0.95)) if enough else None,
            spent=None if booked is None or self._booked is None else booked.ever - self._booked.ever,
            spent_today=None if booked is None else booked.today,
            out=out,
        )
        self._began, self._booked = now, booked
        self._forget()
        return state

    def _stage(self, stage: str, seen: _StageSums) -> StageState:
        return replace(
            self.now(stage),
            utilisation=seen.utilisation / seen.n_samples if seen.n_samples else 0.0,
            call_s=seen.ended_s / seen.n_ended if seen.n_ended else None,
            per_call=seen.n_in_flight / seen.n_calls if seen.n_calls else None,
        )
