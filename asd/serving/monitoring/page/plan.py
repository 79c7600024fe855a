"""What the next hour may bring, and what the devices make of it: requests, queues, waits, servers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from asd.operations.forecast import BestOfLately, Changed, LastHour, SeasonalNaive
from asd.serving.monitoring.page.texts import NO_END, NONE, seconds_text
from asd.serving.monitoring.timeline import Bin, mean_of
from asd.serving.monitoring.vitals import Vitals
from asd.serving.monitoring.waiting import DeviceLoad

__all__ = ["FULL", "CapacityPlan", "PlannedDevice", "capacity_plan"]

FULL = 0.7
"""Utilisation that a plan allows for: beyond it, bursts make queues."""


class PlannedDevice(NamedTuple):
    """Its stages with the share of its queue that waits for each, and what it has to do now."""

    shares: Mapping[str, float]
    load: DeviceLoad


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """Devices at the rate of the last minutes, and at others.

    Attributes:
        rate: Requests a second that were taken.
        expected: Requests a second of the next hour; None: not known yet.
        devices: What they have to do at `rate`.
    """

    rate: float
    expected: float | None
    devices: Sequence[PlannedDevice]

    @property
    def room(self) -> float | None:
        """Requests a second at which the busiest device is `FULL`; None: none has worked."""
        busiest = max(one.load.utilisation for one in self.devices)
        return self.rate * FULL / busiest if self.rate and busiest > 0.01 else None

    def rows(self) -> list[tuple[str, ...]]:
        """Of a table with a column for now, for the next hour, and for as much as there is room for."""
        columns = [self._column(rate) for rate in (self.rate, self.expected, self.room)]
        return [(name, *(column.get(name, NONE) for column in columns)) for name in columns[0]]

    def _column(self, rate: float | None) -> dict[str, str]:
        """What stands under a rate, by row; nothing where it or what it comes to is unknown."""
        if rate is None:
            return {}
        found = {"requests/s": f"{rate:.3g}"}
        if (loads := self._loads(rate)) is None:
            return found
        for (shares, _), load in zip(self.devices, loads, strict=True):
            found["busy: " + " + ".join(shares)] = f"{load.utilisation:.0%}"
            found |= {f"waiting for {stage}": _many(load.n_waiting, share) for stage, share in shares.items()}
        wait_s = sum(load.n_waiting for load in loads) / rate if rate else None  # Little's law
        found["wait of a request"] = seconds_text(wait_s)
        found["servers like this one"] = str(max(1, math.ceil(rate / self.room))) if self.room else NONE
        return found

    def _loads(self, rate: float) -> list[DeviceLoad] | None:
        if rate == self.rate:
            return [one.load for one in self.devices]
        return [one.load.at(rate / self.rate) for one in self.devices] if self.rate else None


def capacity_plan(now: Vitals, bins: Sequence[Bin], seconds: float, hours: Sequence[float]) -> CapacityPlan:
    """From what was seen in these bins, which last so many seconds, and the requests of the hours so far."""
    taken = sum(n for one in bins for outcome, n in one.outcomes.items() if outcome != "refused")
    return CapacityPlan(taken / seconds, _predicted(hours), [_device(of, now, bins) for of in now.devices])


def _predicted(hours: Sequence[float]) -> float | None:
    """Requests a second of the next hour; None: not known before there was a whole one."""
    if not hours:
        return None
    predictor = BestOfLately((LastHour(), Changed(), Changed(0.5), SeasonalNaive()))
    return predictor.predict(np.array(hours)) / 3600.0


def _device(stages: Sequence[str], now: Vitals, bins: Sequence[Bin]) -> PlannedDevice:
    busy = {name: mean_of(bins, f"busy {name}") or 0.0 for name in stages}
    waiting = {name: mean_of(bins, f"waiting {name}") or 0.0 for name in stages}
    parts = waiting if any(waiting.values()) else busy
    total = sum(parts.values())
    shares = {name: part / total if total else 1.0 / len(parts) for name, part in parts.items()}
    width = now.stages[stages[0]].replicas
    return PlannedDevice(shares, DeviceLoad(sum(busy.values()), sum(waiting.values()), width))


def _many(n: float, share: float) -> str:
    """How many of those who wait for a device wait for a stage with this share of its queue."""
    if not share or math.isfinite(n):
        return f"{n * share if share else 0.0:.2f}"
    return NO_END
