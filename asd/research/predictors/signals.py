"""What each signal of an answer is worth: how well it separates right from wrong, what quality then costs.

Of every stage, a logistic regression on the signal alone says how likely the answer is right, out of fold;
AUROC is the mean over stages, so that a signal gets no credit for knowing which stage is good. The cost is
that of lists which vote by these numbers (`asd.stopping.lists`), counted on four folds and played on the
fifth: read off the hull of their settings and the single models, as a share of the best single model's.

A signal of the first answer alone: that two answers agree is known when both are paid for, which lists do
not ask. Scope: recorded numbers (provenance `replayed`); nothing here is used by a running cascade.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asd.evidence.crossfit import assign_folds, out_of_fold
from asd.evidence.features import ANSWER_FEATURES, answer_features, is_silent, prompt_features
from asd.evidence.logistic import fit_logistic
from asd.evidence.metrics import auroc
from asd.evidence.signals import kinds_of
from asd.policy.heldout import listed
from asd.research.offline.curves import LOSSES, SWEEP
from asd.research.offline.texts import Texts
from asd.research.recordings.outcomes import RecordedOutcomes
from asd.research.recordings.recording import Recording
from asd.stopping.hull import Hull
from asd.stopping.lists import RecordedRows
from asd.types import Trace

__all__ = ["ALL", "SignalWorth", "recorded_signals", "traced_signals", "worth_of_signals"]

Array = npt.NDArray[np.float64]

ALL = "all of these"
NONE = "none: the stage alone"
_N_FOLDS = 5
_LEAST = -100.0
_LENGTH = ("log_n_tokens", "finished")


@dataclass(frozen=True, slots=True)
class SignalWorth:
    """One signal.

    Attributes:
        name: Of the signal.
        auroc: Mean over stages that are neither always right nor always wrong; None where there is none.
        shares: By loss of quality below the best single model, what it costs over that model's cost.
    """

    name: str
    auroc: float | None
    shares: dict[float, float]


def worth_of_signals(
    outcomes: RecordedOutcomes, signals: Mapping[str, Array], *, seed: int
) -> list[SignalWorth]:
    """Every signal on the same folds, then all together; the first row knows nothing of an answer.

    Args:
        outcomes: Scores and costs.
        signals: Numbers of every answer, by name, shape (n, K, d).
        seed: Of the folds.
    """
    folds = assign_folds([f"{i} {prompt}" for i, prompt in enumerate(outcomes.prompts)], _N_FOLDS, seed)
    nothing = np.zeros((*outcomes.scores.shape, 1))
    tables = {NONE: nothing, **signals, ALL: np.concatenate([nothing, *signals.values()], axis=2)}
    return [_worth(name, table, outcomes, folds) for name, table in tables.items()]


def _worth(name: str, table: Array, outcomes: RecordedOutcomes, folds: npt.NDArray[np.intp]) -> SignalWorth:
    stages = range(len(outcomes.stages))
    told = [
        out_of_fold(
            table[:, k], outcomes.scores[:, k], folds, lambda x, y: fit_logistic(x, y, strength=1.0).logits
        )
        for k in stages
    ]
    found = [auroc(told[k], outcomes.scores[:, k]) for k in stages]
    known = [value for value in found if value is not None]
    mean = float(np.mean(known)) if known and name != NONE else None
    after = np.repeat(outcomes.costs[:, None], len(stages), axis=1)
    played = listed(
        RecordedRows(np.column_stack(told), outcomes.scores, outcomes.costs, after), folds, np.array(SWEEP)
    )
    return SignalWorth(name, mean, _shares(outcomes, played.cost.mean(axis=1), played.quality.mean(axis=1)))


def _shares(outcomes: RecordedOutcomes, costs: Array, qualities: Array) -> dict[float, float]:
    alone = list(
        zip(outcomes.costs.mean(axis=0).tolist(), outcomes.scores.mean(axis=0).tolist(), strict=True)
    )
    cost, quality = min(alone, key=lambda point: (-point[1], point[0]))
    hull = Hull([*alone, *zip(costs.tolist(), qualities.tolist(), strict=True)])
    found = {loss: hull.cost_at(quality - loss) for loss in LOSSES}
    return {loss: share / cost for loss, share in found.items() if share is not None}


def recorded_signals(recording: Recording) -> dict[str, Array]:
    """What a recording says of every answer, each of shape (n, K, d); texts by words of the other rows."""
    texts = Texts.fit(recording).held_out
    found = {
        "prompt text": np.repeat(texts[:, None, :1], len(recording.stages), axis=1),
        "prompt and answer text": texts[:, 1:, None],
        "answer length": np.log1p(np.nan_to_num(recording.words))[:, :, None],
    }
    for name, column in {"confidence": recording.confidence, **recording.signals}.items():
        if not np.isnan(column).all():
            found[name] = _known(column)
    return found


def _known(column: Array) -> Array:
    """Numbers and whether there is one, shape (n, K, 2)."""
    known = ~np.isnan(column)
    return np.stack([np.where(known, np.maximum(column, _LEAST), 0.0), known], axis=2)


def traced_signals(traces: Sequence[Trace], stages: Sequence[str]) -> dict[str, Array]:
    """What own traces tell of every answer: prompt, length, token log-probabilities, named signals.

    Args:
        traces: Answered by all of these stages.
        stages: In ladder order.
    """
    drafts = [[trace.outcomes[stage].draft for stage in stages] for trace in traces]
    told = np.array([[answer_features(draft) for draft in row] for row in drafts])
    length = [name in _LENGTH for name in ANSWER_FEATURES]
    prompts = np.array([prompt_features(trace.query.prompt) for trace in traces])
    found = {
        "prompt text": np.repeat(prompts[:, None], len(stages), axis=1),
        "answer length": told[:, :, length],
    }
    if not all(is_silent(draft) for row in drafts for draft in row):
        found["token log-probabilities"] = told[:, :, [not is_length for is_length in length]]
    columns = [kinds_of(s, [row[k] for row in drafts]) for k, s in enumerate(stages)]
    for name in dict.fromkeys(name for of_stage in columns for name in of_stage):
        values = [[draft.signals.get(name, np.nan) for draft in row] for row in drafts]
        found[name] = _known(np.array(values, dtype=np.float64))
    return found
