"""The books: held, booked, freed, recovered; caps on every key and on all, by day and for ever."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asd.errors import CapReachedError, ConfigError, DataError, StorageError
from asd.prices import Money
from asd.serving import database
from asd.serving.admission import RequestCharge
from asd.serving.keys import KeyLimits, Keyring
from asd.serving.ledger import Caps, Ledger
from asd.serving.spending import Spend, micros_of, read_spending
from asd.serving.tariff import Tariff
from asd.testing import FakeClock
from tests.books import LADDER, TARIFF, asked, ms, ran

DAY = 86_400.0


def changed(path: Path, statement: str) -> None:
    """Somebody else changes the file."""
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(20_000 * DAY + 3600)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path, clock: FakeClock) -> Iterator[Ledger]:
    with Ledger(path, TARIFF, clock=clock) as ledger:
        yield ledger


def test_a_hold_is_the_bound_and_the_end_books_what_ran(ledger: Ledger, path: Path):
    """The rest is freed; what ran in the shadow is booked and shown as such."""
    assert ledger.hold(asked("r1", stages="SL", shadow="L")) == ms(5 + 50 + 50)
    [before] = read_spending(path).rows
    assert (before.n_open, before.micros, before.held_micros) == (1, 0, ms(105))
    settled = ledger.settle("r1", [ran("S", 3), ran("L", 2, shadow=True)])
    assert settled == RequestCharge("r1", ms(23), ms(20), held=ms(105))
    assert read_spending(path).rows == (Spend("2024-10-04", "alice", 1, 0, ms(23), ms(20), 0, 0),)
    ledger.audit()


@pytest.mark.parametrize(
    ("uncounted", "micros", "estimated"), [(0, 3, False), (1, 4, True), (52, 55, True), (90, 55, True)]
)
def test_what_nobody_has_counted_is_booked_up_to_the_hold(
    ledger: Ledger, uncounted: int, micros: int, estimated: bool
):
    """Which holds for everything that the request may have run; beyond it a cap could be passed."""
    assert ledger.hold(asked("r1", stages="SL")) == ms(55)
    settled = ledger.settle("r1", [ran("S", 3)], ms(uncounted))
    assert (settled.micros, settled.estimated) == (ms(micros), estimated)
    ledger.audit()


def test_the_end_comes_once(ledger: Ledger, path: Path):
    """A second one returns what the first has booked; nothing ran: nothing is booked."""
    ledger.hold(asked("r1"))
    first = ledger.settle("r1", [ran("S", 3)])
    assert ledger.settle("r1", [ran("S", 5)]) == ledger.settle("r1", []) == first
    ledger.hold(asked("r2"))
    assert ledger.settle("r2", []).micros == 0
    assert read_spending(path).micros == ms(3)


def test_a_cap_counts_what_is_spent_and_what_may_still_be(path: Path, clock: FakeClock):
    """Exactly up to the cap, not a micro-unit more; a request that ends for less makes room."""
    with Ledger(path, TARIFF, Caps(day=ms(10)), clock) as ledger:
        ledger.hold(asked("r1"))
        ledger.hold(asked("r2"))
        with pytest.raises(CapReachedError) as refused:
            ledger.hold(asked("r3", room=1))
        assert refused.value.retry_after_s == 1.0
        ledger.settle("r1", [ran("S", 2)])
        ledger.hold(asked("r3", room=3))
        with pytest.raises(CapReachedError):
            ledger.hold(asked("r4", room=1))
        ledger.settle("r2", [ran("S", 5)])
        ledger.settle("r3", [ran("S", 3)])
        with pytest.raises(CapReachedError) as refused:
            ledger.hold(asked("r4", room=1))
        assert refused.value.retry_after_s == DAY - 3600
        ledger.audit()


def test_a_day_ends_at_midnight_and_a_total_never(path: Path, clock: FakeClock):
    """A request that runs over midnight belongs to the day on which it was admitted."""
    with Ledger(path, TARIFF, Caps(day=ms(5), total=ms(9)), clock) as ledger:
        ledger.hold(asked("r1"))
        clock.advance(DAY)
        ledger.hold(asked("r2", room=4))
        ledger.settle("r1", [ran("S", 5)])
        ledger.settle("r2", [ran("S", 4)])
        clock.advance(DAY)
        with pytest.raises(CapReachedError, match="9 ms in total") as refused:
            ledger.hold(asked("r3", room=1))
        assert refused.value.retry_after_s is None
    assert [(row.day, row.micros) for row in read_spending(path).rows] == [
        ("2024-10-04", ms(5)),
        ("2024-10-05", ms(4)),
    ]


def test_every_key_has_caps_of_its_own_beside_those_of_all(path: Path, clock: FakeClock):
    """One key's cap stops it alone; that of all keys stops everybody, and says nothing of the others."""
    with Keyring(path, clock) as keyring, Ledger(path, TARIFF, Caps(total=ms(20)), clock) as ledger:
        keyring.add("alice", KeyLimits(cap_day=ms(5)))
        keyring.add("bob", KeyLimits(cap_total=0))
        ledger.hold(asked("r1", room=4))
        with pytest.raises(CapReachedError, match="'alice' may spend 5 ms a day: 0 are spent and 4 held"):
            ledger.hold(asked("r2"))
        with pytest.raises(CapReachedError, match="'bob' may spend 0 ms in total"):
            ledger.hold(asked("r3", "bob", room=1))
        ledger.hold(asked("r4", "carol", room=16))
        with pytest.raises(CapReachedError) as refused:
            ledger.hold(asked("r5", "dave", room=1))
        assert str(refused.value) == ("this server may spend 20 ms in total; this request may cost up to 1")
        keyring.limit("alice", KeyLimits(cap_day=ms(6)))
        ledger.settle("r4", [])
        ledger.hold(asked("r6", room=2))


def test_what_never_fits_is_not_told_to_wait(path: Path, clock: FakeClock):
    """A bound above the cap itself."""
    with Ledger(path, TARIFF, Caps(day=ms(4)), clock) as ledger:
        with pytest.raises(CapReachedError) as refused:
            ledger.hold(asked("r1"))
        assert refused.value.retry_after_s is None


def test_a_refused_request_leaves_no_trace(path: Path, clock: FakeClock):
    """It may come again under the same id; one that was admitted may not."""
    with Ledger(path, TARIFF, Caps(day=ms(5)), clock) as ledger:
        with pytest.raises(CapReachedError):
            ledger.hold(asked("r1", room=6))
        ledger.hold(asked("r1"))
        ledger.settle("r1", [])
        with pytest.raises(ConfigError, match="request 'r1' before"):
            ledger.hold(asked("r1"))
        with pytest.raises(ConfigError, match="stage 'X' has no price"):
            ledger.hold(asked("r2", stages="X"))
        with pytest.raises(ConfigError, match=r"could cost 1e\+10 ms; ask for less"):
            ledger.hold(asked("r2", room=10**10))
        with pytest.raises(DataError, match="no request 'r2'"):
            ledger.settle("r2", [])
        ledger.audit()


def test_a_request_that_cost_more_than_its_bound_is_booked_as_it_was(
    ledger: Ledger, path: Path, caplog: pytest.LogCaptureFixture
):
    """The engine broke its promise: the books say what was spent, and the log says so."""
    ledger.hold(asked("r1"))
    assert ledger.settle("r1", [ran("S", 9)]).micros == ms(9)
    assert "more than its bound" in caplog.text
    ledger.audit()


def test_open_holds_are_settled_at_the_start_by_what_the_engine_has_counted(path: Path, clock: FakeClock):
    """A request that the journal does not know made no call; what is settled stays."""
    with Ledger(path, TARIFF, clock=clock) as ledger:
        for name in ("r1", "r2", "r3"):
            ledger.hold(asked(name))
        ledger.settle("r1", [ran("S", 1)])
    with Ledger(path, TARIFF, clock=clock) as ledger:
        assert ledger.recover({"r1": [ran("S", 5)], "r2": [ran("S", 4)]}) == [
            RequestCharge("r2", ms(4), 0, ms(5)),
            RequestCharge("r3", 0, 0, ms(5)),
        ]
        assert ledger.recover({}) == []
        ledger.audit()
    assert read_spending(path).micros == ms(5)


def test_open_holds_that_nobody_has_counted_are_booked_at_their_bound(path: Path, clock: FakeClock):
    """Marked as estimated, also in the table of spend."""
    with Ledger(path, TARIFF, clock=clock) as ledger:
        ledger.hold(asked("r1"))
        ledger.hold(asked("r2"))
        ledger.settle("r2", [ran("S", 1)])
    with Ledger(path, TARIFF, clock=clock) as ledger:
        assert ledger.recover() == [RequestCharge("r1", ms(5), 0, ms(5), estimated=True)]
        ledger.audit()
    [row] = read_spending(path).rows
    assert (row.micros, row.estimated_micros, row.n_open, row.held_micros) == (ms(6), ms(5), 0, 0)


def test_one_server_at_a_time_keeps_a_ledger(ledger: Ledger, path: Path):
    """A second one would settle what runs in the first; tables and keys can be read and changed beside it."""
    with pytest.raises(StorageError, match="another process is serving with"):
        Ledger(path, TARIFF)
    ledger.hold(asked("r1"))
    with Keyring(path) as keyring:
        keyring.add("alice")
    assert read_spending(path).rows[0].n_open == 1


def test_a_ledger_has_one_price_unit(path: Path):
    """Milliseconds are not added to dollars; what a unit is worth may change."""
    Ledger(path, TARIFF).close()
    with pytest.raises(ConfigError, match="amounts in ms, the ladder's prices are in usd"):
        Ledger(path, Tariff(replace(LADDER, price_unit="usd")))
    Ledger(path, Tariff(replace(LADDER, money=Money("USD", 1.5)))).close()
    assert read_spending(path).money == Money("USD", 1.5)
    Ledger(path, Tariff(replace(LADDER, money=None))).close()
    assert read_spending(path).worth(5) is None


def test_books_that_do_not_add_up_are_found(ledger: Ledger, path: Path):
    """A balance, a request and a call that somebody changed."""
    ledger.hold(asked("r1"))
    ledger.settle("r1", [ran("S", 3)])
    ledger.hold(asked("r2"))
    for what in ("balances SET micros =", "balances SET held =", "calls SET micros ="):
        column = what.split()[2]
        changed(path, f"UPDATE {what} {column} + 1")
        with pytest.raises(DataError, match=r"differ at"):
            ledger.audit()
        changed(path, f"UPDATE {what} {column} - 1")
    ledger.audit()


def test_a_locked_file_is_told_and_nothing_is_half_booked(path: Path, monkeypatch: pytest.MonkeyPatch):
    """The hold stays open until it can be settled."""
    monkeypatch.setattr(database, "BUSY_S", 0.01)
    with Ledger(path, TARIFF) as ledger:
        ledger.hold(asked("r1"))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            ledger.settle("r1", [ran("S", 3)])
        other.close()
        assert ledger.settle("r1", [ran("S", 3)]).micros == ms(3)
        ledger.audit()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 40),
    st.integers(0, 60),
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(1, 12),
            st.integers(0, 12),
            st.sampled_from(["end", "leave open", "midnight"]),
        ),
        max_size=15,
    ),
)
def test_no_order_of_events_passes_a_cap(
    tmp_path_factory: pytest.TempPathFactory,
    of_day: int,
    of_all: int,
    events: list[tuple[str, int, int, str]],
):
    """Against sums kept beside it: a request is refused where, and only where, a cap could be passed."""
    path, clock = tmp_path_factory.mktemp("books") / "ledger.db", FakeClock(DAY)
    spent: list[tuple[str, int, int]] = []  # key, day, the most that it can still become
    with Keyring(path, clock) as keyring, Ledger(path, TARIFF, Caps(total=ms(of_all)), clock) as ledger:
        for key in "abc":
            keyring.add(key, KeyLimits(cap_day=ms(of_day)))
        for i, (key, room, used, what) in enumerate(events):
            day = int(clock() // DAY)
            today = sum(most for of, on, most in spent if (of, on) == (key, day))
            fits = today + room <= of_day and sum(most for _, _, most in spent) + room <= of_all
            try:
                ledger.hold(asked(str(i), key, room))
            except CapReachedError:
                assert not fits
                continue
            assert fits
            ends = what != "leave open"
            if ends:
                ledger.settle(str(i), [ran("S", min(used, room))] if used else [])
            spent.append((key, day, min(used, room) if ends else room))
            clock.advance(DAY if what == "midnight" else 1)
        ledger.audit()


@pytest.mark.parametrize(
    ("typed", "micros"),
    [("2.5", ms(2.5)), ("0", 0), ("2.5ms", ms(2.5)), ("3 EUR", ms(1500)), ("0.000001", 1), ("0.0000019", 1)],
)
def test_amounts_are_read_in_price_units_and_in_money(typed: str, micros: int):
    """At what the ladder says that a unit is worth; rounded down, as a cap."""
    assert micros_of(typed, LADDER.price_unit, LADDER.money) == micros


@pytest.mark.parametrize("typed", ["", "-1", "nan", "1e3", "2,5", "5 USD", "EUR", "5eur", "1 ms EUR"])
def test_what_is_no_amount_is_refused(typed: str):
    """Signs, exponents, commas, other currencies, no number."""
    with pytest.raises(ConfigError):
        micros_of(typed, LADDER.price_unit, LADDER.money)
