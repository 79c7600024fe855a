"""MBPP: a sentence and three tests, to be made into a Python function (arXiv 2108.07732).

The authors' splits: tasks 11 to 510 are asked, 2, 3 and 4 are the worked examples.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from asd.quality.code import program_of
from asd.quality.sandbox import CodeTests, Sandbox
from asd.schema import msgspec
from asd.types import AnswerForm
from asd.workloads.sources import HubTable, SourceTable
from asd.workloads.tasks import TaskSet

__all__ = ["mbpp", "tests_of"]

ASKED, EXAMPLES = range(11, 511), (2, 3, 4)


class MbppTask(msgspec.Struct, frozen=True):
    """One task: what to do, a solution, assertions, and statements that go before these."""

    task_id: int
    text: str
    code: str
    test_list: tuple[str, ...]
    test_setup_code: str

    @property
    def id(self) -> str:
        """The task's number."""
        return f"mbpp-{self.task_id}"


def _columns(row: Mapping[str, Any], _config: str, _position: int) -> dict[str, Any]:
    return dict(row)


TABLE = SourceTable(
    "mbpp.jsonl.gz",
    MbppTask,
    HubTable("google-research-datasets/mbpp", ("full",), "train+test+validation+prompt", _columns),
)


def mbpp(sandbox: Sandbox) -> TaskSet[MbppTask]:
    """The test split; answers are run in `sandbox`."""

    def passes(row: MbppTask, text: str) -> float:
        tests = tests_of(row)
        answer = text.partition("[DONE]")[0].replace("[BEGIN]", "")
        return float(sandbox.run(program_of(answer, tests.names[0]), tests).passed)

    return TaskSet(
        name="mbpp",
        kind="code",
        tables=(TABLE,),
        rows=lambda source: [row for row in source.read(TABLE) if row.task_id in ASKED],
        examples=lambda source, _: [row for row in source.read(TABLE) if row.task_id in EXAMPLES],
        shots=len(EXAMPLES),
        max_new_tokens=400,
        question=lambda row: "\n".join((row.text, *row.test_list)),  # some sentences occur twice
        instruction=lambda _: "",
        show=_show,
        reference=lambda row: row.code,
        form=lambda row: AnswerForm("code", name=tests_of(row).names[0]),
        score=passes,
    )


def tests_of(row: MbppTask) -> CodeTests:
    """The task's tests; they take the solution's functions from the answer and import for themselves."""
    solution = ast.parse(row.code)
    tests = "\n".join([row.test_setup_code, *row.test_list])
    used = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    defined = [n.name for n in solution.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    imports = [ast.unparse(n) for n in solution.body if isinstance(n, ast.Import | ast.ImportFrom)]
    return CodeTests(
        tests=tests, names=tuple(name for name in defined if name in used), prelude="\n".join(imports)
    )


def _show(row: MbppTask, *, answered: bool) -> str:
    """The authors' words."""
    tests = "\n".join(row.test_list)
    solution = f"{row.code}\n[DONE]" if answered else ""
    return (
        f"You are an expert Python programmer, and here is your task: {row.text.strip()} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n{solution}"
    )
