"""API keys: made at random, shown once, hashed at rest; each with an alias that may be shown anywhere.

    issued = keyring.add("alice", KeyLimits(requests_per_minute=60))
    issued.secret                          # asd-5d41402abc4b-..., never to be seen again
    keyring.authenticate(secret).alias     # "alice"

A key is a public id and 256 random bits. At rest is a BLAKE2b hash keyed by 32 random bytes of its own. No
slow hash is needed, because there is nothing to guess: nobody chooses a key. The id finds the row, the hash
is compared in constant time, and an unknown id takes as long as a wrong key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from asd.errors import ConfigError, UnknownKeyError
from asd.serving.database import MOST, opened, storing, transaction

__all__ = ["LOCAL", "NO_LIMITS", "ApiKey", "Issued", "KeyLimits", "Keyring", "is_secret"]

LOCAL = "local"
"""Alias of requests that need no key; no key has it."""

ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SECRET = re.compile(r"asd-([0-9a-f]{12})-[A-Za-z0-9_-]{43}")
NOBODY = bytes(32)
"""Salt and digest that keys with an unknown id are compared with; no key has this digest."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may use; None: as much as it likes, 0: nothing.

    Attributes:
        requests_per_minute: Also the most at once.
        tokens_per_minute: Of prompts and answers; also the most at once.
        cap_day: Spend between two midnights (UTC), in micro-units of the ladder's price unit.
        cap_total: Spend for ever, in micro-units.

    Raises:
        ConfigError: A limit is negative, or too large to be kept.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    cap_day: int | None = None
    cap_total: int | None = None

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is not None and not 0 <= value <= MOST:
                raise ConfigError(f"{limit.name} must be at least 0 and at most {MOST}, not {value}")


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What may be known of a key. Times are seconds since 1970; None: it does not expire, is not revoked.

    An operator's key sees the spend of every key, others see their own.
    """

    alias: str
    id: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    limits: KeyLimits
    operator: bool = False

    def state(self, now: float) -> Literal["active", "expired", "revoked"]:
        """Whether it opens anything now."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


@dataclass(frozen=True, slots=True)
class Issued:
    """A new key and, this once, what a client sends."""

    key: ApiKey
    secret: str = field(repr=False)


class Keyring:
    """The keys of a ledger file; a context manager.

    Args:
        path: Of the file, which is made if there is none.
        clock: Seconds since 1970.

    Raises:
        DataError, StorageError: As `asd.serving.database.opened`; so do all methods.
    """

    def __init__(self, path: str | Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._database = opened(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def add(
        self,
        alias: str,
        limits: KeyLimits = NO_LIMITS,
        expires_at: float | None = None,
        *,
        operator: bool = False,
    ) -> Issued:
        """Make a key.

        Raises:
            ConfigError: The alias is taken, also by a revoked key, or is none; the key would have expired.
        """
        if not ALIAS.fullmatch(alias) or alias == LOCAL:
            raise ConfigError(
                f"an alias has letters, digits, '.', '_' and '-', at most 64 of them and a letter or digit "
                f"first, and is not {LOCAL!r}; {alias!r} is none"
            )
        now = self._clock()
        if expires_at is not None and expires_at <= now:
            raise ConfigError(f"key {alias!r} would have expired already; give a later time")
        key = ApiKey(alias, secrets.token_hex(6), now, expires_at, None, limits, operator)
        secret, salt = f"asd-{key.id}-{secrets.token_urlsafe(32)}", secrets.token_bytes(32)
        row = (alias, key.id, salt, _digest(secret, salt), now, expires_at, None, *astuple(limits), operator)
        try:
            with self._changing():
                self._database.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        except sqlite3.IntegrityError:
            raise ConfigError(f"the alias {alias!r} is taken; choose another") from None
        return Issued(key, secret)

    def limit(self, alias: str, limits: KeyLimits) -> ApiKey:
        """Give a key other limits; they hold from its next request on.

        Raises:
            ConfigError: There is no such key.
        """
        with self._changing():
            self._database.execute(
                "UPDATE keys SET requests_per_minute = ?, tokens_per_minute = ?, cap_day = ?, cap_total = ? "
                "WHERE alias = ?",
                (*astuple(limits), alias),
            )
        return self._named(alias)

    def revoke(self, alias: str) -> ApiKey:
        """End a key, for good; a second call changes nothing.

        Raises:
            ConfigError: There is no such key.
        """
        with self._changing():
            self._database.execute(
                "UPDATE keys SET revoked_at = ? WHERE alias = ? AND revoked_at IS NULL",
                (self._clock(), alias),
            )
        return self._named(alias)

    def listed(self) -> list[ApiKey]:
        """All keys, the revoked ones too, by alias."""
        with storing(self._path):
            return [_key(row) for row in self._database.execute(f"{SELECT} ORDER BY alias")]

    def find(self, alias: str) -> ApiKey | None:
        """The key with this alias."""
        with storing(self._path):
            row = self._database.execute(f"{SELECT} WHERE alias = ?", (alias,)).fetchone()
        return None if row is None else _key(row)

    def authenticate(self, secret: str) -> ApiKey:
        """The key that a client sent.

        Raises:
            UnknownKeyError: There is none, or it is revoked or has expired.
        """
        key, salt, digest = self._stored(secret)
        if not hmac.compare_digest(_digest(secret, salt), digest) or key is None:
            raise UnknownKeyError("the API key is not known here")
        if (state := key.state(self._clock())) != "active":
            raise UnknownKeyError(f"the API key {key.alias!r} is {state}")
        return key

    def _stored(self, secret: str) -> tuple[ApiKey | None, bytes, bytes]:
        found = SECRET.fullmatch(secret)
        with storing(self._path):
            row = (
                found
                and self._database.execute(
                    f"{SELECT.replace('FROM', ', salt, digest FROM')} WHERE id = ?", (found[1],)
                ).fetchone()
            )
        return (_key(row[:-2]), row[-2], row[-1]) if row else (None, NOBODY, NOBODY)

    def _named(self, alias: str) -> ApiKey:
        key = self.find(alias)
        if key is None:
            known = ", ".join(key.alias for key in self.listed()) or "none"
            raise ConfigError(f"there is no key {alias!r}; there are: {known}")
        return key

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with storing(self._path), transaction(self._database):
            yield


def is_secret(text: str) -> bool:
    """Whether it has the form of a key that some keyring has made."""
    return SECRET.fullmatch(text) is not None


SELECT = (
    "SELECT alias, id, created_at, expires_at, revoked_at, "
    "operator, requests_per_minute, tokens_per_minute, cap_day, cap_total FROM keys"
)


def _key(row: tuple[Any, ...]) -> ApiKey:
    alias, name, created_at, expires_at, revoked_at, operator, *limits = row
    return ApiKey(alias, name, created_at, expires_at, revoked_at, KeyLimits(*limits), bool(operator))


def _digest(secret: str, salt: bytes) -> bytes:
    return hashlib.blake2b(secret.encode("utf-8", "surrogatepass"), key=salt, digest_size=32).digest()
