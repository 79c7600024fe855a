"""Exact match, against the examples of the rule's authors and what must not match."""

from __future__ import annotations

import pytest

from asd.quality.exact import contains, exact_match, normalise


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  Beatles!", "beatles"),
        ("an apple a day", "apple day"),
        ("Theory of another", "theory of another"),
        ("U.S.A.", "usa"),
        ("16,901.51", "1690151"),
        ("Beyonc\u00e9\tKnowles", "beyonc\u00e9 knowles"),
        ("...", ""),
    ],
)
def test_normalisation(text: str, plain: str) -> None:
    """Lower case, no punctuation, no articles as words of their own, single spaces."""
    assert normalise(text) == plain


def test_any_alias_will_do() -> None:
    """Equality with one of the aliases, and only equality."""
    aliases = ["Michio Sugeno", "Sugeno"]
    assert exact_match("michio sugeno.", aliases)
    assert exact_match("The Sugeno", aliases)
    assert not exact_match("It was Sugeno", aliases)
    assert not exact_match("", aliases)


def test_contained_words_stand_in_a_row() -> None:
    """Whole words in order, never parts of words, and nothing is contained in nothing."""
    assert contains("It was the great Michio Sugeno, in 2010.", ["Michio Sugeno"])
    assert not contains("Sugeno, Michio", ["Michio Sugeno"])
    assert not contains("1200", ["12"])
    assert not contains("anything", ["..."])
