"""What stands at one place of a reply: the letter of an option, its text, or something else.

    "B because", "(b)", "B. Paris", "**B**", "B Paris" (where B is Paris)     the letter B
    "A city", "C major", "B cells", "E. coli", "I think", "B's", "B12"        no letter
    "B, C", "B or C", "B/C"                                                   undecided
    "the second option"                                                       the letter B

Scope: one place at a time; which places state an answer is for `asd.quality.choice` to know.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from asd.quality.replies import plain

__all__ = ["CLOSE", "LIST", "OPEN", "UNDECIDED", "Found", "Lettered"]

UNDECIDED = ""
"""A statement that leaves it at more than one letter."""

OPEN = r"[\s(\[{<*_\"'`$#]*(?:\\(?:text|textbf|mathrm|mathbf|boxed|fbox)\s*\{[\s(]*)*"
CLOSE = r"(?: (?=[)\]]))?[)\]}>*_\"'`$]*"
"""Marks that letters are set in."""

LIST = re.compile(r"(?:^|(?<=\s))\W*A[.):]+\s.{0,1000}?\s\W*B[.):]+\s", re.DOTALL)
"""Options, from the first to the second."""

_ALONE = (
    r"(?![A-Za-z0-9\u00c0-\u024f+#&%@^|\\]|'(?:s|t|m|ll|re|ve|d)\b|[-/][A-Za-z0-9]"
    r"|\.[A-Za-z]\b|\.\d|\.\s+[A-Z]\.)"
)
_LETTER = re.compile(
    rf"{OPEN}(?P<letter>[A-Za-z])(?P<alone>{_ALONE})?(?P<close>{CLOSE})(?P<stop>[.,;:!]*){CLOSE}"
)
_ANOTHER = re.compile(
    r"\s*(?:,|;|/|\+|&|\b(?:or|and|nor)\b)\s*(?:(?:and|or)\b\s*)?(?:(?:option|choice)\s+)?"
    r"(?!\S+\s+(?:is|are|was|were|would|does|do|can|can't|cannot|isn't|has|means?|refers?|describes?|though)\b)"
)
_DENIED = re.compile(
    r"\s*\?|\s*(?:is|was|can|could|would|does)\s*(?:be\s+|also\s+|\w+ly\s+)*"
    r"(?:not|n't|out|wrong|incorrect|false|excluded|ruled out|never)\b"
    r"|\s*(?:isn't|wasn't|can't|cannot|doesn't|won't)\b"
    r"|[-:(\s]*(?:incorrect|wrong|false|not (?:correct|right|true))\b|\s*(?:是|为)?(?:错|不)",
    re.IGNORECASE,
)
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "last")
_ORDINAL = re.compile(
    rf"{OPEN}(?:the\s+)?({'|'.join(_ORDINALS)})\s+(?:option|choice|answer|alternative)\b{CLOSE}",
    re.IGNORECASE,
)
_MARKS = re.compile(r"[\s(\[{<*_\"'`$#]*(?:\\text\s*\{)?")
_PARTS = re.compile(r"\W*(?:a[.):]+\s.{0,1000}?\s\W*b[.):]+\s|i[.)]+\s.{0,1000}?\s\W*ii[.)]+\s)", re.DOTALL)
_WORD = re.compile(r"[ \t]+(?P<word>[A-Za-z][A-Za-z']*)")
_LINE_ENDS = re.compile(r"[\s.!]*?(?:\n|\Z)")
_SMALL_WORD = re.compile(
    r"(?:because|since|as|for|and|but|so|due|given|based|according|with|without|in|on|from|by|at|if|when|where"
    r"|while|which|whose|who|it|its|this|these|they|their|he|she|we|you|your|i|my|the|there|here|though|although"
    r"|however|not|than|over|then|thanks|instead|rather|too|again|only|also|or|explanation|reason(?:ing|s)?"
    r"|justification|question|note|final|answer|option|weil|da|denn|parce|car|porque|ya|perché)",
    re.IGNORECASE,
)
"""Words that may follow a letter. Others make it a part of what they name."""


class Found(NamedTuple):
    """A letter, or `UNDECIDED`, and where what stands for it ends."""

    letter: str
    end: int


@dataclass(frozen=True)
class Lettered:
    """A text, and the options it may speak of.

    Attributes:
        text: In plain characters (`asd.quality.replies`).
        options: Their texts, the first is A; empty where only their number is known.
    """

    text: str
    options: tuple[str, ...]

    @cached_property
    def letters(self) -> tuple[str, ...]:
        """A, B, ..."""
        return tuple(chr(ord("A") + i) for i in range(len(self.options)))

    @cached_property
    def mentioned(self) -> frozenset[str]:
        """Letters of the options whose texts stand anywhere."""
        found = self._texts.finditer(self.text) if self._texts else ()
        return frozenset(str(text.lastgroup) for text in found)

    def text_at(self, place: int) -> Found | None:
        """The text of an option that begins at a place, or behind marks there."""
        marks = _MARKS.match(self.text, place)
        return self._text_at(place) or (self._text_at(marks.end()) if marks else None)

    def letter_at(self, place: int) -> Found | None:
        """The letter at a place, `UNDECIDED` for several; None for no letter of an option, or one denied."""
        if ordinal := _ORDINAL.match(self.text, place):
            return self._counted(ordinal)
        found = _LETTER.match(self.text, place)
        if found is None or not self._is_option(found) or self._is_denied(found):
            return None
        another = _ANOTHER.match(self.text, found.end("close"))
        following = _LETTER.match(self.text, another.end()) if another else None
        letter, end = found["letter"].upper(), found.end("letter")
        if following and self._is_option(following) and following["letter"].upper() != letter:
            return Found(UNDECIDED, end)
        return Found(letter, end)

    @cached_property
    def _texts(self) -> re.Pattern[str] | None:
        """Finds the texts of options, the longest first, each named by its letter; those given once only."""
        known = [_words_of(option) for option in self.options]
        given = Counter(known)
        named = [
            f"(?P<{letter}>{words})"
            for letter, words in zip(self.letters, known, strict=True)
            if words and given[words] == 1
        ]
        return re.compile("|".join(sorted(named, key=len, reverse=True)), re.IGNORECASE) if named else None

    def _text_at(self, place: int) -> Found | None:
        found = self._texts.match(self.text, place) if self._texts else None
        return Found(str(found.lastgroup), found.end()) if found else None

    def _counted(self, ordinal: re.Match[str]) -> Found | None:
        """The letter of "the second option"."""
        n = _ORDINALS.index(ordinal[1].lower())
        letters = self.letters[-1:] if ordinal[1].lower() == "last" else self.letters[n : n + 1]
        is_denied = _DENIED.match(self.text, ordinal.end())
        return Found(letters[0], ordinal.end()) if letters and not is_denied else None

    def _is_denied(self, found: re.Match[str]) -> bool:
        """Whether a letter is asked about, called wrong, or the first of "a) ... b) ..."."""
        if _PARTS.match(self.text, found.start()):
            return True
        return not self._is_followed_by_own_text(found) and bool(_DENIED.match(self.text, found.end()))

    def _is_option(self, found: re.Match[str]) -> bool:
        """Whether a letter is that of an option and no word, initial or name of something else."""
        letter, word = found["letter"], _WORD.match(self.text, found.end())
        if found["alone"] is None or letter.upper() not in self.letters:
            return False
        if (found["close"] and word is None) or self._is_followed_by_own_text(found):
            return letter not in {"a", "i"} or found["close"] != ""
        if letter in {"a", "i"} or (letter + found["close"] + found["stop"]) == "I,":
            return _LINE_ENDS.match(self.text, found.end()) is not None
        return word is None or bool(found["close"]) or _is_new_clause(found, word["word"])

    def _is_followed_by_own_text(self, found: re.Match[str]) -> bool:
        own = self.text_at(found.end())  # which may be "False"
        return own is not None and own.letter == found["letter"].upper()


def _is_new_clause(found: re.Match[str], word: str) -> bool:
    """Whether a word behind a letter is none that the letter belongs to, as in "C major" and "E. coli"."""
    if _SMALL_WORD.fullmatch(word):
        return True
    return found["stop"] != "" and (found["stop"] != "." or word[0].isupper())


def _words_of(option: str) -> str:
    """What finds the text of an option; "" for a text that is too short to be told from a letter."""
    words = re.sub(r"^(?:the|an?)\s+(?=\S)", "", plain(option).lower().strip().rstrip(".")).split()
    if len(core := re.sub(r"\W", "", "".join(words))) < 2 and not core.isdigit():
        return ""
    escaped = r"\s+".join(map(re.escape, words))
    return rf"(?<![\w.,-])(?:(?:the|an?)\s+)?{escaped}(?!\w|[.,]\d|[-/%]\w)"
