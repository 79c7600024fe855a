"""What two recorded answers have in common.

An answer is reduced to its words: what follows the last "####" where that mark is (worked solutions), lower
case, without thoughts, punctuation and articles. Two answers agree by the Dice coefficient of their sets of
words: 1 for the same letter, number or name, something in between for sentences. Scope: text only;
whether an answer is right is not asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from asd.quality.thinking import without_thinking

__all__ = ["agreement", "text_of", "words_of"]

_MARK = "####"
_WORD = re.compile(r"-?\d+(?:[.,]\d+)*|\w+")
_ARTICLES = frozenset({"a", "an", "the"})


def text_of(output: Mapping[str, Any]) -> str:
    """The reply without thoughts, else what was taken out of it; "" where neither was recorded."""
    return without_thinking(str(output.get("response") or output.get("answer") or ""))


def words_of(output: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Words of a recorded answer: of `answer`, what upstream took out of the reply, else of `response`.

    None where neither was recorded; a null answer beside a response says that none was found.
    """
    if output.get("response") is None and "answer" not in output:
        return None
    text = text_of(output) if output.get("answer") is None else without_thinking(str(output["answer"]))
    found = _WORD.findall(text.rsplit(_MARK, 1)[-1].lower().replace(",", ""))
    return tuple(word for word in found if word not in _ARTICLES) or tuple(found)


def agreement(answers: Sequence[Sequence[tuple[str, ...] | None]]) -> npt.NDArray[np.float64]:
    """Dice coefficient of the word sets of any two answers to a query.

    Args:
        answers: One row a query, one entry a stage, as `words_of` gives them.

    Returns:
        Shape (n, K, K), in [0, 1]; 1 where neither answer has a word, NaN where one was not recorded.
    """
    bags = [[None if words is None else frozenset(words) for words in row] for row in answers]
    n_stages = len(bags[0])
    table = np.ones((len(bags), n_stages, n_stages))
    for i, j in combinations(range(n_stages), 2):
        table[:, i, j] = table[:, j, i] = [_dice(row[i], row[j]) for row in bags]
    return table


def _dice(a: frozenset[str] | None, b: frozenset[str] | None) -> float:
    if a is None or b is None:
        return math.nan
    return 2.0 * len(a & b) / (len(a) + len(b)) if a or b else 1.0
