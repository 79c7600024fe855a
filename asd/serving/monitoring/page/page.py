"""The live page as HTML, whole and the part of it that changes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import jinja2

from asd.serving.monitoring.monitor import Monitor
from asd.serving.monitoring.page.view import Facts, view

__all__ = ["LivePage", "login", "policy_of_content"]

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("asd.serving.monitoring.page", "."),
    autoescape=True,
    trim_blocks=True,
    undefined=jinja2.StrictUndefined,
)
EVERY_S = 1.0


def policy_of_content(nonce: str) -> str:
    """The Content-Security-Policy of a page: nothing but what it holds itself."""
    return (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def login(*, wrong: bool) -> str:
    """The page that asks for a key."""
    return TEMPLATES.get_template("login.html").render(wrong=wrong)


class LivePage:
    """The page of one server; however many look at it, it is laid out once a second and key.

    Args:
        monitor: What is shown.
        clock: Seconds from a clock that nobody sets.
    """

    def __init__(self, monitor: Monitor, clock: Callable[[], float] = time.monotonic) -> None:
        self._monitor = monitor
        self._clock = clock
        self._page = TEMPLATES.get_template("page.html")
        self._live: dict[str, tuple[float, str]] = {}

    def whole(self, facts: Facts, nonce: str) -> str:
        """The page as a browser first gets it."""
        return self._page.render(nonce=nonce, **self._shown(facts))

    def live(self, facts: Facts, alias: str) -> str:
        """What takes the place of its `main` element's content, as the key with this alias may see it."""
        laid_out_s, text = self._live.get(alias, (-math.inf, ""))
        if self._clock() >= laid_out_s + EVERY_S:
            text = TEMPLATES.get_template("live.html").render(self._shown(facts))
            self._live[alias] = self._clock(), text
        return text

    def _shown(self, facts: Facts) -> dict[str, object]:
        return view(self._monitor, facts) | {"reference": self._monitor.reference}
