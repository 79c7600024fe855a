"""Admission as the request path sees it: keys, rates and caps, whoever leaves whenever."""

from __future__ import annotations

import asyncio
import gc
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asd.errors import (
    CapReachedError,
    ConfigError,
    DataError,
    RateLimitedError,
    StorageError,
    UnknownKeyError,
)
from asd.serving import database
from asd.serving.admission import Admission, RequestCharge, Ticket
from asd.serving.cashier import Cashier
from asd.serving.keys import LOCAL, KeyLimits, Keyring
from asd.serving.ledger import Caps, Ledger
from asd.serving.spending import read_spending
from asd.testing import FakeClock
from tests.books import TARIFF, asked, ms, ran


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def keyring(path: Path) -> Iterator[Keyring]:
    with Keyring(path) as keyring:
        yield keyring


def test_a_request_is_admitted_and_settled(path: Path, keyring: Keyring):
    """By its key's alias; the ticket says what is held."""
    secret = keyring.add("alice").secret

    async def serve(admission: Admission) -> RequestCharge:
        alias = admission.authenticate(secret)
        ticket: Ticket = await admission.admit(asked("r1", alias))
        assert ticket.held == ms(5)
        first = await ticket.settle([ran("S", 2)])
        assert first == await ticket.release()
        return first

    with Cashier(path, TARIFF) as cashier:
        assert asyncio.run(serve(cashier)) == RequestCharge("r1", ms(2), 0, ms(5))
        asyncio.run(serve_and_release(cashier))
    assert [(row.n_requests, row.n_open, row.micros) for row in read_spending(path).rows] == [(2, 0, ms(2))]


async def serve_and_release(cashier: Cashier) -> None:
    assert (await (await cashier.admit(asked("r2"))).release()).micros == 0


def test_who_needs_a_key_and_who_does_not(path: Path, keyring: Keyring):
    """Without keys whatever else a client sends is no key of ours; ours are looked at all the same."""
    alice, revoked = keyring.add("alice").secret, keyring.add("bob").secret
    keyring.revoke("bob")
    with Cashier(path, TARIFF) as cashier:
        assert cashier.authenticate(alice) == "alice"
        for secret in (None, "", "sk-none", revoked):
            with pytest.raises(UnknownKeyError) as refused:
                cashier.authenticate(secret)
            assert secret is None or len(secret) < 20 or secret not in str(refused.value)
    with Cashier(path, TARIFF, keyless=True) as cashier:
        assert [cashier.authenticate(secret) for secret in (None, "", "sk-none")] == ["local"] * 3
        assert cashier.authenticate(alice) == "alice"
        with pytest.raises(UnknownKeyError, match="revoked"):
            cashier.authenticate(revoked)
        assert asyncio.run(cashier.admit(asked("r1", "local"))).held == ms(5)


def test_a_key_that_no_one_has_authenticated_is_a_mistake(path: Path):
    """Facts hold an alias, not what a client has sent."""
    with Cashier(path, TARIFF, keyless=True) as cashier, pytest.raises(ConfigError, match="no key 'carol'"):
        asyncio.run(cashier.admit(asked("r1", "carol")))


def test_tokens_that_a_request_did_not_use_come_back(path: Path, keyring: Keyring):
    """All of them where it was refused or released; where it ran, those beyond its longest call."""
    keyring.add(
        "alice", KeyLimits(tokens_per_minute=30, cap_day=ms(20))
    )  # a request: 7 of the prompt, and room
    monotonic = FakeClock()

    async def requests(cashier: Cashier) -> None:
        ticket = await cashier.admit(asked("r1", room=20))
        with pytest.raises(RateLimitedError):
            await cashier.admit(asked("r2", room=1))
        await ticket.release()
        ticket = await cashier.admit(asked("r3", room=20))
        await ticket.settle([ran("S", 5)])  # 12 are used
        with pytest.raises(CapReachedError):
            await cashier.admit(asked("r4", room=11, stages="L"))
        ticket = await cashier.admit(asked("r5", room=11))
        with pytest.raises(RateLimitedError):
            await cashier.admit(asked("r6", room=1))
        monotonic.advance(60)
        await ticket.settle([])
        await cashier.admit(asked("r7", room=1))

    with Cashier(path, TARIFF, monotonic=monotonic) as cashier:
        asyncio.run(requests(cashier))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_client_that_leaves_at_any_moment_leaves_no_hold(path: Path, keyring: Keyring, seed: int):
    """Cancelled while it is admitted, while it runs, while it is settled; 40 clients each."""
    keyring.add("alice", KeyLimits(cap_day=ms(60)))
    rng, counted = random.Random(seed), [0]

    async def client(cashier: Cashier, name: str) -> None:
        ticket = await cashier.admit(asked(name))
        calls = []
        try:
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
                calls = [ran("S", 3)]
        finally:
            counted[0] += ms(3) * len(calls)
            await ticket.settle(calls)

    complaints: list[dict[str, Any]] = []

    async def leave(cashier: Cashier) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        tasks = [asyncio.create_task(client(cashier, str(i))) for i in range(40)]
        for task in rng.sample(tasks, 30):
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(rng.choice([0, 0.0005]))
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(e) for e in ended} <= {type(None), CapReachedError, asyncio.CancelledError}
        await (await cashier.admit(asked("last", "local"))).release()  # all before it is done
        gc.collect()

    with Cashier(path, TARIFF, keyless=True) as cashier:
        asyncio.run(leave(cashier))
    assert complaints == []
    [row, _] = read_spending(path).rows
    assert (row.n_open, row.held_micros, row.micros) == (0, 0, counted[0])
    with Ledger(path, TARIFF) as ledger:
        assert ledger.recover() == []
        ledger.audit()


def test_what_the_last_server_left_open_is_settled_before_anything_else(path: Path):
    """The new one says what it was; another one cannot start beside it."""
    with Ledger(path, TARIFF) as ledger:
        ledger.hold(asked("r1", "local"))
        ledger.hold(asked("r2", "local"))
    with Cashier(path, TARIFF, Caps(total=ms(4)), journal={"r2": [ran("S", 2)]}, keyless=True) as cashier:
        assert [settled.micros for settled in cashier.recovered] == [0, ms(2)]
        with pytest.raises(StorageError, match="another process is serving"):
            Cashier(path, TARIFF)
        with pytest.raises(CapReachedError):
            asyncio.run(cashier.admit(asked("r3", "local", room=3)))
    with Cashier(path, TARIFF) as cashier:
        assert cashier.recovered == []


def test_a_start_that_fails_lets_go_of_the_file(path: Path):
    """So that the same process can try again with what was missing."""
    with Ledger(path, TARIFF) as ledger:
        ledger.hold(asked("r1", "local"))
    with pytest.raises(ConfigError, match="no price"):
        Cashier(path, TARIFF, journal={"r1": [ran("XL", 2)]})
    with Cashier(path, TARIFF, journal={"r1": [ran("S", 2)]}) as cashier:
        assert [settled.micros for settled in cashier.recovered] == [ms(2)]


def test_what_was_asked_for_is_booked_before_the_end(path: Path, keyring: Keyring):
    """However much of it waits for the ledger's thread."""
    keyring.add("alice")
    facts = [asked(f"r{i}") for i in range(30)]
    with Cashier(path, TARIFF) as cashier:

        async def admit_all() -> None:
            for one in facts:
                await cashier.admit(one)

        asyncio.run(admit_all())
        for one in facts:
            cashier.book(one, [ran("S", 1)])
    [row] = read_spending(path).rows
    assert (row.n_open, row.micros) == (0, ms(30))


def test_a_settlement_that_could_not_be_written_can_be_tried_again(
    path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
):
    """Until then the hold stands."""
    keyring.add("alice")
    monkeypatch.setattr(database, "BUSY_S", 0.01)

    async def settle_twice(cashier: Cashier) -> None:
        ticket = await cashier.admit(asked("r1"))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            await ticket.settle([ran("S", 2)])
        other.close()
        assert (await ticket.settle([ran("S", 2)])).micros == ms(2)

    with Cashier(path, TARIFF) as cashier:
        asyncio.run(settle_twice(cashier))
    assert read_spending(path).micros == ms(2)


def test_a_missing_ledger_is_told(tmp_path: Path):
    """Reading makes none."""
    with pytest.raises(DataError, match="no ledger at"):
        read_spending(tmp_path / "missing.db")
    assert list(tmp_path.iterdir()) == []


def test_who_may_see_all_spend(path: Path, keyring: Keyring):
    """An operator's key, and who needs no key; neither another key nor an alias that nobody has."""
    keyring.add("alice")
    keyring.add("ops", operator=True)
    with Cashier(path, TARIFF) as cashier:
        seen = {alias: cashier.is_operator(alias) for alias in ("ops", LOCAL, "alice", "nobody")}
    assert seen == {"ops": True, LOCAL: True, "alice": False, "nobody": False}
