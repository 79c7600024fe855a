"""The page in a real browser: Chromium of the distribution, without a display."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from asd.research.report.page import render_page
from tests.studies import drawn, study, table

pytestmark = pytest.mark.slow

NAMES = ("chromium", "chromium-browser", "google-chrome")
LEAST_TEXT = 10.0
"""Pixels that letters must be high, in figures too."""

MISSING_IMAGES = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
EMPTY_FIGURES = """[...document.querySelectorAll('figure')].filter(f => {
    const svg = f.querySelector('svg');
    return !svg || !svg.getBoundingClientRect().height }).map(f => f.id)"""
SMALLEST_TEXT = """Math.min(...[...document.querySelectorAll('p, td, th, li, dd, text')].map(e => {
    const svg = e.closest('svg'), size = parseFloat(getComputedStyle(e).fontSize);
    return svg ? size * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : size }))"""
OVERLAPS = """[...document.querySelectorAll('svg')].flatMap(svg => {
    const texts = [...svg.querySelectorAll('text')].map(e => [e.textContent, e.getBoundingClientRect()]);
    return texts.flatMap(([one, a], i) => texts.slice(i + 1).filter(([, b]) =>
        Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
        Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3).map(([two]) => one + ' and ' + two)) })"""
NEEDED_WIDTH = "document.documentElement.scrollWidth"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; its lack fails on CI and skips on a developer's machine."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


def complaints(browser: Browser, path: Path, width: int) -> list[str]:
    """What is wrong with a page at a width in pixels."""
    found: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.on("console", lambda said: found.append(said.text) if said.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.goto(path.as_uri())
    found += [f"missing image {source}" for source in page.evaluate(MISSING_IMAGES)]
    found += [f"empty figure {name}" for name in page.evaluate(EMPTY_FIGURES)]
    found += [f"texts overlap: {pair}" for pair in page.evaluate(OVERLAPS)]
    if page.evaluate(NEEDED_WIDTH) > width:
        found.append("the page scrolls sideways")
    if page.evaluate(SMALLEST_TEXT) < LEAST_TEXT:
        found.append("letters are too small")
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
def test_the_page_is_whole_and_readable(browser: Browser, report: Path, width: int) -> None:
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
def test_what_is_broken_is_noticed(browser: Browser, tmp_path: Path, broken: str, complaint: str) -> None:
    """Each fault by itself, so that the test above can fail."""
    path = tmp_path / "broken.html"
    path.write_text(f"<!doctype html><meta name=viewport content='width=device-width'>{broken}<p>x")
    assert any(complaint in found for found in complaints(browser, path, 390))
