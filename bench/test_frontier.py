"""The frontier: what each cost buys, against mixing single stages; and the headline speed-ups.

That the frontier does not retreat from the stored one is judged from quality and cost in
`bench/gate/frontier.py`.
"""

import pytest

from asd.evaluation.replay import Contender
from asd.policies import FixedStage
from bench.metrics.cells import frontier_cell, headline_cell, sweep_cell
from bench.metrics.headline import headline, live_turns
from bench.metrics.measurements import Record
from bench.run.session import Session


def test_frontier(session: Session, record: Record, dataset: str, lam: float) -> None:
    # with the drafters that the policy's stages have: else their saving would count as the policy's
    singles = [Contender(s.name, None, FixedStage(s.name)) for s in session.matrix.ladder.stages]
    fixed = [session.outcomes[dataset].walk(single) for single in singles]
    replay = session.replay(dataset, "optimal", lam)
    record(frontier_cell(replay, fixed))
    assert replay.contender.lam == lam


@pytest.mark.live
def test_sweep(session: Session, record: Record, dataset: str) -> None:
    sweep = [session.replay(dataset, "optimal", lam) for lam in session.matrix.lams]
    live = session.live(dataset)
    record(sweep_cell(dataset, sweep, live))
    assert live.n_arms >= 1


@pytest.mark.live
def test_headline(session: Session, record: Record) -> None:
    for name in session.settings:
        record(lambda name=name: headline_cell(headline(session, name)), *live_turns(session))
    assert session.settings


@pytest.mark.live
def test_near_ties(session: Session) -> None:
    """Outside float32 an answer may differ where two tokens are nearer than rounding, and nowhere else."""
    found = {name: headline(session, name).ties for name in session.settings}
    too_wide = {name: ties.widest for name, of in found.items() for ties in of if ties.widest > ties.rounding}
    assert not too_wide, f"answers differ by more nats than {session.matrix.hardware.dtype} rounds by"
