"""Sums beside the requests: what is booked and held, by key and for all keys, by day and for ever."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from asd.serving.database import EVER, EVERYBODY

__all__ = ["Balance", "balance", "balances_of", "move"]


class Balance(NamedTuple):
    """In micro-units."""

    micros: int
    held: int


def balances_of(key: str, day: int) -> list[tuple[str, int]]:
    """Where a request of this key and day counts: the key's day and total, then those of all keys."""
    return [(key, day), (key, EVER), (EVERYBODY, day), (EVERYBODY, EVER)]


def balance(database: sqlite3.Connection, of: str, on: int) -> Balance:
    """What is booked and held there."""
    row = database.execute("SELECT micros, held FROM balances WHERE key = ? AND day = ?", (of, on)).fetchone()
    return Balance(*row) if row else Balance(0, 0)


def move(database: sqlite3.Connection, key: str, day: int, micros: int, held: int) -> None:
    """Add to all balances of a request of this key and day; within a transaction."""
    for of, on in balances_of(key, day):
        database.execute("INSERT OR IGNORE INTO balances (key, day) VALUES (?, ?)", (of, on))
        database.execute(
            "UPDATE balances SET micros = micros + ?, held = held + ? WHERE key = ? AND day = ?",
            (micros, held, of, on),
        )
