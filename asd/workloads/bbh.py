"""BIG-Bench Hard: 27 tasks on which language models once fell behind people (arXiv 2210.09261).

Answers only, without the authors' chains of thought. The set has one split: questions with a high digest
are worked examples of their task, and never asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from asd.quality.choice import choice_of
from asd.quality.exact import stated
from asd.quality.number import number_of
from asd.schema import msgspec
from asd.types import AnswerForm
from asd.workloads.sources import HubTable, SourceTable
from asd.workloads.tasks import TaskSet, digest

__all__ = ["BBH"]

FIRST_EXAMPLE = 244
"""First byte of the digest from which on a question is an example: about one in twenty."""

TASKS = (
    *("boolean_expressions", "causal_judgement", "date_understanding", "disambiguation_qa"),
    *("dyck_languages", "formal_fallacies", "geometric_shapes", "hyperbaton"),
    *("logical_deduction_five_objects", "logical_deduction_seven_objects"),
    *("logical_deduction_three_objects", "movie_recommendation", "multistep_arithmetic_two", "navigate"),
    *("object_counting", "penguins_in_a_table", "reasoning_about_colored_objects", "ruin_names"),
    *("salient_translation_error_detection", "snarks", "sports_understanding", "temporal_sequences"),
    *("tracking_shuffled_objects_five_objects", "tracking_shuffled_objects_seven_objects"),
    *("tracking_shuffled_objects_three_objects", "web_of_lies", "word_sorting"),
)

_OPTION = re.compile(r"^\(([A-Z])\)[ \t]*(.*)$", re.MULTILINE)
_NUMBER = re.compile(r"-?\d+")


class BbhQuestion(msgspec.Struct, frozen=True):
    """One question of one task."""

    id: str
    task: str
    input: str
    target: str


def _columns(row: Mapping[str, Any], task: str, position: int) -> dict[str, Any]:
    return {**row, "id": f"bbh-{task}-{position}", "task": task}


TABLE = SourceTable("bbh.jsonl.gz", BbhQuestion, HubTable("lukaemon/bbh", TASKS, "test", _columns))


def _form(row: BbhQuestion) -> AnswerForm:
    if _OPTION.fullmatch(row.target):
        return AnswerForm("choice", options=tuple(text for _, text in _OPTION.findall(row.input)))
    return AnswerForm("number" if _NUMBER.fullmatch(row.target) else "words")


def _score(row: BbhQuestion, text: str) -> float:
    """1.0 for the right option, the same number or the same words; case, commas and marks do not count."""
    form = _form(row)
    if form.kind == "choice":
        return float(f"({choice_of(text, form.options)})" == row.target)
    if form.kind == "number":
        return float(number_of(text) == int(row.target))
    return float(_plain(row.target) in {_plain(stated(text)), _plain(text)})


def _show(row: BbhQuestion, *, answered: bool) -> str:
    return f"Q: {row.input}\nA:{f' {row.target}' if answered else ''}"


def _is_example(row: BbhQuestion) -> bool:
    return digest(row.input)[0] >= FIRST_EXAMPLE


def _plain(text: str) -> str:
    return " ".join(text.lower().replace(",", " ").split()).removesuffix(".").strip()


BBH = TaskSet(
    name="bbh",
    kind="exact",
    tables=(TABLE,),
    rows=lambda source: [row for row in source.read(TABLE) if not _is_example(row)],
    examples=lambda source, row: [e for e in source.read(TABLE) if e.task == row.task and _is_example(e)],
    shots=3,
    max_new_tokens=64,
    question=lambda row: f"{row.task}\n{row.input}",
    instruction=lambda _: "",
    show=_show,
    until="\nQ:",
    reference=lambda row: row.target,
    tags=lambda row: {"task": row.task},
    form=_form,
    score=_score,
)
"""All tasks."""
