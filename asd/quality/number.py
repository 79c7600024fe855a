r"""The number a reply ends in, compared exactly.

    "... so she makes $1,234.50 a day.\n#### 1,234.50"  ->  2469/2

The `"answer":` field of a JSON reply counts, else the last statement: what follows "####", stands in \boxed{}
or <answer> tags, or behind "answer is" and "answer:"; without any, the last number of the text. Units and the
signs of currencies and percent are no part of a number ("50 %" is 50), marks between groups of three digits
are ("1 234", "1'234", "1.234.567"). A statement that leaves it open ("5 or 6", "3 + 4") gives no number.

Scope: text in, number out; nothing is evaluated but powers of ten: "2 + 3" is not 5.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from asd.quality.cues import ANSWER, places, tagged
from asd.quality.replies import reply_of

__all__ = ["number_of", "same_number"]

_GROUPS = "|".join(rf"(?:{mark}\d{{3}})+" for mark in (",", " ", "'", "_"))
_DIGITS = rf"(?:\d{{1,3}}(?:{_GROUPS})(?!\d)|\d{{1,2}}(?:,\d\d)+,\d{{3}}(?!\d)|\d+)"
_EUROPEAN = r"\d{1,3}(?:\.\d{3})+,\d{1,2}(?!\d)|\d{1,3}(?:\.\d{3}){2,}(?![\d.])|\d+,\d{1,2}(?![\d,])"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{{1,3}}(?!\w|\.\d))?"
_FRAC = (
    r"\\[dt]?frac\s*(?:\{\s*(?P<over>-?[\d,.]+)\s*\}\s*\{\s*(?P<under>[\d,.]+)\s*\}"
    r"|(?P<top>\d)(?P<bottom>\d))"
)
_TEN_TO = r"10\s?(?:\^|\*\*)\s?\{?"
_SIGN = (
    r"(?<![\w.)\]}%])-(?=\s?[$€£\\\d.])|(?<=[=:(]\s)-\s|(?<=[=:(])-\s"
    r"|(?<!\d\s)(?<!\)\s)\b(?:minus|negative)\s(?=[$€£\d.])"
)
"""A minus that is no subtraction: "is -7" and "= - 7", but neither "10-7" nor "10 - 7"."""
_TIMES = r"[\u00d7\u00b7*x]"
_NUMBER = re.compile(
    rf"(?P<sign>{_SIGN})?(?:(?:[$€£¥₹]|\b(?:USD|EUR|GBP|Rs\.?))\s?)?(?P<minus>(?<=[$€£])-|(?<=[$€£]\s)-)?"
    rf"(?:(?P<wholes>\d+)?\s?{_FRAC}|{_TEN_TO}(?P<exponent>[+-]?\d{{1,3}})\}}?|(?P<european>{_EUROPEAN})"
    rf"|(?:(?P<whole>{_DIGITS})\s+(?=\d+\s?/\s?\d))?(?P<number>{_DECIMAL})"
    rf"(?:\s?/\s?(?P<divisor>{_DIGITS})(?![\d/.]))?(?:\s?{_TIMES}\s?{_TEN_TO}(?P<power>[+-]?\d{{1,3}})\}}?)?)"
)

_LATEX = (
    (re.compile(r"\\(?:!|left|right|displaystyle)|\^\s*\\circ|\^\s*\{\s*\\circ\s*\}|°"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\([%$])"), r"\1"),
    (re.compile(r"\\[,;: ]|~"), " "),
    (re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "\u00d7"),
    (re.compile(r"\\approx\b|≈"), "="),
)
_HASHES = re.compile(
    r"####[\s*:=]*(?:(?:the\s+)?(?:final\s+)?(?:answer|total|result)\b(?:\s+is)?[\s*:=]*)?", re.IGNORECASE
)
_FIELD = re.compile(r"\"(?:final_)?answer\"\s*:\s*(\"(?:[^\"\\]|\\.)*\"|[^,}\n]*)", re.IGNORECASE)
_NOT = re.compile(r"\W*not\b(?:.*?\bbut\b)?", re.IGNORECASE)
_LEAD = re.compile(
    r"[\s*_\"'`(\[{$]*(?:(?:about|approximately|exactly|only|just|around|roughly|a total of|[a-z]\s*=)\s*)?",
    re.IGNORECASE,
)
_EQUALS = re.compile(r"\s*=")
_SENTENCE = re.compile(r".*?(?=[.!?](?:\s|\Z)|\n(?!\s*=)|\Z)", re.DOTALL)
_CLAUSE = re.compile(r".*?(?=,\s|;|\(|\b(?:because|since|as|where)\b|\Z)", re.DOTALL)
_ANOTHER = re.compile(
    r"\s*(?:\b(?:or|to|and/or)\b|[-+*/\u00d7÷^]|\band\b(?=\s*[$€£]?\d[\d.,]*\W*\Z))\s*[$€£(]?\s*(?=\d)",
    re.IGNORECASE,
)
"""Between two numbers of which neither alone is what was said."""
_OR = re.compile(r"\s*(?:or|to)\s*", re.IGNORECASE)
_CORRECTED = re.compile(
    r"\b(?:wait|actually|sorry|oops|correction|scratch that|I mean|mistake)\b[^.\d\n]{0,60}?"
    rf"{_NUMBER.pattern}(?:\s+\w+){{0,2}}[\s*]*(?:[.!\n]|\Z)",
    re.IGNORECASE,
)

_STEP = re.compile(
    r"^[ \t*#]*(?:step[ \t]+)?(?P<n>\d{1,2})[.):](?=[ \t*]+[^\W_])", re.MULTILINE | re.IGNORECASE
)
"""The number of a step of the work, which is none of its results."""
_LONGEST = 1000
"""Characters of a statement that are looked at."""


class _Statement(NamedTuple):
    """Where a number is stated, and which; None where the statement leaves it open."""

    place: int
    number: Fraction | None


def number_of(text: str) -> Fraction | None:
    """The number that a reply gives as its answer; None if it gives none."""
    reply = _without_latex(reply_of(text))
    if stated := max(_statements(reply), default=None, key=lambda statement: statement.place):
        corrected = _value(found) if (found := _CORRECTED.search(reply, stated.place)) else None
        return stated.number if corrected is None else corrected
    steps = _steps(reply)
    numbers = [
        found for found in _NUMBER.finditer(reply) if not (found.start() in steps or _is_part(reply, found))
    ]
    if not numbers or (numbers[1:] and _OR.fullmatch(reply, numbers[-2].end(), numbers[-1].start())):
        return None
    if steps and numbers[-1].start() < max(steps) and reply.rstrip()[-1].isalnum():
        return None  # cut within a step that has come to no number yet
    return _value(numbers[-1])


def same_number(text: str, reference: str) -> bool:
    """Whether a reply's number equals the reference's.

    Raises:
        ValueError: The reference has no number.
    """
    expected = number_of(reference)
    if expected is None:
        raise ValueError(f"the reference {reference!r} has no number")
    return number_of(text) == expected


def _without_latex(text: str) -> str:
    """Without LaTeX's spaces, fonts and escapes; fractions and powers of one character written out."""
    text = "".join(_written_out(character) for character in text) if not text.isascii() else text
    for pattern, instead in _LATEX:
        text = pattern.sub(instead, text)
    return text


def _written_out(character: str) -> str:
    r"""\u00bd as " 1/2", \u00b2 as "^2"."""
    match unicodedata.decomposition(character).split():
        case ["<fraction>", *codes]:
            return " " + "".join(chr(int(code, 16)) for code in codes).replace("\u2044", "/")
        case ["<super>", code] if chr(int(code, 16)).isdigit():
            return "^" + chr(int(code, 16))
    return character


def _statements(reply: str) -> list[_Statement]:
    boxes = [_concluded(place, content) for place, content in tagged(reply)]
    if not boxes and (fields := list(_FIELD.finditer(reply))):
        # "cannot be determined" is an answer too
        return [_concluded(fields[-1].start(), fields[-1][1]) or _Statement(fields[-1].start(), None)]
    hashes = (found.end() for found in _HASHES.finditer(reply) if _begins_with_number(reply, found.end()))
    said = [_concluded(place, _said(reply, place)) for place in (*hashes, *places(ANSWER, reply))]
    return [statement for statement in (*boxes, *said) if statement is not None]


def _concluded(place: int, statement: str) -> _Statement | None:
    """The number that a statement's last equals sign leads to, else its first."""
    found = _NUMBER.search(statement, statement.rfind("=") + 1) or _NUMBER.search(statement)
    if found is None:
        return None
    if not _ANOTHER.match(statement, found.end()):
        return _Statement(place, _value(found))
    first = _NUMBER.match(statement, _end(_LEAD, statement))
    return _Statement(place, _value(first) if first and _EQUALS.match(statement, first.end()) else None)


def _said(reply: str, place: int) -> str:
    """The statement that begins at a place: a number's clause, a sum, else the line."""
    text = reply[place : place + _LONGEST]
    text = text[_end(_NOT, text) :].lstrip()
    if not _begins_with_number(text):
        return text.partition("\n")[0]
    sentence = text[: _end(_SENTENCE, text)]
    is_sum = _ANOTHER.match(sentence, _end(_NUMBER, sentence, _end(_LEAD, sentence)))
    return sentence if is_sum else sentence[: _end(_CLAUSE, sentence)]


def _begins_with_number(text: str, place: int = 0) -> bool:
    return _NUMBER.match(text, _end(_LEAD, text, place)) is not None


def _steps(reply: str) -> set[int]:
    """Where the numbers of steps stand: lines that begin with "1. ", "2. ", and so on."""
    found = list(_STEP.finditer(reply))
    are_steps = len(found) > 1 and [int(step["n"]) for step in found] == [*range(1, len(found) + 1)]
    return {step.start("n") for step in found} if are_steps else set()


def _is_part(reply: str, found: re.Match[str]) -> bool:
    """Whether digits are part of a name or a power: H2O, cm^2."""
    before, after = reply[: found.start()][-1:], reply[found.end() :][:1]
    is_glued = before.isalpha() and before.isascii() and found[0][0].isdigit()
    return is_glued or before == "^" or after == "^"


def _value(found: re.Match[str]) -> Fraction | None:
    parts = {name: text for name, text in found.groupdict().items() if text}
    sign = -1 if "sign" in parts or "minus" in parts else 1
    if "exponent" in parts:
        return sign * Fraction(10) ** int(parts["exponent"])
    if "european" in parts:
        return sign * Fraction(parts["european"].replace(".", "").replace(",", "."))
    over = parts.get("over") or parts.get("top") or parts.get("number", "")
    under = parts.get("under") or parts.get("bottom") or parts.get("divisor", "1")
    try:
        value = _plain(parts.get("whole") or parts.get("wholes", "0")) + _plain(over) / _plain(under)
    except (ValueError, ZeroDivisionError):
        return None
    return sign * value * Fraction(10) ** int(parts.get("power", "0"))


def _plain(digits: str) -> Fraction:
    return Fraction(re.sub(r"[, '_]", "", digits))


def _end(pattern: re.Pattern[str], text: str, place: int = 0) -> int:
    """Where what a pattern finds at a place ends; the place itself if it finds nothing."""
    found = pattern.match(text, place)
    return found.end() if found else place
