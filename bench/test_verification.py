"""What larger stages say of smaller ones' drafts: tokens read and accepted, by pair of stages.

Counts, not seconds: they repeat on any machine that computes alike, and block there.
"""

from collections.abc import Callable
from itertools import combinations

from asd.measurement.records import Cell
from asd.types import pair_name
from bench.cells import verification_cell
from bench.session import Session

Record = Callable[[Cell], None]


def test_verification(session: Session, record: Record, dataset: str) -> None:
    outcomes = session.outcomes[dataset]
    pairs = [pair_name(*pair) for pair in combinations([s.name for s in outcomes.ladder.stages], 2)]
    read = {pair: found for pair in pairs if (found := outcomes.verifications(pair))}
    for pair, verifications in read.items():
        record(verification_cell(dataset, pair, verifications))
    assert bool(read) == outcomes.verified
