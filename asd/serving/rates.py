"""How fast a key may ask: token buckets for requests and for tokens, on a clock that is passed in.

A bucket holds at most a minute's allowance and is refilled evenly, so that no stretch of t seconds takes more
than limit x (1 + t / 60) out of it. Buckets are in memory: a server that starts again starts with full ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from asd.errors import RateLimitedError
from asd.serving.keys import KeyLimits

__all__ = ["Bucket", "Rates"]

MINUTE_S = 60.0


class Bucket:
    """An allowance that is used up and comes back.

    Args:
        per_minute: What comes back in a minute, and the most that it holds.
        clock: Seconds now; a clock that goes back is taken to stand still.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._left = float(per_minute)
        self._seen = clock()

    def wait_s(self, n: int) -> float:
        """Seconds until so much is there: 0 if it is, infinity if it never will be."""
        self._refill()
        if n <= self._left:
            return 0.0
        return (n - self._left) * MINUTE_S / self.per_minute if n <= self.per_minute else math.inf

    def take(self, n: int) -> None:
        """Take so much, which is there."""
        self._left -= n

    def give_back(self, n: int) -> None:
        """Put back what was taken and not used."""
        self._left = min(self._left + n, float(self.per_minute))

    def _refill(self) -> None:
        now = max(self._clock(), self._seen)
        self._left = min(self._left + (now - self._seen) * self.per_minute / MINUTE_S, float(self.per_minute))
        self._seen = now


@dataclass(frozen=True, slots=True)
class _Buckets:
    """Of one key, for as long as its limits stay the same."""

    requests: Bucket | None
    tokens: Bucket | None

    def are_for(self, limits: KeyLimits) -> bool:
        of = [None if bucket is None else bucket.per_minute for bucket in (self.requests, self.tokens)]
        return of == [limits.requests_per_minute, limits.tokens_per_minute]


class Rates:
    """The buckets of all keys.

    Args:
        clock: Seconds now, from a clock that no one sets.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: dict[str, _Buckets] = {}

    def take(self, alias: str, limits: KeyLimits, n_tokens: int) -> None:
        """Take one request and so many tokens, or nothing.

        Raises:
            RateLimitedError: They are not there.
        """
        buckets = self._of(alias, limits)
        wanted = ((buckets.requests, 1, "requests"), (buckets.tokens, n_tokens, "tokens"))
        for bucket, n, what in wanted:
            if bucket is not None and (wait_s := bucket.wait_s(n)):
                raise _too_many(alias, what, n, bucket.per_minute, wait_s)
        for bucket, n, _ in wanted:
            if bucket is not None:
                bucket.take(n)

    def give_back(self, alias: str, n_tokens: int) -> None:
        """Tokens that were taken and not used."""
        buckets = self._buckets.get(alias)
        if buckets is not None and buckets.tokens is not None:
            buckets.tokens.give_back(n_tokens)

    def _of(self, alias: str, limits: KeyLimits) -> _Buckets:
        known = self._buckets.get(alias)
        if known is not None and known.are_for(limits):
            return known
        made = [
            None if per_minute is None else Bucket(per_minute, self._clock)
            for per_minute in (limits.requests_per_minute, limits.tokens_per_minute)
        ]
        self._buckets[alias] = _Buckets(*made)
        return self._buckets[alias]


def _too_many(alias: str, what: str, n: int, per_minute: int, wait_s: float) -> RateLimitedError:
    limit = f"key {alias!r} may use {per_minute} {what} a minute"
    if math.isinf(wait_s):
        return RateLimitedError(f"{limit}, and this takes {n}; ask for less")
    return RateLimitedError(f"{limit}; come again in {wait_s:.1f} s", wait_s)
