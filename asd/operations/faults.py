"""What goes wrong in a simulated run: forced at a stated time, or drawn from mean times between failures.

A fault begins and ends; while it lasts

    down       `amount` replicas of the stage are gone, and their calls lost; all where no amount is given
    slow       calls of the stage take `amount` times as long
    memory     calls of the stage hold at most `amount` queries
    delay      every call of the stage takes `amount` seconds more (the network)
    loss       a call of the stage is lost with probability `amount`, and made again after its time-out
    overload   `amount` requests a second come on top

Faults may overlap: replicas, factors and delays add up, of several memory limits the least holds, and of
several losses each takes its calls, with the longest of their time-outs. A replica waits for its lost call,
and every call that was made is paid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from asd.errors import ConfigError
from asd.operations.arrivals import surge
from asd.operations.simulator import Simulator

__all__ = ["TIMEOUT_S", "Fault", "Kind", "drawn", "overloads", "parse", "plan"]

Kind = Literal["down", "slow", "memory", "delay", "loss", "overload"]

_LEAST = {"down": 1.0, "slow": 1.0, "memory": 1.0, "delay": 0.0, "loss": 0.0, "overload": 0.0}
"""Least amount of a fault by its kind."""

TIMEOUT_S = 120.0
"""After which a lost call is made again where nothing is said: the `timeout_s` of a stage behind a server."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong for a while.

    Attributes:
        kind: What.
        stage: Where; "" for an overload.
        start_s: When it begins.
        seconds: How long it lasts.
        amount: How bad it is, as the kind has it; infinite: every replica.
        timeout_s: Of a loss: from a call to its repetition.
    """

    kind: Kind
    stage: str
    start_s: float
    seconds: float
    amount: float
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"a fault is one of {', '.join(get_args(Kind))}, not {self.kind!r}")
        if not (0.0 <= self.start_s < math.inf and 0.0 < self.seconds < math.inf):
            raise ConfigError(f"a fault begins at 0 s or later and lasts more than 0 s: {self}")
        if not self.amount >= _LEAST[self.kind] or (self.kind != "down" and math.isinf(self.amount)):
            raise ConfigError(f"the amount of {self.kind} is a number from {_LEAST[self.kind]:g} on: {self}")
        if self.kind == "loss" and not self.amount <= 1.0:
            raise ConfigError(f"the amount of loss is a probability, at most 1: {self}")
        if not 0.0 < self.timeout_s < math.inf:
            raise ConfigError(f"a lost call is made again after more than 0 s: {self}")


def parse(text: str) -> Fault:
    """`down:L:3600:600`, `slow:L:3600:600:3` (kind, stage, start, seconds, amount); `overload:3600:600:20`.

    A loss may also say the time-out: `loss:L:3600:600:0.05:10`.

    Raises:
        ConfigError: It is neither.
    """
    kind, *rest = text.split(":")
    stage = rest.pop(0) if kind != "overload" and rest else ""
    numbers = rest + ["inf"] * (kind == "down" and len(rest) == 2)
    if kind != "loss" or len(numbers) == 3:
        numbers = [*numbers, str(TIMEOUT_S)]
    try:
        start, seconds, amount, timeout = map(float, numbers)
    except ValueError as error:
        raise ConfigError(
            f"{text!r} is no fault; write KIND:STAGE:START:SECONDS:AMOUNT as in slow:L:3600:600:3, or "
            "overload:START:SECONDS:RATE, loss:STAGE:START:SECONDS:P:TIMEOUT"
        ) from error
    return Fault(kind, stage, start, seconds, amount, timeout)  # type: ignore[arg-type]


def drawn(
    stage: str, replicas: int, mtbf_s: float, mttr_s: float, seconds: float, rng: np.random.Generator
) -> list[Fault]:
    """Failures of every replica by itself: up and repair times are exponential with these means."""
    if not (mtbf_s > 0.0 and mttr_s > 0.0):
        raise ConfigError(f"mean times between failures and to repair are positive, not {mtbf_s}, {mttr_s}")
    found = []
    for _ in range(replicas):
        start = rng.exponential(mtbf_s)
        while start < seconds:
            lasts = rng.exponential(mttr_s)
            found.append(Fault("down", stage, start, lasts, 1))
            start += lasts + rng.exponential(mtbf_s)
    return found


def overloads(faults: Sequence[Fault], rng: np.random.Generator) -> list[Iterator[float]]:
    """The additional requests of overloads."""
    return [surge(f.start_s, f.seconds, f.amount, rng) for f in faults if f.kind == "overload"]


def plan(sim: Simulator, faults: Sequence[Fault]) -> None:
    """Let faults happen in a run that has not begun.

    Raises:
        ConfigError: A fault is at no stage of the run.
    """
    wards = {name: _Ward(sim, name) for name in sim.stations}
    for fault in faults:
        if fault.kind == "overload":
            continue
        if fault.stage not in wards:
            raise ConfigError(f"{fault} is at no stage; there are {', '.join(wards)}")
        sim.agenda.at(fault.start_s, wards[fault.stage].begin, fault)
        sim.agenda.at(fault.start_s + fault.seconds, wards[fault.stage].end, fault)


class _Ward:
    """The faults that one stage has at the moment."""

    def __init__(self, sim: Simulator, stage: str) -> None:
        self._sim, self._stage = sim, stage
        self._station = sim.stations[stage]
        self._replicas, self._batch = self._station.replicas, self._station.batch
        self._slowdown, self._delay_s = self._station.slowdown, self._station.delay_s
        self._station.network = np.random.default_rng([sim.seed, 2, list(sim.stations).index(stage)])
        self._now: list[Fault] = []
        self._gone = 0.0

    def begin(self, fault: Fault) -> None:
        self._now.append(fault)
        self._apply()

    def end(self, fault: Fault) -> None:
        self._now.remove(fault)
        self._apply()

    def _apply(self) -> None:
        station = self._station
        station.slowdown = self._slowdown * math.prod(self._amounts("slow"))
        station.delay_s = self._delay_s + sum(self._amounts("delay"))
        station.p_lost = 1.0 - math.prod(1.0 - p for p in self._amounts("loss"))
        station.timeout_s = max((f.timeout_s for f in self._now if f.kind == "loss"), default=TIMEOUT_S)
        station.batch = int(min([self._batch, *self._amounts("memory")]))
        gone = sum(self._amounts("down"))
        if gone != self._gone:
            self._gone = gone
            self._sim.resize(self._stage, int(max(0.0, self._replicas - gone)))

    def _amounts(self, kind: Kind) -> list[float]:
        return [fault.amount for fault in self._now if fault.kind == kind]
