"""One number for the quality of a free text: the published weighted mean of what is defined for it.

    quality = sum_m w_m s_m / sum_m w_m   over the metrics m that are defined

with BLEU .25, ROUGE-1 .15, ROUGE-L .15, BERTScore F1 .25, coherence .10, repetition .05, general .05
("general" is the mean of length adequacy and linguistic quality). Overlap and BERTScore need a reference,
BERTScore and coherence an encoder; what was left out, and why, is in the record, because means over different
metrics do not compare.

Scope: free text only. Whether a letter, a number or a program is right is decided by the answer
(`choice`, `number`, `exact`, `code`), never by words in common; asking for it here raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from asd.errors import ConfigError, DataError
from asd.quality.overlap import bleu, rouge, signatures
from asd.quality.semantic import Encoder, TokenVectors, bert_score, cosine
from asd.quality.style import length_adequacy, linguistic_quality, repetition

__all__ = ["WEIGHTS", "Answered", "Assessment", "Kind", "aggregate", "assess"]

Kind = Literal["text", "translation", "summary"]
"""Tasks whose quality may be measured by likeness to a reference."""

WEIGHTS: Mapping[str, float] = {
    "bleu": 0.25,
    "rouge1": 0.15,
    "rougeL": 0.15,
    "bertscore_f1": 0.25,
    "coherence": 0.10,
    "repetition": 0.05,
    "general": 0.05,
}
"""As published; scores without a weight (rouge2, length) are recorded only."""

_NEEDS_REFERENCE = ("bleu", "rouge1", "rougeL", "bertscore_f1")


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt, the answer to it, and what would have been right (nothing: not known)."""

    prompt: str
    answer: str
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Assessment:
    """How good one answer is, and how that was found out.

    Attributes:
        quality: The aggregate, in [0, 1].
        scores: Every metric that was computed, each in [0, 1].
        weights: Those that entered, adding up to 1.
        left_out: Metrics that were not defined, with the reason.
        signatures: What computed them.
    """

    quality: float
    scores: Mapping[str, float]
    weights: Mapping[str, float]
    left_out: Mapping[str, str]
    signatures: Mapping[str, str]


def assess(items: Sequence[Answered], kind: str, encoder: Encoder | None = None) -> list[Assessment]:
    """Every answer by every metric that is defined for it.

    Args:
        items: What was asked and answered.
        kind: Of the task; one of `Kind`.
        encoder: For BERTScore and coherence; None: they are left out.

    Raises:
        ConfigError: The task is of a kind that likeness says nothing about.
        DataError: There are no items, or a text is empty.
    """
    if kind not in get_args(Kind):
        raise ConfigError(
            f"quality of a {kind!r} task is whether its answer is right; likeness to a reference decides "
            f"{', '.join(get_args(Kind))} only"
        )
    if not items:
        raise DataError("nothing to assess")
    used = signatures() | ({} if encoder is None else {"encoder": encoder.name})
    vectors = {} if encoder is None else _encode(items, encoder)
    return [_assess(item, vectors, used) for item in items]


def aggregate(scores: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """The weighted mean of the scores that have a weight, and the weights as renormalised.

    Raises:
        DataError: None of the scores has a weight.
    """
    total = sum(weight for name, weight in WEIGHTS.items() if name in scores)
    if total == 0.0:
        raise DataError(f"none of {sorted(scores)} has a weight in the aggregate")
    weights = {name: weight / total for name, weight in WEIGHTS.items() if name in scores}
    return sum(weight * scores[name] for name, weight in weights.items()), weights


def _encode(items: Sequence[Answered], encoder: Encoder) -> dict[str, TokenVectors]:
    texts = sorted({text for item in items for text in (item.prompt, item.answer, *item.references)}, key=len)
    return dict(zip(texts, encoder.encode(texts), strict=True))


def _assess(item: Answered, vectors: Mapping[str, TokenVectors], used: Mapping[str, str]) -> Assessment:
    scores = _scores(item, vectors)
    quality, weights = aggregate(scores)
    left_out = {name: _reason(name, item) for name in WEIGHTS if name not in scores}
    return Assessment(quality, scores, weights, left_out, used)


def _scores(item: Answered, vectors: Mapping[str, TokenVectors]) -> dict[str, float]:
    answer, references = item.answer, item.references
    scores, form = {"repetition": repetition(answer)}, [linguistic_quality(answer)]
    if references:
        scores |= {"bleu": bleu(answer, references)} | rouge(answer, references)._asdict()
        scores["length"] = length_adequacy(answer, references)
        form.append(scores["length"])
    if vectors:
        scores["coherence"] = cosine(vectors[item.prompt], vectors[answer])
    if references and vectors:
        scores["bertscore_f1"] = bert_score(vectors[answer], [vectors[text] for text in references]).f1
    return scores | {"general": sum(form) / len(form)}


def _reason(name: str, item: Answered) -> str:
    return "no reference" if name in _NEEDS_REFERENCE and not item.references else "no encoder"
