"""Every state of recorded queries as a fitted evidence sees it: all that a policy could have met.

The result is an `asd.policy.estimate.EstimationTable`, so that rows which fitted nothing can be binned,
walked and turned into a stopping problem by the code that fits. Scope: states and costs; nothing is fitted
or decided.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from asd.errors import DataError
from asd.evidence import Evidence, Judgement
from asd.evidence.fitting import FittingRows
from asd.ladder import Ladder
from asd.policy.artifact import PolicyArtifact
from asd.policy.estimate import EstimationTable, move_usages
from asd.stopping.kernels import Binning
from asd.stopping.states import State, moves, states
from asd.types import Trace, pair_name

__all__ = ["coarse", "judged"]

IntArray = npt.NDArray[np.intp]


def judged(
    fitted: PolicyArtifact,
    ladder: Ladder,
    traces: Sequence[Trace],
    *,
    verify: bool = True,
    unit: float | None = None,
) -> EstimationTable:
    """All states of scored traces.

    Args:
        fitted: Supplies the evidence.
        ladder: Supplies the prices; the one the policy was fitted on.
        traces: Scored on every stage.
        verify: Whether states in which a larger stage has read an answer are among them.
        unit: Cost unit in the ladder's price unit (default: that of the fitting rows).

    Raises:
        DataError: No traces, or an answer without a score.
        PolicyMismatchError: The policy was fitted on another ladder.
    """
    fitted.check(ladder)
    if not traces:
        raise DataError("no traces to judge; run `asd collect` first")
    pairs = fitted.model.pairs if verify else ()
    unit = fitted.ladder.unit() if unit is None else unit
    evidence, prices = fitted.evidence(), ladder.prices_at()
    rows: dict[str, FittingRows] = {}
    best: dict[str, list[str]] = {}
    for state in states(fitted.model.stages, pairs):
        read = best.get("+".join(state.answered), [])
        seen = [_judge(evidence, trace, state, read[i] if read else None) for i, trace in enumerate(traces)]
        best[state.name] = [judgement.answer or "" for judgement in seen]
        rows[state.name] = _rows(seen, traces, _n_bins(fitted, state.name))
    costs = {
        move: move_usages(move, traces, best[move.source.name]) @ prices[move.stage].rates / unit
        for move in moves(fitted.model.stages, pairs)
    }
    return EstimationTable(rows, costs)


def _judge(evidence: Evidence, trace: Trace, state: State, read: str | None) -> Judgement:
    drafts = {stage: trace.outcomes[stage].draft for stage in state.answered}
    if state.verifier is None or read is None:
        return evidence.judge(trace.query, drafts)
    return evidence.judge(trace.query, drafts, trace.verifications[pair_name(read, state.verifier)])


def _rows(seen: Sequence[Judgement], traces: Sequence[Trace], n_bins: int) -> FittingRows:
    return FittingRows(
        n_bins,
        np.array([judgement.bin for judgement in seen]),
        np.array([judgement.p_good[judgement.answer] if judgement.answer else 0.0 for judgement in seen]),
        np.array([_score(trace, judgement.answer) for trace, judgement in zip(traces, seen, strict=True)]),
        np.array([judgement.scale for judgement in seen]),
    )


def _score(trace: Trace, answer: str | None) -> float:
    if answer is None:
        return 0.0
    score = trace.outcomes[answer].score
    if score is None:
        raise DataError(f"query {trace.query.id!r} of {trace.query.dataset!r}: {answer!r} has no score")
    return score


def _n_bins(fitted: PolicyArtifact, name: str) -> int:
    return next(len(node.p) for node in fitted.problem.nodes if node.name == name)


def coarse(table: EstimationTable, like: EstimationTable, n_bins: int) -> EstimationTable:
    """The same rows in at most `n_bins` bins a node: bins of equal mass on the rows of `like`."""
    return EstimationTable(
        {name: _coarse(rows, like.rows[name], n_bins) for name, rows in table.rows.items()}, table.costs
    )


def _coarse(rows: FittingRows, like: FittingRows, n_bins: int) -> FittingRows:
    # Bins are in ascending order of p everywhere, and the root's cells in that of their ease.
    binning = Binning.fit(like.bins.astype(float), n_bins)
    bins: IntArray = binning.index(rows.bins.astype(float))
    return FittingRows(binning.n_bins, bins, rows.p, rows.score, np.ones_like(rows.scale))
