"""A day's money spread over its load: lam, scaled down by dual ascent on what the last interval overspent.

    m <- min(1, max(least, m^(1 - forget) * exp(-step * (spent / due - 1)))),      lam = m * (lam asked for)

lam / (1 + price of money) maximises quality under a budget; with m = 1 / (1 + price) this is mirror ascent on
that price, projected and forgetting. What is due in an interval is what is left of the day's budget times the
interval's share of the demand that is still expected, so that errors of the past are made good. That the
budget is never passed is not left to this loop: whoever admits requests holds what they may cost
(`asd.operations.traffic.Cap`; the server's ledger).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asd.errors import ConfigError
from asd.operations.control.backlog import BacklogPolicy, QueueAware
from asd.operations.state import SystemState
from asd.operations.traffic import DAY_S, Gauge

__all__ = ["Paced"]

_WORST = 3.0
"""Relative errors beyond this count as this."""


@dataclass(slots=True, eq=False)
class Paced:
    """A queue-aware policy that spends a day's budget.

    Attributes:
        inner: Solves and decides; its `lam` is what is scaled.
        budget: Cost units a day.
        demand: Relative demand that is expected of equal parts of the day, from midnight on.
        step: Of the ascent.
        forget: Share of log m that is forgotten at every look, in [0, 1).
        least: Smallest m.

    Raises:
        ConfigError: A number is out of range.
    """

    inner: QueueAware
    budget: float
    demand: Sequence[float]
    step: float = 0.2
    forget: float = 0.001
    least: float = 1e-3
    _most: float = 0.0
    _scale: float = 1.0
    _day: int = 0
    _spent: float = 0.0
    _due: float = 0.0

    def __post_init__(self) -> None:
        if not (0.0 < self.budget < math.inf and self.demand and min(self.demand) > 0.0):
            raise ConfigError(f"a budget and the expected demand are positive, not {self.budget:g}")
        if not (self.step > 0.0 and 0.0 <= self.forget < 1.0 and 0.0 < self.least <= 1.0):
            raise ConfigError(
                f"step and least are positive, least at most 1 and forget in [0, 1), not {self.step:g}, "
                f"{self.least:g} and {self.forget:g}"
            )
        self._most = self.inner.lam
        self._due = self._due_in(0.0)

    @property
    def name(self) -> str:
        """The name with its largest lam and budget."""
        return f"paced(lam={self._most:g},budget={self.budget:g})"

    @property
    def interval_s(self) -> float:
        """Seconds between two looks."""
        return self.inner.interval_s

    def watch(self, gauges: Mapping[str, Gauge]) -> None:
        """Read the queues here from now on."""
        self.inner.watch(gauges)

    def policy(self, state: SystemState | None) -> BacklogPolicy:
        """The one policy there is, solved again at the lam that the money allows."""
        if state is not None and state.spent is not None:
            self._adapt(state.now_s, state.spent)
        return self.inner.policy(state)

    def _adapt(self, now: float, spent: float) -> None:
        self._spent += spent
        if (day := int(now // DAY_S)) != self._day:
            self._day, self._spent = day, 0.0
        nothing_due = _WORST if spent > 0.0 else 0.0
        over = min(_WORST, spent / self._due - 1.0) if self._due > 0.0 else nothing_due
        moved = (1.0 - self.forget) * math.log(self._scale) - self.step * over
        self._scale = min(1.0, max(self.least, math.exp(moved)))
        self.inner.lam = self._most * self._scale
        self._due = self._due_in(now - DAY_S * day)

    def _due_in(self, at: float) -> float:
        """Of what is left, the share of the interval that begins now."""
        end = min(DAY_S, at + self.interval_s)
        left = max(0.0, self.budget - self._spent)
        return left * self._expected(at, end) / self._expected(at, DAY_S)

    def _expected(self, start: float, end: float) -> float:
        """Demand of a stretch of the day."""
        part = DAY_S / len(self.demand)
        overlaps = [
            max(0.0, min(end, (i + 1) * part) - max(start, i * part)) for i in range(len(self.demand))
        ]
        return math.fsum(d * s for d, s in zip(self.demand, overlaps, strict=True))
