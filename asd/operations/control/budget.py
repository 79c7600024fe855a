"""A day's money spread over its load: lam, scaled down by dual ascent on what the last interval overspent.

    m <- min(1, max(least, m^(1 - forget) * exp(-step * (spent / due - 1)))),      lam = m * (lam asked for)

lam / (1 + price of money) maximises quality under a budget; with m = 1 / (1 + price) this is mirror ascent on
that price, projected and forgetting. What was due in an interval is what was left of the day's budget when it
began, times the interval's share of the demand that was still expected, so that errors of the past are made
good, and a server that starts in the middle of a day spreads what is left of it. That the budget is never
passed is not left to this loop: whoever admits requests holds what they may cost
(`asd.operations.traffic.Cap`; the server's ledger).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from asd.errors import ConfigError
from asd.operations.control.backlog import Adaptive, BacklogPolicy
from asd.operations.state import SystemState
from asd.operations.traffic import DAY_S

__all__ = ["DayBudget", "Demand", "Paced", "flat"]

_WORST = 3.0
"""Relative errors beyond this count as this."""

Demand = Callable[[int], Sequence[float]]
"""Relative demand that is expected of equal parts of a day, from midnight (UTC) on, by the day's number."""


def flat(_: int) -> Sequence[float]:
    """As much at every time of the day."""
    return (1.0,)


@dataclass(frozen=True, slots=True)
class DayBudget:
    """What may be spent a day.

    Attributes:
        amount: In the unit of `SystemState.spent`.
        demand: What a day is expected to be like.
    """

    amount: float
    demand: Demand = flat


@dataclass(slots=True, eq=False)
class Paced(Adaptive):
    """A queue-aware policy that spends a day's budget.

    Attributes:
        inner: Solves and decides; its `lam` is what is scaled.
        day: What may be spent, and when it is expected to be wanted.
        step: Of the ascent.
        forget: Share of log m that is forgotten at every look, in [0, 1).
        least: Smallest m.
        budget_scale: m: the share of the lam asked for that the day's money allows now.

    Raises:
        ConfigError: A number is out of range.
    """

    day: DayBudget
    step: float = 0.2
    forget: float = 0.001
    least: float = 1e-3
    budget_scale: float = field(default=1.0, init=False)
    _most: float = field(init=False)
    _today: int | None = field(default=None, init=False)
    _demand: Sequence[float] = field(default=(), init=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.day.amount < math.inf:
            raise ConfigError(f"a day's budget is positive and finite, not {self.day.amount:g}")
        if not (self.step > 0.0 and 0.0 <= self.forget < 1.0 and 0.0 < self.least <= 1.0):
            raise ConfigError(
                f"step and least are positive, least at most 1 and forget in [0, 1), not {self.step:g}, "
                f"{self.least:g} and {self.forget:g}"
            )
        self._most = self.inner.lam

    def policy(self, state: SystemState | None) -> BacklogPolicy:
        """The one policy there is, solved again at the lam that the money allows.

        Raises:
            ConfigError: The expected demand of a day is not positive at all times.
        """
        if state is not None and state.spent is not None and state.spent_today is not None:
            self._adapt(state.now_s, state.seconds, state.spent, state.spent_today)
        return self.inner.policy(state)

    def _adapt(self, now: float, seconds: float, spent: float, today: float) -> None:
        at = now % DAY_S
        spent = min(spent, today)  # what an interval across midnight spent before it was yesterday's
        left = max(0.0, self.day.amount - (today - spent))
        due = left * self._share(int(now // DAY_S), max(0.0, at - seconds), at)
        nothing_due = _WORST if spent > 0.0 else 0.0
        over = min(_WORST, spent / due - 1.0) if due > 0.0 else nothing_due
        moved = (1.0 - self.forget) * math.log(self.budget_scale) - self.step * over
        self.budget_scale = min(1.0, max(self.least, math.exp(moved)))
        self.inner.lam = self._most * self.budget_scale

    def _share(self, day: int, start: float, end: float) -> float:
        """Of the demand from `start` until midnight, the part until `end`."""
        if day != self._today:
            self._demand = self.day.demand(day)
            if not (self._demand and min(self._demand) > 0.0):
                raise ConfigError(f"the expected demand of a day is positive, not {list(self._demand)}")
            self._today = day
        return self._expected(start, end) / self._expected(start, DAY_S)

    def _expected(self, start: float, end: float) -> float:
        """Demand of a stretch of the day."""
        part = DAY_S / len(self._demand)
        overlaps = [
            max(0.0, min(end, (i + 1) * part) - max(start, i * part)) for i in range(len(self._demand))
        ]
        return math.fsum(d * s for d, s in zip(self._demand, overlaps, strict=True))
