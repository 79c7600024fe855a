"""What vLLM's server says of tokens that it was given: the reply to a completion with `echo`.

One shape, checked as `asd.engines.http.schema` checks its own. No HTTP here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from asd.engines.http.schema import ENDED, believed, only

__all__ = ["Echo", "EchoReply", "Following"]


@dataclass(frozen=True, slots=True)
class Echo:
    """What a server says of tokens it was given, and the one that it would write behind them.

    Attributes:
        tokens: What it was given.
        logprobs: Of each token.
        best: Of the most probable token at its place.
        is_best: Whether it is the only most probable one; of two that are equally probable neither is.
        following: What the server would write behind them, its log-probability, and whether its answer ends
            with that.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    best: tuple[float, ...]
    is_best: tuple[bool, ...]
    following: Following


class Following(NamedTuple):
    """One token behind others."""

    token: int
    logprob: float
    ends: bool


class _EchoLogprobs(msgspec.Struct, frozen=True):
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]


class _EchoChoice(msgspec.Struct, frozen=True):
    logprobs: _EchoLogprobs
    token_ids: list[int]
    finish_reason: str | None = None


class EchoReply(msgspec.Struct, frozen=True):
    """Reply of `/completions` to `echo` with `max_tokens` 1 and two top log-probabilities, by token ids."""

    choices: list[_EchoChoice]

    def tail(self, tokens: Sequence[int], n_all: int) -> Echo:
        """What is said of the last `tokens` of the `n_all` sent; `ValueError` where it makes no sense."""
        choice = only(self.choices)
        found = choice.logprobs
        if (
            not len(found.token_logprobs)
            == len(found.top_logprobs)
            == n_all + len(choice.token_ids)
            == n_all + 1
        ):
            raise ValueError(f"{len(found.token_logprobs)} echoed and written tokens instead of {n_all + 1}")
        start = n_all - len(tokens)
        logprobs, tops = found.token_logprobs[start:], found.top_logprobs[start:-1]
        if None in logprobs or not all(tops):
            raise ValueError("an echoed token has no log-probability")
        *own, following = believed([value for value in logprobs if value is not None])
        others = [
            max((p for name, p in top.items() if name != f"token_id:{token}"), default=-math.inf)
            for token, top in zip(tokens, tops, strict=True)
            if top
        ]
        return Echo(
            tuple(tokens),
            tuple(own),
            tuple(map(max, own, others)),
            tuple(mine > other for mine, other in zip(own, others, strict=True)),
            Following(choice.token_ids[0], following, choice.finish_reason in ENDED),
        )
