"""`python -m bench.scale`: what it reads off its runs, and one small run of each kind."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.scale import Taken, growth, resampled, scale
from tests.recordings import records, write


def test_exponents_are_those_of_power_laws() -> None:
    """Seconds that grow a hundredfold where queries grow tenfold: 2; models likewise, at as many queries."""
    runs = [
        Taken(queries, models, 1e-6 * queries**2 * models, 1.0, 1.0)
        for models in (2, 4)
        for queries in (1000, 10_000)
    ]
    rows = growth(runs)
    assert [row["exponent, queries"] for row in rows] == [None, pytest.approx(2), None, pytest.approx(2)]
    assert [row["exponent, models"] for row in rows] == [None, None, pytest.approx(1), pytest.approx(1)]


def test_resampled_rows_are_recorded_ones_told_apart(tmp_path: Path) -> None:
    """Outcomes of the models asked for, from rows that have them all; ids and prompts occur once."""
    rows = records(20)
    for row in rows[:10]:
        row["outputs"]["medium"]["score"] = None
    path = write(tmp_path / "rows.jsonl", rows)
    drawn = list(islice(resampled(path, 2, np.random.default_rng(0)), 50))
    known = [{stage: row["outputs"][stage] for stage in ("small", "medium")} for row in rows[10:]]
    assert all(row["outputs"] in known for row in drawn)
    assert len({row["prompt"] for row in drawn}) == len({row["id"] for row in drawn}) == 50


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--queries", "10,x"], "numbers separated by commas"), (["--models", "9"], "3 models, not 9")],
)
def test_wrong_requests_end_with_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    """A number that is none, more models than were recorded."""
    path = write(tmp_path / "rows.jsonl", records(3))
    done = CliRunner().invoke(scale, ["--traces", str(path), *arguments])
    assert done.exit_code != 0
    assert says in done.output


@pytest.mark.slow
def test_a_small_run_prints_time_memory_and_growth(tmp_path: Path) -> None:
    """Two sizes, made up and resampled: a row each, more memory than an interpreter, an exponent."""
    path = write(tmp_path / "rows.jsonl", records(60))
    for arguments in (["--models", "2"], ["--models", "2", "--traces", str(path), "--command", "certify"]):
        done = CliRunner().invoke(scale, ["--queries", "120,240", *arguments])
        assert done.exit_code == 0, done.output
        lines = done.output.splitlines()
        small, large = (line.split() for line in lines[2:4])
        assert [small[0], large[0]] == ["120", "240"]
        assert float(small[4]) > 20
        assert small[5] == "-"
        assert -3 < float(large[5]) < 3
        assert "timing-only" in lines[-1]


@pytest.mark.slow
def test_a_command_that_fails_is_shown(tmp_path: Path) -> None:
    """Too few rows to fit on: the command's own message, no table."""
    path = write(tmp_path / "rows.jsonl", records(60))
    done = CliRunner().invoke(scale, ["--queries", "20", "--models", "2", "--traces", str(path)])
    assert done.exit_code == 1
    assert "50 are needed" in done.output
