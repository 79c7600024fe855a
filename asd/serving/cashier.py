"""Admission by API keys, rates and caps: the request path on one side, the ledger's one thread on the other.

    with Cashier("ledger.db", tariff) as cashier:      # settles what a killed server left open
        alias = cashier.authenticate(secret)
        ticket = await cashier.admit(facts)
        settled = await ticket.settle(calls)

Everything that changes the books is done by one thread, in the order in which it was asked for, and is done
to its end whoever stops waiting for it. A caller that is cancelled during `admit` has no ticket, so the hold
is released behind it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from asd.errors import AsdError, CapReachedError, ConfigError, UnknownKeyError
from asd.serving.admission import Account, Call, RequestCharge, RequestFacts, Spent
from asd.serving.keys import LOCAL, NO_LIMITS, Keyring, is_secret
from asd.serving.ledger import NO_CAPS, Caps, Ledger
from asd.serving.rates import Rates
from asd.serving.tariff import Tariff

__all__ = ["CashTicket", "Cashier"]

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


class Cashier:
    """Decides by what is in a ledger file (`asd.serving.admission.Admission`); a context manager.

    Args:
        path: Of the ledger file, which is made if there is none.
        tariff: Prices of the stages.
        caps: On what all keys together spend.
        keyless: Serve requests without a key of ours too, under the alias `LOCAL`: many clients have to send
            some key, whatever it is.
        journal: What the engines have counted of requests that were open when the last server was killed.
        clock: Seconds since 1970.
        monotonic: Seconds now, from a clock that nobody sets; for rates.

    Attributes:
        recovered: What the last server had left open.

    Raises:
        ConfigError, DataError, StorageError: As `Ledger`.
    """

    def __init__(
        self,
        path: str | Path,
        tariff: Tariff,
        caps: Caps = NO_CAPS,
        *,
        keyless: bool = False,
        journal: Mapping[str, Sequence[Call]] | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keyless = keyless
        self._tariff = tariff
        self._rates = Rates(monotonic)
        self._ledger = Ledger(path, tariff, caps, clock)
        try:
            self.recovered = self._ledger.recover(journal)
            self._keys = Keyring(path, clock)
        except BaseException:
            self._ledger.close()
            raise
        self._thread = ThreadPoolExecutor(1, "asd-ledger")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Do what was asked for so far, then let go of the file. Open tickets can be settled no more."""
        self._thread.shutdown()
        self._keys.close()
        self._ledger.close()

    def authenticate(self, secret: str | None) -> str:
        """As `Admission.authenticate`."""
        if self._keyless and not (secret and is_secret(secret)):
            return LOCAL
        if secret is None:
            raise UnknownKeyError("this server wants an API key; `asd serve keys add` makes one")
        return self._keys.authenticate(secret).alias

    def is_operator(self, alias: str) -> bool:
        """As `Admission.is_operator`: an operator's key, or no key where none is needed."""
        key = self._keys.find(alias)
        return alias == LOCAL if key is None else key.operator

    async def admit(self, facts: RequestFacts) -> CashTicket:
        """As `Admission.admit`."""
        key = self._keys.find(facts.key)
        if key is None and facts.key != LOCAL:
            raise ConfigError(
                f"there is no key {facts.key!r}; facts hold an alias that authenticate returned"
            )
        self._rates.take(facts.key, NO_LIMITS if key is None else key.limits, facts.n_tokens)
        hold = self._thread.submit(self._hold, facts)
        try:
            covered, held = await _unaborted(hold)
        except asyncio.CancelledError:
            self._thread.submit(self._drop, facts.id, hold)
            raise
        except CapReachedError:
            self._rates.give_back(facts.key, facts.n_tokens)
            raise
        return CashTicket(self, covered, held)

    async def accounts(self) -> list[Account]:
        """As `Accounts.accounts`."""
        return await _unaborted(self._thread.submit(self._ledger.accounts))

    async def spent(self) -> Spent:
        """As `Accounts.spent`."""
        return await _unaborted(self._thread.submit(self._ledger.spent))

    def book(
        self, facts: RequestFacts, calls: Sequence[Call], uncounted: Sequence[str] = ()
    ) -> Future[RequestCharge]:
        """Settle a request; what it did not use of its tokens may be asked for again."""
        if uncounted:
            most = sum(self._tariff.call_bound(stage, facts) for stage in uncounted)
            return self._thread.submit(self._ledger.settle, facts.id, calls, most)
        read = max((call.usage.n_prompt for call in calls), default=0)
        written = max((call.usage.n_decoded for call in calls), default=0)
        self._rates.give_back(facts.key, max(0, facts.n_tokens - read - written))
        return self._thread.submit(self._ledger.settle, facts.id, calls)

    def _hold(self, facts: RequestFacts) -> tuple[RequestFacts, int]:
        """Hold a request with its shadow or, where a cap is too near for that, without."""
        try:
            return facts, self._ledger.hold(facts)
        except CapReachedError:
            if not facts.shadow:
                raise
        alone = replace(facts, shadow=())
        return alone, self._ledger.hold(alone)

    def _drop(self, request: str, hold: Future[tuple[RequestFacts, int]]) -> None:
        """Release a hold that nobody waits for; in the ledger's thread, behind the hold."""
        if hold.exception() is not None:
            return
        try:
            self._ledger.settle(request, ())
        except AsdError as error:
            _LOG.error("the hold of request %s stays until the next start: %s", request, error)


class CashTicket:
    """A request that was admitted (`asd.serving.admission.Ticket`).

    Args:
        cashier: Who admitted it.
        facts: What the hold is for.
        held: The most that it can cost.
    """

    def __init__(self, cashier: Cashier, facts: RequestFacts, held: int) -> None:
        self._cashier = cashier
        self._facts = facts
        self._booking: Future[RequestCharge] | None = None
        self.held = held

    @property
    def shadow(self) -> tuple[str, ...]:
        """As `Ticket.shadow`."""
        return self._facts.shadow

    async def settle(self, calls: Sequence[Call], uncounted: Sequence[str] = ()) -> RequestCharge:
        """As `Ticket.settle`; where the books could not be written, another call tries again."""
        if self._booking is None or (self._booking.done() and self._booking.exception() is not None):
            self._booking = self._cashier.book(self._facts, calls, uncounted)
        return await _unaborted(self._booking)

    async def release(self) -> RequestCharge:
        """As `Ticket.release`."""
        return await self.settle(())


async def _unaborted(future: Future[T]) -> T:
    """Wait for what a thread does; cancelling the caller does not cancel it."""
    waited = asyncio.wrap_future(future)
    waited.add_done_callback(_seen)
    return await asyncio.shield(waited)


def _seen(future: asyncio.Future[Any]) -> None:
    """Else asyncio complains of an error that came when the caller had gone."""
    if not future.cancelled():
        future.exception()
