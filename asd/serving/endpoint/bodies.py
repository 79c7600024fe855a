"""What clients of the two endpoints may send, and the query that it asks.

Every field of OpenAI's is known here: it counts, it says nothing about the answer and passes, or it would
change the answer and is refused by name (`REFUSED`). Fields that nobody knows are refused by name too: a
misspelt one would be lost without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from asd.engines import Sampling
from asd.errors import ConfigError
from asd.schema.explained import explained
from asd.serving.endpoint.controls import CONTROLS, Controls, read_controls
from asd.serving.endpoint.refusals import TOO_LONG, RequestError
from asd.stops import MOST
from asd.traces.served import SERVED
from asd.types import Query

__all__ = ["FORMS", "Endpoint", "ParsedRequest", "read"]

Endpoint = Literal["chat", "text"]

ROOM = 256
"""Tokens of an answer where the client does not say."""
MOST_ROOM = 4096
"""Most tokens of an answer that a request may ask for."""
MOST_CHARACTERS = 200_000
"""Most characters of all messages, or of the prompt."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "top_logprobs": (0,),
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
    "suffix": ("",),
    "echo": (False,),
}
"""Values of fields that are refused otherwise."""
REFUSED = {
    "n": "a cascade returns one answer a request; send the request several times",
    "best_of": "a cascade returns one answer a request",
    "presence_penalty": "stages do not penalise tokens",
    "frequency_penalty": "stages do not penalise tokens",
    "logit_bias": "stages do not bias tokens",
    "top_logprobs": "stages tell the log-probability of the tokens that they wrote, not of others",
    "functions": "say it with tools",
    "function_call": "say it with tool_choice",
    "modalities": "the answer is text",
    "audio": "the answer is text",
    "prediction": "drafts come from the smaller stages",
    "web_search_options": "no stage of this server searches the web",
    "reasoning_effort": "the ladder says how stages think (chat_template_kwargs)",
    "verbosity": "ask for it in the prompt, or set max_tokens",
    "suffix": "stages continue a prompt",
    "echo": "the answer does not repeat the prompt",
}
"""By field, why another value than null and those of `NEUTRAL` is refused."""

T = TypeVar("T")
_Count = Annotated[int, Meta(ge=1, le=1_000_000)]


class _ContentPart(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None


class _ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: str
    content: str | list[_ContentPart] | None = None
    name: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: Any = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    function_call: Any = None


class _StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _Shared(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields of both endpoints; those after `stream_options` pass, those of `REFUSED` must be neutral."""

    model: str
    max_tokens: _Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    user: str | None = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Any = None
    asd: Any = None
    lam: Any = None
    quality: Any = None
    budget: Any = None
    deadline_s: Any = None
    stages: Any = None
    show: Any = None
    answers: Any = None
    priority: Any = None


class _Chat(_Shared, frozen=True, kw_only=True, forbid_unknown_fields=True):
    messages: list[_ChatMessage]
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    parallel_tool_calls: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: Any = None
    function_call: Any = None
    response_format: dict[str, Any] | None = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None


class _TextCompletion(_Shared, frozen=True, kw_only=True, forbid_unknown_fields=True):
    prompt: str | list[Any]
    logprobs: int | None = None
    best_of: int | None = None
    suffix: Any = None
    echo: Any = None


FORMS: dict[Endpoint, type[_Chat | _TextCompletion]] = {"chat": _Chat, "text": _TextCompletion}
"""What is read, by endpoint."""


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """One request that can be answered.

    Attributes:
        endpoint: Whose form the reply has.
        model: The name as the client gave it.
        query: What the cascade is asked.
        sampling: How tokens are chosen.
        controls: What the request decides for itself.
        stream: The reply is a stream of events.
        include_usage: The stream ends with the counts.
        logprobs: The reply has log-probabilities.
    """

    endpoint: Endpoint
    model: str
    query: Query
    sampling: Sampling
    controls: Controls
    stream: bool
    include_usage: bool
    logprobs: bool


def read(endpoint: Endpoint, body: bytes, headers: Iterable[tuple[str, str]], request: str) -> ParsedRequest:
    """The request in a body.

    Args:
        endpoint: To which it was sent.
        body: JSON.
        headers: Of the request, names in lower case.
        request: The request's id, which the query gets.

    Raises:
        RequestError: It cannot be answered; the message names the field and says why.
    """
    given = _decoded(body, FORMS[endpoint])
    _check_neutral(given)
    fields = {name: value for name in CONTROLS if (value := getattr(given, name)) is not None}
    options = given.stream_options or _StreamOptions()
    if given.stream_options is not None and not given.stream:
        raise RequestError(400, "stream_options goes with stream = true", param="stream_options")
    return ParsedRequest(
        endpoint=endpoint,
        model=given.model,
        query=_query(given, request),
        sampling=_sampling(given),
        controls=read_controls(given.model, headers, fields, given.asd),
        stream=bool(given.stream),
        include_usage=bool(options.include_usage),
        logprobs=given.logprobs is not None and given.logprobs is not False,
    )


def _decoded(body: bytes, form: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=form)
    except msgspec.ValidationError as error:
        where = re.search(r" - at `(?:key in )?\$\.?(.*)`$", str(error))
        unknown = re.search(r"unknown field `([^`]*)`", str(error))
        param = unknown[1] if unknown else (where[1] if where else None)
        raise RequestError(400, explained(error, form), param=param) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(400, f"the body is not the JSON that was expected: {error}") from error


def _check_neutral(given: _Shared) -> None:
    for name, why in REFUSED.items():
        value = getattr(given, name, None)
        if value is not None and value not in NEUTRAL.get(name, ()):
            raise RequestError(400, f"{name} is not supported: {why}", param=name, code="unsupported_value")


def _sampling(given: _Shared) -> Sampling:
    """Greedy unless the client asks for a temperature: that is what policies are fitted on."""
    if not given.temperature:
        return Sampling()
    rng = None if given.seed is None else np.random.default_rng(given.seed % 2**64)
    return Sampling(given.temperature, rng, 1.0 if given.top_p is None else given.top_p)


def _query(given: _Chat | _TextCompletion, request: str) -> Query:
    extras: dict[str, Any] = {}
    if isinstance(given, _Chat):
        messages = [{"role": one.role, "content": _content(i, one)} for i, one in enumerate(given.messages)]
        extras = _extras(given)
        if "messages" in extras:  # evidence looks at what the user asked; stages get all of it
            asked = [one for one in messages if one["content"]]
            last = max((i for i, one in enumerate(asked) if one["role"] == "user"), default=len(asked))
            messages = asked[: last + 1]
    else:
        messages = [{"role": "user", "content": _prompt(given.prompt)}]
    room, stop = _room(given), _stop(given.stop)
    try:
        query = Query.chat(request, SERVED, messages, max_new_tokens=room, stop=stop, extras=extras)
    except ConfigError as error:
        raise RequestError(400, str(error), param="messages") from error
    n_characters = query.n_characters + (len(msgspec.json.encode(extras)) if extras else 0)
    if n_characters > MOST_CHARACTERS:
        raise RequestError(
            400,
            f"{n_characters} characters are asked; this server takes {MOST_CHARACTERS} at most",
            code=TOO_LONG,
        )
    return query


def _room(given: _Chat | _TextCompletion) -> int:
    asked = {given.max_tokens} | ({given.max_completion_tokens} if isinstance(given, _Chat) else set())
    wanted = asked - {None}
    if len(wanted) > 1:
        raise RequestError(400, "max_tokens and max_completion_tokens differ; give one", param="max_tokens")
    room = next(iter(wanted), None) or ROOM
    if room > MOST_ROOM:
        raise RequestError(
            400, f"max_tokens is {room}; this server writes {MOST_ROOM} at most", param="max_tokens"
        )
    return room


def _stop(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    found = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(found) > MOST or "" in found:
        raise RequestError(400, f"stop has at most {MOST} strings, none of them empty", param="stop")
    return found


def _extras(given: _Chat) -> dict[str, Any]:
    """What only stages that accept it are asked, as fields of their requests (`Query.extras`)."""
    found: dict[str, Any] = {}
    if given.tools:
        named = {"tool_choice": given.tool_choice, "parallel_tool_calls": given.parallel_tool_calls}
        found = {"tools": given.tools} | {name: value for name, value in named.items() if value is not None}
    elif given.tool_choice not in (None, "none"):
        raise RequestError(
            400, "tool_choice says which of the tools is called; give tools", param="tool_choice"
        )
    if given.response_format not in (None, {"type": "text"}):
        found["response_format"] = given.response_format
    if any(message.tool_calls or message.tool_call_id for message in given.messages):
        sent = map(msgspec.to_builtins, given.messages)
        found["messages"] = [
            {name: value for name, value in one.items() if value is not None} for one in sent
        ]
    return found


def _content(number: int, message: _ChatMessage) -> str:
    where, of_role = f"messages[{number}]", {"assistant": "tool_calls", "tool": "tool_call_id"}
    for name in {"name", "audio", "tool_calls", "tool_call_id", "function_call"} - {
        of_role.get(message.role)
    }:
        if getattr(message, name) not in (None, [], ""):
            raise RequestError(400, f"{where}.{name} is not supported: no stage reads it", param=where)
    if isinstance(message.content, str):
        return message.content
    parts = message.content or []
    for part in parts:
        if part.type != "text" or part.text is None:
            raise RequestError(
                400, f"{where}: a part of type {part.type!r} is not supported; stages read text", param=where
            )
    return "".join(part.text or "" for part in parts)


def _prompt(prompt: str | Sequence[Any]) -> str:
    found = prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt
    if not isinstance(found, str) or not found.strip():
        raise RequestError(400, "prompt must be one text, not empty and not tokens", param="prompt")
    return found
