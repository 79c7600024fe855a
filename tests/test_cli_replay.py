"""`asd replay`, `asd certify` and `asd frontier` as a user types them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from asd.cli import main
from asd.research.offline.curves import SWEEP, cost_shares, sweep
from asd.research.offline.routing import SingleStage
from asd.research.recordings.recording import read_recording
from tests.recordings import records, write

pytestmark = pytest.mark.slow

STAGES = "small,medium,large"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("cli-replay")
    return (
        write(folder / "a.jsonl", records(80, 1, dataset="a")),
        write(folder / "b.jsonl", records(60, 2, dataset="b")),
        write(folder / "test.jsonl", records(60, 3, dataset="a")),
    )


def test_replay_prints_a_table_and_writes_its_report(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Several files may follow --train; the report holds a point a lam."""
    out = tmp_path / "out.json"
    done = run(
        "replay",
        "--train",
        *files[:2],
        "--test",
        files[2],
        "--stages",
        STAGES,
        "--lam",
        "0.5,5",
        "--json",
        out,
    )
    assert done.exit_code == 0, done.output
    assert "lam=0.5" in done.output
    assert "140 of 140 queries used, cost recorded" in done.output
    report = json.loads(out.read_text())
    assert (report["kind"], report["version"], report["provenance"]) == ("asd-replay", 1, "replayed")
    assert [point["lam"] for point in report["points"]] == [0.5, 5]
    assert report["train"]["n_used"] == 140


def test_certify_prints_and_writes(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Without --stages every model of the first line is a rung."""
    out = tmp_path / "out.json"
    done = run("certify", files[0], "--json", out)
    assert done.exit_code == 0, done.output
    assert "every stage fails on" in done.output
    assert [rung["stage"] for rung in json.loads(out.read_text())["rungs"]] == STAGES.split(",")


def test_frontier_prints_every_method(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Two ladders of one file are two cells."""
    out = tmp_path / "out.json"
    done = run("frontier", files[0], "--stages", "small,large", "--stages", "medium,large", "--json", out)
    assert done.exit_code == 0, done.output
    assert "lists of two" in done.output
    assert len(json.loads(out.read_text())["n_rows"]) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--stages", "small,giant"], "no outcome of giant"),
        (["--stages", "small"], "two or more different stages"),
        (["--stages", STAGES, "--lam", "1,x"], "numbers separated by commas"),
        (["--stages", STAGES, "--lam", "nan"], "must be finite"),
        (["--stages", STAGES, "--lam", "-1"], "positive numbers"),
        (["--stages", STAGES, "--costs", "1,2"], "one cost a stage"),
    ],
)
def test_wrong_options_end_with_one_line(
    files: tuple[Path, Path, Path], arguments: list[str], says: str
) -> None:
    """Exit code 2, the value and the remedy, no traceback."""
    done = run("replay", "--train", files[0], "--test", files[2], *arguments)
    assert done.exit_code == 2
    assert says in done.output
    assert "Traceback" not in done.output


def test_an_empty_file_is_named(tmp_path: Path, files: tuple[Path, Path, Path]) -> None:
    """Exit code 2 and the file's name."""
    empty = write(tmp_path / "empty.jsonl", [])
    done = run("replay", "--train", empty, "--test", files[2], "--stages", STAGES)
    assert done.exit_code == 2
    assert "empty.jsonl holds no queries" in done.output


def test_costs_of_several_ladders_are_refused(files: tuple[Path, Path, Path]) -> None:
    """Declared costs belong to one ladder."""
    done = run("frontier", files[0], "--stages", "small,large", "--stages", "medium,large", "--costs", "1,2")
    assert done.exit_code == 2
    assert "one ladder" in done.output


def test_stages_that_cost_nothing(tmp_path: Path) -> None:
    """No share of a cost of 0 is printed: a comparison by such shares is refused, the rest says so or "-"."""
    paths = []
    for name, seed in (("a", 1), ("b", 2)):
        rows = records(60, seed, dataset=name)
        for row in rows:
            for output in row["outputs"].values():
                output["cost"] = 0.0
        paths.append(write(tmp_path / f"{name}.jsonl", rows))
    replayed = run("replay", "--train", paths[0], "--test", paths[1], "--stages", STAGES, "--lam", "1")
    certified = run("certify", paths[0])
    compared = run("frontier", paths[0], "--stages", STAGES)
    for done in (replayed, certified, compared):
        assert not re.search(r"\b(nan|inf)\b", done.output)
    assert (replayed.exit_code, certified.exit_code, compared.exit_code) == (0, 0, 2)
    assert "the best single stage costs nothing" in certified.output
    assert "declare costs with --costs" in compared.output


def test_shares_where_some_resamples_have_a_free_best_model(tmp_path: Path) -> None:
    """The best of a resample may be free though the best of all rows is not: there nothing is saved."""
    rows = records(40, 1, dataset="a")
    for i, row in enumerate(rows):
        row["outputs"] = {
            name: {"score": float(i % 5 != shift), "cost": cost, "response": "x", "confidence": 0.5}
            for name, cost, shift in (("small", 0.0, 0), ("large", 1.0, 1 if i else 0))
        }
    recording = read_recording(write(tmp_path / "a.jsonl", rows), ["small", "large"])
    [shares] = cost_shares(recording, [sweep(SingleStage().fit(recording), recording, SWEEP)])
    assert np.isfinite(shares).all()
    assert shares.min() >= 0
