"""GSM8K: word problems of grade-school mathematics, worked step by step (arXiv 2110.14168)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from asd.quality.number import same_number
from asd.schema import msgspec
from asd.types import AnswerForm
from asd.workloads.sources import HubTable, SourceTable
from asd.workloads.tasks import TaskSet

__all__ = ["GSM8K"]

_CALCULATOR = re.compile(r"<<[^>]*>>")


class Gsm8kProblem(msgspec.Struct, frozen=True):
    """One problem; `answer` is a worked solution that ends in "#### number"."""

    id: str
    question: str
    answer: str


def _table(split: str) -> SourceTable[Gsm8kProblem]:
    def columns(row: Mapping[str, Any], _: str, position: int) -> dict[str, Any]:
        return {**row, "id": f"gsm8k-{split}-{position}"}

    return SourceTable(
        f"gsm8k_{split}.jsonl.gz", Gsm8kProblem, HubTable("openai/gsm8k", ("main",), split, columns)
    )


TEST, TRAIN = _table("test"), _table("train")


def _show(row: Gsm8kProblem, *, answered: bool) -> str:
    solution = f" {_CALCULATOR.sub('', row.answer)}" if answered else ""
    return f"Question: {row.question}\nAnswer:{solution}"


GSM8K = TaskSet(
    name="gsm8k",
    kind="number",
    tables=(TEST, TRAIN),
    rows=lambda source: source.read(TEST),
    examples=lambda source, _: source.read(TRAIN),
    shots=5,
    max_new_tokens=400,
    question=lambda row: row.question,
    instruction=lambda _: 'Solve the problem step by step. End with "#### " and the number alone.',
    show=_show,
    until="\nQuestion:",
    reference=lambda row: row.answer,
    form=lambda _: AnswerForm("number"),
    score=lambda row, text: float(same_number(text, row.answer)),
)
"""The test split; worked solutions from the training split, calculator annotations removed."""
