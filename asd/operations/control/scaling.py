"""Replicas that follow their use: the rule that orders them, and the stage whose replicas come and go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from asd.errors import ConfigError
from asd.operations.simulator import Simulator

__all__ = ["ByUtilisation", "Scaler", "parse", "scale"]


class Scaler(Protocol):
    """Says how many replicas a stage should have."""

    @property
    def interval_s(self) -> float:
        """Seconds between two looks."""

    @property
    def load_s(self) -> float:
        """Seconds until a new replica serves."""

    def replicas(self, n: int, utilisation: float) -> int:
        """How many there should be, of `n` whose calls took this share of their time since the last look."""


@dataclass(frozen=True, slots=True)
class ByUtilisation:
    """One replica more above a utilisation, one fewer below another that is at most half of it.

    So the replicas that are left are not so busy that, at the same load, the one that went is ordered again.

    Attributes:
        least: Replicas that always stay.
        most: Beyond which none is ordered.
        load_s: Seconds until a new replica serves.
        low: Utilisation below which one goes.
        high: Utilisation above which one is ordered.
        interval_s: Seconds between two looks.

    Raises:
        ConfigError: A value is out of range.
    """

    least: int
    most: int
    load_s: float
    low: float = 0.4
    high: float = 0.8
    interval_s: float = 30.0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ConfigError(
                f"a scaled stage has at least 1 replica, and at most as many as at least: {self}"
            )
        if not (0.0 <= self.load_s < math.inf and 0.0 < self.interval_s < math.inf):
            raise ConfigError(
                f"a replica loads in a number of seconds from 0 on, looks are further apart: {self}"
            )
        if not 0.0 <= 2.0 * self.low <= self.high < 1.0:
            raise ConfigError(f"a replica goes below at most half of the use above which one comes: {self}")

    def replicas(self, n: int, utilisation: float) -> int:
        """One more, one fewer, or as many."""
        if utilisation > self.high:
            return min(n + 1, self.most)
        return max(n - 1, self.least) if utilisation < self.low else n


def parse(text: str, load_s: float | None) -> ByUtilisation:
    """`STAGE:MIN:MAX[:LOAD_SECONDS]`, whose load time is the priced one where none is written.

    Raises:
        ConfigError: It is none, or nothing says how long a load takes.
    """
    try:
        _, least, most, *loads = text.split(":")
        [stated] = map(float, loads) if loads else [load_s]
        bounds = int(least), int(most)
    except ValueError as error:
        raise ConfigError(f"scale {text!r}: write STAGE:MIN:MAX[:LOAD_SECONDS], as in L:1:4:30") from error
    if stated is None:
        raise ConfigError(f"scale {text!r}: no price says how long a load takes; write {text}:SECONDS")
    return ByUtilisation(*bounds, stated)


def scale(sim: Simulator, stage: str, scaler: Scaler) -> None:
    """Let `scaler` add replicas to a stage and take them away, in a run that has not begun."""
    _ScaledStage(sim, stage, scaler)


class _ScaledStage:
    """A stage whose replicas come and go; while one loads, nothing is decided, and only idle ones go."""

    def __init__(self, sim: Simulator, stage: str, scaler: Scaler) -> None:
        self._sim, self._stage, self._scaler = sim, stage, scaler
        self._station = sim.stations[stage]
        self._look_later()

    def _look_later(self) -> None:
        """From here to the next look the replicas stay as they are."""
        now = self._sim.agenda.now
        self._busy_before = self._sim.busy_s(self._stage)
        self._sim.agenda.at(now + self._scaler.interval_s, self._look)

    def _look(self, _: None) -> None:
        n, agenda = self._station.replicas, self._sim.agenda
        busy_s = self._sim.busy_s(self._stage) - self._busy_before
        wanted = self._scaler.replicas(n, busy_s / (n * self._scaler.interval_s))
        if wanted > n:
            self._sim.load(self._stage, wanted - n)
            agenda.at(agenda.now + self._scaler.load_s, self._loaded, wanted)
            return
        if wanted < n:
            self._sim.resize(self._stage, max(wanted, self._station.n_calls))
        self._look_later()

    def _loaded(self, replicas: int) -> None:
        self._sim.load(self._stage, 0)
        self._sim.resize(self._stage, replicas)
        self._look_later()
