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
    """A draft in the verifier's tokens; `closed`: nothing may follow, it ends in a stop or fills its room."""

    tokens: list[int]
    closed: bool

    @property
    def fed(self) -> list[int]:
        """What the verifier has to read: a closed draft's last token is judged but never read."""
        return self.tokens[:-1] if self.closed else self.tokens


def carry_over(
    draft: Draft, before: str, room: int, *, tokenizer: Any, stop_ids: Sequence[int], n_vocab: int
) -> Carried:
    """The draft in a verifier's tokens: its own where they read as the same text there, else the text anew.

    Args:
        draft: What another stage wrote; a finished one ends in one of the verifier's stop tokens here.
        before: The prompt as the verifier reads it.
        room: Most tokens of an answer; the rest of a longer draft is left out.
        tokenizer: The verifier's.
        stop_ids: Tokens that end the verifier's answers.
        n_vocab: Number of tokens the verifier knows.
    """
    known = bool(draft.tokens) and all(token < n_vocab for token in draft.tokens)
    if known and tokenizer.decode(list(draft.tokens), skip_special_tokens=True) == draft.text:
        tokens = list(draft.tokens)
    else:
        tokens = list(_tokenize_after(tokenizer, before, draft.text))
    stops = frozenset(stop_ids)
    if draft.finished and stop_ids and stops.isdisjoint(tokens):
        if tokens and not tokenizer.decode(tokens[-1:], skip_special_tokens=True):
            tokens.pop()  # the end in the drafter's words
        tokens.append(stop_ids[0])
    end = next((i + 1 for i, token in enumerate(tokens) if token in stops), len(tokens) + 1)
    return Carried(tokens[: min(end, room)], closed=end <= len(tokens) or len(tokens) >= room)


def _tokenize_after(tokenizer: Any, before: str, text: str) -> tuple[int, ...]:
    """Tokens of a text as it continues another; on its own where the two melt together at the seam."""
    together, alone, apart = (
        tuple(tokenizer(part, add_special_tokens=False)["input_ids"])
        for part in (before + text, before, text)
    )
    return together[len(alone) :] if together[: len(alone)] == alone else apart
