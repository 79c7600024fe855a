"""A draft carried over to another stage: the same text in that stage's own tokens.

Losslessness does not depend on how it is done: a clumsy split into tokens is rejected where the verifier
would have split otherwise, and written anew. The border: a tokenizer and lists of ids; no model, no device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asd.types import Draft

__all__ = ["Carried", "carry_over"]


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
    """The draft in a verifier's tokens: its own where they read as the same text there, else the text anew.

    Args:
        draft: What another stage wrote; a finished one ends in one of the verifier's stop tokens here.
        prompt: Token ids of the prompt as the verifier reads it.
        room: Most tokens of an answer; the rest of a longer draft is left out.
        tokenizer: The verifier's.
        stop_ids: Tokens that end the verifier's answers.
        n_vocab: Number of tokens the verifier can write, which may be fewer than its tokenizer names; what
            follows one that it cannot is left out.
    """
    stops = frozenset(stop_ids)
    if _reads_the_same(draft, tokenizer, n_vocab):
        tokens = _without_foreign_end(draft, tokenizer, stops)
    else:
        tokens = _tokenize_after(tokenizer, tokenizer.decode(list(prompt)), draft.text)
    if draft.finished and stop_ids and stops.isdisjoint(tokens):
        tokens.append(stop_ids[0])
    end = next((i + 1 for i, token in enumerate(tokens) if token in stops), None)
    unknown = next((i for i, token in enumerate(tokens) if token >= n_vocab), room)
    kept = tokens[:end][: min(room, unknown)]
    ends = end is not None and end == len(kept)
    return Carried(
        kept,
        closed=ends or len(kept) == room,
        complete=len(kept) == len(tokens) and (ends or not draft.finished),
        any_stop=ends,
    )


def _reads_the_same(draft: Draft, tokenizer: Any, n_vocab: int) -> bool:
    """Whether the draft's token ids stand for its text under the verifier's tokenizer too."""
    known = bool(draft.tokens) and all(token < n_vocab for token in draft.tokens)
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
