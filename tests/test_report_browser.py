"""The page in a real browser: Chromium of the distribution, without a display."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from asd.research.report.page import render_page
from tests.browser import browser, layout_faults  # noqa: F401  (a fixture)
from tests.studies import drawn, study, table

pytestmark = pytest.mark.slow

MISSING_IMAGES = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"


def complaints(chromium: Browser, path: Path, width: int) -> list[str]:
    """What is wrong with a page at a width in pixels."""
    found: list[str] = []
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.on("console", lambda said: found.append(said.text) if said.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.goto(path.as_uri())
    found += [f"missing image {source}" for source in page.evaluate(MISSING_IMAGES)]
    found += layout_faults(page, width)
    page.close()
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with every figure, and a table too wide for any screen."""
    wide = table("wide", [f"column_{k}" for k in range(60)], [tuple(range(60))])
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_page(study(extra=[wide]), drawn()), encoding="utf8")
    return path


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_whole_and_readable(browser: Browser, report: Path, width: int) -> None:  # noqa: F811
    """No missing picture, no error, no sideways scrolling, no letter too small, no label upon another."""
    assert complaints(browser, report, width) == []


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ('<img src="nowhere.png">', "missing image"),
        ("<figure id=f></figure>", "empty figure f"),
        ('<svg><text y="20">ab</text><text y="22">cd</text></svg>', "texts overlap: ab and cd"),
        ('<p style="width: 400px">wide', "the page scrolls sideways"),
        ('<p style="font-size: 9px">small', "letters are too small"),
        ("<p>text<script>nonsense()</script>", "nonsense is not defined"),
    ],
)
def test_what_is_broken_is_noticed(
    browser: Browser,  # noqa: F811
    tmp_path: Path,
    broken: str,
    complaint: str,
) -> None:
    """Each fault by itself, so that the test above can fail."""
    path = tmp_path / "broken.html"
    path.write_text(f"<!doctype html><meta name=viewport content='width=device-width'>{broken}<p>x")
    assert any(complaint in found for found in complaints(browser, path, 390))
