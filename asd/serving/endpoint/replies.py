"""The forms of OpenAI's replies: one for all at once, one for a stream, for both endpoints.

What was delivered, against what was asked, is in `asd` (`delivery`): in the reply, in the last chunk of a
stream that has text, and in headers of a reply that is not a stream.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from asd.serving.admission import calls_of
from asd.serving.endpoint.bodies import ParsedRequest
from asd.serving.endpoint.settings import RequestSettings
from asd.serving.endpoint.walks import Delivered
from asd.types import Draft

__all__ = ["DONE", "Replies", "comment", "event", "finish_of", "text_of"]

DONE = b"data: [DONE]\n\n"
"""The last event of a stream that came to its end; an error has none."""
LINE_BREAKS = [(c.encode(), f"\\u{ord(c):04x}".encode()) for c in "\x85\u2028\u2029"]
"""Line breaks of Unicode that JSON leaves as they are, and how it may write them."""
UNFINISHED = "\ufffd"
"""What tokenizers write for a character of which bytes are missing."""
OBJECTS = {
    "chat": ("chat.completion", "chat.completion.chunk"),
    "text": ("text_completion", "text_completion"),
}


def event(data: object) -> bytes:
    """One event of a stream. JSON escapes the line breaks of ASCII; some readers split at others too."""
    encoded = msgspec.json.encode(data)
    for character, escape in LINE_BREAKS:
        encoded = encoded.replace(character, escape)
    return b"data: " + encoded + b"\n\n"


def comment(text: str) -> bytes:
    """What clients skip and proxies take for life."""
    return f": {text}\n\n".encode()


def text_of(draft: Draft) -> str:
    """The answer without a last character that is not whole, as its stage ran out of room within it."""
    return draft.text if draft.finished else draft.text.rstrip(UNFINISHED)


def finish_of(delivered: Delivered) -> str:
    """Why there is no more text: OpenAI's reasons, and "deadline"."""
    if not delivered.in_time:
        return "deadline"
    if delivered.draft.tool_calls:
        return "tool_calls"
    return "stop" if delivered.draft.finished else "length"


class Replies:
    """Replies to one request.

    Args:
        asked: The request.
        setting: How it was answered.
        price_unit: Of costs.
    """

    def __init__(self, asked: ParsedRequest, setting: RequestSettings, price_unit: str) -> None:
        self._asked = asked
        self._setting = setting
        self._price_unit = price_unit
        self._created = int(time.time())

    def whole(self, delivered: Delivered) -> dict[str, Any]:
        """The reply that is not a stream."""
        text, calls = text_of(delivered.draft), list(delivered.draft.tool_calls)
        message = {"role": "assistant", "content": text or None, "tool_calls": calls} if calls else {}
        content = {"message": {"role": "assistant", "content": text, "refusal": None} | message}
        choice = content if self._asked.endpoint == "chat" else {"text": text}
        return self._frame(0) | {
            "choices": [self._choice(choice, delivered)],
            "usage": self.usage(delivered),
            "asd": self.delivery(delivered),
        }

    def begin(self) -> dict[str, Any]:
        """The first chunk of a chat."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> dict[str, Any]:
        """A chunk with text."""
        return self._chunk({"content": text}, text)

    def calls(self, delivered: Delivered) -> dict[str, Any]:
        """A chunk with the calls of tools, whole."""
        calls = [{"index": i, **call} for i, call in enumerate(delivered.draft.tool_calls)]
        return self._chunk({"tool_calls": calls})

    def replacement(self, text: str) -> dict[str, Any]:
        """A chunk that says what all text so far is replaced with."""
        return self._chunk({}) | {"asd": {"replace": text}}

    def finish(self, delivered: Delivered) -> dict[str, Any]:
        """The chunk that says why there is no more text, and what was delivered."""
        content: dict[str, Any] = {"delta": {}} if self._asked.endpoint == "chat" else {"text": ""}
        chunk = self._frame(1) | {"choices": [self._choice(content, delivered)]}
        return self._counted(chunk) | {"asd": self.delivery(delivered)}

    def counts(self, delivered: Delivered) -> dict[str, Any]:
        """The chunk that clients ask for with `stream_options.include_usage`."""
        return self._frame(1) | {"choices": [], "usage": self.usage(delivered)}

    def usage(self, delivered: Delivered) -> dict[str, Any]:
        """Tokens of the prompt and of the answer, as the stage that wrote it counts; not of other calls."""
        draft = delivered.draft
        own = [call.usage.n_prompt for call in delivered.completion.bought if call.stage == draft.stage]
        n_prompt = max(own, default=0)
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": draft.n_tokens,
            "total_tokens": n_prompt + draft.n_tokens,
        }

    def delivery(self, delivered: Delivered) -> dict[str, Any]:
        """What was delivered, and what had been asked."""
        completion = delivered.completion
        return {
            "id": self._asked.query.id,
            "stage": completion.stage,
            "p_good": delivered.p_good,
            "cost": completion.cost,
            "price_unit": self._price_unit,
            "calls": len(calls_of(completion.bought)),
            "seconds": round(delivered.seconds, 6),
            "in_time": delivered.in_time,
            "policy": self._setting.policy.name,
            "note": self._setting.note or None,
            "asked": self._asked.controls.given,
        }

    def headers(self, delivered: Delivered) -> Iterator[tuple[str, str]]:
        """The same, as far as it fits into headers; what is not ASCII is percent-encoded."""
        delivery = self.delivery(delivered)
        for name in ("id", "stage", "p_good", "cost", "price_unit", "calls", "seconds", "policy", "note"):
            if delivery[name] is not None:
                yield f"x-asd-{name.replace('_', '-')}", quote(str(delivery[name]), safe=" ()=,:;.>+'/")

    def _frame(self, form: int) -> dict[str, Any]:
        return {
            "id": self._asked.query.id,
            "object": OBJECTS[self._asked.endpoint][form],
            "created": self._created,
            "model": self._asked.model,
        }

    def _chunk(self, delta: Mapping[str, Any], text: str = "") -> dict[str, Any]:
        content = {"delta": delta} if self._asked.endpoint == "chat" else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": None}
        return self._counted(self._frame(1) | {"choices": [choice]})

    def _counted(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """As OpenAI has it: with counts at the end, every earlier chunk has the field, and null in it."""
        return chunk | {"usage": None} if self._asked.include_usage else chunk

    def _choice(self, content: Mapping[str, Any], delivered: Delivered) -> dict[str, Any]:
        logprobs = self._logprobs(delivered.draft) if self._asked.logprobs else None
        return {"index": 0, **content, "logprobs": logprobs, "finish_reason": finish_of(delivered)}

    def _logprobs(self, draft: Draft) -> dict[str, Any] | None:
        """Of the tokens of the answer, by id: engines tell no text for them. None: the stage gives none."""
        if not draft.logprobs:
            return None
        ids = draft.tokens or (None,) * len(draft.logprobs)
        names = ["" if token is None else f"token_id:{token}" for token in ids]
        if self._asked.endpoint == "text":
            return {
                "tokens": names,
                "token_logprobs": list(draft.logprobs),
                "top_logprobs": None,
                "text_offset": None,
            }
        rows = zip(names, draft.logprobs, strict=True)
        return {
            "content": [
                {"token": name, "logprob": logprob, "bytes": None, "top_logprobs": []}
                for name, logprob in rows
            ],
            "refusal": None,
        }
