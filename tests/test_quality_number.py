"""Numbers in replies: every shape that models write, and none that is not there."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.quality.number import number_of, same_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", "18"),
        ("The answer is 18.", "18"),
        ("16 - 3 - 4 = 9 eggs, 9 * 2 = $18 every day.\n#### 18", "18"),
        ("#### $1,234.50", "1234.5"),
        ("#### 5 apples, 3 of them red", "5"),
        ("first #### 3\nno, #### 4", "4"),
        ("####", None),
        ("x = 3 ####", "3"),
        ("she pays 1,234,567 dollars", "1234567"),
        ("between 1,2 and 3", "3"),
        ("it is -7", "-7"),
        ("it is \N{MINUS SIGN}7 degrees", "-7"),
        ("#### -$1,200", "-1200"),
        ("#### $-5", "-5"),
        ("10-7", "7"),
        ("10 - 7", "7"),
        ("years 2010-2014", "2014"),
        ("25%", "25"),
        (r"\boxed{25\%}", "25"),
        ("0.5", "1/2"),
        (".5", "1/2"),
        ("18.00", "18"),
        ("3/4 of the cake", "3/4"),
        ("1 1/2 cups", "3/2"),
        (r"\boxed{\frac{3}{4}}", "3/4"),
        (r"so \(\boxed{-\frac{3}{4}}\), not 5", "-3/4"),
        (r"\boxed{1{,}000}", "1000"),
        (r"\boxed{1\!,000}", "1000"),
        (r"the answer is \boxed{12 \text{ eggs}} from 2 hens", "12"),
        ("2.5e3", "2500"),
        ('{"reasoning": "9 * 2 = 18", "answer": "$18"}', "18"),
        ('{"reasoning": "1 or 2", "answer": 42}', "42"),
        ('{"reasoning": "1 or 2", "answer": "cannot be determined"}', None),
        ('"answer": "20 + 40 + 80 = 140"', "140"),
        ("Answer: 3 * 4 = 12 eggs over 5 days", "12"),
        ("**Answer:** 12 eggs over 5 days", "12"),
        ("The final answer is: 7 (see page 3)", "7"),
        ("5 + 5 = 10. The answer is ten", "10"),
        ("1/0", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_numbers_are_found(text: str, number: str | None) -> None:
    """The number a person would read out of the reply."""
    assert number_of(text) == (None if number is None else Fraction(number))


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{:,}", "{}", "#### {}", "The answer is ${:,}."]))
def test_integers_survive_formatting(value: int, shape: str) -> None:
    """Any integer, with or without group commas and words around it, is found again."""
    text = shape.format(value).replace("$-", "-$")
    assert number_of(text) == value


@given(st.decimals(-(10**6), 10**6, places=3, allow_nan=False))
def test_decimals_are_exact(value: object) -> None:
    """Decimals are compared exactly, trailing zeros or not."""
    assert number_of(f"= {value:f}") == Fraction(str(value))  # type: ignore[str-bytes-safe]


def test_same_number_is_equality() -> None:
    """18.00 is 18, 18.01 is not; a reply without a number is wrong; a reference without one is an error."""
    assert same_number("it is 18.00", "#### 18")
    assert not same_number("it is 18.01", "#### 18")
    assert not same_number("no idea", "#### 18")
    with pytest.raises(ValueError, match="reference 'no idea' has no number"):
        same_number("18", "no idea")
