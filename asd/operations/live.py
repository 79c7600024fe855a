"""The state of a cascade that answers now, from its dispatcher: the same types that the simulator fills.

    meter = Meter(dispatcher, stages, batch)
    controller.watch(meter.gauges)                # the policy reads the queues at every decision
    meter.sample()                                # every second or so
    meter.ended(completion, seconds)              # after every request
    policy = controller.policy(meter.state())     # every 30 s

Scope: numbers are read, nothing is decided, and nobody is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from asd.dispatch import Dispatcher
from asd.operations.state import StageState, SystemState
from asd.types import Completion

__all__ = ["LiveGauge", "Meter"]

_LEAST_FOR_P95 = 59


@dataclass(frozen=True, slots=True)
class LiveGauge:
    """A stage of a dispatcher at this moment (`asd.operations.traffic.Gauge`)."""

    dispatcher: Dispatcher
    stage: str
    batch: int

    @property
    def n_waiting(self) -> int:
        """Requests in its queue."""
        return self.dispatcher.n_waiting(self.stage)

    @property
    def replicas(self) -> int:
        """Calls that it takes at once."""
        return self.dispatcher.width(self.stage)

    @property
    def n_calls(self) -> int:
        """Calls under way."""
        return round(self.dispatcher.utilisation(self.stage) * self.replicas)

    @property
    def n_in_flight(self) -> int:
        """Requests in them."""
        return self.dispatcher.n_in_flight(self.stage)


@dataclass(slots=True)
class _Seen:
    """Of one stage since the last look: samples of what runs, and seconds of the calls that ended."""

    n_samples: int = 0
    n_busy: float = 0.0
    n_calls: int = 0
    n_in_flight: int = 0
    call_s: list[float] = field(default_factory=list)


class Meter:
    """Adds up what happens between two looks.

    Args:
        dispatcher: Walks the requests.
        stages: Names, in ladder order.
        batch: Most queries in a call.
        clock: Reads seconds.

    Attributes:
        gauges: By stage, what can be read at any moment.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        stages: Sequence[str],
        batch: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gauges = {stage: LiveGauge(dispatcher, stage, batch) for stage in stages}
        self._clock = clock
        self._began = clock()
        self._n_arrived = self._n_lost = 0
        self._n_open = 0
        self._latencies: list[float] = []
        self._seen = {stage: _Seen() for stage in stages}

    def arrived(self) -> None:
        """A request was taken."""
        self._n_arrived += 1
        self._n_open += 1

    def ended(self, completion: Completion | None, seconds: float) -> None:
        """It has an answer after so many seconds; None: it has none."""
        self._n_open -= 1
        if completion is None:
            self._n_lost += 1
            return
        self._latencies.append(seconds)
        for call in completion.bought:
            if call.seconds > 0.0:
                self._seen[call.stage].call_s.append(call.seconds)

    def sample(self) -> None:
        """Read all gauges once; utilisation and the size of calls are means over these readings."""
        for stage, gauge in self.gauges.items():
            seen = self._seen[stage]
            seen.n_samples += 1
            seen.n_busy += gauge.n_calls / gauge.replicas
            seen.n_calls += gauge.n_calls
            seen.n_in_flight += gauge.n_in_flight

    def state(self) -> SystemState:
        """What there was since the last look, which ends with this one."""
        now = self._clock()
        seconds = max(now - self._began, 1e-9)
        n, n_ended = len(self._latencies), len(self._latencies) + self._n_lost
        state = SystemState(
            now_s=now,
            seconds=seconds,
            stages={stage: self._stage(stage, gauge) for stage, gauge in self.gauges.items()},
            n_inside=self._n_open,
            request_rate=self._n_arrived / seconds,
            error_rate=self._n_lost / n_ended if n_ended else 0.0,
            latency_s=sum(self._latencies) / n if n else None,
            p95_s=float(np.quantile(self._latencies, 0.95)) if n >= _LEAST_FOR_P95 else None,
        )
        self._began, self._n_arrived, self._n_lost, self._latencies = now, 0, 0, []
        self._seen = {stage: _Seen() for stage in self.gauges}
        return state

    def _stage(self, stage: str, gauge: LiveGauge) -> StageState:
        seen = self._seen[stage]
        return StageState(
            replicas=gauge.replicas,
            n_waiting=gauge.n_waiting,
            n_in_flight=gauge.n_in_flight,
            utilisation=seen.n_busy / seen.n_samples if seen.n_samples else 0.0,
            wait_s=None,
            call_s=sum(seen.call_s) / len(seen.call_s) if seen.call_s else None,
            per_call=seen.n_in_flight / seen.n_calls if seen.n_calls else None,
        )
