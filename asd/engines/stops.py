"""Where stop strings end an answer in tokens: with the token after which its text holds the first of them.

Text is what the stage's tokenizer makes of all tokens, special ones left out; a last character that is not
whole yet does not count. The rule looks at the answer's tokens only, so a stage ends at the same token alone,
in a batch, with a drafter and after verification. `asd.stops` says which stop string is the first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from asd.stops import cut, position
from asd.types import Draft, Query

__all__ = ["Watch", "as_tokens_read", "first_end", "shortest", "watch"]

UNFINISHED = "\ufffd"
"""What tokenizers write for a character of which bytes are missing."""
PER_CHARACTER = 4
"""Most tokens of one character, a byte each."""
SPECIAL = 8
"""Special tokens, which have no text, that a stop string may be interrupted by."""


class Watch:
    """Watches one answer grow.

    Args:
        stop: Stop strings, at least one.
        tokenizer: The stage's.
        written: What the answer begins with, which does not end it.
    """

    def __init__(self, stop: Sequence[str], tokenizer: Any, written: Sequence[int] = ()) -> None:
        self._stop = stop
        self._tokenizer = tokenizer
        self._tokens = list(written)
        self._n_recent = PER_CHARACTER * max(map(len, stop)) + SPECIAL

    def ends(self, token: int) -> bool:
        """Take in one more token; whether the answer ends with it."""
        self._tokens.append(token)
        recent = self._text(self._tokens[-self._n_recent :])  # all tokens at every step would take long
        if not any(string in recent for string in self._stop):
            return False
        return position(self._text(self._tokens), self._stop, more=True) is not None

    def _text(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True)).rstrip(UNFINISHED)


def watch(query: Query, tokenizer: Any, written: Sequence[int] = ()) -> Watch | None:
    """What ends the answer to a query; None: it has no stop strings."""
    return Watch(query.stop, tokenizer, written) if query.stop else None


def first_end(tokens: Sequence[int], query: Query, tokenizer: Any) -> int | None:
    """Number of tokens of the answer, if stop strings end it within these."""
    watching = watch(query, tokenizer)
    if watching is None:
        return None
    return next((n for n, token in enumerate(tokens, start=1) if watching.ends(token)), None)


def shortest(tokens: Sequence[int], stop: Sequence[str], text_of: Callable[[Sequence[int]], str]) -> int:
    """The same where text is dear to have: by bisection. All tokens where no stop string ends the answer."""

    def has_ended(n: int) -> bool:
        return position(text_of(tokens[:n]), stop, more=True) is not None

    return bisect_left(range(len(tokens)), True, key=has_ended)


def as_tokens_read(draft: Draft, query: Query, tokenizer: Any, n_vocab: int) -> Draft:
    """The draft with its text before it was cut, stop string included, where the tokens are this tokenizer's.

    So another stage can take its last tokens for its own; a text alone does not tell which string ended it.
    """
    if not query.stop or not draft.tokens or not all(0 <= token < n_vocab for token in draft.tokens):
        return draft
    text = str(tokenizer.decode(list(draft.tokens), skip_special_tokens=True))
    if text == draft.text or cut(text, query.stop) != draft.text:
        return draft
    return replace(draft, text=text, finished=False)
