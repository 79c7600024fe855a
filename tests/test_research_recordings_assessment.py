"""Recorded free texts by every metric: means, empty answers, what is refused, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from asd.cli import main
from asd.errors import ConfigError, DataError
from asd.quality.aggregate import Answered, assess
from asd.research.recordings.assessment import assess_recorded, means
from asd.workloads.catalogue import find_free_text

GOODS, NEAR = "The goods cost less than 20 euros.", "The goods cost under 20 euros."
OWN = """
class Summaries:
    name, kind = "mine", {kind!r}
    def queries(self, split, limit): return []
    def score(self, query, text): return 0.0
    def reply(self, text): return text.removeprefix("Summary: ")
workload = Summaries()
"""


def record(identity: str, **responses: str | None) -> dict[str, Any]:
    outputs = {model: {"response": text} for model, text in responses.items()}
    return {"id": identity, "dataset": "d", "prompt": "Die Ware?", "reference": GOODS, "outputs": outputs}


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in records))
    return path


def test_every_answer_is_assessed_by_itself(tmp_path: Path) -> None:
    """Scores are those of `assess`; what follows the reply is cut off; an unrecorded answer is no answer."""
    file = write(
        tmp_path / "f.jsonl",
        record("1", S=f"{NEAR}\nGerman: Und", L=GOODS),
        record("2", S=None, L=NEAR),
    )
    found = assess_recorded([file], find_free_text("wmt22"))
    assert [(row.id, row.model) for row in found] == [("1", "S"), ("1", "L"), ("2", "L")]
    [expected] = assess([Answered("Die Ware?", NEAR, (GOODS,))], "translation")
    assert found[0].assessment == found[2].assessment == expected
    assert found[1].assessment.quality == pytest.approx(1.0)
    assert [row.model for row in assess_recorded([file], find_free_text("wmt22"), models=["L"])] == ["L", "L"]


def test_no_answer_is_worth_nothing_and_counted(tmp_path: Path) -> None:
    """It pulls the mean quality down; the other scores are means of the answers that were given."""
    file = write(tmp_path / "f.jsonl", record("1", S=GOODS), record("2", S="..."))
    rows = assess_recorded([file], find_free_text("wmt22:chars=100"))
    assert rows[1].assessment.quality == 0.0
    assert rows[1].assessment.left_out == {"every metric": "no answer"}
    [row] = means(rows)
    assert (row["model"], row["answers"], row["empty"]) == ("S", 2, 1)
    assert (row["quality"], row["bleu"]) == (pytest.approx(0.5), 1.0)


def test_only_texts_without_answers(tmp_path: Path) -> None:
    """There is still a row, of quality 0."""
    rows = assess_recorded([write(tmp_path / "f.jsonl", record("1", S=""))], find_free_text("wmt22"))
    assert means(rows) == [{"model": "S", "answers": 1, "empty": 1, "quality": 0.0}]


@pytest.mark.parametrize("name", ["gsm8k", "mmlu", "humaneval", "mbpp", "bbh", "simpleqa", "truthfulqa"])
def test_right_or_wrong_is_not_a_matter_of_words(name: str, tmp_path: Path) -> None:
    """Code, numbers, choices and names are refused by what their workload says of itself."""
    file = write(tmp_path / "f.jsonl", record("1", S=GOODS))
    with pytest.raises(ConfigError, match="whether its answer is right"):
        assess_recorded([file], find_free_text(name))


def test_a_workload_of_the_user_s_own_says_what_its_texts_are(tmp_path: Path) -> None:
    """`kind` and `reply` of the object in the file; one without them is refused, as are the embedded ones."""
    own = tmp_path / "own.py"
    own.write_text(OWN.format(kind="summary"))
    file = write(tmp_path / "f.jsonl", record("1", S=f"Summary: {GOODS}"))
    [row] = assess_recorded([file], find_free_text(str(own)))
    assert row.assessment.quality == pytest.approx(1.0)
    for name in ("tiny-text", str(tmp_path / "bare.py")):
        (tmp_path / "bare.py").write_text(OWN.format(kind="text").replace("reply", "other"))
        with pytest.raises(ConfigError, match="does not say that its answers are free text"):
            find_free_text(name)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    """No reference, a model that is not there, no answers to take a mean of."""
    file, wmt22 = tmp_path / "f.jsonl", find_free_text("wmt22")
    with pytest.raises(DataError, match="query '1' of 'd' has no reference"):
        assess_recorded([write(file, record("1", S=GOODS) | {"reference": " "})], wmt22)
    with pytest.raises(DataError, match="no response of X"):
        assess_recorded([write(file, record("1", S=GOODS))], wmt22, models=["S", "X"])
    with pytest.raises(DataError, match="no recorded response"):
        assess_recorded([write(file, record("1", S=None))], wmt22)


def test_the_command_prints_means_and_writes_every_answer(tmp_path: Path) -> None:
    """Table, provenance, what was left out, signatures; one line an answer with weights that were used."""
    file, items = write(tmp_path / "f.jsonl", record("1", S=NEAR, L=GOODS)), tmp_path / "items.jsonl"
    done = CliRunner().invoke(main, ["assess", str(file), "--dataset", "wmt22", "--items", str(items)])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split()[:5] == ["model", "answers", "empty", "quality", "bleu"]
    assert [line.split()[0] for line in lines[2:4]] == ["S", "L"]
    assert "provenance: replayed" in lines
    assert "coherence: left out, no encoder" in lines
    assert any(line.startswith("bleu: nrefs:1|case:mixed|eff:yes|tok:13a") for line in lines)
    written = [json.loads(line) for line in items.read_text().splitlines()]
    assert [(row["model"], row["provenance"]) for row in written] == [("S", "replayed"), ("L", "replayed")]
    assert sum(written[0]["assessment"]["weights"].values()) == pytest.approx(1.0)
    assert written[0]["assessment"]["left_out"]["bertscore_f1"] == "no encoder"
