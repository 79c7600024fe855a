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

__all__ = ["Anomaly", "AnomalyDetector", "Observation"]

STEP_S = 60.0
LEAST = 50
"""Requests in a step."""
ENDED = 0.998
"""Share of the requests of a step that must have ended, but for one: the slowest are not like the others."""
PATIENCE_S = 900.0
"""A step of which so many do not end for so long after it is not judged."""
GUARD = 15
"""Steps after which a step enters the forecast."""
WARM_UP = 60
"""Steps that are learned from before anything is judged."""
ACCEPTED = 120
"""Steps after which what is still anomalous is the new normal."""
MEMORY = 360.0
"""Steps after which a step weighs 1/e in the forecast."""
LIMIT = 14.0
STEPS = 4
"""Of just the shift that is to be found, it takes at least so many to reach the limit, however many requests
they have: what is not explained does not average out over requests that wait for each other."""
FEW = 100.0
"""Requests from which on a level of load has a latency of its own."""
RARE = 0.002
"""Errors that are rarer than this are judged as if they were this frequent."""


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
class _Cell:
    """Requests that are alike, how many and what they add up to."""

    n: float = 0.0
    total: float = 0.0

    def add(self, n: float, total: float) -> None:
        self.n += n
        self.total += total


Cells = dict[int, _Cell]


@dataclass(slots=True)
class _Level:
    """The forecast of a mean, by cells, and how far steps lie from it.

    Attributes:
        cells: What is remembered.
        variance: Mean of n x (mean of a step - its forecast)^2.
        weight: Of all steps that were learned from.
    """

    cells: Cells = field(default_factory=dict)
    variance: float = 0.0
    weight: float = 0.0

    def expected(self, step: Cells) -> float:
        """The forecast of the mean of a step whose requests lie in these cells.

        Requests of a cell that is hardly known count as what they are.
        """
        n = sum(cell.n for cell in step.values())
        return sum(self._total(at, cell) for at, cell in step.items()) / n

    def learn(self, step: Cells, error: float) -> None:
        """Take a step into the forecast; `error`: its mean less what was forecast."""
        keep = math.exp(-1.0 / MEMORY)
        for cell in self.cells.values():
            cell.n *= keep
            cell.total *= keep
        for at, cell in step.items():
            self.cells.setdefault(at, _Cell()).add(cell.n, cell.total)
        n = sum(cell.n for cell in step.values())
        self.weight = keep * self.weight + 1.0
        self.variance += (n * error**2 - self.variance) / self.weight

    def _total(self, at: int, cell: _Cell) -> float:
        known = self.cells.get(at)
        if known is None or (known.n < FEW and len(self.cells) > 1):
            return cell.total
        return cell.n * known.total / known.n


@dataclass(slots=True)
class _Cusum:
    """Evidence that a signal has moved in one direction.

    Attributes:
        direction: 1: up; -1: down.
        value: The sum of the log-likelihood ratios, never below 0.
        since_s: Beginning of the first step of the sum.
        found, expected: Requests since then and what they add up to; the same by the forecast.
    """

    direction: int
    value: float = 0.0
    since_s: float = 0.0
    found: _Cell = field(default_factory=_Cell)
    expected: _Cell = field(default_factory=_Cell)

    @property
    def is_over(self) -> bool:
        """It is certain."""
        return self.value >= LIMIT

    def add(self, ratio: float, start_s: float, whole: _Cell, expected: float) -> None:
        """One step that began at `start_s`."""
        if self.value <= 0.0:
            self.since_s, self.found, self.expected = start_s, _Cell(), _Cell()
        self.found.add(whole.n, whole.total)
        self.expected.add(whole.n, whole.n * expected)
        self.value = min(max(0.0, self.value + min(ratio, LIMIT / 3.0)), 2.0 * LIMIT)


@dataclass(slots=True)
class _Signal:
    """One signal: its forecast, and its CUSUMs.

    Attributes:
        name: As in `Anomaly`.
        shift: What is to be found: of a mean, how far it moves; of a share, the factor on its odds.
        cusums: One a direction.
        is_share: Every value is 0 or 1.
        is_relative: `shift` is a share of the forecast.
        level: The forecast.
        waiting: Steps that are not in the forecast yet, with their errors.
        n_learned: Steps that are.
    """

    name: str
    shift: float
    cusums: tuple[_Cusum, ...]
    is_share: bool = False
    is_relative: bool = False
    level: _Level = field(default_factory=_Level)
    waiting: deque[tuple[Cells, float]] = field(default_factory=deque)
    n_learned: int = 0

    @property
    def is_warm(self) -> bool:
        """Enough has been learned to judge."""
        return self.n_learned >= WARM_UP

    @property
    def sum(self) -> float:
        """The largest CUSUM."""
        return max(cusum.value for cusum in self.cusums)

    def close(self, step: Cells, start_s: float) -> _Cusum | None:
        """Take the next step; the CUSUM that is over its limit, if one is."""
        whole = _Cell(sum(cell.n for cell in step.values()), sum(cell.total for cell in step.values()))
        expected = self.level.expected(step) if self.n_learned else whole.total / whole.n
        self.waiting.append((step, whole.total / whole.n - expected))
        if self.is_warm:
            for cusum in self.cusums:
                cusum.add(self._ratio(cusum.direction, whole, expected), start_s, whole, expected)
        over = next((cusum for cusum in self.cusums if cusum.is_over), None)
        if over is None:
            self._learn(GUARD if self.is_warm else 0)
        return over

    def forget(self) -> None:
        """What is there now is the new normal."""
        self.level, self.n_learned = _Level(), 0
        self.waiting.clear()
        for cusum in self.cusums:
            cusum.value = 0.0

    def _learn(self, most: int) -> None:
        """Take steps into the forecast until at most so many wait."""
        while len(self.waiting) > most:
            self.level.learn(*self.waiting.popleft())
            self.n_learned += 1

    def _ratio(self, direction: int, whole: _Cell, expected: float) -> float:
        """Log-likelihood ratio of the shift against none, for the mean of a step; its own mean is bounded."""
        given = self._binomial if self.is_share else self._normal
        ratio, mean = given(direction, whole, expected)
        return ratio * min(1.0, LIMIT / STEPS / max(mean, 1e-12))

    def _normal(self, direction: int, whole: _Cell, expected: float) -> tuple[float, float]:
        """The ratio, and its mean where the shift is there."""
        shift = direction * self.shift * (expected if self.is_relative else 1.0)
        precision = whole.n * shift / max(self.level.variance, 1e-12)
        return precision * (whole.total / whole.n - expected - shift / 2.0), precision * shift / 2.0

    def _binomial(self, direction: int, whole: _Cell, expected: float) -> tuple[float, float]:
        """The same of shares, over how much more than binomial those of steps vary."""
        p = min(max(expected, RARE), 1.0 - RARE)
        if direction * (p - expected) < 0.0:  # what is rarer than that cannot be seen to become rarer
            return 0.0, 0.0
        odds = p / (1.0 - p) * self.shift**direction
        q = odds / (1.0 + odds)
        yes, no = math.log(q / p), math.log((1.0 - q) / (1.0 - p))
        varied = max(1.0, self.level.variance / (p * (1.0 - p)))
        ratio = whole.total * yes + (whole.n - whole.total) * no
        return ratio / varied, whole.n * (q * yes + (1.0 - q) * no) / varied


def _up_or_down() -> tuple[_Cusum, ...]:
    return _Cusum(1), _Cusum(-1)


@dataclass(slots=True)
class _Step:
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
        self.cells.setdefault(signal, {}).setdefault(at, _Cell()).add(1.0, value)

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
            _Signal("latency", math.log(1.5), (_Cusum(1),)),
            _Signal("errors", 2.0, (_Cusum(1),), is_share=True),
            _Signal("spend", 0.5, (_Cusum(1),), is_relative=True),
            _Signal("p_good", 0.05, _up_or_down()),
            *(_Signal(f"mix {name}", 1.5, _up_or_down(), is_share=True) for name in stages),
        )
        self._steps: deque[_Step] = deque()

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
            last = _Step(at_s)
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

    def _judge(self, step: _Step, now_s: float) -> list[Anomaly]:
        with_cells = [signal for signal in self._signals if signal.name in step.cells]
        found = (
            self._news(signal, signal.close(step.cells[signal.name], step.start_s), now_s)
            for signal in with_cells
        )
        return [anomaly for anomaly in found if anomaly is not None]

    def _news(self, signal: _Signal, over: _Cusum | None, now_s: float) -> Anomaly | None:
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


def _anomaly(signal: _Signal, over: _Cusum, at_s: float) -> Anomaly:
    found, expected = (cell.total / cell.n for cell in (over.found, over.expected))
    if signal.name == "latency":
        found, expected = math.exp(found - expected), 1.0
    return Anomaly(signal.name, over.direction > 0, over.since_s, at_s, found, expected)


def _octave(n: int) -> int:
    """Half octaves of how many are inside."""
    return int(2.0 * math.log2(n + 1))
