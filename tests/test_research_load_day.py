"""Every table of a day of operations: what stands in it, how it is kept, and the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from asd.cli import main
from asd.ladder import Ladder
from asd.measurement.files import read_record
from asd.policy.fit import fit
from asd.research.load import tables
from asd.research.study.record import Study, Value
from asd.traces import StageHeader, TraceHeader, encode_header, encode_trace
from tests.test_cli_simulate import LADDER
from tests.worlds import sample, verified


def asked(folder: Path, *more: str) -> Result:
    files = [str(folder / "traces.jsonl"), "--out", str(folder / "day")]
    fitted = ["--ladder", str(folder / "made-up.toml"), "--policy", str(folder / "policy.json")]
    settings = ["--hours", "0.03", "--batch", "4", "--lam", "8", "--mu", "2", "--target", "p99_s=100"]
    return CliRunner().invoke(main, ["day", *files, *fitted, *settings, *more])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("day")
    (found / "made-up.toml").write_text(LADDER)
    rng = np.random.default_rng(7)
    traces = verified(sample(240, rng)[0], rng)
    fit(traces, Ladder.load(found / "made-up.toml"), fitted_at="2026-01-01").save(found / "policy.json")
    told = StageHeader(model="m", revision="1", dtype="auto", chat_template=False, runtime="own float32")
    stages = dict.fromkeys("SL", told)
    header = TraceHeader(ladder="made-up", stages=stages, datasets=("made-up",), split="fit")
    (found / "traces.jsonl").write_bytes(encode_header(header) + b"".join(map(encode_trace, traces)))
    return found


@pytest.fixture(scope="module")
def made(folder: Path) -> Study:
    done = asked(folder)
    assert done.exit_code == 0, done.output
    return read_record(folder / "day" / "results.json", Study)


def rows(study: Study, name: str) -> Iterator[dict[str, Value]]:
    table = study.table(name)
    return (dict(zip(table.columns, row, strict=True)) for row in table.rows)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--seed", "-1", "not in the range"),
        ("--hours", "nan", "not nan"),
        ("--target", "p98=1", "write NAME=NUMBER with a name of uptime, p99_s"),
    ],
)
def test_what_makes_no_day_is_refused(folder: Path, option: str, value: str, message: str) -> None:
    found = asked(folder, option, value)
    assert found.exit_code == 2
    assert message in found.output


@pytest.mark.slow
def test_the_closed_loop_obeys_its_law(made: Study) -> None:
    """X (R + Z) is the number of users, but for what three minutes leave open."""
    for row in rows(made, "users"):
        assert row["users_by_the_law"] == pytest.approx(row["users"], rel=0.15)
    impossible = [row["verdict"] for row in rows(made, "published_users")]
    assert impossible == ["impossible: more inside than 10 users", "P95 is not below a second, as claimed"]
    assert next(rows(made, "published_users"))["inside"] == pytest.approx(13.8 * 0.823)


@pytest.mark.slow
def test_load_is_that_of_the_largest_stage(made: Study) -> None:
    """Alone it holds out below 1 and is left behind above; ours is not."""
    alone = {r["load"]: r for r in rows(made, "load") if r["policy"] == "always(L)"}
    ours = {r["load"]: r for r in rows(made, "load") if str(r["policy"]).startswith("queue")}
    assert sorted(alone) == pytest.approx([0.85 * factor for factor in tables.LOADS])
    most, least = max(alone), min(alone)
    assert alone[most]["inside_at_end"] > 20 * (1 + alone[least]["inside_at_end"])  # type: ignore[operator]
    assert ours[most]["p95_s"] < alone[most]["p95_s"] / 5  # type: ignore[operator]


@pytest.mark.slow
def test_what_few_questions_tell_is_not_told(
    made: Study, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kind of fewer than 59 recorded outcomes has no number; the largest stage alone answers all."""
    shares = {r["policy"]: r["answered_by_L"] for r in rows(made, "categories")}
    assert shares["always(L)"] == 1.0
    assert 0.0 < shares["optimal(lam=8)"] < 1.0  # type: ignore[operator]
    monkeypatch.setattr(tables, "LEAST", 241)
    monkeypatch.setattr(tables, "MAKERS", {"categories": tables.categories})
    monkeypatch.setattr("asd.cli.research.day._write", lambda kept, *_: found.extend(kept.tables))
    monkeypatch.setattr("asd.cli.research.day.MAKERS", tables.MAKERS)
    found: list[object] = []
    (folder / "day" / "made.json").rename(folder / "kept.json")
    try:
        assert asked(folder).exit_code == 0
    finally:
        (folder / "kept.json").rename(folder / "day" / "made.json")
    assert {row[-1] for row in found[0].rows} == {"no data"}  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_day_adds_up(made: Study) -> None:
    """Four quarters of one day; targets are judged; what is not simulated has no number."""
    quarters = list(rows(made, "hours"))
    assert len(quarters) == 4
    by_name = {str(row["metric"]).partition(" of")[0]: row for row in rows(made, "production")}
    answers = np.mean([row["answers_per_s"] for row in quarters])  # type: ignore[arg-type]
    assert by_name["answers a second"]["value"] == pytest.approx(answers, rel=0.02)
    quality = by_name["quality"]
    assert quality["met"] == (quality["value"] >= 0.85)  # type: ignore[operator]
    assert by_name["memory"]["value"] == "no data"
    assert "No data on the memory of L: its model has no files here" in made.table("production").note
    assert (by_name["P99, s"]["target"], by_name["P99, s"]["target_is"]) == (100.0, "--target")
    for row in rows(made, "devices"):
        assert 0.0 <= row["use_mean"] <= row["use_peak"] <= 1.0  # type: ignore[operator]
        assert 0.0 < row["network_mean_bytes_per_s"] < row["network_peak_bytes_per_s"]  # type: ignore[operator]
        assert row["weights_mib"] == row["memory_peak_mib"] == "no data"
    assert {row["interval_s"] for row in rows(made, "intervals")} == set(tables.INTERVALS)
    for row in rows(made, "intervals"):
        assert row["relaxation_s"] is None or row["relaxation_s"] > 0.0  # type: ignore[operator]
        gain = row["gain"]
        assert isinstance(gain, float)
        if isinstance(row["optimum_s"], float):
            assert row["optimum_s"] == pytest.approx(row["relaxation_s"] * gain / (1.0 - gain))  # type: ignore[operator]


@pytest.mark.slow
def test_the_page_and_what_is_kept(made: Study, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One page with every table and the figure; a second run makes nothing; another day is refused."""
    page = (folder / "day" / "page.html").read_text()
    assert all(table.title in page for table in made.tables)
    assert "<svg" in page
    assert "Figures left out" not in page
    monkeypatch.setattr(tables.Shop, "play", lambda *_: pytest.fail("made again"))
    assert asked(folder).exit_code == 0
    refused = asked(folder, "--seed", "2")
    assert refused.exit_code == 2
    assert "holds another day" in refused.output
    refused = asked(folder, "--target", "p99_s=1")
    assert refused.exit_code == 2
    assert "holds another day" in refused.output
