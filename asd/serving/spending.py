"""What was spent: by key and day, in the ladder's price unit and in money, read beside a running server."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from asd.errors import ConfigError, DataError
from asd.prices import Money
from asd.serving.database import opened, storing
from asd.serving.ledger import DAY_S
from asd.serving.tariff import MICRO

__all__ = ["Spend", "Spending", "micros_of", "read_demand", "read_spending"]

AMOUNT = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)")


@dataclass(frozen=True, slots=True)
class Spend:
    """Of one key on one day, in micro-units.

    Attributes:
        day: Of the admission, UTC, as 2026-01-31.
        key: Its alias.
        n_requests: Requests that were admitted.
        n_open: Those of them that run.
        micros: What the others cost.
        shadow_micros: The part of it that ran in the shadow.
        estimated_micros: The part of it that was booked at the bound, as nobody knows what ran.
        held_micros: What those that run may still cost.
    """

    day: str
    key: str
    n_requests: int
    n_open: int
    micros: int
    shadow_micros: int
    estimated_micros: int
    held_micros: int


@dataclass(frozen=True, slots=True)
class Spending:
    """All that was spent.

    Attributes:
        unit: Of prices; None: nothing has been served yet.
        money: What a unit is worth by the ladder that was served last.
        rows: By day and key.
    """

    unit: str | None
    money: Money | None
    rows: tuple[Spend, ...]

    @property
    def micros(self) -> int:
        """Of all keys and days."""
        return sum(row.micros for row in self.rows)

    def worth(self, micros: int) -> Decimal | None:
        """In money, where it is known what a unit is worth."""
        if self.money is None:
            return None
        return Decimal(micros) * Decimal(repr(self.money.per_unit)) / MICRO


ROWS = """
WITH shadows AS (SELECT request, sum(micros) AS micros FROM calls WHERE shadow GROUP BY request)
SELECT
    r.day,
    r.key,
    count(*),
    sum(r.micros IS NULL),
    sum(coalesce(r.micros, 0)),
    sum(coalesce(s.micros, 0)),
    sum(CASE WHEN r.estimated THEN r.micros ELSE 0 END),
    sum(CASE WHEN r.micros IS NULL THEN r.held ELSE 0 END)
FROM requests r LEFT JOIN shadows s ON s.request = r.id
GROUP BY r.day, r.key ORDER BY r.day, r.key
"""


REQUESTS = """
SELECT CAST(admitted_at AS INTEGER) % 86400 / 3600, count(*) FROM requests
WHERE day BETWEEN max(? - 7, (SELECT min(day) + 1 FROM requests)) AND ? - 1
GROUP BY 1
"""


def read_demand(path: str | Path, day: int) -> tuple[float, ...]:
    """Requests admitted in each hour (UTC) of the last seven days before a day, and one, shape (24,).

    The first day of a ledger has no whole morning, so it is left out; before there is another all hours are
    alike. What a cap has refused is in no ledger.

    Raises:
        DataError, StorageError: As `read_spending`.
    """
    counts = [1.0] * 24
    with closing(_read(path)) as database, storing(path):
        for hour, n in database.execute(REQUESTS, (day, day)):
            counts[hour] += n
    return tuple(counts)


def read_spending(path: str | Path) -> Spending:
    """What a ledger file says now.

    Raises:
        DataError: There is no such file, or it is something else.
        StorageError: It cannot be read.
    """
    with closing(_read(path)) as database, storing(path):
        return Spending(*_unit(database), tuple(_spend(*row) for row in database.execute(ROWS)))


def micros_of(text: str, unit: str, money: Money | None) -> int:
    """An amount as it is typed, "2.5", "2.5 ms" or "2.5EUR", in micro-units of the price unit, rounded down.

    Raises:
        ConfigError: It is none, or in another unit or currency.
    """
    found = AMOUNT.fullmatch(text.strip())
    if found is None:
        raise ConfigError(
            f"{text!r} is no amount; give a number of at least 0, as 2.5, with or without its unit"
        )
    amount, of = Decimal(found[1]) * MICRO, found[2]
    if of in ("", unit):
        return int(amount)
    if money is not None and of == money.currency:
        return int(amount / Decimal(repr(money.per_unit)))
    known = unit if money is None else f"{unit} and {money.currency}"
    raise ConfigError(f"{text!r} is in {of}; the ladder knows {known} (money = {{ ... }} in its file)")


def _read(path: str | Path) -> sqlite3.Connection:
    if not Path(path).exists():
        raise DataError(f"there is no ledger at {path}; a server makes it, or `asd serve keys add`")
    return opened(path)


def _unit(database: sqlite3.Connection) -> tuple[str | None, Money | None]:
    row = database.execute("SELECT price_unit, currency, per_unit FROM unit").fetchone()
    if row is None:
        return None, None
    return row[0], None if row[1] is None else Money(row[1], row[2])


def _spend(day: int, key: str, *counts: int) -> Spend:
    return Spend(datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat(), key, *counts)
