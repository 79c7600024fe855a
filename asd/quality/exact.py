"""Exact match after normalisation, as SQuAD and TriviaQA define it, against any of several aliases.

Normalised: lower case, punctuation removed, the articles a, an, the removed, white space squeezed
(Rajpurkar et al. 2016, arXiv 1606.05250, the official evaluation script).
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

__all__ = ["contains", "exact_match", "normalise"]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


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
