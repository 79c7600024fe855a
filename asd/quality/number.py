r"""The number a reply ends in, compared exactly.

    "... so she makes $1,234.50 a day.\n#### 1,234.50"  ->  2469/2

Looked for, in this order: after the last "####"; in the last \boxed{}; in the last `"answer":` field of a
JSON reply; after the last "answer is" or "answer:"; the last number of the text. Units, currency and
percent signs are not part of the number ("50 %" is 50), commas between groups of three digits are.

The border: text in, number out; nothing is evaluated, "2 + 3" is not 5.
"""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["number_of", "same_number"]

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{{1,3}}(?![\w.]))?"
_FRAC = r"\\[dt]?frac\s*\{\s*(?P<over>-?[\d,.]+)\s*\}\s*\{\s*(?P<under>[\d,.]+)\s*\}"
_SIGN = r"(?<![\w.)\]}%])-(?=[$€£\\\d.])|(?<=[=:(]\s)-\s|(?<=[=:(])-\s"
"""A minus that is no subtraction: "is -7" and "= - 7", but neither "10-7" nor "10 - 7"."""
_NUMBER = re.compile(
    rf"(?P<sign>{_SIGN})?(?:[$€£]|\\\$)?(?P<minus>(?<=[$€£])-)?"
    rf"(?:{_FRAC}|(?:(?P<whole>{_DIGITS})\s+(?=\d+\s?/\s?\d))?(?P<number>{_DECIMAL})"
    rf"(?:\s?/\s?(?P<divisor>{_DIGITS})(?![\d/.]))?)"
)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_FIELD = re.compile(r"\"(?:final_)?answer\"\s*:\s*(\"(?:[^\"\\]|\\.)*\"|[^,}\n]*)", re.IGNORECASE)
_STATED = re.compile(r"\banswer\b\W{0,4}(?:is|to be|equals|=|:)(.*)", re.IGNORECASE)


def number_of(text: str) -> Fraction | None:
    """The number that a reply gives as its answer; None if it gives none."""
    text = text.replace("\N{MINUS SIGN}", "-").replace("\\!", "").replace("{,}", ",").replace("\\%", "%")
    _, marker, tail = text.rpartition("####")
    if marker and (found := _NUMBER.search(tail)):
        return _value(found)
    if (field := _FIELD.findall(text)) and not _BOXED.search(text):
        return _conclusion(field[-1])  # "cannot be determined" is an answer too
    for pattern in (_BOXED, _STATED):
        stated = pattern.findall(text)
        if stated and (number := _conclusion(stated[-1])) is not None:
            return number
    numbers = list(_NUMBER.finditer(text))
    return _value(numbers[-1]) if numbers else None


def same_number(text: str, reference: str) -> bool:
    """Whether a reply's number equals the reference's.

    Raises:
        ValueError: The reference has no number.
    """
    expected = number_of(reference)
    if expected is None:
        raise ValueError(f"the reference {reference!r} has no number")
    return number_of(text) == expected


def _conclusion(statement: str) -> Fraction | None:
    """The first number after the last equals sign: of "3 * 4 = 12 eggs a day", 12."""
    found = _NUMBER.search(statement.rpartition("=")[2]) or _NUMBER.search(statement)
    return _value(found) if found else None


def _value(found: re.Match[str]) -> Fraction | None:
    parts = {name: text.replace(",", "") for name, text in found.groupdict().items() if text}
    sign = -1 if "sign" in parts or "minus" in parts else 1
    over, under = parts.get("over", parts.get("number")), parts.get("under", parts.get("divisor", "1"))
    try:
        return sign * (Fraction(parts.get("whole", "0")) + Fraction(over or "") / Fraction(under))
    except (ValueError, ZeroDivisionError):
        return None
