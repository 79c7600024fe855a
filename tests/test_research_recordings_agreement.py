"""Agreement of our scores with recorded ones: counted right on made-up records, near one on the real ones."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from asd.cli.research.agreement import agreement
from asd.quality.sandbox import Sandbox
from asd.research.recordings.agreement import Agreement, VerdictPair, agreements, replies
from asd.research.recordings.consensus import consensus
from asd.workloads.sources import Folder
from tests.taskfiles import task_files

FULL = "Which?\n\nChoices:\nA: red\nB: blue\nC: green\nD: grey\n\nAnswer:"


def outputs(*answers: tuple[str, float | None]) -> dict[str, Any]:
    return {f"m{i}": {"response": text, "score": score} for i, (text, score) in enumerate(answers)}


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(b"".join(msgspec.json.encode(row) + b"\n" for row in rows)))


@pytest.fixture
def data(tmp_path: Path) -> Folder:
    """Records that agree and disagree in known ways."""
    task_files(tmp_path)
    number = {
        "id": "gsm8k-test-0",
        "outputs": outputs(("#### 1", 1), ("#### 2", 1), ("#### 1", 0), ("1", None)),
    }
    letters = {
        "id": "a",
        "prompt": FULL,
        "reference": "B",
        "outputs": outputs(("B", 1), ("(C)", 0), ("B", 0)),
    }
    arc = {
        "id": "b",
        "prompt": repr(["x\n\nHow many are 8?\nA) 9 apples\nB) 8 apples\nAnswer:"]),
        "outputs": outputs(("['B']", 1), ("['A']", 0)),
    }
    pro = {
        "id": "c",
        "options": ["1", "2"],
        "reference": "B",
        "outputs": {"m": {"response": "The answer is (B).", "score": 1, "answer": "B"}},
    }
    code = {
        "id": "d",
        "prompt": repr(["Write a function to add 20 to a number."]),
        "outputs": outputs(
            (repr(["```python\ndef plus(x):\n    return x + 20\n```"]), 1),
            (repr(["def f(x):\n    return 1"]), 1),
        ),
    }
    for name in ("zeroeval_gsm", "routellm_gsm8k", "openai_gsm8k_solutions"):
        write(tmp_path / "traces" / f"{name}.jsonl.gz", [number])
    split = number | {"split": "train", "reference": "#### 2"}
    for name, row in (
        ("ladder_gsm8k", split),
        ("ladder_mmlu", letters),
        ("routerbench_arc_challenge", arc),
        ("mmlu_pro", pro),
        ("routerbench_mbpp", code),
    ):
        write(tmp_path / "traces" / f"{name}.jsonl.gz", [row])
    return Folder(tmp_path)


def test_agreement_is_counted_in_both_directions() -> None:
    """Of four answers two agree; each direction of the others is told."""
    pairs = [(True, True), (False, False), (True, False), (False, True)]
    compared = tuple(VerdictPair("i", "m", ours, recorded) for ours, recorded in pairs)
    found = Agreement("set", "record", compared)
    assert (found.share, found.n_only_ours, found.n_only_recorded) == (0.5, 1, 1)


def test_known_records_are_compared_as_they_are(data: Folder) -> None:
    """Unscored answers are left out, references are each file's own, code is run, renamed and compared."""
    found = {
        (a.name, a.against): [(c.ours, c.recorded) for c in a.answers]
        for a in agreements(data, Sandbox.open(), 2)
    }
    right_wrong = [(True, True), (False, True), (True, False)]
    assert found["zeroeval_gsm", "first number of the answer field"] == right_wrong
    assert found["ladder_gsm8k", "a judge model"] == [(False, True), (True, True), (False, False)]
    assert found["ladder_mmlu", "recorded score"] == [(True, True), (False, False), (True, False)]
    assert found["routerbench_arc_challenge", "recorded score"] == [(True, True), (False, False)]
    assert found["mmlu_pro", "letter recorded from the same text"] == [(True, True)]
    assert found["humaneval, mbpp", "the authors' solutions"] == [(True, True)] * 4
    assert found["routerbench_mbpp", "one process"] == [(True, True), (False, False)]
    assert found["routerbench_mbpp", "recorded score"] == [(True, True), (False, True)]


def test_the_command_prints_one_line_a_comparison(data: Folder) -> None:
    """A table with the figures, in the order of the comparisons."""
    done = CliRunner().invoke(agreement, ["--data", str(data.path), "--code", "1"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert len(lines) == 2 + 10
    assert lines[2].split()[-4:] == ["3", "0.3333", "1", "1"]


@pytest.mark.skipif(
    "ASD_DATA" not in os.environ, reason="ASD_DATA is not set; made-up records cover the code"
)
def test_real_records_agree() -> None:
    """Near one where the record was scored by the same question; code as one process says."""
    found = {
        (a.name, a.against): a.share
        for a in agreements(Folder(Path(os.environ["ASD_DATA"])), Sandbox.open(), 10)
    }
    assert found["zeroeval_gsm", "first number of the answer field"] > 0.99
    assert found["ladder_gsm8k", "a judge model"] > 0.99
    assert found["openai_gsm8k_solutions", "recorded score"] == 1.0
    assert found["ladder_mmlu", "recorded score"] == 1.0
    assert found["routerbench_arc_challenge", "recorded score"] > 0.999
    assert found["humaneval, mbpp", "the authors' solutions"] == 1.0
    assert found["routerbench_mbpp", "one process"] == 1.0


def test_letters_of_which_the_record_took_one_are_left_out(data: Folder) -> None:
    """ "(A) and (B)" is no answer, whatever a record made of it."""
    pro = {
        "id": "c",
        "options": ["1", "2"],
        "reference": "A",
        "outputs": {
            name: {"response": f"The answer is {said}.", "score": 1, "answer": "A"}
            for name, said in {
                "one": "(A)",
                "both": "(A) and (B)",
                "list": "(A, B)",
                "either": "(A) or (B)",
            }.items()
        },
    }
    write(data.path / "traces" / "mmlu_pro.jsonl.gz", [pro])
    assert [reply.model for reply in replies(data, "mmlu_pro")] == ["one"]


def test_answers_say_more_than_texts(data: Folder) -> None:
    """Two models that never write the same: by texts a coin is tossed, by answers it is not."""
    rows = []
    for i, (one, two) in enumerate(
        [("1", "1"), ("1", "2"), ("2", "1"), ("3", "3"), ("1", "1"), ("none", "none")]
    ):
        outputs = {
            "a": {"response": f"So it is {one}", "score": float(one == "1")},
            "b": {"response": f"#### {two}", "score": float(two == "1")},
        }
        rows.append({"id": f"gsm8k-test-{i}", "outputs": outputs})
    write(data.path / "traces" / "zeroeval_gsm.jsonl.gz", rows)
    for name in ("ladder_triviaqa", "ladder_truthfulqa"):
        both = {"a": {"response": "The Seine", "score": 1}, "b": {"response": "Seine.", "score": 1}}
        other = {"a": {"response": "Rhine", "score": 0}, "b": {"response": "Rhone", "score": 0}}
        write(
            data.path / "traces" / f"{name}.jsonl.gz",
            [{"id": "x", "prompt": "?", "outputs": both}, {"id": "y", "prompt": "?", "outputs": other}],
        )
    found = {c.name: c for c in consensus(data, ("zeroeval_gsm", "ladder_triviaqa"))}
    numbers, words = found["zeroeval_gsm"], found["ladder_triviaqa"]
    assert (numbers.n_models, numbers.n_questions, numbers.share_unstated) == (2, 6, 2 / 12)
    assert (numbers.share_same_text, numbers.share_same_answer) == (0.0, 3 / 6)
    # of a's answers 1, 1, 2, 3, 1, none the other says the same of the first, fourth and fifth
    assert numbers.auroc_text == 0.5
    assert numbers.auroc_answer == pytest.approx(2 / 3)
    assert (words.auroc_text, words.auroc_answer) == (0.5, 1.0)


def test_the_command_compares_models_with_each_other(data: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line a set, and how the numbers came about."""
    monkeypatch.setattr("asd.research.recordings.consensus.SETS", ("zeroeval_gsm",))
    row = {"id": "gsm8k-test-0", "outputs": outputs(("#### 1", 1), ("1", 0))}
    wrong = {"id": "gsm8k-test-1", "outputs": outputs(("#### 2", 0), ("1", 1))}
    write(data.path / "traces" / "zeroeval_gsm.jsonl.gz", [row, wrong])
    done = CliRunner().invoke(agreement, ["--data", str(data.path), "--between-models"])
    assert done.exit_code == 0, done.output
    assert "zeroeval_gsm" in done.output.splitlines()[2]
    assert done.output.splitlines()[-1].endswith("provenance: replayed")
