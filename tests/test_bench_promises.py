"""Faults, leaving clients, stops and kills over HTTP: nothing is lost, and the command would see it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from asd.cancellation import CancelToken
from asd.serving.ledger import Ledger
from bench.promises import tries
from bench.promises.__main__ import promises
from bench.promises.clients import RequestEnd
from bench.promises.stages import FAULTS

pytestmark = pytest.mark.slow


def test_under_faults_every_request_is_answered_or_refused_by_its_deadline() -> None:
    """All kinds of faults are met; a machine that others use too may be late, by less than a deadline."""
    found = tries.faults(80, 8, seed=1)
    assert found.ends["lost"] == 0
    assert found.ends["answered"] > 0
    assert sum(found.ends.values()) == 80
    assert len(found.met) >= len(FAULTS) // 2
    assert np.quantile(found.late_s, 0.9) < 0.3


def test_clients_that_leave_leave_nothing_and_their_stages_stop() -> None:
    left = tries.leavers(40, 60, seed=1)
    assert 0 < left.n_begun <= 40
    assert np.quantile(left.aborted_s, 0.99) < 1
    assert left.tasks <= 0
    assert left.descriptors <= 5


def test_a_server_that_cancels_nothing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stage stops within the time that is left for it."""
    monkeypatch.setattr(CancelToken, "cancel", lambda _: None)
    monkeypatch.setattr("bench.promises.stages.ENDLESS_S", 1.0)
    assert tries.leavers(10, 5, seed=1).aborted_s == []


def test_a_stop_breaks_nothing_that_was_sent_before(tmp_path: Path) -> None:
    found = tries.stop(tmp_path / "ledger.db", 6, seed=1)
    assert found.faults == []
    assert found.ends["answered"] > 0


def test_a_kill_loses_no_answer_and_leaves_nothing_held(tmp_path: Path) -> None:
    found = tries.kill(tmp_path / "ledger.db", 32, seed=1)
    assert found.faults == []
    assert found.ends["answered"] > 0
    assert found.ends["recovered, estimated"] > 0


def test_an_answer_that_is_not_in_the_books_is_seen() -> None:
    """Nor one that is booked at less, or at more without being an estimate."""
    body = b'{"asd": {"id": "r1", "cost": 2.5}}'
    ended = RequestEnd(200, True, 0.1, body)
    assert tries._not_booked(ended, {}) != []
    assert tries._not_booked(ended, {"r1": (2_400_000, True)}) != []
    assert tries._not_booked(ended, {"r1": (2_600_000, False)}) != []
    assert tries._not_booked(ended, {"r1": (2_600_000, True)}) == []
    assert tries._not_booked(ended, {"r1": (2_500_000, False)}) == []


def test_books_that_forget_what_was_open_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "recover", lambda *_: [])
    assert any("still held" in fault for fault in tries.kill(tmp_path / "ledger.db", 32, seed=1).faults)


def test_the_command_prints_what_it_found_and_fails_where_a_promise_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ["--requests", "10", "--leavers", "10", "--clients", "5", "--stops", "0", "--kills", "0"]
    result = CliRunner().invoke(promises, asked)
    assert result.exit_code == 0, result.output
    assert "10 requests:" in result.stdout
    assert "within deadline + 50 ms" in result.stdout
    assert "10 clients left" in result.stdout
    monkeypatch.setattr("bench.promises.__main__.MOST_ABORT_S", 0.0)
    assert CliRunner().invoke(promises, asked).exit_code == 1
