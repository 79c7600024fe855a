"""`asd study --out DIR`: what it writes, and what it says where it cannot start."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from asd.cli import main
from asd.research.load import page as load_page
from asd.research.recordings.recording import Recording
from asd.research.report import figures, page
from asd.research.report.style import Figure
from asd.research.study import material, run
from asd.research.study.record import write_study
from tests.conducted import Conducted
from tests.conducted import material as made_up
from tests.recordings import STAGES, records, write
from tests.studies import study, table

pytestmark = pytest.mark.slow


@pytest.fixture
def gathered(done: Conducted, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The command without models: what it asked for is kept, the study is the one already made."""
    asked: dict[str, object] = {}

    def gather(*given: object, **options: object) -> material.Material:
        asked.update(options, runtimes=given[4])
        return replace(made_up(), day=options["day"])  # type: ignore[arg-type]

    monkeypatch.setattr(material, "gather", gather)
    monkeypatch.setattr(run, "conduct", lambda *_: done.study)
    return asked


def test_the_page_and_the_figures_are_written(gathered: dict[str, object], tmp_path: Path) -> None:
    """Every figure as SVG and PNG, one page that holds the claims, one line that says where."""
    found = CliRunner().invoke(
        main, ["study", "--out", str(tmp_path), "--limit", "50", *("--seed", "3", "--device", "cpu")]
    )
    assert found.exit_code == 0, found.output
    assert (gathered["limit"], gathered["seed"], gathered["recorded"]) == (50, 3, None)
    assert gathered["runtimes"] == dict.fromkeys("SML", "transformers float32")
    svg, png = ({path.stem for path in (tmp_path / "figures").glob(f"*.{kind}")} for kind in ("svg", "png"))
    assert (
        svg == png >= {"overview", "methods", "regret", "thresholds", "samples", "reliability", "acceptance"}
    )
    written = (tmp_path / "report.html").read_text(encoding="utf8")
    assert "6.33x faster than the largest" in written
    assert written.count("<svg") >= len(svg)
    assert "report.html" in found.output


def test_recorded_models_are_read_as_replay_reads_them(
    gathered: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files as one recording: the models named, or those of the first line; declared costs count."""
    monkeypatch.setattr(figures, "draw", lambda _: {})  # slow, and seen above
    monkeypatch.setattr(page, "render_page", lambda *_: "")
    files = [write(tmp_path / f"{k}.jsonl", records(5, k, dataset=f"d{k}")) for k in range(2)]
    names = ",".join(map(str, files))
    for more, stages in (([], STAGES), (["--stages", "small,large", "--costs", "1,7"], ("small", "large"))):
        found = CliRunner().invoke(main, ["study", "--out", str(tmp_path), "--traces", names, *more])
        assert found.exit_code == 0, found.output
        recorded = gathered["recorded"]
        assert isinstance(recorded, Recording)
        assert (recorded.stages, recorded.datasets, len(recorded)) == (stages, ("d0", "d1"), 10)
    assert recorded.costs[:, 1].tolist() == [7.0] * 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --out DIR"),
        (["--out", "x", "--stages", "a,b"], "give that too"),
        (["--out", "x", "--traces", ","], "names no file"),
        (["--out", "x", "--traces", "missing.jsonl"], "missing.jsonl"),
        (["--out", "x", "--ladder", "nonesuch"], "nonesuch"),
        (["--out", "x", "--day", "missing"], "missing/results.json does not exist"),
    ],
)
def test_what_cannot_be_studied_is_said(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 and one line, before anything runs."""
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(main, ["study", *options])
    assert (found.exit_code, message in found.output) == (2, True), found.output


def test_missing_libraries_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The report's extra."""
    monkeypatch.setitem(sys.modules, "asd.research.report.page", None)
    found = CliRunner().invoke(main, ["study", "--out", str(tmp_path)])
    assert found.exit_code == 2
    assert "pip install 'asd[report]'" in found.output


def test_a_day_is_what_asd_day_wrote(
    gathered: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is read and its figure drawn; that of another study, which has claims too, is refused."""
    monkeypatch.setattr(load_page, "drawn", lambda _: Figure("operations", "", "<svg></svg>", b"png"))
    write_study(study("claims", extra=[table("claims", ["claim"], [("x",)])]), tmp_path / "other")
    asked = ["study", "--out", str(tmp_path / "s"), "--day"]
    found = CliRunner().invoke(main, [*asked, str(tmp_path / "other")])
    assert found.exit_code == 2
    assert "is no folder of asd day" in found.output
    day = study(
        "claims", extra=[table("claims", ["claim"], [("x",)]), table("production", ["metric"], [("y",)])]
    )
    write_study(day, tmp_path / "day")
    found = CliRunner().invoke(main, [*asked, str(tmp_path / "day")])
    assert found.exit_code == 0, found.output
    assert gathered["day"] == day
    assert (tmp_path / "s" / "figures" / "operations.png").read_bytes() == b"png"
