"""Recorded outcomes: what is read, what is counted, what is refused."""

from __future__ import annotations

import gzip
import json
import math
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from asd.errors import ConfigError, DataError
from asd.research.recordings import recording as recording_module
from asd.research.recordings.recording import models_in, read_recording
from tests.recordings import STAGES, recording, records, write


def test_a_file_becomes_a_table(tmp_path: Path) -> None:
    """Scores, costs and confidences stand where stage and query say; .gz is read like plain text."""
    rows = records(5)
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    for found in (recording(tmp_path / "rows.jsonl", rows), read_recording([packed], STAGES)):
        assert found.scores.tolist() == [[row["outputs"][s]["score"] for s in STAGES] for row in rows]
        assert found.costs[2, 1] == rows[2]["outputs"]["medium"]["cost"]
        assert found.confidence[4, 0] == rows[4]["outputs"]["small"]["confidence"]
        assert found.keys[3] == ("made-up", "q3")
        assert found.counts.cost_source == "recorded"
    assert models_in(packed) == STAGES


def test_what_is_missing_is_counted(tmp_path: Path) -> None:
    """Null scores leave a query out, null confidences are the lowest there is; both are counted."""
    rows = records(6)
    rows[0]["outputs"]["small"]["score"] = None
    del rows[1]["outputs"]["large"]
    rows[2]["outputs"]["medium"]["cost"] = None
    rows[3]["outputs"]["medium"]["confidence"] = None
    for row in rows:
        row["outputs"]["small"]["confidence"] = None
    found = recording(tmp_path / "rows.jsonl", rows)
    assert (found.counts.n_queries, found.counts.n_used, len(found)) == (6, 3, 3)
    assert found.counts.no_score == {"small": 1, "medium": 0, "large": 1}
    assert found.counts.no_cost == {"small": 0, "medium": 1, "large": 1}
    assert found.counts.no_confidence == {"small": 3, "medium": 1, "large": 0}
    assert found.confidence[0, 1] == -math.inf
    assert np.isnan(found.confidence[:, 0]).all()


def test_without_recorded_costs_calls_of_the_last_stage_are_counted(tmp_path: Path) -> None:
    """RouteLLM's files have no cost; declared costs take the place of recorded ones."""
    rows = records(3)
    for row in rows:
        for output in row["outputs"].values():
            del output["cost"]
    path = write(tmp_path / "rows.jsonl", rows)
    found = read_recording([path], STAGES)
    assert found.costs.tolist() == [[0, 0, 1]] * 3
    assert found.counts.cost_source == "calls to large"
    assert read_recording([path], STAGES, [1, 2, 5]).costs[0].tolist() == [1, 2, 5]


def test_lines_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read at once is a block of lines: fields that nobody asked for take no room in the end."""
    rows = [{**row, "log": "x" * 5000} for row in records(1200)]
    path = write(tmp_path / "rows.jsonl", rows)
    monkeypatch.setattr(recording_module, "_BLOCK", 100)
    tracemalloc.start()
    found = read_recording([path], STAGES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 1200
    assert peak < 1200 * 5000 / 2
    assert found.keys[1199] == ("made-up", "q1199")


def test_replies_are_kept_whole(tmp_path: Path) -> None:
    """The reply, else what was taken out of it, else nothing; rows and stages are taken along."""
    rows = records(2)
    rows[0]["outputs"]["small"] |= {"response": "so\n#### 7", "answer": "7"}
    rows[0]["outputs"]["medium"] |= {"response": None, "answer": "8"}
    del rows[0]["outputs"]["large"]["response"]
    found = recording(tmp_path / "rows.jsonl", rows)
    assert found.texts[0].tolist() == ["so\n#### 7", "8", ""]
    assert found.take(np.array([1, 0])).texts[1].tolist() == found.texts[0].tolist()
    assert found.only([2, 0]).texts[0].tolist() == ["", "so\n#### 7"]


def test_answers_agree_by_their_words(tmp_path: Path) -> None:
    """Case, articles and punctuation do not count; what follows #### is the answer; none recorded is NaN."""
    rows = records(1)
    texts = ("The Pangolin.", "so 3 + 4 is seven\n#### pangolin", "pangolin or bear")
    for stage, text in zip(STAGES, texts, strict=True):
        rows[0]["outputs"][stage]["response"] = text
    found = recording(tmp_path / "rows.jsonl", rows)
    assert found.agreement[0, 0, 1] == 1.0
    assert found.agreement[0, 1, 2] == found.agreement[0, 2, 1] == 2 / 4
    del rows[0]["outputs"]["small"]["response"]
    assert np.isnan(recording(tmp_path / "rows.jsonl", rows).agreement[0, 0, 1])


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda rows: rows[1]["outputs"]["small"].update(score=1.5), "line 2: score of 'small' is 1.5"),
        (lambda rows: rows[1]["outputs"]["small"].update(cost=-1), "line 2: cost of 'small' is -1"),
        (
            lambda rows: rows[1]["outputs"]["small"].update(confidence="high"),
            "confidence of 'small' is 'high'",
        ),
        (lambda rows: rows[1]["outputs"]["small"].update(score=math.nan), "line 2, is not strict JSON"),
        (lambda rows: rows[1].pop("outputs"), "line 2: a query needs `outputs`"),
        (lambda rows: rows.append(rows[0]), "'q0' occurs twice"),
        (lambda rows: rows.clear(), "holds no queries"),
        (lambda rows: [row["outputs"].pop("small") for row in rows], "no outcome of small"),
        (
            lambda rows: [row["outputs"]["small"].update(score=None) for row in rows],
            "without a score: {'small': 3",
        ),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, break_it: object, says: str) -> None:
    """The message names the file, the line and the value."""
    rows = records(3)
    break_it(rows)  # type: ignore[operator]
    with pytest.raises(DataError, match=says.replace("{", r"\{").replace("`", "`")):
        recording(tmp_path / "rows.jsonl", rows)


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    """Stages named twice, one stage alone, costs that do not pair up, a file that is not there."""
    path = write(tmp_path / "rows.jsonl", records(3))
    for stages, costs in (
        (["small", "small"], None),
        (["small"], None),
        (STAGES, [1, 2]),
        (STAGES, [1, 2, -1]),
    ):
        with pytest.raises(ConfigError):
            read_recording([path], stages, costs)
    with pytest.raises(DataError, match="cannot read"):
        read_recording([tmp_path / "none.jsonl"], STAGES)


@pytest.mark.skipif("ASD_DATA" not in os.environ, reason="made-up rows above cover the same code")
@pytest.mark.parametrize(
    "name", ["ladder_triviaqa", "routerbench_arc_challenge", "routellm_gsm8k", "evalperf"]
)
def test_public_files_are_read(name: str) -> None:
    """Every shape of the public record format: ladders, many models, two models, graded scores."""
    path = Path(os.environ["ASD_DATA"]) / "traces" / f"{name}.jsonl.gz"
    found = read_recording([path], models_in(path))
    assert len(found) == found.counts.n_used > 100
    assert found.counts.n_queries - len(found) == {"routerbench_arc_challenge": 20}.get(name, 0)


@pytest.mark.parametrize("packed", [False, True])
def test_a_byte_order_mark_is_no_part_of_a_line(tmp_path: Path, packed: bool) -> None:
    """What editors put in front of a file, and so of lines where files were joined, is skipped."""
    rows = records(4)
    lines = [b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\r\n" for row in rows]
    content = b"".join(lines) + b"\xef\xbb\xbf\n"
    path = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert (
        read_recording([path], STAGES).scores.tolist()
        == recording(tmp_path / "plain.jsonl", rows).scores.tolist()
    )
    assert models_in(path) == STAGES


@pytest.mark.parametrize("name", ["score", "cost", "latency_ms", "confidence"])
@pytest.mark.parametrize("number", [10**400, -(10**400)])
def test_numbers_beyond_all_floats_are_refused(tmp_path: Path, name: str, number: int) -> None:
    """A whole number that no float can hold is an error with its line, not a traceback."""
    rows = records(3)
    rows[1]["outputs"]["small"][name] = number
    with pytest.raises(DataError, match=f"line 2: {name} of 'small'"):
        recording(tmp_path / "rows.jsonl", rows)


def test_named_signals_become_columns(tmp_path: Path) -> None:
    """By name, minus infinity for null where a stage has numbers, NaN for a stage without any."""
    rows = records(3)
    for i, row in enumerate(rows):
        row["outputs"]["small"]["signals"] = {"judge": 0.1 * i, "votes": None if i == 1 else 3}
    found = recording(tmp_path / "rows.jsonl", rows)
    assert sorted(found.signals) == ["judge", "votes"]
    assert found.signals["judge"][:, 0] == pytest.approx([0.0, 0.1, 0.2])
    assert found.signals["votes"][:, 0].tolist() == [3.0, -math.inf, 3.0]
    assert np.isnan(found.signals["judge"][:, 1:]).all()
    assert found.take(np.array([2])).only([1, 0]).signals["judge"][:, 1] == pytest.approx([0.2])


@pytest.mark.parametrize(
    ("signals", "says"),
    [
        ([0.5], "not one object"),
        ({"judge": "high"}, "judge of 'small' is 'high'"),
        ({"j": True}, "j of 'small'"),
    ],
)
def test_signals_that_are_no_numbers_are_refused(tmp_path: Path, signals: object, says: str) -> None:
    """The line, the stage and the name are told."""
    rows = records(2)
    rows[1]["outputs"]["small"]["signals"] = signals
    with pytest.raises(DataError, match=f"line 2: .*{says}"):
        recording(tmp_path / "rows.jsonl", rows)
