"""Small files of every public task set, in the format of the real ones, with rows made up here."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

N = 24
PROMPT = 'def f{i}(x):\n    """Add {i} to x."""\n'


def task_files(folder: Path) -> Path:
    """Write them below a folder, which is returned."""
    for name, rows in _tables().items():
        path = folder / ("traces" if name.startswith("wmt") else "tasks") / f"{name}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(b"".join(msgspec.json.encode(row) + b"\n" for row in rows)))
    return folder


def _tables() -> dict[str, Iterable[dict[str, Any]]]:
    subjects = ("anatomy", "high_school_physics")
    return {
        "mmlu_test": [_choice(f"mmlu-test-{i}", i, subject=subjects[i % 2]) for i in range(N)],
        "mmlu_dev": [_choice(f"mmlu-dev-{i}", 100 + i, subject=subjects[i % 2]) for i in range(10)],
        "arc_challenge": _arc_challenge(),
        "gsm8k_test": [_sum(f"gsm8k-test-{i}", i) for i in range(N)],
        "gsm8k_train": [_sum(f"gsm8k-train-{i}", 100 + i) for i in range(8)],
        "humaneval": _humaneval(),
        "mbpp": _mbpp(),
        "truthfulqa": _truthfulqa(),
        "simpleqa": _simpleqa(),
        "bbh": _bbh(),
        "wmt22_de_en": [
            {"id": f"wmt22-{i}", "prompt": f"Das ist die Zahl {i}.", "reference": f"That is the number {i}."}
            for i in range(N)
        ],
    }


def _arc_challenge() -> list[dict[str, Any]]:
    return [
        _choice(f"arc-{i}", i, split="dev" if i < 6 else "test", labels=list("1234" if i % 2 else "ABCD"))
        | {"answer": "1234"[i % 4] if i % 2 else "ABCD"[i % 4]}
        for i in range(N)
    ]


def _humaneval() -> list[dict[str, Any]]:
    return [
        {
            "task_id": f"HumanEval/{i}",
            "prompt": PROMPT.format(i=i),
            "entry_point": f"f{i}",
            "canonical_solution": f"    return x + {i}\n",
            "test": f"def check(candidate):\n    assert candidate(3) == {3 + i}\n",
        }
        for i in range(N)
    ]


def _mbpp() -> list[dict[str, Any]]:
    asked = [
        {
            "task_id": i,
            "text": f"Write a function to add {i} to a number. ",
            "code": f"import math\ndef f(x):\n  return math.floor(x) + {i}",
            "test_list": [f"assert f(3) == {3 + i}", f"assert math.isclose(f(4), {4 + i})"],
            "test_setup_code": "",
            "challenge_test_list": [],
        }
        for i in range(5, 520, 15)
    ]
    shown = [
        {
            "task_id": i,
            "text": f"Write a function to add {i}.",
            "code": f"def f(x):\n  return x + {i}",
            "test_list": [f"assert f(3) == {3 + i}"],
            "test_setup_code": "",
        }
        for i in (2, 3, 4)
    ]
    return asked + shown


def _truthfulqa() -> list[dict[str, Any]]:
    return [
        {
            "id": f"truthfulqa-{i}",
            "category": "Sums",
            "question": f"What is {i} + 1?",
            "best_answer": f"It is {i + 1}",
            "best_incorrect_answer": f"It is {i + 2}",
        }
        for i in range(N)
    ]


def _simpleqa() -> list[dict[str, Any]]:
    return [
        {
            "id": f"simpleqa-{i}",
            "problem": f"Who was number {i}?",
            "answer": f"Mr. Number {i}",
            "topic": "Numbers",
            "answer_type": "Person",
            "urls": [],
        }
        for i in range(N)
    ]


def _bbh() -> list[dict[str, Any]]:
    return [
        *(
            {"id": f"bbh-sorting-{i}", "task": "sorting", "input": f"Sort: {i} 0", "target": f"0 {i}"}
            for i in range(200)
        ),
        *(
            {
                "id": f"bbh-choosing-{i}",
                "task": "choosing",
                "input": f"Which is {i}?\nOptions:\n(A) {i}\n(B) {i + 1}",
                "target": "(A)",
            }
            for i in range(200)
        ),
    ]


def _choice(id_: str, i: int, **more: Any) -> dict[str, Any]:
    choices = [f"{i + k} apples" for k in range(4)]
    return {"id": id_, "question": f"How many are {i}?", "choices": choices, "answer": "ABCD"[i % 4], **more}


def _sum(id_: str, i: int) -> dict[str, Any]:
    answer = f"There are {i}+1=<<{i}+1={i + 1}>>{i + 1} of them.\n#### {i + 1:,}"
    return {"id": id_, "question": f"What is {i} and one more?", "answer": answer}
