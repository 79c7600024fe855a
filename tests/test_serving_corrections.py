"""Books that were wrong are put right: caps follow, and what was booked before is kept."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from asd.errors import CapReachedError, ConfigError, DataError
from asd.serving.corrections import Correction, correct
from asd.serving.ledger import Caps, Ledger
from asd.serving.spending import read_spending
from tests.books import TARIFF, asked, ms, ran


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def test_a_price_that_was_wrong_blocks_nobody_for_ever(path: Path):
    """Beside the server that runs: its cap has room again at once, for as much as was corrected."""
    with Ledger(path, TARIFF, Caps(total=ms(5))) as ledger:
        ledger.hold(asked("r1"))
        ledger.settle("r1", [ran("S", 5)])
        with pytest.raises(CapReachedError):
            ledger.hold(asked("r2", room=1))
        assert correct(path, "r1", ms(2), "the price was wrong") == Correction("r1", ms(5), ms(2))
        with pytest.raises(CapReachedError):
            ledger.hold(asked("r2", room=4))
        ledger.hold(asked("r2", room=3))
        ledger.audit()
        assert ledger.settle("r1", []).micros == ms(2)


def test_an_estimate_is_one_no_longer_and_a_second_correction_goes_by_the_first(path: Path):
    """All of them are kept, with when and why."""
    with Ledger(path, TARIFF) as ledger:
        ledger.hold(asked("r1"))
        ledger.settle_unknown("r1")
        correct(path, "r1", ms(4), "the engine says so", clock=lambda: 1.0)
        assert correct(path, "r1", 0, "it says nothing ran", clock=lambda: 2.0).before == ms(4)
        ledger.audit()
    [row] = read_spending(path).rows
    assert (row.micros, row.estimated_micros) == (0, 0)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT * FROM corrections").fetchall() == [
            ("r1", 1.0, ms(5), ms(4), "the engine says so"),
            ("r1", 2.0, ms(4), 0, "it says nothing ran"),
        ]


def test_what_cannot_be_corrected_is_refused(path: Path):
    """Requests that run or are not there, amounts that are none, no reason, no file."""
    with pytest.raises(DataError, match="no ledger at"):
        correct(path, "r1", 0, "why not")
    with Ledger(path, TARIFF) as ledger:
        ledger.hold(asked("r1"))
        for request, micros, reason, named in (
            ("r1", 0, "why not", "still runs"),
            ("r2", 0, "why not", "not in the books"),
            ("r1", -1, "why not", "not at -1"),
            ("r1", 2**60, "why not", "not at"),
            ("r1", 0, " ", "wants a reason"),
        ):
            with pytest.raises(ConfigError, match=named):
                correct(path, request, micros, reason)
        ledger.audit()
