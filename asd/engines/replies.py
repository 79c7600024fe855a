"""What an OpenAI-compatible server may reply, as far as it is read here, and what of it is believed.

Fields that are not read may be anything; those that are must have the right type (msgspec), and numbers must
make sense: log-probabilities finite and not positive, one reply for one request. The border: no HTTP here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from asd.types import Usage

__all__ = ["ChatReply", "Echo", "EchoReply", "Models", "Reply", "Served", "Text", "Tokens", "Written"]

T = TypeVar("T")

ROUNDING = 1e-6
"""A log-probability may be this much above 0."""


class Served(msgspec.Struct, frozen=True):
    """One model of `/models`; `root` is where the server took it from, if it says."""

    id: str
    root: str | None = None


class Models(msgspec.Struct, frozen=True):
    """Reply of `/models`."""

    data: list[Served]


class Tokens(msgspec.Struct, frozen=True):
    """Reply of vLLM's `/tokenize`."""

    tokens: list[int]


class Text(msgspec.Struct, frozen=True):
    """Reply of vLLM's `/detokenize`."""

    prompt: str


class _Cached(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Cached | None = None

    @property
    def n_cached(self) -> int:
        """Prompt tokens that the server says it had in its cache; 0 where it says nothing."""
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0


@dataclass(frozen=True, slots=True)
class Written:
    """What a server wrote for one query.

    Attributes:
        text: Without the prompt.
        tokens: Ids, the stop token included; empty where the server does not tell.
        logprobs: One a token; empty where the server gives none.
        finished: The answer ended by itself.
        usage: As the server counts, one forward pass a token.
        n_cached: Prompt tokens it found in its cache.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool
    usage: Usage
    n_cached: int


class _Logprobs(msgspec.Struct, frozen=True):
    token_logprobs: list[float]


class _Choice(msgspec.Struct, frozen=True):
    text: str
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    token_ids: list[int] | None = None


class Reply(msgspec.Struct, frozen=True):
    """Reply of `/completions`; `ValueError` from `written` where it makes no sense."""

    choices: list[_Choice]
    usage: _Usage

    def written(self) -> Written:
        """The one answer."""
        choice = _only(self.choices)
        logprobs = choice.logprobs.token_logprobs if choice.logprobs else []
        return _written(choice.text, choice.token_ids or [], logprobs, choice.finish_reason, self.usage)


class _ChatToken(msgspec.Struct, frozen=True):
    logprob: float


class _ChatLogprobs(msgspec.Struct, frozen=True):
    content: list[_ChatToken] | None = None


class _Message(msgspec.Struct, frozen=True):
    content: str | None = None


class _ChatChoice(msgspec.Struct, frozen=True):
    message: _Message
    finish_reason: str | None = None
    logprobs: _ChatLogprobs | None = None


class ChatReply(msgspec.Struct, frozen=True):
    """Reply of `/chat/completions`; `ValueError` from `written` where it makes no sense."""

    choices: list[_ChatChoice]
    usage: _Usage

    def written(self) -> Written:
        """The one answer; a message without content is an empty one."""
        choice = _only(self.choices)
        said = (choice.logprobs and choice.logprobs.content) or []
        logprobs = [token.logprob for token in said]
        return _written(choice.message.content or "", [], logprobs, choice.finish_reason, self.usage)


def _written(
    text: str, tokens: Sequence[int], logprobs: Sequence[float], finish_reason: str | None, usage: _Usage
) -> Written:
    n = usage.completion_tokens
    return Written(
        text,
        tuple(tokens),
        _believed(logprobs),
        finish_reason == "stop",
        Usage(n_prompt=usage.prompt_tokens, n_decoded=n, n_passes=n),
        usage.n_cached,
    )


@dataclass(frozen=True, slots=True)
class Echo:
    """What a server says of tokens it was given.

    Attributes:
        logprobs: Of each token.
        best: Of the most probable token at its place.
    """

    logprobs: tuple[float, ...]
    best: tuple[float, ...]


class _EchoLogprobs(msgspec.Struct, frozen=True):
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]


class _EchoChoice(msgspec.Struct, frozen=True):
    logprobs: _EchoLogprobs


class EchoReply(msgspec.Struct, frozen=True):
    """Reply of `/completions` to `echo` with `max_tokens` 0 and one top log-probability."""

    choices: list[_EchoChoice]
    usage: _Usage

    def tail(self, n: int, n_all: int) -> Echo:
        """What is said of the last `n` of the `n_all` tokens sent; `ValueError` where it makes no sense."""
        found = _only(self.choices).logprobs
        if not len(found.token_logprobs) == len(found.top_logprobs) == n_all:
            raise ValueError(f"{len(found.token_logprobs)} echoed tokens instead of {n_all}")
        logprobs = found.token_logprobs[n_all - n :]
        tops = found.top_logprobs[n_all - n :]
        if None in logprobs or not all(tops):
            raise ValueError("an echoed token has no log-probability")
        return Echo(
            _believed([value for value in logprobs if value is not None]),
            _believed([max(top.values()) for top in tops if top]),
        )


def _believed(logprobs: Sequence[float]) -> tuple[float, ...]:
    for value in logprobs:
        if not (math.isfinite(value) and value <= ROUNDING):
            raise ValueError(f"log-probability {value}")
    return tuple(min(value, 0.0) for value in logprobs)


def _only(choices: Sequence[T]) -> T:
    if len(choices) != 1:
        raise ValueError(f"{len(choices)} choices instead of 1")
    return choices[0]
