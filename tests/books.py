"""A ladder with prices that are easily added up, and requests on it."""

from __future__ import annotations

from asd.ladder import Ladder, Stage
from asd.prices import Money, Prices
from asd.serving.admission import Call, RequestFacts
from asd.serving.tariff import MICRO, Tariff
from asd.types import Usage

LADDER = Ladder(
    "two",
    (Stage("S", "s", Prices(0, 0, 1)), Stage("L", "l", Prices(0, 0, 10))),
    "ms",
    "by hand",
    money=Money("EUR", 0.002),
)
"""A decoded token costs 1 ms in S and 10 in L, and nothing else anything: a millisecond is .2 cents."""

TARIFF = Tariff(LADDER, verifiers=())


def asked(name: str, key: str = "alice", room: int = 5, stages: str = "S", shadow: str = "") -> RequestFacts:
    """A request that costs up to `room` ms a token of S, ten times that of L."""
    return RequestFacts(name, key, "asd", tuple(stages), 7, room, tuple(shadow))


def ran(stage: str, n: int, *, shadow: bool = False) -> Call:
    """An answer of n tokens."""
    return Call(stage, Usage(7, n, n), shadow)


def ms(n: float) -> int:
    """Milliseconds in micro-units."""
    return round(n * MICRO)
