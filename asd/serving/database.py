"""The SQLite file of a server: its API keys and its books. What the tables mean is `keys`' and `ledger`'s.

Write-ahead logging, one transaction an operation: a process that is killed loses no operation that had
returned. (`synchronous = NORMAL`: a power cut may lose the last few, and damages nothing.) Several processes
may read and change keys at a time; the books of a server are kept by one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asd.errors import DataError, StorageError

__all__ = ["EVER", "EVERYBODY", "MOST", "opened", "storing", "transaction"]

EVERYBODY = ""
"""Where balances name a key: all keys together. No alias is empty."""

EVER = -1
"""Where balances name a day: all days together."""

MOST = 2**53
"""Most micro-units that one amount may have: sums of them stay whole numbers in SQLite."""

APPLICATION = 0x61736453  # "asdS"
VERSION = 2
BUSY_S = 10.0
"""How long an operation waits for that of another process."""

SCHEMA = """
CREATE TABLE keys (
    alias TEXT PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    salt BLOB NOT NULL,
    digest BLOB NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL,
    revoked_at REAL,
    requests_per_minute INTEGER,
    tokens_per_minute INTEGER,
    cap_day INTEGER,
    cap_total INTEGER,
    operator INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE requests (
    id TEXT PRIMARY KEY,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    day INTEGER NOT NULL,
    admitted_at REAL NOT NULL,
    held INTEGER NOT NULL CHECK (held >= 0),
    settled_at REAL,
    micros INTEGER CHECK (micros >= 0),
    estimated INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX open_requests ON requests (id) WHERE micros IS NULL;
CREATE INDEX requests_by_day ON requests (day, key);
CREATE TABLE calls (
    request TEXT NOT NULL REFERENCES requests (id),
    stage TEXT NOT NULL,
    shadow INTEGER NOT NULL,
    n_prompt INTEGER NOT NULL,
    n_decoded INTEGER NOT NULL,
    n_passes INTEGER NOT NULL,
    n_verified INTEGER NOT NULL,
    n_drafted INTEGER NOT NULL,
    n_saved INTEGER NOT NULL,
    micros INTEGER NOT NULL CHECK (micros >= 0)
);
CREATE INDEX calls_by_request ON calls (request);
CREATE TABLE corrections (
    request TEXT NOT NULL REFERENCES requests (id),
    at REAL NOT NULL,
    before INTEGER NOT NULL,
    after INTEGER NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX corrections_by_request ON corrections (request);
CREATE TABLE balances (
    key TEXT NOT NULL,
    day INTEGER NOT NULL,
    micros INTEGER NOT NULL DEFAULT 0 CHECK (micros >= 0),
    held INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
    PRIMARY KEY (key, day)
) WITHOUT ROWID;
CREATE TABLE unit (
    price_unit TEXT NOT NULL,
    currency TEXT,
    per_unit REAL
);
"""


def opened(path: str | Path) -> sqlite3.Connection:
    """A connection to the file, which is made if there is none.

    It may be handed from thread to thread, and used by one at a time.

    Raises:
        DataError: The file is something else, or was written by a newer version.
        StorageError: It cannot be opened or written.
    """
    path = Path(path)
    with storing(path):
        if not path.exists():  # else closing the file here would undo locks that this process has on it
            path.touch(0o600)
        connection = sqlite3.connect(path, BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        with storing(path):
            _set_up(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: sqlite3.Connection, path: Path) -> None:
    _check(connection, path)
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    with transaction(connection):
        version = _number(connection, "PRAGMA user_version")
        if version == 0:
            for statement in filter(str.strip, SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
        elif version == 1:
            connection.execute("ALTER TABLE keys ADD COLUMN operator INTEGER NOT NULL DEFAULT 0")
        if version < VERSION:
            connection.execute(f"PRAGMA user_version = {VERSION}")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Before anything is written."""
    is_new = _number(connection, "SELECT count(*) FROM sqlite_master") == 0
    if not is_new and _number(connection, "PRAGMA application_id") != APPLICATION:
        raise DataError(f"{path} is another program's database; choose another path for the ledger")
    version = _number(connection, "PRAGMA user_version")
    if version > VERSION:
        raise DataError(
            f"{path} is a ledger of version {version}, and this asd knows version {VERSION}; update asd"
        )


def _number(connection: sqlite3.Connection, statement: str) -> int:
    return int(connection.execute(statement).fetchone()[0])


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All statements within are carried out, or, where something is raised, none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def storing(path: str | Path) -> Iterator[None]:
    """SQLite's errors as `DataError` and `StorageError` that name the file, and show no value.

    `sqlite3.IntegrityError` is the statement's own and goes through.
    """
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.OperationalError as error:
        raise StorageError(
            f"{path}: {error}; free space, end what has locked the file, or choose another path"
        ) from error
    except OSError as error:
        raise StorageError(f"{path} cannot be made: {error.strerror}; choose another path") from error
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path} is no ledger, or damaged: {error}; restore it or choose another") from error
