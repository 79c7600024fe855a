"""A draft carried over to another stage: the same text in that stage's own tokens.

Families of models begin their answers differently: a chat model writes "Paris" where a base model continues
"Answer:" with " Paris". So the draft's leading space is first chosen by what the prompt ends in (`at_seam`,
which costs nothing); where the verifier's most probable first token shows that it would write other white
space, the draft is carried over once more, behind that token (`carry_behind`).

Losslessness does not depend on how it is done: a clumsy split into tokens is rejected where the verifier
would have split otherwise, and written again. Scope: a tokenizer and lists of ids; no model, no device.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asd.types import Draft

__all__ = ["Carried", "at_seam", "carry_behind", "carry_over"]

WORD = re.compile(r" ?[A-Za-z0-9$(\[\"'`*+-]")
"""Texts that may begin with or without one space; line breaks and indentation are left as they are."""
BEFORE_SPACE = re.compile(r"(?:[A-Za-z0-9.,:;?!)\]}*%]| =)\Z")
"""What a space follows; white space, an opening bracket or a control token such as "<|assistant|>" is not."""
MID_WORD = re.compile(r"[A-Za-z0-9][a-z]|[0-9][0-9]")
"""The last character before a text and its first, where both may be of one word or number."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A draft in the verifier's tokens.

    Attributes:
        tokens: The draft as far as there is room; the last one is a stop token where it ends.
        closed: Nothing may follow: it ends, or fills its room.
        complete: Nothing of the draft was left out, its end included where it is finished.
        any_stop: The last token stands for all stop tokens of the verifier.
    """

    tokens: list[int]
    closed: bool
    complete: bool = True
    any_stop: bool = False

    @property
    def fed(self) -> list[int]:
        """What the verifier has to read: a closed draft's last token is judged but never read."""
        return self.tokens[:-1] if self.closed else self.tokens


def carry_over(
    draft: Draft,
    prompt: Sequence[int],
    room: int,
    *,
    tokenizer: Any,
    stop_ids: Sequence[int],
    n_vocab: int,
) -> Carried:
    """The draft in a verifier's tokens: its own where they read as the same text there, else the text again.

    Args:
        draft: What another stage wrote; a finished one ends in one of the verifier's stop tokens here.
        prompt: Token ids of the prompt as the verifier reads it.
        room: Most tokens of an answer; the rest of a longer draft is left out.
        tokenizer: The verifier's.
        stop_ids: Tokens that end the verifier's answers.
        n_vocab: Number of tokens the verifier can write, which may be fewer than its tokenizer names; what
            follows one that it cannot is left out.
    """
    if _reads_the_same(draft, tokenizer, n_vocab):
        tokens = _without_foreign_end(draft, tokenizer, frozenset(stop_ids))
    else:
        before = tokenizer.decode(list(prompt))
        tokens = _tokenize_after(tokenizer, before, at_seam(before, draft.text))
    return _within(tokens, draft.finished, room, stop_ids, n_vocab)


def carry_behind(
    draft: Draft,
    prompt: Sequence[int],
    first: int,
    room: int,
    *,
    tokenizer: Any,
    stop_ids: Sequence[int],
    n_vocab: int,
) -> Carried | None:
    """The draft as it continues the token that the verifier begins with, if they differ in white space only.

    Args:
        draft: As in `carry_over`.
        prompt: As in `carry_over`.
        first: The verifier's most probable first token.
        room: Most tokens behind `first`.
        tokenizer: The verifier's.
        stop_ids: As in `carry_over`.
        n_vocab: As in `carry_over`.

    Returns:
        What follows `first`; None where the draft begins otherwise, begins with that white space already, or
        has nothing more to be read.
    """
    before, with_first = tokenizer.decode(list(prompt)), tokenizer.decode([*prompt, first])
    if first in stop_ids or not with_first.startswith(before):
        return None
    given = draft.text if _reads_the_same(draft, tokenizer, n_vocab) else at_seam(before, draft.text)
    own, words = with_first[len(before) :], given.lstrip()
    word = own.lstrip()
    is_other_space = own.removesuffix(word) != given.removesuffix(words)
    if not (own and words and is_other_space and words.startswith(word)):
        return None
    rest = _tokenize_after(tokenizer, with_first, words.removeprefix(word))
    found = _within(rest, draft.finished, room, stop_ids, n_vocab)
    return found if found.tokens else None


def at_seam(before: str, text: str) -> str:
    """A text with or without its one leading space, as texts continue after what is before it."""
    if not WORD.match(text) or MID_WORD.match(before[-1:] + text):
        return text
    return " " * bool(BEFORE_SPACE.search(before)) + text.removeprefix(" ")


def _within(
    tokens: list[int], is_finished: bool, room: int, stop_ids: Sequence[int], n_vocab: int
) -> Carried:
    """As much of a draft as the verifier may write, with its end."""
    stops = frozenset(stop_ids)
    if is_finished and stop_ids and stops.isdisjoint(tokens):
        tokens = [*tokens, stop_ids[0]]
    end = next((i + 1 for i, token in enumerate(tokens) if token in stops), None)
    unknown = next((i for i, token in enumerate(tokens) if token >= n_vocab), room)
    kept = tokens[:end][: min(room, unknown)]
    ends = end is not None and end == len(kept)
    return Carried(
        kept,
        closed=ends or len(kept) == room,
        complete=len(kept) == len(tokens) and (ends or not is_finished),
        any_stop=ends,
    )


def _reads_the_same(draft: Draft, tokenizer: Any, n_vocab: int) -> bool:
    """Whether the draft's token ids stand for its text under the verifier's tokenizer too."""
    known = bool(draft.tokens) and all(0 <= token < n_vocab for token in draft.tokens)
    return known and tokenizer.decode(list(draft.tokens), skip_special_tokens=True) == draft.text


def _without_foreign_end(draft: Draft, tokenizer: Any, stops: frozenset[int]) -> list[int]:
    """The draft's own tokens, less a stop token that is one for the drafter only."""
    *body, last = draft.tokens
    is_foreign_end = (
        draft.finished and last not in stops and not tokenizer.decode([last], skip_special_tokens=True)
    )
    return body if is_foreign_end else [*body, last]


def _tokenize_after(tokenizer: Any, before: str, text: str) -> list[int]:
    """Tokens of a text as it continues another; on its own where the two melt together at the seam."""
    together, alone, apart = (
        list(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (before + text, before, text)
    )
    return together[len(alone) :] if together[: len(alone)] == alone else apart
