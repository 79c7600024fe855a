"""The published complexity score of a prompt, by keywords and length.

    score = min(1, 0.3 * min(1, words / 100) + 0.4 per matched pattern + min(0.3, 0.1 per technical word))

A rule, not a fit: it was published with these numbers and is kept as printed, as one of the 31 published
features (`asd.evidence.prompt.published`) and as the score of a router to compare with. It knows English
only. Scope: one prompt in, one number out.
"""

from __future__ import annotations

import re

__all__ = ["PATTERNS", "TECHNICAL_WORDS", "complexity_score"]

TECHNICAL_WORDS = ("algorithm", "architecture", "optimization")

PATTERNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "system design": (("implement", "design", "create"), ("system", "architecture", "framework")),
    "comparison": (("analyze", "compare", "evaluate"), ("multiple", "several", "various")),
    "machine learning": (("machine learning", "deep learning", "neural network"),),
    "scholarship": (("research", "academic", "scholarly"),),
    "analysis": (("comprehensive", "detailed", "thorough"), ("analysis",)),
    "computer science": (("optimization", "algorithm", "data structure"),),
    "proof": (("prove", "theorem", "mathematical proof"),),
}
"""By name, what must occur in this order, anything in between: one beginning of a word out of each tuple."""

_STEPS = tuple(tuple(tuple(f" {word}" for word in step) for step in steps) for steps in PATTERNS.values())
_WORD = re.compile(r"\w+")


def complexity_score(prompt: str) -> float:
    """The score in [0, 1]; a technical word counts as often as it occurs."""
    words = _WORD.findall(prompt.lower())
    text = " " + " ".join(words)
    length = 0.3 * min(1.0, len(words) / 100.0)
    matched = 0.4 * sum(_occur_in_order(steps, text) for steps in _STEPS)
    technical = min(0.3, 0.1 * sum(text.count(f" {word}") for word in TECHNICAL_WORDS))
    return min(1.0, length + matched + technical)


def _occur_in_order(steps: tuple[tuple[str, ...], ...], text: str) -> bool:
    """Taking the earliest match of every step is right: it leaves the most text for the next."""
    at = 0
    for step in steps:
        ends = [found + len(word) for word in step if (found := text.find(word, at)) >= 0]
        if not ends:
            return False
        at = min(ends)
    return True
