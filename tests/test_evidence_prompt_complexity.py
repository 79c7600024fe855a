"""The published complexity score, against sums worked by hand."""

import pytest

from asd.evidence.prompt.complexity import PATTERNS, TECHNICAL_WORDS, complexity_score


def test_length_counts_up_to_a_hundred_words() -> None:
    """Thirty hundredths for a hundred words, no more for two hundred, a tenth of it for ten."""
    assert complexity_score("") == 0.0
    assert complexity_score("cat " * 10) == pytest.approx(0.03)
    assert complexity_score("cat " * 200) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Compare several cats", 0.4 + 0.3 * 0.03),  # comparison
        ("several cats, compared", 0.3 * 0.03),  # the wrong way round
        ("improve the cat", 0.3 * 0.03),  # "prove" does not begin a word here
        ("Prove the theorem", 0.4 + 0.3 * 0.03),  # one pattern, matched twice
        ("the architecture", 0.1 + 0.3 * 0.02),  # a technical word, no pattern
        ("an algorithm", 0.4 + 0.1 + 0.3 * 0.02),  # a technical word that is a pattern as well
    ],
)
def test_patterns_and_technical_words(prompt: str, expected: float) -> None:
    """Each pattern adds four tenths once, each technical word a tenth."""
    assert complexity_score(prompt) == pytest.approx(expected)


def test_technical_words_add_three_tenths_at_most() -> None:
    """Five technical words of no pattern count as three."""
    assert complexity_score("architecture " * 5) == pytest.approx(0.3 + 0.3 * 0.05)


def test_the_score_is_capped() -> None:
    """All patterns and technical words at once give 1."""
    everything = [words[0] for steps in PATTERNS.values() for words in steps]
    assert complexity_score(" ".join([*everything, *TECHNICAL_WORDS])) == 1.0
