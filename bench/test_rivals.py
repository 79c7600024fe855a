"""Our decode loop, alone and with a drafter, beside transformers' `generate()`, alone and assisted.

Lossless, one question a call, all four taking turns (`bench.rivals`): like beside like.
"""

from collections.abc import Callable

import pytest

from asd.engines import Drafted
from asd.evaluation.live import N_SPARE
from asd.measurement.records import Cell
from bench.cells import rival_cell
from bench.session import Session

Record = Callable[[Cell], None]

N_ITEMS = 6
"""Of each dataset."""


@pytest.mark.live
def test_rivals(session: Session, record: Record) -> None:
    from asd.engines.hf.speculation import SpeculativeEngine  # noqa: PLC0415
    from bench.rivals import ASSISTED, OWN, PLAIN, SPECULATIVE, time_rivals  # noqa: PLC0415 - torch

    largest = session.engines[session.matrix.ladder.stages[-1].name]
    if not isinstance(largest, Drafted):
        pytest.skip(f"stage {largest.stage_name} has no drafter here: nothing to compare with")
    assert isinstance(largest, SpeculativeEngine)
    queries = [t.query for outcomes in session.outcomes.values() for t in outcomes.traces[:N_ITEMS]]
    timings = time_rivals(largest, queries, clock=session.clock, n_spare=N_SPARE)
    for own, rival in ((OWN, PLAIN), (SPECULATIVE, ASSISTED)):
        record(rival_cell(own, rival, timings))
    assert timings.results[OWN] == timings.results[SPECULATIVE]
