"""The page of simulated runs: its tables by hand, what it shows, and how it looks in a real browser."""

from __future__ import annotations

import math
import re
from importlib import util
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from scipy.stats import t

from asd.measurement.files import read_record
from asd.operations.books import StageWindow, Summary
from asd.operations.runs import Runs, RunsHeader, SimulatedRun
from asd.research.load.page import runs_tables
from asd.research.report.reading import kinds, rows_where
from asd.research.study.record import StudyTable, Value
from tests.browser import browser  # noqa: F401  (a fixture)
from tests.test_cli_simulate import Place, place, simulate  # noqa: F401  (a fixture)
from tests.test_report_browser import complaints

POLICIES = "optimal:8,always:L,queue:8:2"
ASKED = RunsHeader(
    ladder="x",
    sources={},
    n_queries=50,
    servers={"S": (1, 4), "L": (2, 4)},
    arrivals="poisson:2",
    users=None,
    seconds=200.0,
    window_s=100.0,
)


def summary(start_s: float, p95_s: float | None, n_answered: int = 80) -> Summary:
    """A stretch of 100 s; L answers a quarter."""
    stages = {
        stage: StageWindow(
            utilisation=use, mean_inside=2.0, visit_s=0.1, n_calls=9, n_visits=9, share_answered=share
        )
        for stage, use, share in (("S", 0.5, 0.75), ("L", 0.25, 0.25))
    }
    return Summary(
        start_s=start_s, seconds=100.0, n_arrived=90, n_answered=n_answered, n_refused=0, n_failed=0,
        n_inside=3, mean_inside=4.0, latency_s=0.2, p50_s=None, p95_s=p95_s, p99_s=None, quality=0.9,
        cost=0.5, stages=stages, reference=0.95,
    )  # fmt: skip


def made(*tails: float | None, n_answered: int = 80) -> Runs:
    """One run a P95, of two windows, the second of which answers `n_answered`."""
    runs = [
        SimulatedRun(
            controller="ours",
            seed=seed,
            total=summary(0.0, p95_s),
            windows=(summary(0.0, p95_s), summary(100.0, p95_s, n_answered)),
        )
        for seed, p95_s in enumerate(tails, 1)
    ]
    return Runs(asked=ASKED, runs=tuple(runs))


def rows(table: StudyTable) -> list[dict[str, Value]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_intervals_are_over_seeds() -> None:
    """Of P95 of 1 and 2 s by Student's t; of one run there is none; what a run does not tell is left out."""
    whole, windows = runs_tables(made(1.0, 2.0), ["ours"])
    [row] = rows(whole)
    half = t.ppf(0.975, 1) * math.sqrt(0.5) / math.sqrt(2)
    assert (row["runs"], row["requests"], row["p95_s"]) == (2, 180, 1.5)
    assert (row["p95_s_low"], row["p95_s_high"]) == pytest.approx((1.5 - half, 1.5 + half))
    assert (row["utilisation_L"], row["share_answered_S"]) == (0.25, 0.75)
    assert [r["p95_s"] for r in rows(windows)] == [1.5, 1.5]
    [alone], [lacking] = (rows(runs_tables(made(*tails), ["ours"])[0]) for tails in ((1.0,), (1.0, None)))
    assert (alone["p95_s"], alone["p95_s_low"], alone["p95_s_high"]) == (1.0, None, None)
    assert (lacking["p95_s"], lacking["p95_s_low"], lacking["quality"]) == (None, None, 0.9)


def test_windows_are_at_their_middle_and_tell_nothing_of_no_answer() -> None:
    """A window without answers has no quality, though its stages were used; all of it is simulated."""
    tables = runs_tables(made(1.0, n_answered=0), ["ours"])
    first, last = rows(tables[1])
    assert (first["hours"], last["hours"]) == pytest.approx((50 / 3600, 150 / 3600))
    assert (first["requests_per_s"], first["quality"], first["cost"]) == (0.9, 0.9, 0.5)
    assert (last["quality"], last["cost"], last["p95_s"]) == (None, None, None)
    assert (last["utilisation_S"], last["mean_inside_S"]) == (0.5, 2.0)
    assert {table.provenance for table in tables} == {"simulated"}


@pytest.fixture(scope="module")
def page(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """Of two runs each of three policies in six windows."""
    folder = tmp_path_factory.mktemp("page")
    asked = ("--arrivals", "poisson:20", "--policies", POLICIES, "--window", "60", "--seeds", "2")
    found = simulate(place, *asked, "--json", str(folder / "runs.json"), "--page", str(folder / "runs.html"))
    assert found.exit_code == 0, found.output
    assert f"{folder / 'runs.html'}: the runs over time" in found.output
    return folder / "runs.html"


def test_the_page_shows_what_was_run(page: Path) -> None:
    """Two figures, the table with intervals and the windows; nothing that is not there is named."""
    text = page.read_text()
    kept = read_record(page.with_name("runs.json"), Runs)
    names = list(dict.fromkeys(run.controller for run in kept.runs))
    assert re.findall(r'<figure id="([\w-]+)"', text) == ["figure-runs", "figure-run_stages"]
    assert re.findall(r'<article id="(\w+)"', text) == ["runs", "windows"]
    assert len(names) == 3
    for name in names:
        assert text.count(f">{name}</td>") == 1 + 6
    assert text.count('<span class="tag">simulated</span>') == 2
    assert "tables/" not in text
    whole, windows = runs_tables(kept, names)
    assert kinds(windows, "policy") == names
    for name in names:
        hours = rows_where(windows, "policy", name).column("hours")
        assert hours == pytest.approx([(30 + 60 * k) / 3600 for k in range(6)])
    assert all(row["latency_s_low"] < row["latency_s"] < row["latency_s_high"] for row in rows(whole))  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_whole_and_readable(browser: Browser, page: Path, width: int) -> None:  # noqa: F811
    """No error, no sideways scrolling, no letter too small, no label upon another."""
    assert complaints(browser, page, width) == []


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_run(
    place: Place,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Into a folder that is not there, of a plan, without matplotlib."""
    asked = ("--policies", "always:L", "--page")
    monkeypatch.setattr("asd.cli.simulate.runs_of", lambda *_: pytest.fail("was run"))
    assert "is no folder; make it first" in simulate(place, *asked, str(tmp_path / "no" / "x.html")).output
    refused = simulate(place, *asked, str(tmp_path / "x.html"), "--plan", "1")
    assert refused.exit_code == 2
    assert "leave --page out" in refused.output
    monkeypatch.setattr("asd.cli.simulate.find_spec", lambda name: None if name == "matplotlib" else util)
    refused = simulate(place, *asked, str(tmp_path / "x.html"))
    assert refused.exit_code == 2
    assert "pip install 'asd[report]'" in refused.output
