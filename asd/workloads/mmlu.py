"""MMLU: 57 subjects, four options, five worked examples of the same subject (arXiv 2009.03300)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from asd.quality.choice import choice_of
from asd.schema import msgspec
from asd.types import AnswerForm
from asd.workloads.choices import letter, lettered
from asd.workloads.sources import HubTable, SourceTable
from asd.workloads.tasks import TaskSet

__all__ = ["MMLU"]


class MmluQuestion(msgspec.Struct, frozen=True):
    """One question; `answer` is a letter."""

    id: str
    subject: str
    question: str
    choices: tuple[str, ...]
    answer: str


def _table(split: str) -> SourceTable[MmluQuestion]:
    def columns(row: Mapping[str, Any], _: str, position: int) -> dict[str, Any]:
        return {**row, "id": f"mmlu-{split}-{position}", "answer": letter(row["answer"])}

    return SourceTable(
        f"mmlu_{split}.jsonl.gz", MmluQuestion, HubTable("cais/mmlu", ("all",), split, columns)
    )


TEST, DEV = _table("test"), _table("dev")


def _show(row: MmluQuestion, *, answered: bool) -> str:
    return lettered(row.question, row.choices, row.answer if answered else "")


MMLU = TaskSet(
    name="mmlu",
    kind="choice",
    tables=(TEST, DEV),
    rows=lambda source: source.read(TEST),
    examples=lambda source, row: [e for e in source.read(DEV) if e.subject == row.subject],
    shots=5,
    max_new_tokens=16,
    question=partial(_show, answered=False),
    instruction=lambda row: (
        f"The following are multiple choice questions (with answers) about {row.subject.replace('_', ' ')}."
    ),
    show=_show,
    reference=lambda row: row.answer,
    tags=lambda row: {"subject": row.subject},
    form=lambda row: AnswerForm("choice", options=row.choices),
    score=lambda row, text: float(choice_of(text, row.choices) == row.answer),
)
"""The test split, in the words of the original harness; examples from the dev split."""
