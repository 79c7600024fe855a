"""The letter a reply chooses.

    "B", "(b)", "B. Paris", "**B**", "The correct answer is (B) because ...", "... Final answer: B"  ->  "B"

The border: text in, letter out; a reply that names no letter may still repeat one option's text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from asd.quality.exact import normalise

__all__ = ["choice_of"]

_OPEN, _CLOSE = r"[\s(\[{*_\"'`$]*", r"(?![A-Za-z0-9'\u2019])"
_IS = r"[*_\"'\s]*(?:(?:is|was|would be|should be|=|:|-)[*_\s]*)+"
_FILLER = (
    r"(?:(?:the|most|likely|probably|therefore|thus|option|choice|letter|answer|correct|is"
    r"|\\(?:text|mathrm|boxed))[\s:*{]*)*"
)
_BARE = re.compile(rf"^{_OPEN}(?:option|choice)?{_OPEN}([A-Za-z])[\s)\]}}*_\"'`$.:,;!]*$", re.IGNORECASE)
_STATED = re.compile(
    rf"(?:answer|choice|option|response)\b{_IS}{_FILLER}{_OPEN}([A-Z]){_CLOSE}(?!\s+[a-z])", re.IGNORECASE
)
_BOXED = re.compile(rf"\\boxed\s*\{{(?:\\text\s*\{{)?{_OPEN}([A-Z]){_CLOSE}")
_LEADING = re.compile(
    rf"^{_OPEN}(?:option |choice )?([A-Z])(?:[)\]}}*_.:,](?!\s*(?:or|and)\b)|\s*[-\u2013\u2014]\s|\s*\n)"
)
_CORRECT = re.compile(
    rf"(?:^|[\s(*])([A-Z])[)\]*_.]*\s+is\s+(?:the\s+)?(?:correct|right|best|answer){_CLOSE}"
)
_NAMED = re.compile(rf"\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer){_OPEN}([A-Z]){_CLOSE}(?!\s+[a-z])")
_BRACKETED = re.compile(r"\(([A-Z])\)")
_LAST_LINE = re.compile(rf"\n{_OPEN}([A-Z])[)\]*_.]*\s*$")


def choice_of(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option that a reply chooses; None if it chooses none, or more than one.

    Args:
        text: The reply.
        options: Texts of the options, of which the first is A.
    """
    letters = [chr(ord("A") + i) for i in range(len(options))]
    if bare := _BARE.match(text.strip()):
        return _known(bare[1], letters)
    for pattern in (_BOXED, _STATED, _CORRECT, _LEADING, _NAMED, _LAST_LINE):
        if found := [m[1].upper() for m in pattern.finditer(text.strip()) if _is_letter(m, letters)]:
            return found[-1]
    bracketed: set[str] = {letter for letter in _BRACKETED.findall(text) if letter in letters}
    if len(bracketed) == 1:
        return bracketed.pop()
    repeated = [letter for letter, option in zip(letters, options, strict=True) if _same(text, option)]
    return repeated[0] if len(repeated) == 1 else None


def _is_letter(found: re.Match[str], letters: Sequence[str]) -> bool:
    # lower case is a letter of an option only where nothing else could be meant: "(b)", "b)", "b."
    if found[1].isupper():
        return found[1] in letters
    return found[1].upper() in letters and found[1] not in {"a", "i"}


def _known(letter: str, letters: Sequence[str]) -> str | None:
    return letter.upper() if letter.upper() in letters else None


def _same(text: str, option: str) -> bool:
    return normalise(text) == normalise(option) != ""
