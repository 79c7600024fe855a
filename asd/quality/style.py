"""What can be said of an answer without knowing whether it is right: length, repetition, form.

Rules, not models, each in [0, 1] with 1 for nothing to complain about. They carry a tenth of the published
aggregate and should carry no more: a wrong answer can be flawless by all of them. Scope: no reference is
needed but for the length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from asd.errors import DataError

__all__ = ["length_adequacy", "linguistic_quality", "repetition"]

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_SENTENCE = re.compile(r"[^.!?]+[.!?]*")
_OPENERS, _CLOSERS = "([{\u201c", ")]}\u201d"
_LONGEST_SENTENCE = 40
"""Words; readers lose longer ones."""
_N_GRAM = 3


def length_adequacy(answer: str, references: Sequence[str]) -> float:
    """Shorter over longer of answer and reference, in words; of several references the closest.

    Raises:
        DataError: A text has no words, or there is no reference.
    """
    if not references:
        raise DataError("the right length is that of a reference, and there is none")
    n = len(_words(answer))
    return max(min(n, m) / max(n, m) for m in (len(_words(reference)) for reference in references))


def repetition(answer: str) -> float:
    """Share of distinct word trigrams; 1 where nothing is said twice, and for fewer than three words.

    Raises:
        DataError: The answer has no words.
    """
    words = [word.lower() for word in _words(answer)]
    grams = [tuple(words[i : i + _N_GRAM]) for i in range(len(words) - _N_GRAM + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def linguistic_quality(answer: str) -> float:
    """Mean of four checks of form: starts and ends like a sentence, brackets pair up, no sentence is endless.

    Raises:
        DataError: The answer has no words.
    """
    _words(answer)
    text = answer.strip()
    sentences = [len(_WORD.findall(sentence)) for sentence in _SENTENCE.findall(text)]
    checks = (
        not text[0].islower(),
        text[-1] in ".!?:\"'`" + _CLOSERS,
        _pairs_up(text),
        max(sentences, default=0) <= _LONGEST_SENTENCE,
    )
    return sum(checks) / len(checks)


def _pairs_up(text: str) -> bool:
    waiting = []
    for character in text:
        if character in _OPENERS:
            waiting.append(_CLOSERS[_OPENERS.index(character)])
        elif character in _CLOSERS and (not waiting or waiting.pop() != character):
            return False
    return not waiting


def _words(text: str) -> list[str]:
    words = _WORD.findall(text)
    if not words:
        raise DataError(f"{text!r} has no words; an answer that says nothing has no quality to measure")
    return words
