"""Crowds of clients of one ledger, and a count of what their calls cost that knows nothing of the books.

Requests, their ways through the cascade and the counts of every call are generated; no model runs.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from asd.errors import CapReachedError
from asd.ladder import Drafter, Ladder, Stage
from asd.prices import Prices
from asd.serving.admission import Call, RequestFacts
from asd.serving.cashier import Cashier
from asd.serving.keys import KeyLimits, Keyring
from asd.serving.ledger import Caps, Ledger
from asd.serving.spending import read_spending
from asd.serving.tariff import Tariff
from asd.testing import FakeClock
from asd.types import Usage

__all__ = ["KEYS", "LADDER", "Scheduled", "cost_of", "request", "schedule", "walk"]

LADDER = Ladder(
    "three",
    (
        Stage("S", "s", Prices(0.5, 0.01, 1.25)),
        Stage("M", "m", Prices(1.5, 0.03, 4.1, per_verified=0.07)),
        Stage("L", "l", Prices(2.25, 0.11, 12.3, per_drafted=0.9), drafter=Drafter("S", 4)),
    ),
    "ms",
    "declared, for generated requests",
)
KEYS = ("alice", "bob")
DAY_S = 86_400
START = 20_000 * DAY_S
MICRO = 10**6


@dataclass(slots=True)
class Scheduled:
    """What became of one schedule.

    Attributes:
        n_admitted: Requests that ran.
        n_refused: Requests that a cap kept out.
        n_left: Clients that were made to leave.
        used: Share of the cap that was spent in the end.
        faults: What should not have been.
    """

    n_admitted: int = 0
    n_refused: int = 0
    n_left: int = 0
    used: float = 0.0
    faults: list[str] = field(default_factory=list)


def cost_of(call: Call) -> int:
    """What a call costs in micro-units, worked out apart from `asd.serving.tariff`."""
    [prices] = [stage.prices for stage in LADDER.stages if stage.name == call.stage]
    exact = sum(
        Fraction(repr(rate)) * count for rate, count in zip(prices.rates, call.usage.counts, strict=True)
    )
    return math.ceil(exact * MICRO)


def request(rng: np.random.Generator, name: str) -> RequestFacts:
    """Any stages, any size, sometimes with a run in the shadow or with a second attempt."""
    stages = rng.permutation(["S", "M", "L"])[: rng.integers(1, 4)]
    return RequestFacts(
        id=name,
        key=str(rng.choice(KEYS)),
        model="asd",
        stages=tuple(map(str, stages)),
        n_prompt=int(rng.integers(1, 50)),
        max_new_tokens=int(rng.integers(1, 30)),
        shadow=("L",) if rng.random() < 0.1 else (),
        attempts=int(rng.integers(1, 3)),
    )


def walk(rng: np.random.Generator, facts: RequestFacts) -> Iterator[Call]:
    """Calls of some way through the cascade; one in three are as dear as they can be, in every attempt."""
    is_dearest = rng.random() < 1 / 3
    for call in _way(rng, facts, is_dearest):
        yield from [call] * (facts.attempts if is_dearest else 1)


def _way(rng: np.random.Generator, facts: RequestFacts, is_dearest: bool) -> Iterator[Call]:
    left = [*facts.stages] if is_dearest else [*facts.stages[: rng.integers(1, len(facts.stages) + 1)]]
    for n_answered in range(len(left)):
        for stage in left[n_answered:] if n_answered else ():
            if is_dearest or rng.random() < 0.5:
                yield Call(stage, _reading(rng, facts, is_dearest))
        yield Call(left[n_answered], _writing(rng, facts, left[n_answered], is_dearest))
    for stage in facts.shadow:
        yield Call(stage, _writing(rng, facts, stage, is_dearest), shadow=True)


def _reading(rng: np.random.Generator, facts: RequestFacts, is_dearest: bool) -> Usage:
    n = facts.max_new_tokens if is_dearest else int(rng.integers(1, facts.max_new_tokens + 1))
    n_passes = 2 if is_dearest else int(rng.integers(1, 3))
    return Usage(facts.n_prompt, 0, n_passes, n_verified=n * n_passes)


def _writing(rng: np.random.Generator, facts: RequestFacts, stage: str, is_dearest: bool) -> Usage:
    n = facts.max_new_tokens if is_dearest else int(rng.integers(1, facts.max_new_tokens + 1))
    return Usage(facts.n_prompt, n, n, n_drafted=4 * (n - 1) if stage == "L" else 0)


class Crowd:
    """The clients of one schedule, and the count beside the books.

    Args:
        cashier: Admits and settles.
        clock: Of the books.
        caps: Most that may be spent, by key ("" for all) and 0 for a day, -1 for ever.
        seed: Of the requests, of who leaves and when; which client the ledger serves first is up to threads.
    """

    def __init__(
        self,
        cashier: Cashier,
        clock: FakeClock,
        caps: dict[tuple[str, int], int],
        seed: int,
    ) -> None:
        self.spent: Counter[tuple[str, int]] = Counter()
        self.found = Scheduled()
        self._cashier = cashier
        self._clock = clock
        self._caps = caps
        self._seed = seed
        self._n_asking = 0

    async def run(self, n_clients: int, n_requests: int) -> None:
        """Let all clients come; some leave, and at some moment it is midnight."""
        tasks = [asyncio.create_task(self._client(i, n_requests)) for i in range(n_clients)]
        midnight = asyncio.create_task(self._midnight())
        rng = np.random.default_rng(self._seed)
        for i in rng.permutation(n_clients)[: n_clients // 4]:
            for _ in range(rng.integers(0, 30)):
                await asyncio.sleep(0)
            self.found.n_left += tasks[i].cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await midnight
        self.found.faults += [
            repr(error)
            for error in ended
            if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError)
        ]

    async def _client(self, number: int, n_requests: int) -> None:
        rng = np.random.default_rng([self._seed, number])
        for i in range(n_requests):
            facts = request(rng, f"{number}-{i}")
            self._n_asking += 1
            try:
                ticket = await self._cashier.admit(facts)
            except CapReachedError:
                self.found.n_refused += 1
                continue
            finally:
                self._n_asking -= 1
            self.found.n_admitted += 1
            day, calls = int(self._clock() // DAY_S), []
            try:
                for call in walk(rng, replace(facts, shadow=ticket.shadow)):
                    for _ in range(rng.integers(1, 6)):
                        await asyncio.sleep(0)
                    calls.append(call)
                    self._count(facts.key, day, call)
            finally:
                await ticket.settle(calls)

    async def _midnight(self) -> None:
        """After a while, when nobody asks: the day on which a request is admitted must be known here."""
        for _ in range(200):
            await asyncio.sleep(0)
        while self._n_asking:
            await asyncio.sleep(0)
        self._clock.advance(DAY_S)

    def _count(self, key: str, day: int, call: Call) -> None:
        for at in ((key, day), (key, -1), ("", day), ("", -1)):
            self.spent[at] += cost_of(call)
            cap = self._caps.get((at[0], min(at[1], 0)))
            if cap is not None and self.spent[at] > cap:
                self.found.faults.append(f"{at}: {self.spent[at]} spent of {cap}")


def schedule(seed: int, folder: Path, n_clients: int = 32, n_requests: int = 4) -> Scheduled:
    """Run one schedule on a ledger of its own."""
    rng, clock, path = np.random.default_rng(seed), FakeClock(START), folder / f"{seed}.db"
    tariff = Tariff(LADDER)
    bounds = sum(tariff.bound(request(rng, "")) for _ in range(n_clients * n_requests))
    total, day, of_key = (int(bounds * rng.uniform(0.05, share)) for share in (0.9, 0.6, 0.5))
    caps = {("", 0): day, ("", -1): total} | {(key, -1): of_key for key in KEYS}
    with Keyring(path, clock) as keyring:
        for key in KEYS:
            keyring.add(key, KeyLimits(cap_total=of_key))
    with Cashier(path, tariff, Caps(day, total), clock=clock) as cashier:
        crowd = Crowd(cashier, clock, caps, seed)
        asyncio.run(crowd.run(n_clients, n_requests))
    crowd.found.used = crowd.spent["", -1] / total
    crowd.found.faults += _differences(path, crowd.spent)
    return crowd.found


def _differences(path: Path, counted: Counter[tuple[str, int]]) -> Iterator[str]:
    """Between the books and the count, by key; and what is still held."""
    spending = read_spending(path)
    for key in KEYS:
        booked = sum(row.micros for row in spending.rows if row.key == key)
        if booked != counted[key, -1]:
            yield f"{key}: booked {booked}, counted {counted[key, -1]}"
    if any(row.n_open or row.held_micros for row in spending.rows):
        yield "requests are open that have ended"
    with Ledger(path, Tariff(LADDER)) as books:
        books.audit()
