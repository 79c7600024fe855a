"""Outcomes as the predictors are compared on: prompts, scores, costs and what each answer says about itself.

Made from recorded outcomes (`asd.research.recordings.recording`, which reads the files) or from this
package's own traces. Scope: one table into another; nothing is read from disk and nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asd.errors import DataError
from asd.evidence.features import ANSWER_FEATURES, answer_features
from asd.ladder import Ladder
from asd.quality.answers import answer_of
from asd.research.recordings.recording import Recording
from asd.types import Trace

__all__ = ["RECORDED_ANSWER", "RecordedOutcomes", "from_recording", "from_traces", "scored_on"]

Array = npt.NDArray[np.float64]

RECORDED_ANSWER = ("confidence", "has_confidence", "log_length", "agreement")
"""What a recorded answer says: its raw confidence (0 where none was recorded, -100 for minus infinity),
whether one was, log(1 + words), and its mean agreement with smaller stages' answers (0 for the smallest)."""

_LEAST_CONFIDENCE = -100.0


@dataclass(frozen=True, slots=True, eq=False)
class RecordedOutcomes:
    """n queries on K stages.

    Attributes:
        stages: In ladder order.
        prompts: One a query.
        scores: Quality in [0, 1], shape (n, K).
        costs: In units of the largest stage's mean, shape (n, K).
        answers: Features of the answers, shape (n, K, d).
        n_left_out: Queries without a score or cost of every stage.
    """

    stages: tuple[str, ...]
    prompts: tuple[str, ...]
    scores: Array
    costs: Array
    answers: Array
    n_left_out: int


def from_recording(recording: Recording) -> RecordedOutcomes:
    """Recorded outcomes of stages in ladder order, with `RECORDED_ANSWER` of every answer.

    Raises:
        DataError: The prompts were not recorded, or the largest stage costs nothing.
    """
    if n_without := sum(not prompt for prompt in recording.prompts):
        raise DataError(f"{n_without} queries have no prompt to predict from")
    unit = _unit(recording.costs, recording.stages)
    known = ~np.isnan(recording.confidence)
    confidence = np.where(known, np.maximum(recording.confidence, _LEAST_CONFIDENCE), 0.0)
    length = np.log1p(np.nan_to_num(recording.words))
    answers = np.stack([confidence, known, length, _agreement(recording.agreement)], axis=2)
    return RecordedOutcomes(
        stages=recording.stages,
        prompts=tuple(recording.prompts),
        scores=recording.scores,
        costs=recording.costs / unit,
        answers=answers,
        n_left_out=recording.counts.n_queries - recording.counts.n_used,
    )


def _unit(costs: Array, stages: Sequence[str]) -> float:
    """Mean cost of a call of the last stage; `DataError` where it is free."""
    unit = float(costs[:, -1].mean())
    if not unit > 0.0:
        raise DataError(f"stage {stages[-1]!r} costs {unit:g} on average; declare what a call costs")
    return unit


def _agreement(pairs: Array) -> Array:
    """Mean agreement of every answer with those of earlier stages, pairs of shape (n, K, K) to (n, K)."""
    k = pairs.shape[1]
    earlier = np.tri(k, k=-1) / np.maximum(np.arange(k), 1)[:, None]
    return np.asarray((np.nan_to_num(pairs) * earlier).sum(axis=2))


def from_traces(traces: Sequence[Trace], ladder: Ladder) -> RecordedOutcomes:
    """The same table from own traces: per-token features of each answer, and agreement with smaller stages.

    Raises:
        DataError: No query is scored on every stage.
    """
    stages = tuple(stage.name for stage in ladder.stages)
    scored = scored_on(traces, stages)
    drafts = [[trace.outcomes[stage].draft for stage in stages] for trace in scored]
    said = [
        [answer_of(trace.query.form, draft.text) for draft in row]
        for trace, row in zip(scored, drafts, strict=True)
    ]
    agreements = [_agreements(row) for row in said]
    costs = np.array(
        [[s.prices.cost(d.usage) for s, d in zip(ladder.stages, row, strict=True)] for row in drafts]
    )
    answers = [
        [(*answer_features(draft), agreed) for draft, agreed in zip(row, agreement, strict=True)]
        for row, agreement in zip(drafts, agreements, strict=True)
    ]
    return RecordedOutcomes(
        stages=stages,
        prompts=tuple(trace.query.prompt for trace in scored),
        scores=np.array([[t.outcomes[s].score for s in stages] for t in scored], dtype=np.float64),
        costs=costs / _unit(costs, stages),
        answers=np.array(answers).reshape(len(scored), len(stages), len(ANSWER_FEATURES) + 1),
        n_left_out=len(traces) - len(scored),
    )


def scored_on(traces: Sequence[Trace], stages: Sequence[str]) -> list[Trace]:
    """Those that are scored on all of these stages; `DataError` where none is."""
    scored = [t for t in traces if all(s in t.outcomes and t.outcomes[s].score is not None for s in stages)]
    if not scored:
        raise DataError(f"no trace is scored on all of {', '.join(stages)}")
    return scored


def _agreements(answers: Sequence[str | None]) -> list[float]:
    """Share of earlier answers that equal each answer; a reply that states none agrees with none."""
    return [
        0.0 if answer is None else answers[:k].count(answer) / max(1, k) for k, answer in enumerate(answers)
    ]
