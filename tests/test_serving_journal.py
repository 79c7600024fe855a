"""What an engine has counted outlives a kill, whole line by whole line."""

from __future__ import annotations

from pathlib import Path

import pytest

from asd.errors import DataError, StorageError
from asd.serving.admission import Call
from asd.serving.journal import Journal, read_journal
from asd.types import Usage

SMALL, LARGE = Call("S", Usage(3, 5, 5)), Call("L", Usage(3, 0, 1, 5), shadow=True)


def test_calls_are_read_by_request_in_their_order(tmp_path: Path):
    """From several openings of one journal; what is noted is there without closing it."""
    path = tmp_path / "journal"
    first = Journal(path)
    first.note("r1", SMALL)
    assert read_journal(path) == {"r1": [SMALL]}
    first.close()
    second = Journal(path)
    second.note("r2", LARGE)
    second.note("r1", LARGE)
    assert read_journal(path) == {"r1": [SMALL, LARGE], "r2": [LARGE]}
    second.close()


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path):
    """At every byte; and what is noted after it is a line of its own."""
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.note("r1", SMALL)
    whole = path.read_bytes()
    journal.close()
    for n in range(len(whole)):
        path.write_bytes(whole + whole[:n])
        assert read_journal(path) == {"r1": [SMALL]}
        journal = Journal(path)
        journal.note("r2", LARGE)
        journal.close()
        assert read_journal(path) == {"r1": [SMALL], "r2": [LARGE]}


def test_what_is_no_journal_is_refused(tmp_path: Path):
    """Missing, a folder, other lines, unknown fields."""
    path = tmp_path / "journal"
    with pytest.raises(DataError, match="cannot be read"):
        read_journal(path)
    with pytest.raises(StorageError, match="cannot be opened"):
        Journal(tmp_path)
    for line in ("not JSON\n", '{"request": "r1"}\n', '{"request": "r", "stage": "S", "usage": 1}\n'):
        path.write_text(line)
        with pytest.raises(DataError, match=":1 is no line of a journal"):
            read_journal(path)
