"""What an OpenAI-compatible server may reply, as far as it is read here, and what of it is believed.

Servers differ in what they leave out and in how they write log-probabilities (two forms of OpenAI's,
llama.cpp's, Ollama's); one shape reads all of them. Fields that are not read may be anything; those that are
must have the right type (msgspec), and numbers must make sense: log-probabilities not positive, one choice
for one request. No HTTP here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec

from asd.types import Usage

__all__ = ["Echo", "EchoReply", "Following", "Models", "Reply", "Served", "Text", "Tokens", "Written"]

T = TypeVar("T")

ROUNDING = 1e-6
"""A log-probability may be this much above 0."""
LEAST_LOGPROB = -9999.0
"""What stands for probability 0, as at OpenAI."""
ENDED = ("stop", "eos", "eos_token", "end_turn", "stop_sequence")
"""Values of `finish_reason`, in lower case, of an answer that ended by itself."""
CUT = ("length", "max_tokens")
"""Of one that ran out of room."""
WITHHELD = ("content_filter", "refusal", "safety", "recitation", "blocklist", "prohibited_content")
"""Of one that the server or the model would not give."""


class Served(msgspec.Struct, frozen=True):
    """One model of `/models`; `root` is where the server took it from, if it says."""

    id: str
    root: str | None = None


class Models(msgspec.Struct, frozen=True):
    """Reply of `/models`."""

    data: list[Served] | None = None


class Tokens(msgspec.Struct, frozen=True):
    """Reply of vLLM's `/tokenize`; `max_model_len` is the number of positions of the model."""

    tokens: list[int]
    token_strs: list[str] | None = None
    max_model_len: int | None = None


class Text(msgspec.Struct, frozen=True):
    """Reply of vLLM's `/detokenize`."""

    prompt: str


class _Cached(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
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
        logprobs: One a token; empty where the server gives none, or not of every token.
        finished: The answer ended by itself.
        is_cut: It ran out of room.
        elsewhere: Names of the fields beside the text that hold something: reasoning, calls of tools.
        n_prompt: Prompt tokens as the server counts them; 0 where it does not.
        n_decoded: Tokens written, likewise.
        n_cached: Prompt tokens it found in its cache.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool
    is_cut: bool
    elsewhere: tuple[str, ...]
    n_prompt: int
    n_decoded: int
    n_cached: int

    @property
    def usage(self) -> Usage:
        """As the server counts, one forward pass a token."""
        return Usage(n_prompt=self.n_prompt, n_decoded=self.n_decoded, n_passes=self.n_decoded)


class _Token(msgspec.Struct, frozen=True):
    logprob: float | None = None


class _Logprobs(msgspec.Struct, frozen=True):
    token_logprobs: list[float | None] | None = None
    content: list[_Token] | None = None


class _Part(msgspec.Struct, frozen=True):
    text: str | None = None
    refusal: str | None = None
    thinking: Any = None


class _Elsewhere(msgspec.Struct, frozen=True):
    """Fields beside the text where servers put what a model has written."""

    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    thinking: Any = None
    tool_calls: Any = None
    function_call: Any = None

    @property
    def filled(self) -> list[str]:
        """Names of those that hold something."""
        return [name for name in _Elsewhere.__struct_fields__ if getattr(self, name)]


class _Message(_Elsewhere, frozen=True):
    content: str | list[str | _Part] | None = None
    refusal: str | None = None

    @property
    def parts(self) -> list[_Part]:
        """The content, a text or a list, as parts."""
        given = self.content if isinstance(self.content, list) else [self.content or ""]
        return [_Part(part) if isinstance(part, str) else part for part in given]

    @property
    def text(self) -> str:
        """The answer alone."""
        return "".join(part.text or "" for part in self.parts)

    @property
    def elsewhere(self) -> list[str]:
        """Names of the fields and parts beside the text that hold something."""
        return [*self.filled, *("thinking" for part in self.parts if part.thinking)]

    @property
    def words_of_refusal(self) -> str:
        """What the model says in place of an answer, if it does."""
        return self.refusal or "".join(part.refusal or "" for part in self.parts)


class _Choice(_Elsewhere, frozen=True):
    text: str | None = None
    message: _Message | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | list[_Token | float | None] | None = None
    token_ids: list[int] | None = None

    @property
    def reason(self) -> str:
        """Why it ended, in lower case."""
        return (self.finish_reason or "").lower()

    @property
    def scores(self) -> list[float | None]:
        """Log-probability of every token, however the server writes them."""
        found = self.logprobs
        scores: Sequence[_Token | float | None] | None
        if isinstance(found, _Logprobs):
            scores = found.content if found.token_logprobs is None else found.token_logprobs
        else:
            scores = found
        return [score.logprob if isinstance(score, _Token) else score for score in scores or []]


class Reply(msgspec.Struct, frozen=True):
    """Reply of `/completions` and `/chat/completions`; `ValueError` where it makes no sense."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None

    def refusal(self) -> str | None:
        """Why the server or the model withholds the answer; None where it does not."""
        choice = _only(self.choices)
        words = choice.message.words_of_refusal if choice.message else ""
        if choice.reason in WITHHELD:
            return words or f"finish_reason {choice.finish_reason!r}"
        return words or None

    def written(self) -> Written:
        """The one answer; a message without content is an empty one."""
        choice, usage = _only(self.choices), self.usage or _Usage()
        if choice.text is None and choice.message is None:
            raise ValueError("a choice with neither text nor message")
        scores = choice.scores
        return Written(
            text=_whole(choice.message.text if choice.text is None and choice.message else choice.text or ""),
            tokens=tuple(choice.token_ids or ()),
            logprobs=_believed([s for s in scores if s is not None]) if None not in scores else (),
            finished=choice.reason in ENDED,
            is_cut=choice.reason in CUT,
            elsewhere=(*choice.filled, *(choice.message.elsewhere if choice.message else ())),
            n_prompt=_count(usage.prompt_tokens or usage.input_tokens),
            n_decoded=_count(usage.completion_tokens or usage.output_tokens),
            n_cached=usage.n_cached,
        )


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
        choice = _only(self.choices)
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
        *own, following = _believed([value for value in logprobs if value is not None])
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


def _believed(logprobs: Sequence[float]) -> tuple[float, ...]:
    for value in logprobs:
        if math.isnan(value) or value > ROUNDING:
            raise ValueError(f"log-probability {value}")
    return tuple(LEAST_LOGPROB if math.isinf(value) else min(value, 0.0) for value in logprobs)


def _count(value: float | None) -> int:
    if value is None:
        return 0
    if value < 0 or not value.is_integer():
        raise ValueError(f"a count of {value:g} tokens")
    return int(value)


def _whole(text: str) -> str:
    """The text, its halves of surrogate pairs joined, and replaced where the other half is missing."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _only(choices: Sequence[T] | None) -> T:
    if choices is None or len(choices) != 1:
        hint = "" if choices else "; base_url usually ends in /v1"
        raise ValueError(f"{len(choices or ())} choices instead of 1{hint}")
    return choices[0]
