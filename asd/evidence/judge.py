"""The fitted evidence: a prompt and the answers so far become one state of the stopping problem.

At the root the label is the nearest centroid to the vector of prompt-only success probabilities of all stages
(one number cannot route among several stages). At every other node each answer so far gets its calibrated
probability of being right given all that is known; the best answer is the one with the largest, and that
number, binned, is the evidence. Where a larger stage has read the best answer, what it said of every token is
evidence as well, and that answer alone is judged again. Scope: plain numbers fitted elsewhere
(`asd.evidence.fitting`) are applied here; no fitting library is imported and nothing is decided.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np

from asd.errors import ConfigError, DataError
from asd.evidence import Judgement
from asd.evidence.calibration import Calibration
from asd.evidence.features import (
    PROMPT_FEATURES,
    VERIFICATION_FEATURES,
    answer_features,
    is_silent,
    prompt_features,
    state_feature_names,
    state_features,
    verification_features,
)
from asd.evidence.length import LengthScale, usage_alone
from asd.evidence.logistic import Logistic
from asd.evidence.signals import SignalKind
from asd.ladder import ROOT
from asd.quality.answers import answer_of
from asd.schema import msgspec
from asd.stopping.states import State, stage_sets, states
from asd.types import TEXT, AnswerForm, AnswerKind, Draft, Drafts, Query, Verification, pair_name

__all__ = [
    "ROOT",
    "EvidenceModel",
    "FittedEvidence",
    "Head",
    "NodeModel",
    "best_answer",
]


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Features to probability: a logistic regression and the map that calibrates it."""

    logistic: Logistic
    calibration: Calibration

    def p(self, row: Sequence[float]) -> float:
        """Calibrated success probability of one row."""
        return self.calibration(self.logistic.logit(row))


class NodeModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is needed to judge one set of answers.

    Attributes:
        heads: One for every answer so far, by stage.
        edges: Inner borders of the bins of the best answer's probability, ascending.
        scale: Expected cost of going on relative to the mean query.
    """

    heads: dict[str, Head]
    edges: tuple[float, ...]
    scale: LengthScale


class EvidenceModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All numbers of a fitted evidence.

    Attributes:
        stages: Of the ladder, in its order.
        prompt: Prompt-only success of every stage, by stage.
        centroids: Of the root's cells: calibrated prompt-only probabilities, one per stage.
        nodes: By node name, every non-empty set of stages.
        pairs: Which stage was seen reading whose draft, as in "S>M".
        verified: By node name ("S>M"), every set of stages whose best answer a larger one has read; of the
            heads that of the answer that was read is used.
        silent: Stages whose answers came without log-probabilities.
        forms: Kinds of the answers it was fitted on; by default their texts were compared as they were.
        signals: Of every stage whose answers came with other numbers, their names and scales.
    """

    stages: tuple[str, ...]
    prompt: dict[str, Head]
    centroids: tuple[tuple[float, ...], ...]
    nodes: dict[str, NodeModel]
    pairs: tuple[str, ...] = ()
    verified: dict[str, NodeModel] = {}
    silent: tuple[str, ...] = ()
    forms: tuple[AnswerKind, ...] = (TEXT.kind,)
    signals: dict[str, dict[str, SignalKind]] = {}

    def __repr__(self) -> str:
        return f"EvidenceModel({', '.join(self.stages)}; {len(self.nodes) + len(self.verified)} nodes)"

    @property
    def has_forms(self) -> bool:
        """Whether answers are taken out of replies."""
        return self.forms != (TEXT.kind,)

    def form_of(self, query: Query) -> AnswerForm:
        """What the answer to a query is, as far as this evidence was fitted on it.

        Raises:
            ConfigError: The answers that it was fitted on are of other kinds.
        """
        if not self.has_forms:
            return TEXT
        if query.form.kind not in self.forms:
            raise ConfigError(
                f"query {query.id!r} of {query.dataset!r} has an answer of kind {query.form.kind!r}, the "
                f"evidence was fitted on {', '.join(map(repr, self.forms))}: say what its answer is "
                "(`Query.form`, `asd generate --answers`), or fit again on queries of its kind"
            )
        return query.form

    def __post_init__(self) -> None:
        sets = {State(node).name: node for node in stage_sets(self.stages)}
        if self.nodes.keys() != sets.keys():
            raise ValueError(f"nodes {sorted(self.nodes)} are not the sets of stages {self.stages}")
        _check_heads(ROOT, self.prompt, dict.fromkeys(self.stages, PROMPT_FEATURES))
        for name, node in sets.items():
            names = {stage: self._names(stage, node) for stage in node}
            _check_heads(name, self.nodes[name].heads, names)
        self._check_verified()
        if not self.centroids or any(len(centre) != len(self.stages) for centre in self.centroids):
            raise ValueError("there must be a centroid, and every centroid needs one probability per stage")

    def _check_verified(self) -> None:
        known = {state.name: state for state in states(self.stages, self.pairs) if state.verifier is not None}
        if self.verified.keys() != known.keys():
            raise ValueError(f"verified nodes {sorted(self.verified)} do not follow from pairs {self.pairs}")
        for name, state in known.items():
            names = {
                stage: (*self._names(stage, state.answered), *VERIFICATION_FEATURES)
                for stage in state.answered
            }
            _check_heads(name, self.verified[name].heads, names)

    def _names(self, stage: str, node: Sequence[str]) -> tuple[str, ...]:
        signals = self.signals.get(stage, {})
        return state_feature_names(stage, node, self.stages, forms=self.has_forms, signals=signals)


def _check_heads(node: str, heads: Mapping[str, Head], features: Mapping[str, tuple[str, ...]]) -> None:
    if tuple(heads) != tuple(features):
        raise ValueError(f"node {node!r} has heads {tuple(heads)} instead of {tuple(features)}")
    for stage, head in heads.items():
        if len(head.logistic.weights) != len(features[stage]):
            raise ValueError(
                f"head {stage!r} of node {node!r} has {len(head.logistic.weights)} weights where this "
                f"version computes {len(features[stage])} features: fit again"
            )


class FittedEvidence:
    """Applies an `EvidenceModel`; satisfies `asd.evidence.Evidence`."""

    def __init__(self, model: EvidenceModel) -> None:
        self.model = model
        self._nodes = {
            node: (State(node).name, model.nodes[State(node).name]) for node in stage_sets(model.stages)
        }
        self._prompt_weights = np.array([head.logistic.weights for head in model.prompt.values()])
        self._prompt_biases = np.array([head.logistic.bias for head in model.prompt.values()])
        self._prompt_maps = [head.calibration for head in model.prompt.values()]
        self._centroids = np.array(model.centroids)
        self._half_norms = (self._centroids**2).sum(axis=1) / 2.0

    def judge(self, query: Query, drafts: Drafts, verification: Verification | None = None) -> Judgement:
        """Where in the stopping problem this query stands.

        Raises:
            ConfigError: A draft, the verification or the query's answer is of a kind that the evidence was
                not fitted on.
            DataError: A draft comes without log-probabilities where the evidence was fitted on them, or with
                them where it was not.
        """
        logits = self._prompt_logits(query.prompt)
        if not drafts:
            return Judgement(ROOT, self._cell(logits), None, {}, 1.0)
        in_hand = tuple(stage for stage in self.model.stages if stage in drafts)
        if len(in_hand) < len(drafts):
            raise ConfigError(
                f"drafts of stages {list(drafts)}, but the evidence was fitted on {list(self.model.stages)}"
            )
        name, node = self._nodes[in_hand]
        answers = {stage: self._heard(drafts[stage]) for stage in in_hand}
        form, has_forms = self.model.form_of(query), self.model.has_forms
        said = {stage: answer_of(form, drafts[stage].text) for stage in in_hand}
        if verification is None:
            p_good = {
                stage: head.p(state_features(stage, said, answers, logits, forms=has_forms))
                for stage, head in node.heads.items()
            }
        else:
            name, node = self._verified(name, verification)
            read = verification.drafter
            row = state_features(read, said, answers, logits, forms=has_forms)
            p_good = {read: node.heads[read].p([*row, *verification_features(verification)])}
        best = best_answer(p_good)
        scale = node.scale(usage_alone(drafts, in_hand))
        return Judgement(name, bisect_right(node.edges, p_good[best]), best, p_good, scale)

    def _heard(self, draft: Draft) -> tuple[float, ...]:
        """What an answer says about itself, if it says as much as those that the evidence was fitted on."""
        silent = draft.stage in self.model.silent
        was, now = ("without", "with") if silent else ("with", "without")
        if draft.n_tokens and is_silent(draft) != silent:
            raise DataError(
                f"the evidence was fitted on answers of stage {draft.stage!r} {was} log-probabilities, this "
                f"one comes {now} them: ask the stage's server as it was asked then, or collect and fit again"
            )
        return answer_features(draft, self.model.signals.get(draft.stage, {}))

    def _verified(self, answered: str, verification: Verification) -> tuple[str, NodeModel]:
        name = pair_name(answered, verification.stage)
        node = self.model.verified.get(name)
        if node is None or verification.drafter not in node.heads:
            raise ConfigError(
                f"stage {verification.stage!r} has read the answer of {verification.drafter!r} at node "
                f"{answered!r}; the evidence was fitted on {sorted(self.model.verified)}: collect what is "
                "missing and fit again"
            )
        return name, node

    def _prompt_logits(self, prompt: str) -> list[float]:
        logits = self._prompt_weights @ np.array(prompt_features(prompt)) + self._prompt_biases
        return list(logits.tolist())

    def _cell(self, logits: Sequence[float]) -> int:
        """Nearest centroid: the smallest |c|^2 / 2 - c @ p."""
        p = [calibrate(logit) for calibrate, logit in zip(self._prompt_maps, logits, strict=True)]
        return int((self._half_norms - self._centroids @ np.array(p)).argmin())


def best_answer(p_good: Mapping[str, float]) -> str:
    """The stage with the largest probability; of equals the larger stage, which is listed later."""
    return max(reversed(list(p_good)), key=p_good.__getitem__)
