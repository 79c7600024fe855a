"""The page: what it says, in which order, and that nothing a study holds can break it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from asd.research.report.page import LONG, render_page
from asd.research.report.style import Figure
from tests.studies import drawn, study, table

pytestmark = pytest.mark.slow

PICTURE = Figure(
    "samples", "How much is lost, n = 24.", '<svg><g id="a"/><use href="#a" clip-path="url(#a)"/></svg>', b""
)


class _Seen(HTMLParser):
    """Ids, and every address that the page asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value is not None:
                self.ids.append(value)
            if name in {"href", "src", "xlink:href"} and value is not None:
                self.addresses.append(value)


def seen(page: str) -> _Seen:
    parser = _Seen()
    parser.feed(page)
    return parser


def test_one_study_gives_one_page() -> None:
    """Rendering again gives the same text; that drawing does is tested with the figures."""
    assert render_page(study(), drawn()) == render_page(study(), list(drawn()))


def test_the_page_asks_for_nothing_else() -> None:
    """Every address is on the page itself, and there."""
    found = seen(render_page(study(), drawn()))
    assert len(found.ids) == len(set(found.ids))
    assert {a for a in found.addresses if not a.startswith("data:")} <= {f"#{name}" for name in found.ids}
    assert any(a.startswith("#overview-") for a in found.addresses), "figures point at their own parts"


def test_every_table_and_figure_says_what_it_rests_on() -> None:
    """Title, provenance, n of each table; the caption of each figure."""
    made = study()
    page = render_page(made, drawn())
    for part in made.tables:
        article = page[page.index(f'<article id="{part.name}">') :].partition("</article>")[0]
        assert f"<h3>{part.title}</h3>" in article
        assert f'<span class="tag">{part.provenance}</span> {part.measured_on}, n = {part.n};' in article
    assert page.count("<figcaption>") == len(drawn()) > 7


def test_text_is_escaped() -> None:
    """Whatever a table says is text, never markup."""
    page = render_page(study(extra=[table("own", ["<b>"], [("<script>",)], title="a & b")]), [])
    assert "<script" not in page
    assert "<h3>a &amp; b</h3>" in page
    assert "&lt;b&gt;" in page


def test_a_table_that_nobody_names_comes_last() -> None:
    """Nothing that a study holds is left off the page."""
    page = render_page(study(extra=[table("own", ["word"], [("hello",)])]), [])
    assert page.index('<article id="own">') > page.index('<article id="training">')
    assert ">Further tables<" in page
    assert ">Further tables<" not in render_page(study(), [])


def test_a_figure_that_lacks_tables_is_named() -> None:
    """A study without a theory part has a page; what could not be drawn is said."""
    poor = study("samples", "acceptance_shares", "differences", "latency", "claims")
    page = render_page(poor, [f for f in drawn() if f.name not in {"samples", "acceptance", "methods"}])
    assert 'id="figure-samples"' not in page
    assert "samples (no table samples)" in page
    assert "acceptance (no table acceptance_shares)" in page
    assert 'class="findings"' not in page
    assert "Figures left out" not in render_page(study(), [])


def test_the_headline_is_the_policy_against_the_largest_stage() -> None:
    """Quality, cost and speed-up with their intervals, as the tables hold them."""
    page = render_page(study(), [])
    findings = re.findall(r"<li><b>(.*?)</b>(.*?)<br>", page)
    assert findings == [
        ("-13.5 [-18, -9]", "quality against always-L, per cent"),
        ("-13.5 [-18, -9]", "cost against always-L, per cent"),
        ("-5 [-6, -4]", "cost against drafted, per cent"),
        ("1.18 [1.09, 1.27]", "times as fast as the largest stage alone"),
        ("0.591 [0.5, 0.682]", "times as fast as the largest stage with its own drafter"),
    ]


def test_without_a_drafter_the_headline_is_against_the_largest_stage_alone() -> None:
    """A dash in the table is no finding."""
    speed_up = ("speed_up", "speed_up_low", "speed_up_high")
    columns = ("method", *speed_up, *(name.replace("up", "up_drafted") for name in speed_up))
    alone = table("latency", columns, [("optimal-verified", 2.0, 1.8, 2.2, None, None, None)])
    page = render_page(study("latency", "differences", extra=[alone]), [])
    assert re.findall(r"<li><b>(.*?)</b>(.*?)<br>", page) == [
        ("2 [1.8, 2.2]", "times as fast as the largest stage alone")
    ]


def test_long_tables_are_folded() -> None:
    """A table is folded from one row more than the limit on."""
    for n, folded in ((LONG, False), (LONG + 1, True)):
        page = render_page(study(extra=[table("own", ["k"], [(k,) for k in range(n)])]), [])
        assert (f"<summary>{n} rows</summary>" in page) is folded


def test_parts_of_two_figures_cannot_mix() -> None:
    """Ids of a picture, and what points at them, carry the figure's name."""
    page = render_page(study(), [PICTURE])
    assert '<g id="samples-a"/><use href="#samples-a" clip-path="url(#samples-a)"/>' in page
