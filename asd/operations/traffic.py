"""What a run has beside its queries: who chooses the policy, where requests come from, how it is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from asd.errors import ConfigError
from asd.operations.state import SystemState
from asd.policies import Policy

__all__ = [
    "DAY_S",
    "KEPT",
    "Cap",
    "Controller",
    "Fixed",
    "Gauge",
    "LoadAware",
    "Open",
    "RunSettings",
    "Users",
]

DAY_S = 86_400.0


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
    def n_waiting(self) -> int:
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


@dataclass(frozen=True, slots=True)
class Users:
    """A closed loop: so many users, each of whom thinks after every answer and asks again.

    Attributes:
        n: How many.
        think_s: Mean of the exponential time they think.
    """

    n: int
    think_s: float

    def __post_init__(self) -> None:
        if self.n < 1 or not self.think_s >= 0.0:
            raise ConfigError(f"a closed loop needs a user and a think time of at least 0 s: {self}")


@dataclass(frozen=True, slots=True)
class Open:
    """An open loop: requests come whether or not others have been answered.

    Attributes:
        arrivals: Seconds, ascending.
        queries: Positions of the queries in the population, one an arrival; None: drawn with replacement.
    """

    arrivals: Iterable[float]
    queries: Iterable[int] | None = None


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
    """

    window_s: float = 600.0
    most_inside: int | None = None
    cap: Cap | None = None

    def __post_init__(self) -> None:
        if not self.window_s > 0.0:
            raise ConfigError(f"windows last longer than 0 s: {self}")


KEPT = RunSettings()
"""As runs are kept where nobody says otherwise."""
