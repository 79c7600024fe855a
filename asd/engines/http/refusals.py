"""Why a server did not answer: what it said, whether asking again may help, and which error that is.

Servers report errors by status, in a reply of status 200, or within a choice; as JSON of several shapes, as
text or as a page of HTML. A query that the server will never answer is told apart from a request whose form
it does not support, which would fail for every query. Works on what has been received; no HTTP here.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from asd.engines.memory import says_out_of_memory
from asd.errors import EngineError, OutOfMemoryError, PromptTooLongError, RefusedError, UnavailableError

__all__ = ["Trouble", "not_json", "trouble_in", "words_of"]

BUSY = (408, 425, 429, 503)
OF_THE_QUERY = (400, 413, 422)
"""Statuses of a request that is refused for what it holds."""
OF_THE_STAGE = (401, 402, 404, 405, 407, 501, 505)
"""Statuses that every query would meet, for good: a wrong key or address, no money."""
KEY = "; correct the key in the variable of api_key_env"
ADDRESS = "; correct base_url, which usually ends in /v1, or options.openai.model"
REMEDIES: dict[int | None, str] = {401: KEY, 404: ADDRESS, 405: ADDRESS}
TOO_LARGE = 413
NAMED = {
    "ratelimit": 429,
    "ratelimitexceeded": 429,
    "resourceexhausted": 429,
    "toomanyrequests": 429,
    "throttled": 429,
    "throttling": 429,
    "throttlingexception": 429,
    "overloaded": 503,
    "engineoverloaded": 503,
    "modeloverloaded": 503,
    "serveroverloaded": 503,
    "serviceunavailable": 503,
    "unavailable": 503,
    "api": 500,
    "internal": 500,
    "internalserver": 500,
    "server": 500,
    "timeout": 504,
}
"""Codes in words ("rate_limit_error", "InternalServerError"), without what joins them and "error"."""
TOO_LONG = re.compile(
    r"context[ _](length|size|window|limit)|max_model_len|maximum (model|sequence) length|prompt is too long"
    r"|too many tokens|token count|reduce the length|max_new_tokens` must be|`inputs` must have less"
    r"|max_(completion_)?tokens must be at least 1",
    re.IGNORECASE,
)
"""How servers say that a prompt does not fit (OpenAI, vLLM, SGLang, llama.cpp, TGI, Gemini, Anthropic)."""
FILTERED = re.compile(
    r"content[ _](filter|policy|management)|moderation|flagged|safety|invalid_prompt|inspection_failed"
    r"|usage polic",
    re.IGNORECASE,
)
"""How servers say that they will not answer this."""
UNFIT = re.compile(
    r"unsupported|not supported|unrecogni[sz]ed|unknown|extra inputs|parameter|model\b.*\bnot (found|exist)",
    re.IGNORECASE,
)
"""How servers say that they do not take requests of this form."""
SET_OFF = re.compile(r"(?<=['\"`(\[,.])\s*(\w+)(?=['\"`)\],])")
"""A name in quotes or in a list."""
FORM = (
    "; options.openai has logprobs, omit, extra_body and max_tokens_field for servers that want another form"
)
PASSING = re.compile(
    r"rate.?limit|too many requests|overloaded|over capacity|temporarily|try again (later|in )|timed out"
    r"|service unavailable",
    re.IGNORECASE,
)
"""How servers that give no code say that it passes."""
WORDS = ("message", "Message", "detail", "msg", "error", "faultstring", "title")
"""Fields that hold words for people, the best first."""
CODES = ("code", "type", "error_type", "param", "loc")
ANSWERS = frozenset(("choices", "data", "tokens", "prompt"))
"""Fields of replies that hold what was asked for."""
FAILED = ("error", "abort")
"""Values of `finish_reason` of an answer that broke off."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a server said instead of an answer.

    Attributes:
        words: Its own, for people.
        status: Of HTTP, or the code it gave in its place; None where there is none.
    """

    words: str
    status: int | None = None

    @property
    def passes(self) -> bool:
        """Whether asking again later may help."""
        if self.status in BUSY:
            return True
        if self.status is None:
            return bool(PASSING.search(self.words))
        return 500 <= self.status <= 599 and not self._never_passes

    @property
    def _never_passes(self) -> bool:
        return self.status in OF_THE_STAGE or bool(TOO_LONG.search(self.words))

    def error(self, message: str, fields: Collection[str] | None) -> EngineError:
        """The error that this is.

        Args:
            message: What it says.
            fields: Names of the request's fields that are not the query's; None: its form is the query's.
        """
        if self.passes:
            return (OutOfMemoryError if says_out_of_memory(self.words) else UnavailableError)(message)
        if self.status in OF_THE_STAGE:
            return EngineError(message + REMEDIES.get(self.status, ""))
        if self.status == TOO_LARGE or TOO_LONG.search(self.words):
            return PromptTooLongError(f"{message}; shorten the prompt or lower max_new_tokens")
        if FILTERED.search(self.words):
            return RefusedError(message)
        if self.status in OF_THE_QUERY:
            return EngineError(message + FORM) if self._is_unfit(fields) else RefusedError(message)
        return EngineError(message)

    def _is_unfit(self, fields: Collection[str] | None) -> bool:
        """Whether the server objects to the form of the request, and not to what this query holds."""
        if fields is None:
            return False
        return bool(UNFIT.search(self.words)) or not set(fields).isdisjoint(SET_OFF.findall(self.words))


def words_of(content: bytes, text: str) -> str:
    """What the body of a refused request says: the message in JSON, the text of a page, else all of it."""
    try:
        said = _said(msgspec.json.decode(content))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = ""
    return said or _plain(text)


def not_json(text: str) -> str | None:
    """What a body is that is no JSON, and what to do; None where it is nothing known."""
    if not text.strip():
        return "answered with an empty body; correct base_url"
    if text.lstrip().startswith("<"):
        return f"answered with a page instead of JSON; correct base_url: {_plain(text)}"
    if text.lstrip().startswith(("data:", "event:", ": ")) or re.match(r"\s*{.*}\s*\n\s*{", text):
        return (
            "answered with an event stream, which was not requested; switch streaming off or set "
            f"options.openai.extra_body = {{ stream = false }}: {text}"
        )
    return None


def trouble_in(reply: Any) -> Trouble | None:
    """What is wrong, by its own words, with a reply of status 200; None where it says nothing of the kind."""
    if isinstance(reply, list) and reply:
        return trouble_in(reply[0])
    if not isinstance(reply, Mapping):
        return None
    for found in _reports(reply):
        return Trouble(_said(found), _status(found))
    choice = _first(reply.get("choices"))
    if choice.get("finish_reason") in FAILED:
        return Trouble(f"the answer broke off (finish_reason {choice['finish_reason']!r})", 500)
    return None


def _reports(reply: Mapping[str, Any]) -> Iterator[Any]:
    """Whatever says in a reply that something went wrong."""
    for holder in (reply, _first(reply.get("choices"))):
        for name in ("error", "errors", "fault"):
            if holder.get(name):
                yield holder[name] if isinstance(holder[name], (Mapping, list)) else holder
    if ANSWERS.isdisjoint(reply) and any(isinstance(reply.get(name), (str, list)) for name in WORDS):
        yield reply


def _first(choices: Any) -> Mapping[str, Any]:
    found = choices[0] if isinstance(choices, list) and choices else None
    return found if isinstance(found, Mapping) else {}


def _said(report: Any) -> str:
    """The words of a report, with its code where that is a word."""
    if isinstance(report, list):
        return "; ".join(_said(part) for part in report)
    if not isinstance(report, Mapping):
        return str(report)
    inner = report.get("error") or report.get("errors")
    if isinstance(inner, (Mapping, list)):
        return _said(inner)
    words = next((report[name] for name in WORDS if report.get(name)), None)
    if words is None:
        return str(report)
    codes = [report[name] for name in CODES if report.get(name)]
    return f"{_said(words)} ({', '.join(map(str, codes))})" if codes else _said(words)


def _status(report: Any) -> int | None:
    """The status that a report names, as a number or in words."""
    if isinstance(report, list):
        return _status(report[0])
    if not isinstance(report, Mapping):
        return None
    for name in ("code", "status", "status_code", "type", "error_type"):
        value = report.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return int(value)
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        named = NAMED.get(re.sub(r"[\W_]|error", "", str(value).lower()))
        if named is not None:
            return named
    inner = report.get("error")
    return _status(inner) if isinstance(inner, (Mapping, list)) else None


def _plain(text: str) -> str:
    """The words of a page without its marks; of anything else the text as it stands."""
    if not text.lstrip().startswith("<"):
        return text
    visible = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", text, flags=re.IGNORECASE | re.DOTALL)
    return " ".join(html.unescape(visible).split())
