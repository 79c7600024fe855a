"""Letters in replies: every shape that models write."""

from __future__ import annotations

import pytest

from asd.quality.choice import choice_of

OPTIONS = ("Paris", "the river Seine", "4", "A dog")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" b ", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("[B]", "B"),
        ("**B**", "B"),
        ("`B`", "B"),
        ("$B$", "B"),
        ("Option B", "B"),
        ("B) the river Seine", "B"),
        ("B. the river Seine", "B"),
        ("B: the river Seine", "B"),
        ("B - the river Seine", "B"),
        ("B\n\nBecause it flows there.", "B"),
        ("Answer: B", "B"),
        ("answer is b", "B"),
        ("**Answer:** (B)", "B"),
        ("The answer is (B).", "B"),
        ("The correct answer is: B", "B"),
        ("The correct option is **B) the river Seine**", "B"),
        ("the answer is option B.", "B"),
        (r"Thus the answer is $\boxed{B}$.", "B"),
        (r"\boxed{\text{B}}", "B"),
        ("So (B) is the correct answer.", "B"),
        ("I first thought the answer is A, but the answer is B.", "B"),
        ("Let's see. A is wrong. C is wrong.\n\nFinal answer: B", "B"),
        ("Only (B) fits here.", "B"),
        ("It flows through the town.\nB", "B"),
        ("the river Seine", "B"),
        ("The River Seine.", "B"),
        ("A dog", "D"),
        ("A dog is not a city, so I choose B.", "B"),
        ("Not A but C", "C"),
        ("Neither A nor D, but B.", "B"),
        ("B rather than A", "B"),
        ("(B) instead of C", "B"),
        ("A ✗\nB ✗\nC ✓\nD ✗", None),
        ("A ❌\nB ❌", None),
        ("The answer is a city in France", None),
        ("I think it could be anything", None),
        ("(A) or (B)", None),
        ("E", None),
        ("The answer is E.", None),
        ("A cat", None),
        ("", None),
    ],
)
def test_letters_are_found(text: str, letter: str | None) -> None:
    """The option that a person would say was chosen; none where none, or more than one, was."""
    assert choice_of(text, OPTIONS) == letter


def test_letters_go_as_far_as_the_options() -> None:
    """J is a letter among ten options and none among four."""
    assert choice_of("The answer is (J).", [str(i) for i in range(10)]) == "J"
    assert choice_of("The answer is (J).", OPTIONS) is None


def test_an_option_given_twice_chooses_nothing() -> None:
    """Text that two options share is not a choice."""
    assert choice_of("yes", ["yes", "Yes.", "no"]) is None
    assert choice_of("no", ["yes", "Yes.", "no"]) == "C"
