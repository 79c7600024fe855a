"""Stop strings: an answer ends before the first of them, wherever tokens begin and end.

The first is the one that begins first in what a stage would write without them, so what is returned follows
from that text alone. Text only; `asd.engines.stops` watches tokens as they are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from asd.types import Draft, Query

__all__ = ["MOST", "cut", "cut_draft", "position", "sent"]

MOST = 16
"""Stop strings that a query may have."""


def position(text: str, stop: Sequence[str], *, more: bool = False) -> int | None:
    """Where the first stop string begins.

    Args:
        text: The answer so far.
        stop: None of them empty.
        more: Text may follow.

    Returns:
        None where there is none, or where one that begins earlier may still become whole.
    """
    starts = [at for string in stop if (at := text.find(string)) >= 0]
    if not starts:
        return None
    first = min(starts)
    if more and any(_may_come(text, string, first) for string in stop):
        return None
    return first


def _may_come(text: str, string: str, before: int) -> bool:
    """The end of the text is the beginning of a stop string that begins before this place."""
    earliest = max(0, len(text) - len(string) + 1)
    return any(string.startswith(text[at:]) for at in range(earliest, before))


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string."""
    return text[: position(text, stop)]


def cut_draft(draft: Draft, query: Query) -> Draft:
    """The draft, finished and its text cut where a stop string ends it."""
    text = cut(draft.text, query.stop)
    return draft if text == draft.text else replace(draft, text=text, finished=True)


def sent(stop: Sequence[str]) -> list[str] | None:
    """The stop strings for a server that ends an answer with the first that becomes whole.

    Returns:
        Those that matter: one that begins with another never comes first. None where one lies within another:
        it may become whole first and begin later, so that the server would cut too late.
    """
    matter = [s for s in dict.fromkeys(stop) if not any(s != t and s.startswith(t) for t in stop)]
    is_within = any(s != t and t in s for s in matter for t in matter)
    return None if is_within else matter
