"""What a stream may show before the cascade has stopped.

    hold        nothing
    verified    what the largest stage allowed has accepted whole, once no other stage can be asked any more
    draft       every answer as it comes; where a later one does not begin with it, that replaces it

Engines deliver whole answers and whole verifications, so text is shown a step at a time; a token at a time
takes engines that stream. In "hold" and "verified", what was shown is never taken back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from asd.journey import Journey
from asd.serving.endpoint.controls import Show
from asd.serving.endpoint.replies import text_of

__all__ = ["Change", "Screen"]


@dataclass(frozen=True, slots=True)
class Change:
    """Text that follows what is shown, or takes its place."""

    text: str
    replaces: bool


class Screen:
    """The text that a client has.

    Args:
        show: What it may be shown early.
        stages: Those that may answer, in ladder order.
    """

    def __init__(self, show: Show, stages: tuple[str, ...]) -> None:
        self._show = show
        self._stages = stages
        self._shown = ""

    def after(self, state: Journey) -> Iterator[Change]:
        """What to send after a step of the cascade."""
        if self._show == "draft" and state.drafts:
            yield from self._to(text_of(next(reversed(state.drafts.values()))))
        elif self._show == "verified":
            verified = self._verified(state)
            if len(verified) > len(self._shown):
                yield from self._to(verified)

    def end(self, text: str) -> Iterator[Change]:
        """What to send so that the client has the answer."""
        yield from self._to(text)

    def _verified(self, state: Journey) -> str:
        """What every answer that may still be returned begins with."""
        read, largest = state.verification, self._stages[-1]
        unasked = set(self._stages) - state.drafts.keys() - state.lost
        if read is None or read.stage != largest or read.text is None or unasked != {largest}:
            return ""
        return _common([read.text, *map(text_of, state.drafts.values())])

    def _to(self, text: str) -> Iterator[Change]:
        if text.startswith(self._shown):
            if text != self._shown:
                yield Change(text[len(self._shown) :], replaces=False)
        else:
            yield Change(text, replaces=True)
        self._shown = text


def _common(texts: Sequence[str]) -> str:
    """What all of them begin with."""
    return "".join(
        first for first, *_ in takewhile(lambda row: len(set(row)) == 1, zip(*texts, strict=False))
    )
