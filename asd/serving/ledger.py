"""The books: what is held for requests that run, what ended ones cost, and caps that no schedule can pass.

    hold      before anything runs: if spent + held + bound would pass a cap, CapReachedError; else it is held
    settle    at the end: what ran is booked, the hold is gone
    recover   at the start: what a killed server left open is settled by what the engine has counted, or,
              where nobody has, at its bound, marked as estimated

Each is one transaction. A hold covers whatever its request can cost, so for every key, for all keys, for
every day and for ever: booked + held <= cap, at any time and however many requests run. A request belongs to
the day (UTC) on which it was admitted. Amounts are whole micro-units of the ladder's price unit.

`Ledger.audit` adds up everything again.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self

from asd.errors import CapReachedError, ConfigError, DataError
from asd.measurement.locking import lock
from asd.prices import Money
from asd.serving.admission import Account, Call, RequestCharge, RequestFacts, Spent
from asd.serving.balances import Balance, balance, balances_of, move
from asd.serving.database import EVER, EVERYBODY, MOST, opened, storing, transaction
from asd.serving.tariff import MICRO, Tariff

__all__ = ["Caps", "Ledger"]

_LOG = logging.getLogger(__name__)

DAY_S = 86_400

WRONG = """
SELECT id FROM requests r
WHERE micros IS NOT NULL AND NOT estimated
    AND micros != (SELECT coalesce(sum(micros), 0) FROM calls WHERE request = r.id)
    AND micros != coalesce((SELECT after FROM corrections WHERE request = r.id ORDER BY at DESC LIMIT 1), -1)
"""
"""Requests that cost neither what their calls do nor what they were corrected to."""


@dataclass(frozen=True, slots=True)
class Caps:
    """Most that may be spent, in micro-units; None: no cap, 0: nothing.

    Attributes:
        day: Between two midnights (UTC).
        total: For ever.
    """

    day: int | None = None
    total: int | None = None

    def __post_init__(self) -> None:
        if any(cap is not None and cap < 0 for cap in (self.day, self.total)):
            raise ConfigError(f"a cap on spend must be at least 0, not {self}")


NO_CAPS = Caps()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A request that was admitted, as it is booked."""

    key: str
    day: int
    held: int
    micros: int | None
    estimated: bool


class Ledger:
    """The books in a ledger file, kept by this process alone; a context manager.

    Args:
        path: Of the file, which is made if there is none.
        tariff: Prices, and the unit of all amounts.
        caps: On what all keys together spend; those of a key stand beside it (`asd.serving.keys`).
        clock: Seconds since 1970.

    Raises:
        ConfigError: The file has amounts in another price unit.
        DataError: The file is something else, or was written by a newer version.
        StorageError: It cannot be opened or written, or another process keeps it; all methods raise it too.
    """

    def __init__(
        self,
        path: str | Path,
        tariff: Tariff,
        caps: Caps = NO_CAPS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = Path(path)
        self._tariff = tariff
        self._caps = caps
        self._clock = clock
        with ExitStack() as stack:
            stack.callback(_owned(self._path))
            self._database = stack.enter_context(closing(opened(path)))
            with storing(path), transaction(self._database):
                _agree_on_unit(self._database, self._path, tariff.unit, tariff.money)
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._open.close()

    def hold(self, facts: RequestFacts) -> int:
        """Hold the most that a request can cost; returns it.

        Raises:
            ConfigError: A stage has no price, or there was a request with this id.
            CapReachedError: With what is booked and held it could pass a cap.
        """
        bound, now = self._tariff.bound(facts), self._clock()
        if bound > MOST:
            raise ConfigError(
                f"request {facts.id!r} could cost {_units(bound)} {self._tariff.unit}; ask for less"
            )
        day = int(now // DAY_S)
        with storing(self._path), transaction(self._database):
            self._check_caps(facts.key, day, bound, now)
            try:
                self._database.execute(
                    "INSERT INTO requests (id, key, model, day, admitted_at, held) VALUES (?, ?, ?, ?, ?, ?)",
                    (facts.id, facts.key, facts.model, day, now, bound),
                )
            except sqlite3.IntegrityError:
                raise ConfigError(
                    f"there was a request {facts.id!r} before; make ids that are unique"
                ) from None
            move(self._database, facts.key, day, 0, bound)
        return bound

    def settle(self, request: str, calls: Sequence[Call], uncounted: int = 0) -> RequestCharge:
        """Book what ran and free the hold; of a request that is settled, what was booked.

        `uncounted` is the most that further calls have cost, micro-units; the request is then estimated, at
        its hold at most, which is the bound of everything it may have run.

        Raises:
            ConfigError: A stage has no price.
            DataError: There is no such request.
        """
        return self._end(request, [(call, self._tariff.micros(call)) for call in calls], uncounted)

    def settle_unknown(self, request: str) -> RequestCharge:
        """Book the whole hold, as estimated: nobody knows what ran.

        Raises:
            DataError: There is no such request.
        """
        return self._end(request, [], MOST)

    def recover(self, journal: Mapping[str, Sequence[Call]] | None = None) -> list[RequestCharge]:
        """Settle what is open, as a server does that starts: nothing of it runs any more.

        Args:
            journal: Calls by request, all that were made (`asd.serving.journal`); None: nobody has counted.
        """
        with storing(self._path):
            left = self._database.execute(
                "SELECT id FROM requests WHERE micros IS NULL ORDER BY id"
            ).fetchall()
        if journal is None:
            return [self.settle_unknown(request) for (request,) in left]
        return [self.settle(request, journal.get(request, ())) for (request,) in left]

    def accounts(self) -> list[Account]:
        """What is booked and held today and for ever, beside its caps: all keys first, then by key."""
        today = int(self._clock() // DAY_S)
        with storing(self._path):
            keys = self._database.execute(
                "SELECT alias, cap_day, cap_total FROM keys WHERE revoked_at IS NULL ORDER BY alias"
            ).fetchall()
            rows = [(EVERYBODY, self._caps.day, self._caps.total), *keys]
            return [
                account
                for key, of_day, of_total in rows
                for account in (
                    Account(key, "day", *balance(self._database, key, today), of_day),
                    Account(key, "total", *balance(self._database, key, EVER), of_total),
                )
            ]

    def spent(self) -> Spent:
        """What is booked of all keys together, today and for ever."""
        now = self._clock()
        with storing(self._path):
            today, ever = (balance(self._database, EVERYBODY, on) for on in (int(now // DAY_S), EVER))
        return Spent(now, today.micros, ever.micros)

    def audit(self) -> None:
        """Add up all requests and calls again.

        Raises:
            DataError: A balance or a request is booked at something else.
        """
        with storing(self._path):
            kept = self._database.execute("SELECT key, day, micros, held FROM balances").fetchall()
            rows = self._database.execute(
                "SELECT key, day, coalesce(micros, 0), CASE WHEN micros IS NULL THEN held ELSE 0 END "
                "FROM requests"
            ).fetchall()
            wrong = self._database.execute(WRONG).fetchall()
        sums: dict[tuple[str, int], Balance] = {}
        for key, day, micros, held in rows:
            for at in balances_of(key, day):
                before = sums.get(at, Balance(0, 0))
                sums[at] = Balance(before.micros + micros, before.held + held)
        found = {(key, day): Balance(micros, held) for key, day, micros, held in kept}
        differing = {
            at: (found.get(at), sums.get(at)) for at in found | sums if found.get(at) != sums.get(at)
        }
        if differing or wrong:
            raise DataError(
                f"{self._path}: booked and added up differ at {differing}; requests that are not the sum of "
                f"their calls: {[request for (request,) in wrong]}"
            )

    def _check_caps(self, key: str, day: int, bound: int, now: float) -> None:
        row = self._database.execute("SELECT cap_day, cap_total FROM keys WHERE alias = ?", (key,)).fetchone()
        caps = (*(row or (None, None)), self._caps.day, self._caps.total)
        for cap, (of, on) in zip(caps, balances_of(key, day), strict=True):
            if cap is None:
                continue
            there = balance(self._database, of, on)
            if there.micros + there.held + bound > cap:
                raise self._reached(of, on, cap, there, bound, now)

    def _reached(self, of: str, on: int, cap: int, there: Balance, bound: int, now: float) -> CapReachedError:
        unit, when = self._tariff.unit, "in total" if on == EVER else "a day"
        whose = "this server" if of == EVERYBODY else f"key {of!r}"
        amounts = (
            "" if of == EVERYBODY else f": {_units(there.micros)} are spent and {_units(there.held)} held"
        )
        return CapReachedError(
            f"{whose} may spend {_units(cap)} {unit} {when}{amounts}; this request may cost up to "
            f"{_units(bound)}",
            _retry_after(on, cap, there.micros, bound, now),
        )

    def _end(self, request: str, charged: Sequence[tuple[Call, int]], uncounted: int) -> RequestCharge:
        with storing(self._path), transaction(self._database):
            found = self._request(request)
            if found.micros is None:
                counted = sum(cost for _, cost in charged)
                micros = max(counted, min(counted + uncounted, found.held))
                self._book(request, found, micros, charged, estimated=uncounted > 0)
        booked = self._request(request)
        assert booked.micros is not None
        return RequestCharge(request, booked.micros, self._shadow(request), booked.held, booked.estimated)

    def _book(
        self,
        request: str,
        found: _Entry,
        micros: int,
        charged: Sequence[tuple[Call, int]],
        *,
        estimated: bool,
    ) -> None:
        self._database.execute(
            "UPDATE requests SET micros = ?, settled_at = ?, estimated = ? WHERE id = ?",
            (micros, self._clock(), estimated, request),
        )
        self._database.executemany(
            "INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(request, call.stage, call.shadow, *astuple(call.usage), cost) for call, cost in charged],
        )
        move(self._database, found.key, found.day, micros, -found.held)
        if micros > found.held:
            _LOG.error(
                "request %s cost %d, more than its bound of %d: caps may be passed",
                request,
                micros,
                found.held,
            )

    def _request(self, request: str) -> _Entry:
        with storing(self._path):
            row = self._database.execute(
                "SELECT key, day, held, micros, estimated FROM requests WHERE id = ?", (request,)
            ).fetchone()
        if row is None:
            raise DataError(f"{self._path} has no request {request!r}")
        key, day, held, micros, estimated = row
        return _Entry(key, day, held, micros, bool(estimated))

    def _shadow(self, request: str) -> int:
        [micros] = self._database.execute(
            "SELECT coalesce(sum(micros), 0) FROM calls WHERE request = ? AND shadow", (request,)
        ).fetchone()
        return int(micros)


def _retry_after(on: int, cap: int, micros: int, bound: int, now: float) -> float | None:
    """When the request may fit: once others have settled, else at midnight, else never."""
    if micros + bound <= cap:
        return 1.0
    return DAY_S - now % DAY_S if on != EVER and bound <= cap else None


def _units(micros: int) -> str:
    return f"{micros / MICRO:.6g}"


def _owned(path: Path) -> Callable[[], None]:
    """Keep other servers from this ledger; returns what lets go."""
    beside = path.with_name(path.name + ".lock")
    with storing(beside):
        fd = os.open(beside, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        release = lock(beside, fd, "serving with")
    except BaseException:
        os.close(fd)
        raise

    def let_go() -> None:
        os.close(fd)
        release()

    return let_go


def _agree_on_unit(database: sqlite3.Connection, path: Path, unit: str, money: Money | None) -> None:
    """The price unit is stated once for ever; what it is worth, by whoever serves."""
    row = database.execute("SELECT price_unit FROM unit").fetchone()
    if row is not None and row[0] != unit:
        raise ConfigError(
            f"{path} has amounts in {row[0]}, the ladder's prices are in {unit}; give a ledger of its own"
        )
    database.execute("DELETE FROM unit")
    database.execute(
        "INSERT INTO unit VALUES (?, ?, ?)",
        (unit, *((money.currency, money.per_unit) if money else (None, None))),
    )
