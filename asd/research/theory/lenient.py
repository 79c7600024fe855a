"""What a tolerant verifier saves and costs: quality and passes over the tolerance, live.

The largest stage reads recorded drafts of every smaller one and continues where it stops accepting
(`asd.engines.Acceptance`): a token passes while its probability is at least `tolerance` times the most
probable one's. Lossless first, where every answer is the verifier's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from asd.engines import Acceptance, Verifier, alone
from asd.engines.batches import call_in_batches
from asd.research.study.material import Material
from asd.research.study.record import StudyTable, Value
from asd.research.study.significance import compare
from asd.types import Action, Query, Trace, pair_name

__all__ = ["lenient_tables"]

TOLERANCES = (None, 0.5, 0.1, 0.01, 0.001, 0.0001)
N_ASKED = 50
"""Questions of each data set."""
BATCH = 16


@dataclass(frozen=True, slots=True)
class _Read:
    """One question at one tolerance: score, share of the draft accepted, forward passes of the verifier."""

    score: float
    accepted: float
    passes: float


def lenient_tables(material: Material, *, n_asked: int = N_ASKED) -> list[StudyTable]:
    """One row a drafter and tolerance; none where the largest stage cannot verify, or nobody can score."""
    largest = alone(material.engines[material.stages[-1]])
    if not isinstance(largest, Verifier) or not material.workloads:
        return []
    asked = [trace for outcomes in material.test for trace in outcomes.traces[:n_asked]]
    rows = [row for drafter in material.stages[:-1] for row in _rows(material, largest, drafter, asked)]
    largest.unload()
    return [
        StudyTable(
            name="lenient",
            title="A tolerant verifier: what it saves and what it costs",
            provenance="measured",
            measured_on=f"the first {n_asked} of each data set, {material.measured_on}",
            n=len(asked),
            columns=(
                *("drafter>verifier", "tolerance", "quality"),
                *("loss", "loss_low", "loss_high", "accepted", "passes"),
            ),
            rows=tuple(rows),
            note="Loss: quality below the lossless answers', paired, 95 % bootstrap interval. Accepted: mean "
            "share of a draft. Passes: forward passes of the verifier, reading included; a dash: lossless.",
        )
    ]


def _rows(
    material: Material, largest: Verifier, drafter: str, asked: Sequence[Trace]
) -> Iterator[tuple[Value, ...]]:
    rng = np.random.default_rng(material.seed)
    reading = _LenientReading(largest, drafter, asked, {w.name: w.score for w in material.workloads})
    reads = {tolerance: reading.at(tolerance) for tolerance in TOLERANCES}
    lossless = np.array([one.score for one in reads[None]])
    for tolerance, read in reads.items():
        lost = compare(lossless, np.array([one.score for one in read]), rng)
        quality, accepted, passes = (
            float(np.mean([getattr(one, what) for one in read])) for what in ("score", "accepted", "passes")
        )
        pair = pair_name(drafter, largest.stage_name)
        yield pair, tolerance, quality, lost.mean, lost.low, lost.high, accepted, passes


@dataclass(frozen=True, slots=True)
class _LenientReading:
    """One stage's recorded drafts under the largest stage's eyes; `score` by data set."""

    largest: Verifier
    drafter: str
    asked: Sequence[Trace]
    score: Mapping[str, Callable[[Query, str], float]]

    def at(self, tolerance: float | None) -> list[_Read]:
        """Every question once, in order."""
        acceptance = Acceptance(tolerance=tolerance)
        queries, found = [trace.query for trace in self.asked], dict[int, _Read]()
        action = Action.verify(self.largest.stage_name)
        for batch in call_in_batches(action, partial(self._read, acceptance), queries, BATCH):
            found |= batch
        return [found[i] for i in range(len(queries))]

    def _read(self, acceptance: Acceptance, batch: list[int]) -> list[_Read]:
        queries = [self.asked[i].query for i in batch]
        drafts = [self.asked[i].outcomes[self.drafter].draft for i in batch]
        found = self.largest.verify(queries, drafts, acceptance)
        answers = self.largest.continue_(queries, found, acceptance)
        return [
            _Read(
                self.score[query.dataset](query, answer.text),
                verification.n_accepted / max(1, len(verification.tokens)),
                verification.usage.n_passes + answer.usage.n_passes,
            )
            for query, verification, answer in zip(queries, found, answers, strict=True)
        ]
