"""Corrections of the books: a price that was wrong, an estimate that turned out to be too high.

What was booked before, when it was corrected and why stay in the ledger file. Caps follow at once, also those
of a server that runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from asd.errors import ConfigError, DataError
from asd.serving.balances import move
from asd.serving.database import MOST, opened, storing, transaction

__all__ = ["Correction", "correct"]


@dataclass(frozen=True, slots=True)
class Correction:
    """What a request was booked at, and is now, in micro-units."""

    request: str
    before: int
    after: int


def correct(
    path: str | Path, request: str, micros: int, reason: str, clock: Callable[[], float] = time.time
) -> Correction:
    """Book a request at another amount; it is no longer an estimate.

    Args:
        path: Of the ledger file.
        request: Its id; it has ended.
        micros: What it should be booked at.
        reason: Kept with the correction.
        clock: Seconds since 1970.

    Raises:
        ConfigError: There is no such request, it still runs, the amount is none, or there is no reason.
        DataError: The file is missing, or something else.
        StorageError: It cannot be written.
    """
    if not 0 <= micros <= MOST:
        raise ConfigError(f"a request is booked at 0 to {MOST} micro-units, not at {micros}")
    if not reason.strip():
        raise ConfigError("a correction wants a reason; say why")
    if not Path(path).exists():
        raise DataError(f"there is no ledger at {path}")
    with closing(opened(path)) as database, storing(path), transaction(database):
        row = database.execute("SELECT key, day, micros FROM requests WHERE id = ?", (request,)).fetchone()
        if row is None or row[2] is None:
            known = "still runs; correct it when it has ended" if row else "is not in the books"
            raise ConfigError(f"{path}: request {request!r} {known}")
        key, day, before = row
        database.execute("UPDATE requests SET micros = ?, estimated = 0 WHERE id = ?", (micros, request))
        database.execute(
            "INSERT INTO corrections VALUES (?, ?, ?, ?, ?)", (request, clock(), before, micros, reason)
        )
        move(database, key, day, micros - before, 0)
    return Correction(request, before, micros)
