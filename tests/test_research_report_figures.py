"""Figures of a study: all of them, from its tables, the same every time."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from PIL import Image

from asd.research.report.contest import mark
from asd.research.report.figures import FIGURES, Figure, draw, left_out, write_figures
from asd.research.report.overview import overview
from asd.research.report.style import hatch, line
from tests import studies
from tests.studies import METHODS, STAGES, drawn, study

pytestmark = pytest.mark.slow


def figure(name: str) -> Figure:
    """One figure of the made-up study."""
    return next(figure for figure in drawn() if figure.name == name)


def texts(picture: Figure) -> list[str]:
    """What is written in it."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture.svg)


def test_every_figure_is_drawn_under_its_name() -> None:
    """In the order of the table of figures."""
    assert [figure.name for figure in drawn()] == list(FIGURES)
    assert left_out(study()) == []


@pytest.mark.parametrize("name", FIGURES)
def test_a_caption_says_what_it_rests_on(name: str) -> None:
    """Provenance, n, and an interval or why there is none."""
    caption = figure(name).caption
    assert re.search(r"(Measured|Replayed|Simulated), .*, n = \d+\.$", caption, re.IGNORECASE), caption
    assert re.search(r"95 %|[Nn]o interval|without an interval", caption), caption


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_every_time(name: str) -> None:
    """Both files hold the same bytes when drawn again: no date, no random id."""
    assert FIGURES[name][0](study()) == figure(name)


def test_a_figure_without_its_tables_is_left_out_and_named() -> None:
    """With the tables that it lacks, in any number."""
    poor = study("levels", "methods", "samples")
    assert {"overview", "methods", "samples"}.isdisjoint(figure.name for figure in draw(poor))
    assert left_out(poor) == [
        "overview (no table levels, methods)",
        "methods (no table methods)",
        "samples (no table samples)",
    ]


def test_what_was_not_timed_is_said() -> None:
    """Without seconds the other panels stand; the caption and the panel say what is missing."""
    by_name = {f.name: f for f in draw(study("lambda_latency", "latency", "differences_seconds"))}
    assert "Nothing was timed." in texts(by_name["overview"])
    assert "nothing was timed" in by_name["overview"].caption
    assert "Latency is left out" in by_name["methods"].caption
    assert "nothing was timed" not in figure("overview").caption


def test_the_load_panel_is_named() -> None:
    """Without a day of operations the overview says so; with one, every policy's P95 by load is drawn."""
    assert "I is left out: this study was given no day" in figure("overview").caption
    seen = [(load, policy, k * load) for load in (0.5, 1.0) for k, policy in ((1, "alone"), (2, "aware"))]
    table = studies.table("load", ("load", "policy", "p95_s"), seen, "simulated")
    loaded = overview(study(extra=[table]))
    assert "I: P95 by load of the largest stage alone, simulated." in loaded.caption
    written = texts(loaded)
    assert {"I  Load", "P95, s", "alone", "aware", "Key to G", "Key to I"} <= set(written)
    assert set(METHODS) <= set(written)


def test_the_overview_has_its_panels_and_units() -> None:
    """Eight panels and a key; every method stands in the key."""
    written = texts(figure("overview"))
    assert sorted(text[0] for text in written if re.match(r"[A-H]  ", text)) == list("ABCDEFGH")
    assert set(METHODS) <= set(written)
    assert {"mean ms a question", "runs of the largest stage", "quality per cost"} <= set(written)


def test_the_methods_are_marked_by_their_adjusted_p() -> None:
    """Twelve methods, three metrics, p-values of .0001, .004, .03 and .4 in turns."""
    written = texts(figure("methods"))
    assert {stars: written.count(stars) for stars in ("***", "**", "*", "ns")} == {
        "***": 9, "**": 9, "*": 9, "ns": 9,
    }  # fmt: skip


@pytest.mark.parametrize(("p", "stars"), [(0.0009, "***"), (0.001, "**"), (0.0499, "*"), (0.05, "ns")])
def test_marks_follow_the_p_value(p: float, stars: str) -> None:
    """Below .001, .01 and .05, each exclusive."""
    assert mark(p) == stars


def test_training_is_read_from_the_log_of_the_ladder() -> None:
    """Every phase that the embedded ladder was trained in is in the legend."""
    phases = {str(phase) for phase in study().table("training").column("phase")}
    assert {*STAGES, "trunk"} <= phases <= set(texts(figure("training")))


def test_lines_and_bars_differ_without_colour() -> None:
    """Dashes, marker and whether it is filled tell twelve lines apart; fill and hatching tell five bars."""
    looks = [line(k) for k in range(12)]
    assert len({(x["linestyle"], x["marker"], x["markerfacecolor"] == "white") for x in looks}) == 12
    assert len({(hatch(k)["facecolor"], hatch(k)["hatch"]) for k in range(5)}) == 5


def test_figures_are_written_as_svg_and_png(tmp_path: Path) -> None:
    """Two files a figure; the picture is as wide as the page."""
    write_figures([figure("samples")], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples.png", "samples.svg"]
    assert (tmp_path / "samples.svg").read_text().startswith("<?xml")
    assert Image.open(io.BytesIO((tmp_path / "samples.png").read_bytes())).width == 1485
