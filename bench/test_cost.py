"""Priced cost, tokens, passes and stage mix of the adaptive policy and of everything it is compared with."""

from bench.metrics.cells import cost_cell
from bench.metrics.measurements import Record
from bench.run.session import Session


def test_cost(session: Session, record: Record, dataset: str, lam: float) -> None:
    replay = session.replay(dataset, "optimal", lam)
    record(cost_cell(replay))
    assert (replay.cost > 0).all()


def test_cost_of_the_others(session: Session, record: Record, dataset: str) -> None:
    others = [replay for replay in session.replays(dataset) if replay.contender.name != "optimal"]
    for replay in others:
        record(cost_cell(replay))
    assert others
