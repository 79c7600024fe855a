"""Crowds of clients and kills: caps and books hold, and the command would see it if they did not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from asd.serving.admission import Call, RequestFacts
from asd.serving.ledger import Ledger
from asd.serving.tariff import Tariff
from asd.testing import FakeClock
from bench.ledger.__main__ import ledger
from bench.ledger.crowds import Crowd, schedule
from bench.ledger.kills import kills


@pytest.mark.parametrize("seed", range(3))
def test_no_crowd_passes_a_cap_and_the_books_are_the_count(tmp_path: Path, seed: int):
    """Some are refused and much of the cap is used: it was tried."""
    found = schedule(seed, tmp_path)
    assert found.faults == []
    assert found.n_refused > 0
    assert found.n_left > 0
    assert found.used > 0.02


def test_clients_run_in_the_shadow_only_what_is_covered():
    """Under a near cap a ticket covers none of it; a call beyond the ticket would be the client's fault."""

    class Ticket:
        def __init__(self, shadow: tuple[str, ...]) -> None:
            self.shadow = shadow

        async def settle(self, calls: Sequence[Call]) -> None:
            settled[bool(self.shadow)] += [call for call in calls if call.shadow]

    class Books:
        async def admit(self, facts: RequestFacts) -> Ticket:
            return Ticket(facts.shadow if facts.key == "alice" else ())

    settled: dict[bool, list[Call]] = {True: [], False: []}
    books: Any = Books()
    asyncio.run(Crowd(books, FakeClock(), {}, seed=0).run(32, 4))
    assert settled[True]
    assert not settled[False]


def test_holds_that_are_too_small_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With an eighth of the bound held, caps are passed."""
    bound = Tariff.bound
    monkeypatch.setattr(Tariff, "bound", lambda self, facts: bound(self, facts) // 8)
    assert any("spent of" in fault for seed in range(4) for fault in schedule(seed, tmp_path).faults)


def test_books_that_miss_a_call_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the first call of every request is forgotten, booked is not what was counted."""
    settle = Ledger.settle
    monkeypatch.setattr(Ledger, "settle", lambda self, request, calls: settle(self, request, calls[1:]))
    assert any("counted" in fault for fault in schedule(0, tmp_path).faults)


@pytest.mark.slow
def test_kills_lose_nothing_and_leave_nothing_held(tmp_path: Path):
    """With the engine's journal and without."""
    found = list(kills(4, tmp_path, seed=1, n_clients=8))
    assert [each.faults for each in found] == [[]] * 4
    assert sum(each.n_acknowledged for each in found) > 0
    assert sum(each.n_open for each in found) > 0


def test_the_command_prints_what_it_found():
    """And ends with 0 where everything held."""
    result = CliRunner().invoke(ledger, ["--schedules", "1", "--kills", "0"])
    assert result.exit_code == 0
    assert "1 schedules of 32 clients" in result.stdout
    assert "0 times a cap was passed or the books were wrong" in result.stdout
