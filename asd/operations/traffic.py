"""What a run has beside its queries: who chooses the policy, where requests come from, how it is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from asd.errors import ConfigError
from asd.operations.arrivals import Pattern
from asd.operations.population import Population, Situation
from asd.operations.state import SystemState
from asd.policies import Policy

__all__ = [
    "ALIKE",
    "DAY_S",
    "KEPT",
    "Alike",
    "Cap",
    "Controller",
    "Fixed",
    "Gauge",
    "LoadAware",
    "Mix",
    "Open",
    "QueryDraw",
    "RunSettings",
    "Users",
]

DAY_S = 86_400.0

_BLOCK = 8192
_RIGHT = 0.5
"""Least score of an answer that counts as right."""

_CLASSES = ("easy", "medium", "hard")
_COMPLEXITY_BIAS = (0.6, 0.7, 0.9, 0.8, 0.4, 0.2)
"""Of the published day, at the hours of its `Pattern`."""


class Controller(Protocol):
    """Chooses a policy for the load; the policy decides about queries."""

    @property
    def name(self) -> str:
        """Short, as it stands in tables."""

    @property
    def interval_s(self) -> float:
        """Seconds between two looks at the state; infinite: it never looks."""

    def policy(self, state: SystemState | None) -> Policy:
        """The policy from now on; `state` is None before the first request. Equal choices are one object."""


class Gauge(Protocol):
    """What can be read off a stage at any moment."""

    @property
    def n_waiting(self) -> float:
        """Requests in its queue."""

    @property
    def n_calls(self) -> int:
        """Calls under way."""

    @property
    def replicas(self) -> int:
        """Calls that can be under way."""

    @property
    def batch(self) -> int:
        """Most queries in a call."""

    @property
    def is_resident(self) -> bool:
        """Whether a call begins without a load."""

    @property
    def place(self) -> Hashable | None:
        """What it takes turns on, the same of all stages that do; None: on a device of its own."""


@runtime_checkable
class LoadAware(Protocol):
    """A controller whose policy reads the stages at every decision."""

    def watch(self, gauges: Mapping[str, Gauge]) -> None:
        """The stages to read from now on, by name."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same policy at every load."""

    always: Policy
    interval_s: float = math.inf

    @property
    def name(self) -> str:
        """The policy's."""
        return self.always.name

    def policy(self, state: SystemState | None) -> Policy:  # noqa: ARG002
        """The one there is."""
        return self.always


class QueryDraw(Protocol):
    """Says which recorded query a request is."""

    def draws(
        self, population: Population, rng: np.random.Generator, clock: Callable[[], float]
    ) -> Iterator[int]:
        """Positions of queries without end, each for the time (s from midnight) at which it is asked for."""


@dataclass(frozen=True, slots=True)
class Alike:
    """All queries alike, with replacement."""

    def draws(
        self,
        population: Population,
        rng: np.random.Generator,
        clock: Callable[[], float],  # noqa: ARG002
    ) -> Iterator[int]:
        """Positions of queries without end."""
        while True:
            yield from rng.integers(len(population.queries), size=_BLOCK).tolist()


ALIKE = Alike()
"""As queries are drawn where nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How many of the requests are easy, medium and hard, told from the recorded outcomes.

    A query is easy where the smallest stage answered it rightly (a score of at least one half), hard where
    only the largest stage did or none, medium where a stage between was the smallest that did. Within a class
    queries are drawn with replacement, all alike.

    Attributes:
        shares: Percent of easy, medium and hard requests.
        biased: Whether medium and hard requests become more and fewer by the hour, in proportion to the
            published complexity bias. How that bias acts was not published; here it is scaled so that the
            published day as a whole has the shares.

    Raises:
        ConfigError: Shares are no percentages that add up to 100, or an hour has more than all requests.
    """

    shares: tuple[float, float, float]
    biased: bool = False

    def __post_init__(self) -> None:
        if not (all(share >= 0.0 for share in self.shares) and abs(sum(self.shares) - 100.0) < 1e-9):
            raise ConfigError(f"the shares of a mix are percentages that add up to 100, not {self.shares}")
        most = (100.0 - self.shares[0]) * max(self.biases())
        if most > 100.0:
            raise ConfigError(
                f"with the complexity bias, {most:.0f} % of requests would be medium or hard at some hour: "
                f"give a mix of more than {self.shares[0]:g} % easy ones, or no bias"
            )

    @classmethod
    def parse(cls, text: str) -> Mix:
        """`70,25,5` or `70,25,5:bias`; `ConfigError` where it is neither."""
        shares, colon, bias = text.partition(":")
        try:
            easy, medium, hard = map(float, shares.split(","))
        except ValueError as error:
            raise ConfigError(
                f"mix {text!r}: write EASY,MEDIUM,HARD[:bias] in percent, as 70,25,5"
            ) from error
        if bias != ("bias" if colon else ""):
            raise ConfigError(f"mix {text!r}: after the colon may stand bias, not {bias!r}")
        return cls((easy, medium, hard), biased=bool(colon))

    def biases(self) -> list[float]:
        """What the shares of medium and hard requests are multiplied with, in each minute of a day."""
        if not self.biased:
            return [1.0] * 1440
        pattern, middles = Pattern(), 60.0 * np.arange(1440) + 30.0
        bias = np.interp(middles / 3600.0, pattern.hours, _COMPLEXITY_BIAS, period=24.0)
        factors: list[float] = (bias / np.average(bias, weights=pattern.rate(middles))).tolist()
        return factors

    def classes(self, population: Population) -> list[list[int]]:
        """Positions of the easy, the medium and the hard queries.

        Raises:
            ConfigError: A class that has a share has no query.
        """
        found: list[list[int]] = [[], [], []]
        for position, query in enumerate(population.queries):
            found[_difficulty(query, population.stages)].append(position)
        for name, share, positions in zip(_CLASSES, self.shares, found, strict=True):
            if share and not positions:
                raise ConfigError(
                    f"{share:g} % of requests are to be {name}, but none of the {len(population.queries)} "
                    f"recorded queries is; collect more (asd collect), or give {name} ones a share of 0"
                )
        return found

    def draws(
        self, population: Population, rng: np.random.Generator, clock: Callable[[], float]
    ) -> Iterator[int]:
        """Positions of queries without end, each for the time (s from midnight) at which it is asked for.

        Raises:
            ConfigError: As `classes`.
        """
        return self._draw(self.classes(population), rng, clock)

    def _draw(
        self, classes: list[list[int]], rng: np.random.Generator, clock: Callable[[], float]
    ) -> Iterator[int]:
        medium, hard = self.shares[1] / 100.0, self.shares[2] / 100.0
        bounds = [(1.0 - factor * (medium + hard), 1.0 - factor * hard) for factor in self.biases()]
        while True:
            for u, v in rng.random((_BLOCK, 2)).tolist():
                easy, up_to_medium = bounds[int(clock() / 60.0) % 1440]
                positions = classes[(u >= easy) + (u >= up_to_medium)]
                yield positions[int(v * len(positions))]


def _difficulty(query: Situation, stages: tuple[str, ...]) -> int:
    """0: easy, 1: medium, 2: hard."""
    for i, stage in enumerate(stages[:-1]):
        score = query.trace.outcomes[stage].score
        if score is not None and score >= _RIGHT:
            return min(i, 1)
    return 2


@dataclass(frozen=True, slots=True)
class Users:
    """A closed loop: so many users, each of whom thinks after every answer and asks again.

    Attributes:
        n: How many.
        think_s: Mean of the exponential time they think.
        mix: Draws the queries.
    """

    n: int
    think_s: float
    mix: QueryDraw = ALIKE

    def __post_init__(self) -> None:
        if self.n < 1 or not self.think_s >= 0.0:
            raise ConfigError(f"a closed loop needs a user and a think time of at least 0 s: {self}")


@dataclass(frozen=True, slots=True)
class Open:
    """An open loop: requests come whether or not others have been answered.

    Attributes:
        arrivals: Seconds, ascending.
        queries: Positions of the queries in the population, one an arrival; None: they are drawn.
        mix: Draws them.
    """

    arrivals: Iterable[float]
    queries: Iterable[int] | None = None
    mix: QueryDraw = ALIKE


@dataclass(frozen=True, slots=True)
class Cap:
    """Most that may be spent a day: requests whose calls might pass it are refused, as a ledger does.

    Attributes:
        amount: Cost units a day.
        bound: Most that a request may cost; held for everybody who is inside.
    """

    amount: float
    bound: float


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a run is kept.

    Attributes:
        window_s: Length of a window of the books.
        most_inside: Requests that find so many inside are refused; None: nobody is.
        cap: On what is spent; None: there is none.
        room: Stages of one device that fit into its memory together; None: all of them.
    """

    window_s: float = 600.0
    most_inside: int | None = None
    cap: Cap | None = None
    room: int | None = None

    def __post_init__(self) -> None:
        if self.room is not None and self.room < 1:
            raise ConfigError(f"a device has room for at least one stage: {self}")
        if not self.window_s > 0.0:
            raise ConfigError(f"windows last longer than 0 s: {self}")


KEPT = RunSettings()
"""As runs are kept where nobody says otherwise."""
