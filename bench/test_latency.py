"""Live passes: speed-up over the largest stage alone, and seconds, at every lambda.

All arms were timed in turns (`asd/evaluation/live.py`); each test hands its arm's seconds to
pytest-benchmark.
"""

from collections.abc import Callable

import pytest

from asd.measurement.records import Cell
from bench.cells import latency_cell
from bench.session import Session

Record = Callable[[Cell], None]

pytestmark = pytest.mark.live


def test_latency(
    session: Session, record: Record, clocked: Callable[..., None], dataset: str, lam: float
) -> None:
    timed = session.live(dataset).timed["optimal", lam]
    record(latency_cell(session.replay(dataset, "optimal", lam), timed, session.matrix.device))
    clocked(timed.seconds.ravel(), dataset=dataset, lam=lam, provenance="measured")


def test_latency_of_the_largest(
    session: Session, record: Record, clocked: Callable[..., None], dataset: str
) -> None:
    largest = f"always-{session.matrix.ladder.stages[-1].name}"
    timed = session.live(dataset).timed[largest, None]
    record(latency_cell(session.replay(dataset, largest), timed, session.matrix.device))
    clocked(timed.seconds.ravel(), dataset=dataset, stage=largest, provenance="measured")
