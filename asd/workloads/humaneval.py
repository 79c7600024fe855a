"""HumanEval: finish a Python function so that its tests pass (arXiv 2107.03374)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asd.quality.code import complete
from asd.quality.sandbox import CodeTests, Sandbox
from asd.schema import msgspec
from asd.types import AnswerForm
from asd.workloads.sources import HubTable, SourceTable
from asd.workloads.tasks import TaskSet

__all__ = ["humaneval", "tests_of"]


class HumanEvalTask(msgspec.Struct, frozen=True):
    """One function: its beginning, a solution, and a program that defines `check(candidate)`."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str

    @property
    def id(self) -> str:
        """The task's own."""
        return self.task_id


def _columns(row: Mapping[str, Any], _config: str, _position: int) -> dict[str, Any]:
    return dict(row)


TABLE = SourceTable(
    "humaneval.jsonl.gz",
    HumanEvalTask,
    HubTable("openai/openai_humaneval", ("openai_humaneval",), "test", _columns),
)


def humaneval(sandbox: Sandbox) -> TaskSet[HumanEvalTask]:
    """All 164 functions; answers are run in `sandbox`."""

    def passes(row: HumanEvalTask, text: str) -> float:
        return float(sandbox.run(complete(row.prompt, text, row.entry_point), tests_of(row)).passed)

    return TaskSet(
        name="humaneval",
        kind="code",
        tables=(TABLE,),
        rows=lambda source: source.read(TABLE),
        max_new_tokens=512,
        question=lambda row: row.prompt,
        # the rest of the function alone is accepted too
        instruction=lambda _: (
            "Complete this Python function. Reply with the whole function in one code block."
        ),
        show=_show,
        reference=lambda row: row.prompt + row.canonical_solution,
        form=lambda row: AnswerForm("code", name=row.entry_point),
        score=passes,
    )


def tests_of(row: HumanEvalTask) -> CodeTests:
    """The task's tests; helper functions in the prompt are the tests' own copy."""
    return CodeTests(
        tests=f"{row.test}\ncheck({row.entry_point})", names=(row.entry_point,), prelude=row.prompt
    )


def _show(row: HumanEvalTask, *, answered: bool) -> str:
    solution = f"\n```python\n{row.prompt}{row.canonical_solution}```" if answered else ""
    return f"```python\n{row.prompt}```{solution}"
