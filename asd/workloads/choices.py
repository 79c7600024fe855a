"""Multiple choice as text: options under letters, one letter as the answer."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["letter", "lettered"]


def letter(position: int) -> str:
    """Of the option at a position: A, B, ..."""
    return chr(ord("A") + position)


def lettered(question: str, options: Sequence[str], answer: str = "") -> str:
    """A question and its options, ending in the answer's letter or in room for it."""
    lines = [f"{letter(i)}. {option}" for i, option in enumerate(options)]
    return "\n".join([question, *lines, f"Answer: {answer}".rstrip()])
