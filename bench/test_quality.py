"""Quality of the adaptive policy at every lambda, beside everything it is compared with."""

from bench.metrics.cells import quality_cell
from bench.metrics.measurements import Record
from bench.run.session import Session


def test_quality(session: Session, record: Record, dataset: str, lam: float) -> None:
    replay = session.replay(dataset, "optimal", lam)
    record(quality_cell(replay))
    assert len(replay.quality) == len(session.outcomes[dataset].traces)


def test_quality_of_the_others(session: Session, record: Record, dataset: str) -> None:
    others = [replay for replay in session.replays(dataset) if replay.contender.name != "optimal"]
    for replay in others:
        record(quality_cell(replay))
    assert others
