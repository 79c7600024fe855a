"""Traces to evidence: every head, map and bin, and every row's state as seen by predictors that never saw it.

Five folds. What is fitted on rows (heads, calibration) is judged, binned and turned into kernels through
out-of-fold predictions only, so that the stopping problem is estimated on evidence as it will look on new
queries. Node heads see the prompt through the prompt-only log-odds of every stage (stacking).

Scope: scores are read here and nowhere below; costs and policies are not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.errors import DataError
from asd.evidence import calibration
from asd.evidence.crossfit import assign_folds, out_of_fold
from asd.evidence.features import (
    answer_features,
    is_silent,
    prompt_features,
    state_features,
    verification_features,
)
from asd.evidence.judge import EvidenceModel, Head, NodeModel, best_answer
from asd.evidence.length import LengthScale, fit_length_scale, usage_alone
from asd.evidence.logistic import fit_logistic
from asd.evidence.metrics import Reliability, log_loss, reliability
from asd.evidence.signals import SignalKind, kinds_of
from asd.ladder import ROOT
from asd.quality.answers import answer_of
from asd.stopping.kernels import Binning
from asd.stopping.states import State, stage_sets, states
from asd.types import TEXT, Draft, Trace, Usage, Verification, pair_name

__all__ = ["N_FOLDS", "FittedRows", "FittingRows", "fit_evidence"]

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
Signals = dict[str, dict[str, SignalKind]]

N_FOLDS = 5
MAX_BINS, ROWS_PER_BIN = 20, 50
MAX_CELLS, ROWS_PER_CELL = 12, 100
NODE_STRENGTH = 1.0
PROMPT_STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse penalties: a node head has a few dozen features, a prompt head a hundred and fifty sparse ones."""


@dataclass(frozen=True, slots=True, eq=False)
class FittingRows:
    """The fitting rows as one node sees them, out of fold; every array has shape (n,).

    Attributes:
        n_bins: How many bins the evidence has here.
        bins: Bin of the evidence.
        p: Calibrated probability of the best answer so far (zeros at the root, which has none).
        score: Quality of that answer (zeros at the root).
        scale: Expected cost of going on relative to the mean query (ones at the root).
    """

    n_bins: int
    bins: IntArray
    p: Array
    score: Array
    scale: Array


@dataclass(frozen=True, slots=True, eq=False)
class FittedRows:
    """A fitted evidence with what it said out of fold.

    Attributes:
        model: All heads, maps and bins, fitted on all rows.
        folds: Fold of every row, shape (n,).
        rows: What every node sees, by node name, the root first.
        best: Whose answer is the best so far on every row, by name of the node; the root has none.
        reliability: Of every head out of fold, by node name and stage (at the root: prompt only).
    """

    model: EvidenceModel
    folds: IntArray
    rows: Mapping[str, FittingRows]
    best: Mapping[str, Sequence[str]]
    reliability: dict[str, dict[str, Reliability]]


class _FittedHead(NamedTuple):
    head: Head
    logits: Array
    p: Array


def fit_evidence(
    traces: Sequence[Trace], costs: Array, stages: Sequence[str], *, seed: int, pairs: Sequence[str] = ()
) -> FittedRows:
    """Fit every head on every row, and judge every row by heads that were fitted on the other folds.

    Args:
        traces: Scored outcomes of every stage, queries distinct.
        costs: Priced cost of the largest stage on the same rows, positive, shape (n,).
        stages: Names in ladder order.
        seed: Of the folds and of the root's cells.
        pairs: Verifications that every row has, as in "S>M".

    Raises:
        DataError: Too few rows for five folds, or only some drafts of a stage have log-probabilities, or a
            signal.
    """
    folds = assign_folds([f"{trace.query.dataset}/{trace.query.id}" for trace in traces], N_FOLDS, seed)
    scores = {stage: np.array([trace.outcomes[stage].score for trace in traces], float) for stage in stages}
    prompts = np.array([prompt_features(trace.query.prompt) for trace in traces])
    prompt = {stage: _fit_prompt_head(prompts, scores[stage], folds) for stage in stages}
    signals = _signals(traces, stages)
    view = _View.of(traces, signals, stages, np.column_stack([head.logits for head in prompt.values()]))

    centroids, root = _fit_root(np.column_stack([head.p for head in prompt.values()]), seed)
    nodes = _fit_nodes(states(stages, pairs)[1:], view, scores, folds, costs)
    model = EvidenceModel(
        tuple(stages),
        {stage: fitted.head for stage, fitted in prompt.items()},
        centroids,
        {state.name: nodes[state.name].model for state in map(State, stage_sets(stages))},
        tuple(pairs),
        {
            state.name: nodes[state.name].model
            for state in states(stages, pairs)
            if state.verifier is not None
        },
        tuple(stage for stage in stages if _is_silent_stage(stage, traces)),
        tuple(sorted({trace.query.form.kind for trace in traces})),
        signals,
    )
    reliability = {name: _reliability(node.heads, scores) for name, node in nodes.items()}
    return FittedRows(
        model,
        folds,
        {ROOT: root, **{name: node.rows for name, node in nodes.items()}},
        {name: node.best for name, node in nodes.items()},
        {ROOT: _reliability(prompt, scores), **reliability},
    )


def _signals(traces: Sequence[Trace], stages: Sequence[str]) -> Signals:
    """Of every stage whose answers came with other numbers, their scales."""
    kinds = {stage: kinds_of(stage, [trace.outcomes[stage].draft for trace in traces]) for stage in stages}
    return {stage: of_stage for stage, of_stage in kinds.items() if of_stage}


def _is_silent_stage(stage: str, traces: Sequence[Trace]) -> bool:
    """Whether a stage gives no log-probabilities; empty answers do not tell."""
    drafts = [trace.outcomes[stage].draft for trace in traces if trace.outcomes[stage].draft.n_tokens]
    n_silent = sum(map(is_silent, drafts))
    if 0 < n_silent < len(drafts):
        raise DataError(
            f"{n_silent} of {len(drafts)} drafts of stage {stage!r} have no log-probabilities; collect all "
            "of them with, or all without"
        )
    return n_silent > 0


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """Features of all rows, computed once per answer and put together per node."""

    drafts: list[dict[str, Draft]]
    said: list[dict[str, str | None]]
    has_forms: bool
    answers: list[dict[str, tuple[float, ...]]]
    verifications: list[Mapping[str, Verification]]
    prompt_logits: list[list[float]]

    @classmethod
    def of(
        cls, traces: Sequence[Trace], signals: Signals, stages: Sequence[str], prompt_logits: Array
    ) -> _View:
        drafts = [{stage: trace.outcomes[stage].draft for stage in stages} for trace in traces]
        said = [
            {stage: answer_of(trace.query.form, draft.text) for stage, draft in row.items()}
            for trace, row in zip(traces, drafts, strict=True)
        ]
        has_forms = any(trace.query.form.kind != TEXT.kind for trace in traces)
        answers = [
            {stage: answer_features(draft, signals.get(stage, {})) for stage, draft in row.items()}
            for row in drafts
        ]
        verifications = [trace.verifications for trace in traces]
        return cls(drafts, said, has_forms, answers, verifications, prompt_logits.tolist())

    def rows(self, stage: str, state: State) -> Array:
        """Features of the answer of `stage` in a state, read by its verifier if it has one, shape (n, d)."""
        rows = [
            state_features(stage, said, {s: answers[s] for s in state.answered}, logits, forms=self.has_forms)
            for said, answers, logits in zip(self.said, self.answers, self.prompt_logits, strict=True)
        ]
        if state.verifier is not None:
            pair = pair_name(stage, state.verifier)
            for row, verifications in zip(rows, self.verifications, strict=True):
                row.extend(verification_features(verifications[pair]))
        return np.array(rows)

    def usages(self, answered: Sequence[str]) -> list[Usage]:
        return [usage_alone(drafts, answered) for drafts in self.drafts]


class _FittedNode(NamedTuple):
    model: NodeModel
    heads: Mapping[str, _FittedHead]
    rows: FittingRows
    best: Sequence[str]


def _fit_head(rows: Array, scores: Array, folds: IntArray, strength: float = NODE_STRENGTH) -> _FittedHead:
    logits = _held_out_logits(rows, scores, folds, strength)
    calibrated = calibration.choose(logits, scores, folds)
    logistic = fit_logistic(rows, scores, strength=strength)
    return _FittedHead(Head(logistic, calibrated.map), logits, calibrated.p_out_of_fold)


def _fit_prompt_head(rows: Array, scores: Array, folds: IntArray) -> _FittedHead:
    def held_out_loss(strength: float) -> float:
        logits = _held_out_logits(rows, scores, folds, strength)
        return log_loss(1.0 / (1.0 + np.exp(-logits)), scores)

    return _fit_head(rows, scores, folds, min(PROMPT_STRENGTHS, key=held_out_loss))


def _held_out_logits(rows: Array, scores: Array, folds: IntArray, strength: float) -> Array:
    return out_of_fold(rows, scores, folds, lambda x, y: fit_logistic(x, y, strength=strength).logits)


def _fit_root(p: Array, seed: int) -> tuple[tuple[tuple[float, ...], ...], FittingRows]:
    """Cells of the vectors of prompt-only probabilities, shape (n, stages), by k-means, easy ones last."""
    from sklearn.cluster import KMeans  # noqa: PLC0415 - needed when fitting only

    p = p.round(4)  # k-means takes points that differ by rounding only for distinct, and complains
    n = len(p)
    n_cells = min(MAX_CELLS, max(1, n // ROWS_PER_CELL), len(np.unique(p, axis=0)))
    fitted = KMeans(n_cells, n_init=4, random_state=seed).fit(p)
    order = fitted.cluster_centers_.sum(axis=1).argsort()
    centroids = tuple(map(tuple, fitted.cluster_centers_[order].tolist()))
    cells = order.argsort()[fitted.labels_]
    return centroids, FittingRows(n_cells, cells, np.zeros(n), np.zeros(n), np.ones(n))


def _fit_nodes(
    visited: Sequence[State], view: _View, scores: Mapping[str, Array], folds: IntArray, costs: Array
) -> dict[str, _FittedNode]:
    """By name of the state; a state without a verifier comes before those in which its answer is read."""
    nodes: dict[str, _FittedNode] = {}
    *_, largest = scores
    for state in visited:
        heads = {s: _fit_head(view.rows(s, state), scores[s], folds) for s in state.answered}
        usages = view.usages(state.answered)
        scale = LengthScale() if state.answered[-1] == largest else fit_length_scale(usages, costs)
        best = None if state.verifier is None else nodes[State(state.answered).name].best
        nodes[state.name] = _fit_node(heads, scores, scale, usages, best)
    return nodes


def _fit_node(
    heads: Mapping[str, _FittedHead],
    scores: Mapping[str, Array],
    scale: LengthScale,
    usages: Sequence[Usage],
    best: Sequence[str] | None,
) -> _FittedNode:
    """Bins of the best answer's probability, the likeliest one's unless `best` says which was read."""
    p_good = [
        dict(zip(heads, row, strict=True)) for row in zip(*(head.p for head in heads.values()), strict=True)
    ]
    best = best or [best_answer(row) for row in p_good]
    p = np.array([row[stage] for row, stage in zip(p_good, best, strict=True)])
    score = np.array([scores[stage][i] for i, stage in enumerate(best)])
    binning = Binning.fit(p, min(MAX_BINS, max(2, len(p) // ROWS_PER_BIN)))
    model = NodeModel({stage: fitted.head for stage, fitted in heads.items()}, binning.edges, scale)
    scales = np.array([scale(usage) for usage in usages])
    return _FittedNode(model, heads, FittingRows(binning.n_bins, binning.index(p), p, score, scales), best)


def _reliability(heads: Mapping[str, _FittedHead], scores: Mapping[str, Array]) -> dict[str, Reliability]:
    return {stage: reliability(fitted.p, scores[stage]) for stage, fitted in heads.items()}
