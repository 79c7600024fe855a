"""Recorded free texts by every metric of `asd.quality.aggregate`: one assessment an answer, one row a model.

A model that answered nothing has an answer of quality 0 and no other score, and is counted as such. The
border: texts are compared with recorded references; no model runs, and nothing is said about tasks whose
answers are right or wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asd.errors import DataError
from asd.measurement.files import Paths, as_paths
from asd.quality.aggregate import WEIGHTS, Answered, Assessment, assess
from asd.quality.overlap import signatures
from asd.quality.semantic import Encoder
from asd.quality.thinking import without_thinking
from asd.research.recordings.recording import prompt_of, read_queries
from asd.workloads import FreeText

__all__ = ["Assessed", "assess_recorded", "means"]

NO_ANSWER = "no answer"


@dataclass(frozen=True, slots=True)
class Assessed:
    """One model's answer to one query."""

    dataset: str
    id: str
    model: str
    assessment: Assessment


@dataclass(frozen=True, slots=True)
class _Given:
    dataset: str
    id: str
    model: str
    answered: Answered


def assess_recorded(
    paths: Paths,
    workload: FreeText,
    encoder: Encoder | None = None,
    models: Sequence[str] | None = None,
) -> list[Assessed]:
    """Every recorded answer, in the order of the files.

    Args:
        paths: JSON lines as `asd collect` writes them, or as `asd.research.recordings.recording` describes;
            a query needs `prompt`, `reference`, and a `response` of a model.
        workload: Says of what kind the texts are, and which part of a reply counts.
        encoder: For BERTScore and coherence; None: they are left out.
        models: Whose answers; None: everybody's.

    Raises:
        ConfigError: Likeness decides nothing about texts of this kind.
        DataError: A file cannot be read, a query has no reference, or a model no recorded response.
    """
    files = as_paths(paths)
    given = [answer for record in read_queries(files) for answer in _answers(record, workload, models)]
    if not given:
        raise DataError(f"no recorded response in {', '.join(map(str, files))}")
    if missing := [model for model in models or () if model not in {answer.model for answer in given}]:
        raise DataError(f"no response of {', '.join(missing)} in {', '.join(map(str, files))}")
    said = [answer for answer in given if answer.answered.answer]
    found = iter(assess([answer.answered for answer in said], workload.kind, encoder) if said else ())
    nothing = Assessment(0.0, {}, {}, {"every metric": NO_ANSWER}, signatures())
    return [
        Assessed(answer.dataset, answer.id, answer.model, next(found) if answer.answered.answer else nothing)
        for answer in given
    ]


def _answers(record: dict[str, Any], workload: FreeText, models: Sequence[str] | None) -> list[_Given]:
    dataset, query = str(record["dataset"]), str(record["id"])
    reference = record.get("reference")
    if not isinstance(reference, str) or not reference.strip():
        raise DataError(f"query {query!r} of {dataset!r} has no reference to compare an answer with")
    return [
        _Given(dataset, query, model, Answered(prompt_of(record), _said(output, workload), (reference,)))
        for model, output in record["outputs"].items()
        if (models is None or model in models) and output and isinstance(output.get("response"), str)
    ]


def _said(output: Mapping[str, Any], workload: FreeText) -> str:
    """The reply; "" where it has no word, which is no answer."""
    reply = workload.reply(without_thinking(output["response"]))
    return reply if any(character.isalnum() for character in reply) else ""


def means(rows: Sequence[Assessed]) -> list[dict[str, object]]:
    """One row a model: answers, those without a word, quality of all, mean scores of the others."""
    by_model: dict[str, list[Assessment]] = {}
    for row in rows:
        by_model.setdefault(row.model, []).append(row.assessment)
    return [_mean(model, found) for model, found in by_model.items()]


def _mean(model: str, found: Sequence[Assessment]) -> dict[str, object]:
    said = [one.scores for one in found if one.scores]
    scored = said[0] if said else {}
    names = sorted(scored, key=[*WEIGHTS, *scored].index)
    return {
        "model": model,
        "answers": len(found),
        "empty": len(found) - len(said),
        "quality": sum(one.quality for one in found) / len(found),
        **{name: sum(scores[name] for scores in said) / len(said) for name in names},
    }
