"""Exact match after normalisation, as SQuAD and TriviaQA define it, against any of several aliases.

Normalised: lower case, punctuation removed, the articles a, an, the removed, white space squeezed
(Rajpurkar et al. 2016, arXiv 1606.05250, the official evaluation script).
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

from asd.quality.cues import ANSWER, places, tagged
from asd.quality.replies import reply_of

__all__ = ["contains", "exact_match", "normalise", "stated"]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

_SENTENCE = re.compile(r"[.!?](?:\s|\Z)|\n")
_VERDICT = re.compile(r"(?:yes|no|true|false|valid|invalid)\b(?=\s*(?:[,.;:!-]|\Z))", re.IGNORECASE)


def stated(text: str) -> str:
    """The words that a reply states as its answer, without marks: a sentence or less; "" for none.

    They stand in <answer> tags or a LaTeX box, else behind the last "answer is" or "answer:", else at the
    beginning; "No, because ..." states "No".
    """
    reply = reply_of(text)
    found = [*tagged(reply), *((place, reply[place:]) for place in places(ANSWER, reply))]
    said = max(found)[1] if found else reply
    sentence = _SENTENCE.split(said.strip(), maxsplit=1)[0].strip(" *_`\"'")
    verdict = _VERDICT.match(sentence)
    return verdict[0] if verdict else sentence


def normalise(text: str) -> str:
    """The text as it is compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(text: str, aliases: Iterable[str]) -> bool:
    """Whether a reply equals one of the right answers."""
    return normalise(text) in {normalise(alias) for alias in aliases}


def contains(text: str, aliases: Iterable[str]) -> bool:
    """Whether a reply has the words of one of the right answers in it, in a row."""
    reply = f" {normalise(text)} "
    return any(f" {words} " in reply for alias in aliases if (words := normalise(alias)))
