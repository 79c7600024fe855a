"""Recorded models in a study: parts and wholes agree, what is kept and saved is what was recorded."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from asd.errors import DataError
from asd.research.recordings.recording import Recording, read_recording
from asd.research.study.record import StudyTable
from asd.research.study.recorded import CASCADE, EVERYTHING, recorded_tables
from tests.recordings import QUALITY, STAGES, records, write

pytestmark = pytest.mark.slow

DATASETS = ("easy", "hard")
N = 120


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Two data sets, each call of a stage as many seconds long as it costs."""
    found = [
        row
        for seed, name in enumerate(DATASETS)
        for row in records(N, seed, dataset=name, quality=tuple(np.array(QUALITY) - 0.05 * seed))
    ]
    for row in found:
        for output in row["outputs"].values():
            output["latency_ms"] = 1e3 * output["cost"]
    return read_recording([write(tmp_path_factory.mktemp("recorded") / "made-up.jsonl", found)], STAGES)


@pytest.fixture(scope="module")
def tables(recording: Recording) -> dict[str, StudyTable]:
    """Made once: every data set is fitted five times."""
    return {table.name: table for table in recorded_tables(recording, seed=0)}


def named(table: StudyTable) -> list[dict[str, object]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_single_models_are_as_recorded(recording: Recording, tables: dict[str, StudyTable]) -> None:
    """Mean score, mean cost, mean seconds; the last one is its own reference."""
    rows = [row for row in named(tables["recorded"]) if row["dataset"] == EVERYTHING]
    assert [row["method"] for row in rows] == [*(f"always-{stage}" for stage in STAGES), CASCADE]
    for k, row in enumerate(rows[:-1]):
        assert row["quality"] == pytest.approx(recording.scores[:, k].mean())
        assert row["cost"] == pytest.approx(recording.costs[:, k].mean())
        assert row["seconds"] == pytest.approx(row["cost"])
        assert row[f"share_{STAGES[k]}"] == 1.0
    assert (rows[2]["quality_percent"], rows[2]["cost_percent"], rows[2]["speed_up"]) == (0.0, 0.0, 1.0)


def test_the_cascade_saves_and_keeps(tables: dict[str, StudyTable]) -> None:
    """Where confidences tell right from wrong, much cheaper at 95 % of the quality, within the noise."""
    row = named(tables["recorded"])[-1]
    assert row["method"] == CASCADE
    assert row["cost_percent"] < -30
    assert row["quality_percent_high"] > -5
    assert row["speed_up_low"] <= row["speed_up"] <= row["speed_up_high"]
    assert row["speed_up"] == pytest.approx(1 / (1 + row["cost_percent"] / 100))
    assert sum(row[f"share_{stage}"] for stage in STAGES) == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "key"), [("recorded", "method"), ("recorded_lambda", "lambda")])
def test_all_data_sets_are_the_mean_of_each(tables: dict[str, StudyTable], name: str, key: str) -> None:
    """Equally many queries in each, so the plain mean."""
    rows = named(tables[name])
    for row in (row for row in rows if row["dataset"] == EVERYTHING):
        parts = [part for part in rows if part["dataset"] in DATASETS and part[key] == row[key]]
        for metric in ("quality", "cost"):
            assert row[metric] == pytest.approx(np.mean([part[metric] for part in parts]))


def test_falling_rows_are_flagged(tables: dict[str, StudyTable]) -> None:
    """Exactly those whose quality or cost is below the row before."""
    rows = [row for row in named(tables["recorded_lambda"]) if row["dataset"] == "easy"]
    for before, row in pairwise(rows):
        assert ("quality" in row["flag"]) == (row["quality"] < before["quality"])
        assert ("cost" in row["flag"]) == (row["cost"] < before["cost"])
    assert all(row["quality"] <= row["quality_oracle"] for row in rows)


def test_seconds_that_were_not_recorded_are_not_made_up(tmp_path: Path) -> None:
    """A dash, and everything else as before."""
    rows = read_recording([write(tmp_path / "plain.jsonl", records(60))], STAGES)
    row = named(recorded_tables(rows, seed=0)[0])[-1]
    assert (row["seconds"], row["speed_up"], row["speed_up_low"]) == (None, None, None)
    assert row["quality"] > 0.5


def test_too_few_queries_are_refused(tmp_path: Path) -> None:
    """Fitting on a handful would say nothing; the data set is named."""
    rows = read_recording([write(tmp_path / "few.jsonl", records(20, dataset="few"))], STAGES)
    with pytest.raises(DataError, match="few: fewer than 50"):
        recorded_tables(rows, seed=0)
