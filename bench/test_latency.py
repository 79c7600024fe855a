"""Live passes: speed-up over the largest stage alone, and seconds, at every lambda.

All arms were timed in turns (`asd/evaluation/live.py`); each test hands its arm's seconds to
pytest-benchmark.
"""

from collections.abc import Callable

import pytest

from bench.metrics.cells import latency_cell
from bench.metrics.measurements import Record
from bench.run.session import Session, Setting

pytestmark = pytest.mark.live


def test_latency(
    session: Session, record: Record, clocked: Callable[..., None], dataset: str, lam: float
) -> None:
    _time(session, record, clocked, dataset, ("optimal", lam))


def test_latency_of_the_largest(
    session: Session, record: Record, clocked: Callable[..., None], dataset: str
) -> None:
    _time(session, record, clocked, dataset, session.largest)


def _time(
    session: Session, record: Record, clocked: Callable[..., None], dataset: str, setting: Setting
) -> None:
    live, replay = session.live(dataset), session.replay(dataset, *setting)
    record(lambda: latency_cell(replay, live.timed[setting], session.matrix.device), live.turns)
    policy, lam = setting
    clocked(live.timed[setting].seconds.ravel(), dataset=dataset, policy=policy, lam=lam)
