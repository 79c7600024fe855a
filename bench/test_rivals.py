"""Our decode loop, alone and with a drafter, beside transformers' `generate()`, alone and assisted.

Lossless, one question a call, all four taking turns (`bench.metrics.rivals`): like beside like.
"""

from functools import partial
from typing import Any

import pytest

from asd.engines import Drafted
from asd.measurement.records import Cell
from asd.measurement.timing import Turns
from bench.metrics.cells import rival_cell
from bench.metrics.measurements import Record
from bench.run.session import Session

N_ITEMS = 6
"""Of each dataset."""


@pytest.mark.live
def test_rivals(session: Session, record: Record) -> None:
    from asd.engines.hf.speculation import SpeculativeEngine  # noqa: PLC0415
    from bench.metrics.rivals import ASSISTED, OWN, PLAIN, SPECULATIVE, rival_turns  # noqa: PLC0415 - torch

    largest = session.engines[session.matrix.ladder.stages[-1].name]
    if not isinstance(largest, Drafted):
        pytest.skip(f"stage {largest.stage_name} has no drafter here: nothing to compare with")
    assert isinstance(largest, SpeculativeEngine)
    queries = [t.query for outcomes in session.outcomes.values() for t in outcomes.traces[:N_ITEMS]]
    turns = session.turns("rivals", lambda: rival_turns(largest, queries, session.clock))
    for own, rival in ((OWN, PLAIN), (SPECULATIVE, ASSISTED)):
        record(partial(_cell, turns, own, rival), turns)
    texts = turns.timings.results
    assert texts[OWN] == texts[SPECULATIVE] or not session.matrix.is_exact


def _cell(turns: Turns[Any, str], own: str, rival: str) -> Cell:
    return rival_cell(own, rival, turns.timings)
