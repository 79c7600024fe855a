"""Our scores of recorded answers against the scores that were recorded with them.

Each set of recorded answers is scored again from the text, by the rule of the workload it belongs to. Where
the two differ one of them is wrong, and the table says in which direction: `only ours` counts answers that
we call right and the record wrong. The answers of code sets are also run in one process with their tests,
as a plain harness does it, against the sandbox's two.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from asd.errors import DataError
from asd.quality.answers import answer_of
from asd.quality.code import program_of
from asd.quality.sandbox import CodeTests, Sandbox
from asd.types import AnswerForm
from asd.workloads import humaneval, mbpp
from asd.workloads.choices import letter
from asd.workloads.sources import Folder, HubTable, SourceTable

__all__ = ["Agreement", "RecordedReply", "VerdictPair", "agreements", "replies"]

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class VerdictPair:
    """One answer: who gave it to which question, and the two verdicts."""

    id: str
    model: str
    ours: bool
    recorded: bool


@dataclass(frozen=True, slots=True)
class Agreement:
    """One set of recorded answers, and what was compared with what."""

    name: str
    against: str
    answers: tuple[VerdictPair, ...]

    @property
    def share(self) -> float:
        """Of the answers, those that both call right or both call wrong."""
        return sum(answer.ours == answer.recorded for answer in self.answers) / len(self.answers)

    @property
    def n_only_ours(self) -> int:
        """Right by us, wrong by the record."""
        return sum(answer.ours > answer.recorded for answer in self.answers)

    @property
    def n_only_recorded(self) -> int:
        """Right by the record, wrong by us."""
        return sum(answer.ours < answer.recorded for answer in self.answers)


def agreements(data: Folder, sandbox: Sandbox, n_code: int) -> Iterator[Agreement]:
    """Every comparison that the recorded answers in a folder allow, one after the other.

    Args:
        data: Folder of the task files and traces.
        sandbox: Runs the code.
        n_code: Most programs run for each comparison of code; running them takes most of the time.

    Raises:
        DataError: A file is missing or damaged.
    """
    for name, against in (NUMBERS | LETTERS).items():
        yield Agreement(name, against, tuple(map(_compared, replies(data, name))))
    yield Agreement("humaneval, mbpp", "the authors' solutions", tuple(_solutions(data, sandbox, n_code)))
    answered = list(islice(_mbpp_answers(data), n_code))
    yield Agreement("routerbench_mbpp", "one process", tuple(_one_process(sandbox, answered)))
    yield Agreement("routerbench_mbpp", "recorded score", tuple(_as_recorded(sandbox, answered)))


NUMBERS = {
    "zeroeval_gsm": "first number of the answer field",
    "ladder_gsm8k": "a judge model",
    "routellm_gsm8k": "recorded score",
    "openai_gsm8k_solutions": "recorded score",
}
"""Recorded answers to GSM8K, and how the record was scored."""
LETTERS = {
    "ladder_mmlu": "recorded score",
    "routerbench_arc_challenge": "recorded score",
    "mmlu_pro": "letter recorded from the same text",
}
"""The same for multiple choice."""


@dataclass(frozen=True, slots=True)
class RecordedReply:
    """One recorded reply.

    Attributes:
        id: Of the question.
        model: Who gave it.
        text: What was written.
        form: What its answer is.
        right: The right answer in that form; None where only the record says what is right.
        recorded: The record calls it right.
    """

    id: str
    model: str
    text: str
    form: AnswerForm
    right: str | None
    recorded: bool


def replies(data: Folder, name: str) -> Iterator[RecordedReply]:
    """The recorded replies of a set that have a text and a score.

    Raises:
        DataError: The file is missing or damaged.
    """
    readers = {"ladder_mmlu": _mmlu, "routerbench_arc_challenge": _arc, "mmlu_pro": _mmlu_pro}
    if name in NUMBERS:
        return _numbers(data, name)
    return readers[name](data) if name in readers else _phrases(data, name)


def _compared(reply: RecordedReply) -> VerdictPair:
    ours = answer_of(reply.form, reply.text) == reply.right
    return VerdictPair(reply.id, reply.model, ours, reply.recorded)


def _outputs(rows: Iterable[Row]) -> Iterator[tuple[Row, str, str, Row]]:
    """Row, model, text and output of every answer that has a text and a score."""
    for row in rows:
        for model, output in row["outputs"].items():
            if output.get("response") is not None and output["score"] is not None:
                yield row, model, _text(output["response"]), output


def _numbers(data: Folder, name: str) -> Iterator[RecordedReply]:
    answers = {row["id"]: row["answer"] for row in _rows(data, "gsm8k_test")}
    form = AnswerForm("number")
    for row, model, text, output in _outputs(_rows(data, name)):
        reference = row["reference"] if "split" in row else answers[row["id"]]
        yield RecordedReply(row["id"], model, text, form, answer_of(form, reference), output["score"] == 1)


def _mmlu(data: Folder) -> Iterator[RecordedReply]:
    for row, model, text, output in _outputs(_rows(data, "ladder_mmlu")):
        options = tuple(re.findall(r"^[A-D]: (.*)$", row["prompt"], re.MULTILINE))
        form = AnswerForm("choice", options)
        yield RecordedReply(row["id"], model, text, form, row["reference"], output["score"] == 1)


def _arc(data: Folder) -> Iterator[RecordedReply]:
    """The options are in another order than in the task files: the right one is found by its text."""
    right: dict[str, set[str]] = defaultdict(set)  # some questions are asked twice, with other options
    for row in _rows(data, "arc_challenge"):
        right[" ".join(row["question"].split())].add(row["choices"][row["labels"].index(row["answer"])])
    for row, model, text, output in _outputs(_rows(data, "routerbench_arc_challenge")):
        asked = _text(row["prompt"]).rstrip().rpartition("\n\n")[2]
        options = tuple(re.findall(r"^[A-E1-5]\) (.*)$", asked, re.MULTILINE))
        answers = right[" ".join(re.split(r"\n[A1]\)", asked)[0].split())]
        expected = next(letter(i) for i, option in enumerate(options) if option in answers)
        yield RecordedReply(
            row["id"], model, text, AnswerForm("choice", options), expected, output["score"] == 1
        )


_SEVERAL = re.compile(r"answer is \(?[A-J]\)?(?:, ?(?:and )?| and | or )\(?[A-J]\b")


def _mmlu_pro(data: Folder) -> Iterator[RecordedReply]:
    """Where a reply names several letters the record took one of them; that is no answer, and left out."""
    for row, model, text, output in _outputs(_rows(data, "mmlu_pro")):
        if not _SEVERAL.search(text):
            form = AnswerForm("choice", tuple(row["options"]))
            yield RecordedReply(
                row["id"], model, text, form, row["reference"], output["answer"] == row["reference"]
            )


def _phrases(data: Folder, name: str) -> Iterator[RecordedReply]:
    """Short answers that a judge model has scored."""
    for row, model, text, output in _outputs(_rows(data, name)):
        yield RecordedReply(row["id"], model, text, AnswerForm("words"), None, output["score"] == 1)


def _solutions(data: Folder, sandbox: Sandbox, n: int) -> Iterator[VerdictPair]:
    for function in data.read(humaneval.TABLE)[:n]:
        solution = function.prompt + function.canonical_solution
        ours = sandbox.run(solution, humaneval.tests_of(function)).passed
        yield VerdictPair(function.id, "solution", ours, recorded=True)
    for task in data.read(mbpp.TABLE)[:n]:
        yield VerdictPair(
            task.id, "solution", sandbox.run(task.code, mbpp.tests_of(task)).passed, recorded=True
        )


@dataclass(frozen=True, slots=True)
class _RunnableAnswer:
    """A recorded program with the tests it is put to, its function renamed to the one they call.

    The prompts of that record do not name the function.
    """

    id: str
    model: str
    program: str
    tests: CodeTests
    recorded: bool


def _mbpp_answers(data: Folder) -> Iterator[_RunnableAnswer]:
    """Of the tasks whose text is in the task file: half of them were reworded, with other tests."""
    tasks = {" ".join(task.text.split()): task for task in data.read(mbpp.TABLE)}
    for row, model, text, output in _outputs(_rows(data, "routerbench_mbpp")):
        task = tasks.get(" ".join(_text(row["prompt"]).split()))
        if task is not None:
            tests = mbpp.tests_of(task)
            program = _renamed(program_of(text, tests.names[0]), tests.names[0])
            yield _RunnableAnswer(row["id"], model, program, tests, output["score"] == 1)


def _renamed(program: str, name: str) -> str:
    defined = re.findall(r"^def (\w+)", program, re.MULTILINE)
    return program if not defined or name in defined else f"{program}\n{name} = {defined[0]}\n"


def _one_process(sandbox: Sandbox, answers: Iterable[_RunnableAnswer]) -> Iterator[VerdictPair]:
    for answer in answers:
        tests = answer.tests
        together = "\n".join([tests.prelude, answer.program, tests.tests])
        plain = sandbox.run(together, CodeTests(tests="", names=())).passed
        yield VerdictPair(answer.id, answer.model, sandbox.run(answer.program, tests).passed, plain)


def _as_recorded(sandbox: Sandbox, answers: Iterable[_RunnableAnswer]) -> Iterator[VerdictPair]:
    for answer in answers:
        ours = sandbox.run(answer.program, answer.tests).passed
        yield VerdictPair(answer.id, answer.model, ours, answer.recorded)


def _rows(data: Folder, name: str) -> list[Row]:
    hub = HubTable("", (), "", lambda row, *_: dict(row))
    return data.read(SourceTable(f"{name}.jsonl.gz", dict, hub))


def _text(field: str) -> str:
    """A text, or the only one in the literal of a list."""
    if not field.startswith(("['", '["')):
        return field
    try:
        return str(ast.literal_eval(field)[0])
    except (ValueError, SyntaxError) as error:
        raise DataError(f"a recorded text is no list of one text: {field[:60]!r}") from error
