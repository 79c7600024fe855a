"""What an OpenAI-compatible server may reply, as far as it is read here, and what of it is believed.

Servers differ in what they leave out and in how they write log-probabilities (two forms of OpenAI's,
llama.cpp's, Ollama's); one shape reads all of them. Fields that are not read may be anything; those that are
must have the right type (msgspec), and numbers must make sense: log-probabilities not positive, one choice
for one request. No HTTP here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from asd.types import Usage

__all__ = [
    "ENDED",
    "DetokenizedText",
    "Models",
    "Reply",
    "ServedModel",
    "Tokens",
    "Written",
    "believed",
    "only",
]

T = TypeVar("T")

ROUNDING = 1e-6
"""A log-probability may be this much above 0."""
LEAST_LOGPROB = -9999.0
"""What stands for probability 0, as at OpenAI."""
ENDED = (
    "stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "complete", "completed",
    "tool_calls",
)  # fmt: skip
"""Values of `finish_reason`, in lower case, of an answer that ended by itself."""
CUT = ("length", "max_tokens", "max_new_tokens", "max_output_tokens", "model_length")
"""Of one that ran out of room."""
WITHHELD = (
    "content_filter",
    "content_filtered",
    "guardrail_intervened",
    "refusal",
    "safety",
    "recitation",
    "blocklist",
    "prohibited_content",
    "sensitive",
    "error_toxic",
)
"""Of one that the server or the model would not give."""

THOUGHT = re.compile("reason|think|thought|analysis", re.IGNORECASE)
"""Types of parts of a message that are no answer."""
HOLDERS = ("value", "text", "message", "reason", "type")
"""Where an object in place of a text may hold one, the best first."""


class ServedModel(msgspec.Struct, frozen=True):
    """One model of `/models`; `root` is where the server took it from, if it says."""

    id: str
    root: str | None = None


class Models(msgspec.Struct, frozen=True):
    """Reply of `/models`."""

    data: list[ServedModel] | None = None


class Tokens(msgspec.Struct, frozen=True):
    """Reply of vLLM's `/tokenize`; `max_model_len` is the number of positions of the model."""

    tokens: list[int]
    token_strs: list[str] | None = None
    max_model_len: int | None = None


class DetokenizedText(msgspec.Struct, frozen=True):
    """Reply of vLLM's `/detokenize`."""

    prompt: str


Count = float | str | None
"""How servers write a number of tokens."""


class _Cached(msgspec.Struct, frozen=True):
    cached_tokens: Count = None


class _ReportedUsage(msgspec.Struct, frozen=True):
    prompt_tokens: Count = None
    completion_tokens: Count = None
    input_tokens: Count = None
    output_tokens: Count = None
    total_tokens: Count = None
    prompt_tokens_details: _Cached | None = None

    @property
    def n_prompt(self) -> int:
        """Tokens that were read; 0 where the server does not say."""
        return _count(self.prompt_tokens or self.input_tokens)

    @property
    def n_decoded(self) -> int:
        """Tokens that were written, or what the total leaves for them; 0 where the server does not say."""
        written = _count(self.completion_tokens or self.output_tokens)
        return written or (max(0, _count(self.total_tokens) - self.n_prompt) if self.n_prompt else 0)

    @property
    def n_cached(self) -> int:
        """Prompt tokens that the server says it had in its cache; 0 where it says nothing."""
        details = self.prompt_tokens_details
        return 0 if details is None else _count(details.cached_tokens)


@dataclass(frozen=True, slots=True)
class Written:
    """What a server wrote for one query.

    Attributes:
        text: Without the prompt.
        tokens: Ids, the stop token included; empty where the server does not tell.
        logprobs: One a token; empty where the server gives none, or not of every token.
        finished: The answer ended by itself.
        is_stopped: A stop string ended it, as far as the server reports.
        is_cut: It ran out of room.
        elsewhere: Names of the fields beside the text that hold something: reasoning, calls of tools.
        n_prompt: Prompt tokens as the server counts them; 0 where it does not.
        n_decoded: Tokens written, likewise.
        n_cached: Prompt tokens it found in its cache.
        tool_calls: Calls of tools, as the server wrote them.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool
    is_stopped: bool
    is_cut: bool
    elsewhere: tuple[str, ...]
    n_prompt: int
    n_decoded: int
    n_cached: int
    tool_calls: tuple[dict[str, Any], ...] = ()

    @property
    def usage(self) -> Usage:
        """As the server counts, one forward pass a token."""
        return Usage(n_prompt=self.n_prompt, n_decoded=self.n_decoded, n_passes=self.n_decoded)


class _Token(msgspec.Struct, frozen=True):
    logprob: float | None = None


class _Logprobs(msgspec.Struct, frozen=True):
    token_logprobs: list[float | None] | None = None
    content: list[_Token | None] | None = None


class _WrittenPart(msgspec.Struct, frozen=True):
    type: Any = None
    text: Any = None
    refusal: Any = None
    thinking: Any = None
    reasoning: Any = None

    @property
    def thought(self) -> Any:
        """What of it the model thought aloud."""
        is_thought = isinstance(self.type, str) and THOUGHT.search(self.type)
        return self.thinking or self.reasoning or (is_thought and self.text)

    @property
    def answer(self) -> str:
        """What of it is the answer."""
        return "" if self.thought else _words(self.text)


class _Elsewhere(msgspec.Struct, frozen=True):
    """Fields beside the text where servers put what a model has written."""

    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    reasoning_text: Any = None
    reasoning_summary: Any = None
    thinking: Any = None
    thinking_blocks: Any = None
    thoughts: Any = None
    thought: Any = None
    analysis: Any = None
    tool_calls: Any = None
    function_call: Any = None

    @property
    def filled(self) -> list[str]:
        """Names of those that hold something."""
        return [name for name in _Elsewhere.__struct_fields__ if getattr(self, name)]


class _WrittenMessage(_Elsewhere, frozen=True):
    content: str | _WrittenPart | list[str | _WrittenPart | None] | None = None
    refusal: Any = None

    @property
    def parts(self) -> list[_WrittenPart]:
        """The content, a text, a part or a list of both, as parts."""
        given = self.content if isinstance(self.content, list) else [self.content or ""]
        return [
            _WrittenPart(text=part) if isinstance(part, str) else part for part in given if part is not None
        ]

    @property
    def text(self) -> str:
        """The answer alone."""
        return "".join(part.answer for part in self.parts)

    @property
    def elsewhere(self) -> list[str]:
        """Names of the fields and parts beside the text that hold something."""
        return [*self.filled, *("thinking" for part in self.parts if part.thought)]

    @property
    def words_of_refusal(self) -> str:
        """What the model says in place of an answer, if it does."""
        return _words(self.refusal) or "".join(_words(part.refusal) for part in self.parts)


class _WrittenChoice(_Elsewhere, frozen=True):
    text: str | msgspec.UnsetType | None = msgspec.UNSET
    message: _WrittenMessage | None = None
    finish_reason: Any = None
    stop_reason: Any = None
    logprobs: _Logprobs | list[_Token | float | None] | bool | None = None
    token_ids: list[int] | None = None

    @property
    def reason(self) -> str:
        """Why it ended, in lower case."""
        return _words(self.finish_reason).lower()

    @property
    def answer(self) -> str | None:
        """The text, wherever it is; None where there is no place for one and nothing says why."""
        if self.message is None and self.text is msgspec.UNSET:
            return "" if self.reason not in {"", "stop"} else None
        text = self.text if isinstance(self.text, str) else ""
        return text or (self.message.text if self.message else "")

    @property
    def scores(self) -> list[float | None]:
        """Log-probability of every token, however the server writes them."""
        found = self.logprobs
        scores: Sequence[_Token | float | None] | None
        if isinstance(found, _Logprobs):
            scores = found.token_logprobs or found.content
        else:
            scores = found if isinstance(found, list) else None
        return [score.logprob if isinstance(score, _Token) else score for score in scores or []]


class Reply(msgspec.Struct, frozen=True):
    """Reply of `/completions` and `/chat/completions`; `ValueError` where it makes no sense."""

    choices: list[_WrittenChoice] | None = None
    usage: _ReportedUsage | list[Any] | str | bool | None = None

    def refusal(self) -> str | None:
        """Why the server or the model withholds the answer; None where it does not."""
        choice = only(self.choices)
        words = choice.message.words_of_refusal if choice.message else ""
        if choice.reason in WITHHELD:
            return words or f"finish_reason {choice.finish_reason!r}"
        return words or None

    def written(self) -> Written:
        """The one answer; a message without content is an empty one."""
        choice = only(self.choices)
        usage = (
            self.usage if isinstance(self.usage, _ReportedUsage) else _ReportedUsage()
        )  # else it counts nothing
        if choice.answer is None:
            raise ValueError("a choice with neither text nor message")
        scores = choice.scores
        return Written(
            text=_whole(choice.answer),
            tokens=tuple(choice.token_ids or ()),
            logprobs=believed([s for s in scores if s is not None]) if None not in scores else (),
            finished=choice.reason in ENDED,
            is_stopped=isinstance(choice.stop_reason, str),
            is_cut=choice.reason in CUT,
            elsewhere=(*choice.filled, *(choice.message.elsewhere if choice.message else ())),
            n_prompt=usage.n_prompt,
            n_decoded=usage.n_decoded,
            n_cached=usage.n_cached,
            tool_calls=_calls(choice.message.tool_calls) if choice.message else (),
        )


def _calls(given: object) -> tuple[dict[str, Any], ...]:
    """Calls of functions with their names and arguments; `ValueError` where one is none."""
    calls = tuple(given) if isinstance(given, list) else ()
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError("a call of a tool without the name of a function")
    return calls


def _words(value: object) -> str:
    """A text, or the one that an object holds by a usual name ({"value": "..."}, {"type": "stop"})."""
    if isinstance(value, Mapping):
        return next((v for name in HOLDERS if isinstance(v := value.get(name), str)), "")
    return value if isinstance(value, str) else ""


def believed(logprobs: Sequence[float]) -> tuple[float, ...]:
    """Log-probabilities as they are recorded; `ValueError` where one is none."""
    for value in logprobs:
        if math.isnan(value) or value > ROUNDING:
            raise ValueError(f"log-probability {value}")
    return tuple(LEAST_LOGPROB if math.isinf(value) else min(value, 0.0) for value in logprobs)


def _count(value: Count) -> int:
    if value is None:
        return 0
    if isinstance(value, str):
        if not value.isdecimal():
            raise ValueError("a count of tokens that is no number")  # what it is may be no text to show
        return int(value)
    if value < 0 or not value.is_integer():
        raise ValueError(f"a count of {value:g} tokens")
    return int(value)


def _whole(text: str) -> str:
    """The text, its halves of surrogate pairs joined, and replaced where the other half is missing."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def only(choices: Sequence[T] | None) -> T:
    """The one choice; `ValueError` where there are more or none."""
    if choices is None or len(choices) != 1:
        hint = "" if choices else "; base_url usually ends in /v1"
        raise ValueError(f"{len(choices or ())} choices instead of 1{hint}")
    return choices[0]
