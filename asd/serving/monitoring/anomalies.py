"""When a server is no longer as it was: latency, errors, spend, stage mix and `p_good`, by CUSUM.

Requests count in the minute in which they came (with the next ones, where fewer than `LEAST` did), once they
have ended: in a backlog, easy ones end first. Every minute each signal is compared with its forecast, an
exponentially weighted mean of the minutes before, of which the last `GUARD` do not count yet: a fault must
not become its own forecast. What is added to a CUSUM is the log-likelihood ratio of the shift that is to be
found against no shift (Page 1954; of exact ratios the run length without a shift is at least e^LIMIT steps):

    S <- max(0, S + min(llr, LIMIT / 3)),    alarm at S >= LIMIT

so that no single minute, however odd, raises an alarm, and three may (`STEPS`: four, of just that shift).

More arrivals are no anomaly. A request that finds others inside takes longer, so latencies are compared
with those of requests that found as many (on a scale of half octaves; at a level of load that was hardly
ever there, there is nothing to compare with). Refusals of a full server are not errors.

Scope: numbers in, alarms out; what a request is worth or costs is found out elsewhere.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from asd.serving.monitoring.cusum import LIMIT, Cells, Cusum, Signal, Stratum, up_or_down

__all__ = ["Anomaly", "AnomalyDetector", "Observation"]

STEP_S = 60.0
LEAST = 50
"""Requests in a step."""
ENDED = 0.998
"""Share of the requests of a step that must have ended, but for one: the slowest are not like the others."""
PATIENCE_S = 900.0
"""A step of which so many do not end for so long after it is not judged."""
ACCEPTED = 120
"""Steps after which what is still anomalous is the new normal."""


class Observation(NamedTuple):
    """A request that has ended.

    Attributes:
        arrived_s: When it came.
        ended_s: When it ended.
        outcome: "answered", "failed", or "gone": what became of it says nothing of the server.
        n_inside: Requests that were open when it came.
        cost: Of all its calls, in any unit.
        stage: That answered.
        p_good: Probability that the answer is right; None: unknown.
    """

    arrived_s: float
    ended_s: float
    outcome: Literal["answered", "failed", "gone"]
    n_inside: int
    cost: float
    stage: str | None = None
    p_good: float | None = None


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A signal that has left its forecast.

    Attributes:
        signal: "latency", "errors", "spend", "p_good", or "mix " and a stage.
        rises: It is above its forecast; False: below.
        since_s: Beginning of the first step that counts.
        at_s: When it was certain enough.
        found: Mean since then (of latency, the factor on what was expected).
        expected: Its forecast.
    """

    signal: str
    rises: bool
    since_s: float
    at_s: float
    found: float
    expected: float


@dataclass(slots=True)
class _Minute:
    """Requests that came in one minute.

    Attributes:
        start_s: When it began.
        n_arrived, n_ended: Of all of them.
        cells: Of those that have ended, by signal.
    """

    start_s: float
    n_arrived: int = 0
    n_ended: int = 0
    cells: dict[str, Cells] = field(default_factory=dict)

    def add(self, signal: str, value: float, at: int = 0) -> None:
        """One request, for one signal."""
        self.cells.setdefault(signal, {}).setdefault(at, Stratum()).add(1.0, value)

    def take(self, seen: Observation, stages: Sequence[str]) -> None:
        """One request, for all signals."""
        self.n_ended += 1
        if seen.outcome == "gone":
            return
        self.add("errors", seen.outcome == "failed")
        self.add("spend", seen.cost)
        if seen.outcome == "answered":
            seconds = max(seen.ended_s - seen.arrived_s, 1e-6)
            self.add("latency", math.log(seconds), _octave(seen.n_inside))
            for stage in stages:
                self.add(f"mix {stage}", seen.stage == stage)
        if seen.p_good is not None:
            self.add("p_good", seen.p_good)

    @property
    def has_ended(self) -> bool:
        """Nearly all requests have."""
        return self.n_ended >= ENDED * self.n_arrived - 1


class AnomalyDetector:
    """Watches a stream of requests.

    Args:
        stages: Whose shares of the answers are watched.

    Attributes:
        active: Anomalies that are there now, by signal.
        latest: The last of all, newest first.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self.active: dict[str, Anomaly] = {}
        self.latest: deque[Anomaly] = deque(maxlen=50)
        self._stages = tuple(stages)
        self._signals = (
            Signal("latency", math.log(1.5), (Cusum(1),)),
            Signal("errors", 2.0, (Cusum(1),), is_share=True),
            Signal("spend", 0.5, (Cusum(1),), is_relative=True),
            Signal("p_good", 0.05, up_or_down()),
            *(Signal(f"mix {name}", 1.5, up_or_down(), is_share=True) for name in stages),
        )
        self._steps: deque[_Minute] = deque()

    @property
    def is_warm(self) -> bool:
        """Enough has been seen to judge."""
        return self._signals[0].is_warm

    @property
    def sums(self) -> dict[str, float]:
        """The largest CUSUM of every signal, as a share of its limit."""
        return {signal.name: signal.sum / LIMIT for signal in self._signals}

    def arrive(self, at_s: float) -> None:
        """A request has come; times never go back."""
        last = self._steps[-1] if self._steps else None
        if last is None or (at_s >= last.start_s + STEP_S and last.n_arrived >= LEAST):
            last = _Minute(at_s)
            self._steps.append(last)
        last.n_arrived += 1

    def observe(self, seen: Observation) -> list[Anomaly]:
        """A request that came has ended; the anomalies that are new with it."""
        step = next((step for step in reversed(self._steps) if step.start_s <= seen.arrived_s), None)
        if step is not None:  # else it took longer than anybody waited for
            step.take(seen, self._stages)
        new: list[Anomaly] = []
        while len(self._steps) > 1 and (
            (first := self._steps[0]).has_ended or seen.ended_s > first.start_s + PATIENCE_S
        ):
            self._steps.popleft()
            if first.has_ended:
                new += self._judge(first, seen.ended_s)
        self.latest.extendleft(new)
        return new

    def _judge(self, step: _Minute, now_s: float) -> list[Anomaly]:
        with_cells = [signal for signal in self._signals if signal.name in step.cells]
        found = (
            self._news(signal, signal.close(step.cells[signal.name], step.start_s), now_s)
            for signal in with_cells
        )
        return [anomaly for anomaly in found if anomaly is not None]

    def _news(self, signal: Signal, over: Cusum | None, now_s: float) -> Anomaly | None:
        """What is new with a signal's step."""
        known = self.active.get(signal.name)
        if known is None and over is not None:
            found = self.active[signal.name] = _anomaly(signal, over, now_s)
            return found
        if known is not None and now_s - known.at_s > ACCEPTED * STEP_S:
            signal.forget()
        if known is not None and not signal.sum:
            del self.active[signal.name]
        return None


def _anomaly(signal: Signal, over: Cusum, at_s: float) -> Anomaly:
    found, expected = (cell.total / cell.n for cell in (over.found, over.expected))
    if signal.name == "latency":
        found, expected = math.exp(found - expected), 1.0
    return Anomaly(signal.name, over.direction > 0, over.since_s, at_s, found, expected)


def _octave(n: int) -> int:
    """Half octaves of how many are inside."""
    return int(2.0 * math.log2(n + 1))
