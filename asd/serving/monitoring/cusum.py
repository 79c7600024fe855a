"""One signal of a server, step by step: its forecast, and the CUSUMs that say when it has left it.

The forecast is an exponentially weighted mean of the steps before, by cells of requests that are alike; the
last `GUARD` steps do not count yet. What is added to a CUSUM is the log-likelihood ratio of the shift that is
to be found against no shift, for the mean of a step: normal, or binomial for shares, with the variance that
steps were seen to have.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

__all__ = ["GUARD", "LIMIT", "STEPS", "WARM_UP", "Cells", "Cusum", "Level", "Signal", "Stratum", "up_or_down"]

GUARD = 15
"""Steps after which a step enters the forecast."""
WARM_UP = 60
"""Steps that are learned from before anything is judged."""
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


@dataclass(slots=True)
class Stratum:
    """Requests that are alike, how many and what they add up to."""

    n: float = 0.0
    total: float = 0.0

    def add(self, n: float, total: float) -> None:
        """So many more requests."""
        self.n += n
        self.total += total


Cells = dict[int, Stratum]


@dataclass(slots=True)
class Level:
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
            self.cells.setdefault(at, Stratum()).add(cell.n, cell.total)
        n = sum(cell.n for cell in step.values())
        self.weight = keep * self.weight + 1.0
        self.variance += (n * error**2 - self.variance) / self.weight

    def _total(self, at: int, cell: Stratum) -> float:
        known = self.cells.get(at)
        if known is None or (known.n < FEW and len(self.cells) > 1):
            return cell.total
        return cell.n * known.total / known.n


@dataclass(slots=True)
class Cusum:
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
    found: Stratum = field(default_factory=Stratum)
    expected: Stratum = field(default_factory=Stratum)

    @property
    def is_over(self) -> bool:
        """It is certain."""
        return self.value >= LIMIT

    def add(self, ratio: float, start_s: float, whole: Stratum, expected: float) -> None:
        """One step that began at `start_s`."""
        if self.value <= 0.0:
            self.since_s, self.found, self.expected = start_s, Stratum(), Stratum()
        self.found.add(whole.n, whole.total)
        self.expected.add(whole.n, whole.n * expected)
        self.value = min(max(0.0, self.value + min(ratio, LIMIT / 3.0)), 2.0 * LIMIT)


@dataclass(slots=True)
class Signal:
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
    cusums: tuple[Cusum, ...]
    is_share: bool = False
    is_relative: bool = False
    level: Level = field(default_factory=Level)
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

    def close(self, step: Cells, start_s: float) -> Cusum | None:
        """Take the next step; the CUSUM that is over its limit, if one is."""
        whole = Stratum(sum(cell.n for cell in step.values()), sum(cell.total for cell in step.values()))
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
        self.level, self.n_learned = Level(), 0
        self.waiting.clear()
        for cusum in self.cusums:
            cusum.value = 0.0

    def _learn(self, most: int) -> None:
        """Take steps into the forecast until at most so many wait."""
        while len(self.waiting) > most:
            self.level.learn(*self.waiting.popleft())
            self.n_learned += 1

    def _ratio(self, direction: int, whole: Stratum, expected: float) -> float:
        """Log-likelihood ratio of the shift against none, for the mean of a step; its own mean is bounded."""
        given = self._binomial if self.is_share else self._normal
        ratio, mean = given(direction, whole, expected)
        return ratio * min(1.0, LIMIT / STEPS / max(mean, 1e-12))

    def _normal(self, direction: int, whole: Stratum, expected: float) -> tuple[float, float]:
        """The ratio, and its mean where the shift is there."""
        shift = direction * self.shift * (expected if self.is_relative else 1.0)
        precision = whole.n * shift / max(self.level.variance, 1e-12)
        return precision * (whole.total / whole.n - expected - shift / 2.0), precision * shift / 2.0

    def _binomial(self, direction: int, whole: Stratum, expected: float) -> tuple[float, float]:
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


def up_or_down() -> tuple[Cusum, ...]:
    """For a signal that may do either."""
    return Cusum(1), Cusum(-1)
