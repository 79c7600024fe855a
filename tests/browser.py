"""Chromium of the distribution, without a display, and what is wrong with a page that it shows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

__all__ = ["browser", "layout_faults"]

NAMES = ("chromium", "chromium-browser", "google-chrome")
LEAST_TEXT = 10.0
"""Pixels that letters must be high, in figures too."""

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


def layout_faults(page: Page, width: int) -> list[str]:
    """Figures, texts and letters that cannot be read at a width in pixels."""
    found = [f"empty figure {name}" for name in page.evaluate(EMPTY_FIGURES)]
    found += [f"texts overlap: {pair}" for pair in page.evaluate(OVERLAPS)]
    if page.evaluate(NEEDED_WIDTH) > width:
        found.append("the page scrolls sideways")
    if (size := page.evaluate(SMALLEST_TEXT)) < LEAST_TEXT:
        found.append(f"letters are too small: {size}")
    return found
