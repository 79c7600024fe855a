"""ARC-Challenge: grade-school science, three to five options (arXiv 1803.05457)."""

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

__all__ = ["ARC_CHALLENGE"]


class ArcQuestion(msgspec.Struct, frozen=True):
    """One question; `labels` are letters or digits, `answer` is one of them."""

    id: str
    split: str
    question: str
    choices: tuple[str, ...]
    labels: tuple[str, ...]
    answer: str

    @property
    def right(self) -> str:
        """Letter of the right option."""
        return letter(self.labels.index(self.answer))


def _columns(split: str, row: Mapping[str, Any]) -> dict[str, Any]:
    options = row["choices"]
    return {
        "id": row["id"],
        "split": split,
        "question": row["question"],
        "choices": options["text"],
        "labels": options["label"],
        "answer": row["answerKey"],
    }


def _table(split: str, hub_split: str) -> SourceTable[ArcQuestion]:
    hub = HubTable(
        "allenai/ai2_arc", ("ARC-Challenge",), hub_split, lambda row, _config, _position: _columns(split, row)
    )
    return SourceTable("arc_challenge.jsonl.gz", ArcQuestion, hub)


TEST, DEV = _table("test", "test"), _table("dev", "validation")


def _show(row: ArcQuestion, *, answered: bool) -> str:
    return lettered(row.question, row.choices, row.right if answered else "")


ARC_CHALLENGE = TaskSet(
    name="arc_challenge",
    kind="choice",
    tables=(TEST, DEV),
    rows=lambda source: [row for row in source.read(TEST) if row.split == "test"],
    examples=lambda source, _: [row for row in source.read(DEV) if row.split == "dev"],
    shots=5,
    max_new_tokens=16,
    question=partial(_show, answered=False),
    instruction=lambda _: "The following are multiple choice questions (with answers) about science.",
    show=_show,
    reference=lambda row: row.right,
    form=lambda row: AnswerForm("choice", options=row.choices),
    score=lambda row, text: float(choice_of(text, row.choices) == row.right),
)
"""The test split, options under letters whatever the labels were; examples from the validation split."""
