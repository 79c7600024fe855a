"""`python -m bench.scale`: what it reads off its runs, and one small run of each kind."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.scale.__main__ import scale
from bench.scale.cascades import effort_of
from bench.scale.growth import Taken, growth, one_at_a_time, too_much
from bench.scale.rows import resampled
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


def test_one_number_grows_at_a_time() -> None:
    """And every larger run has a smaller one to be compared with."""
    sizes = one_at_a_time([10, 20, 40], [2, 3], [1, 4])
    assert sizes == [(10, 2, 1), (20, 2, 1), (40, 2, 1), (10, 3, 1), (10, 2, 4)]
    runs = [Taken(n, models, n * models**2 * replicas**0.5, 1, 1, replicas) for n, models, replicas in sizes]
    rows = growth(runs, ("queries", "models", "replicas"))
    found = [[row[f"exponent, {axis}"] for axis in ("queries", "models", "replicas")] for row in rows]
    assert found == [
        [None, None, None],
        [pytest.approx(1), None, None],
        [pytest.approx(1), None, None],
        [None, pytest.approx(2), None],
        [None, None, pytest.approx(0.5)],
    ]


def test_what_deciding_takes_is_read_and_judged() -> None:
    """As `asd simulate` prints it; five stages may take longer to solve, and more stages more memory."""
    said = "queue-aware(lam=5): 2,688,954 decisions of 1.0 microseconds, solved 2,881 times in 1.9 ms\n"
    assert effort_of(said) == (1.0, 1.9)
    with pytest.raises(ValueError, match="printed no decisions"):
        effort_of("0 requests")
    fine = [
        Taken(10, 3, 1.0, 1.0, 60.0, 1, 10.0, 7.0),
        Taken(20, 3, 1.0, 1.0, 66.0, 1, 1.0, 1.0),
        Taken(10, 5, 1.0, 1.0, 99.0, 1, 1.0, 30.0),
    ]
    assert too_much(fine) == []
    slow = [
        replace(fine[0], decision_us=10.1),
        replace(fine[0], models=4, solve_ms=7.1),
        replace(fine[1], peak_mb=66.1),
    ]
    assert [text.partition(": ")[2] for text in too_much(slow)] == [
        "a decision takes 10.1 of 10 microseconds",
        "a solution takes 7.1 of 7 ms",
        "66.1 MB, with 10 60 MB",
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--queries", "10,x"], "numbers separated by commas"),
        (["--models", "9"], "3 models, not 9"),
        (["--command", "simulate"], "leave --traces out"),
    ],
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
def test_a_small_cascade_is_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row a run, with what deciding took; what takes too much ends with exit code 1, after the table."""
    asked = ["--command", "simulate", "--queries", "400", "--models", "2", "--replicas", "1,2"]
    done = CliRunner().invoke(scale, asked)
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.output.splitlines()[2:4]]
    assert [row[:3] for row in rows] == [["400", "2", "1"], ["400", "2", "2"]]
    assert all(0.0 < float(row[-2]) <= 10.0 and 0.0 < float(row[-1]) <= 7.0 for row in rows)
    monkeypatch.setattr("bench.scale.growth.MOST_SOLVE_MS", 0.0)
    done = CliRunner().invoke(scale, [*asked[:-1], "1"])
    assert done.exit_code == 1
    assert "timing-only" in done.output
    assert "of 0 ms" in done.output


@pytest.mark.slow
def test_a_command_that_fails_is_shown(tmp_path: Path) -> None:
    """Too few rows to fit on: the command's own message, no table."""
    path = write(tmp_path / "rows.jsonl", records(60))
    done = CliRunner().invoke(scale, ["--queries", "20", "--models", "2", "--traces", str(path)])
    assert done.exit_code == 1
    assert "50 are needed" in done.output
