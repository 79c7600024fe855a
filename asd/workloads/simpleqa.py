"""SimpleQA: short questions of fact with one answer (arXiv 2411.04368).

The published score is a judge model's. Here an answer is right if the words of the reference stand in it
in a row, after SQuAD's normalisation: no judge, no cost, the same every time, and stricter about wording;
not comparable with published figures.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from asd.quality.exact import contains
from asd.schema import msgspec
from asd.types import AnswerForm
from asd.workloads.sources import HubTable, SourceTable
from asd.workloads.tasks import TaskSet

__all__ = ["SIMPLEQA"]


class SimpleQaQuestion(msgspec.Struct, frozen=True):
    """One question."""

    id: str
    problem: str
    answer: str
    topic: str
    answer_type: str


def _columns(row: Mapping[str, Any], _: str, position: int) -> dict[str, Any]:
    about = ast.literal_eval(row["metadata"])
    return {
        "id": f"simpleqa-{position}",
        "problem": row["problem"],
        "answer": row["answer"],
        "topic": about["topic"],
        "answer_type": about["answer_type"],
    }


TABLE = SourceTable(
    "simpleqa.jsonl.gz", SimpleQaQuestion, HubTable("basicv8vc/SimpleQA", ("default",), "test", _columns)
)


def _show(row: SimpleQaQuestion, *, answered: bool) -> str:
    return f"Question: {row.problem}\nAnswer:{f' {row.answer}' if answered else ''}"


SIMPLEQA = TaskSet(
    name="simpleqa",
    kind="exact",
    tables=(TABLE,),
    rows=lambda source: source.read(TABLE),
    max_new_tokens=32,
    question=lambda row: row.problem,
    instruction=lambda _: "Answer with the name, date or number alone.",
    show=_show,
    until="\nQuestion:",
    reference=lambda row: row.answer,
    tags=lambda row: {"topic": row.topic, "answer_type": row.answer_type},
    form=lambda _: AnswerForm("words"),
    score=lambda row, text: float(contains(text, [row.answer])),
)
"""All questions, without examples."""
