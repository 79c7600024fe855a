"""What larger stages say of smaller ones' drafts: tokens read and accepted, passes, by pair of stages.

Counts, not seconds: they repeat on any machine that computes alike, and block there.
"""

from itertools import combinations

from asd.types import pair_name
from bench.metrics.cells import verification_cell
from bench.metrics.measurements import Record
from bench.run.session import Session


def test_verification(session: Session, record: Record, dataset: str) -> None:
    outcomes = session.outcomes[dataset]
    pairs = combinations([stage.name for stage in outcomes.ladder.stages], 2)
    read = {pair: found for pair in pairs if (found := outcomes.verifications(pair_name(*pair)))}
    for (drafter, verifier), verifications in read.items():
        alone = [trace.outcomes[verifier].draft.usage.alone for trace in outcomes.traces]
        record(verification_cell(dataset, pair_name(drafter, verifier), verifications, alone))
    assert bool(read) == outcomes.verified
