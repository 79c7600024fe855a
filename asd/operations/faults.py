"""What goes wrong in a simulated run: forced at a stated time, or drawn from mean times between failures.

A fault begins and ends; while it lasts

    down       `amount` replicas of the stage are gone, and their calls lost; all where no amount is given
    slow       calls of the stage take `amount` times as long
    memory     calls of the stage hold at most `amount` queries
    delay      every call of the stage takes `amount` seconds more (the network)
    overload   `amount` requests a second come on top

Faults may overlap: replicas, factors and delays add up, and of several memory limits the least holds.
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

__all__ = ["Fault", "Kind", "drawn", "overloads", "parse", "plan"]

Kind = Literal["down", "slow", "memory", "delay", "overload"]

_LEAST = {"down": 1.0, "slow": 1.0, "memory": 1.0, "delay": 0.0, "overload": 0.0}
"""Least amount of a fault by its kind."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong for a while.

    Attributes:
        kind: What.
        stage: Where; "" for an overload.
        start_s: When it begins.
        seconds: How long it lasts.
        amount: How bad it is, as the kind has it; infinite: every replica.
    """

    kind: Kind
    stage: str
    start_s: float
    seconds: float
    amount: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"a fault is one of {', '.join(get_args(Kind))}, not {self.kind!r}")
        if not (0.0 <= self.start_s < math.inf and 0.0 < self.seconds < math.inf):
            raise ConfigError(f"a fault begins at 0 s or later and lasts more than 0 s: {self}")
        if not self.amount >= _LEAST[self.kind] or (self.kind != "down" and math.isinf(self.amount)):
            raise ConfigError(f"the amount of {self.kind} is a number from {_LEAST[self.kind]:g} on: {self}")


def parse(text: str) -> Fault:
    """`down:L:3600:600`, `slow:L:3600:600:3` (kind, stage, start, seconds, amount); `overload:3600:600:20`.

    Raises:
        ConfigError: It is neither.
    """
    kind, *rest = text.split(":")
    stage = rest.pop(0) if kind != "overload" and rest else ""
    numbers = rest + ["inf"] * (kind == "down" and len(rest) == 2)
    try:
        start, seconds, amount = map(float, numbers)
    except ValueError as error:
        raise ConfigError(
            f"{text!r} is no fault; write KIND:STAGE:START:SECONDS:AMOUNT as in slow:L:3600:600:3, or "
            "overload:START:SECONDS:RATE"
        ) from error
    return Fault(kind, stage, start, seconds, amount)  # type: ignore[arg-type]


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
        self._now: list[Fault] = []

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
        station.batch = int(min([self._batch, *self._amounts("memory")]))
        up = int(max(0.0, self._replicas - sum(self._amounts("down"))))
        if up != station.replicas:
            self._sim.resize(self._stage, up)

    def _amounts(self, kind: Kind) -> list[float]:
        return [fault.amount for fault in self._now if fault.kind == kind]
