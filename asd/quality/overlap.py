"""Text overlap of an answer with its references, each score in [0, 1], computed by the field's own libraries.

BLEU (Papineni et al. 2002) of one answer is sacrebleu's sentence BLEU: effective order, exponential
smoothing, tokenizer 13a. ROUGE-1/2/L (Lin 2004) is the F-measure of rouge-score, without stemming, of the
reference where it is largest. `signatures` names them for the record.

Scope: words in common say something about translations and summaries, and nothing about whether a
number, a letter or a program is right; `asd.quality.aggregate` refuses those.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple

from asd.errors import ConfigError, DataError

__all__ = ["Rouge", "bleu", "check_texts", "rouge", "signatures"]


class Rouge(NamedTuple):
    """F-measures of unigrams, bigrams and the longest common subsequence."""

    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815 - the name it has everywhere


def bleu(answer: str, references: Sequence[str]) -> float:
    """Sentence BLEU.

    Raises:
        DataError: The answer or a reference is empty, or there is none.
    """
    check_texts(answer, references)
    score = float(_bleu().sentence_score(answer, list(references)).score) / 100.0
    return min(1.0, score)  # equal texts score 1 + 4e-16


def rouge(answer: str, references: Sequence[str]) -> Rouge:
    """ROUGE F-measures, each of the reference where it is largest.

    Raises:
        DataError: The answer or a reference is empty, or there is none.
    """
    check_texts(answer, references)
    scores = _rouge().score_multi(list(references), answer)
    return Rouge(*(float(scores[name].fmeasure) for name in Rouge._fields))


def signatures() -> dict[str, str]:
    """What computed the scores: two runs with equal signatures are comparable."""
    _bleu().sentence_score("a", ["a"])  # the signature knows the references only after a first score
    return {
        "bleu": str(_bleu().get_signature()),
        "rouge": f"rouge-score|stemmer:no|version:{version('rouge-score')}",
    }


def check_texts(answer: str, references: Sequence[str]) -> None:
    """`DataError` where there is nothing to compare: an empty text would score 0 or 1 without a word."""
    if not answer.strip():
        raise DataError("the answer is empty; an answer that was not given has no quality to measure")
    if not references or not all(reference.strip() for reference in references):
        raise DataError(f"every reference must be a text that is not empty, got {list(references)}")


@cache
def _bleu() -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("BLEU needs sacrebleu: pip install 'asd[quality]'") from error
    return BLEU(effective_order=True)


@cache
def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("ROUGE needs rouge-score: pip install 'asd[quality]'") from error
    return RougeScorer(Rouge._fields, use_stemmer=False)
