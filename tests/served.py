"""A stage behind the fake server: how to describe it, ask it, and what its replies look like."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import stamina

from asd.engines.http.engine import OpenAIEngine
from asd.engines.http.stages import open_stage
from asd.ladder import Stage
from asd.prices import Prices
from asd.types import Draft, Query
from tests.fakeserver import FakeServer, saying

ANSWERS = {"2+2=": "4", "say abc ": "abc", "spell ": "a longer answer"}
COUNTS = {"prompt_tokens": 4, "completion_tokens": 1}


def stage(
    url: str,
    *,
    chat: bool = False,
    prices: Prices | None = None,
    kwargs: Mapping[str, object] | None = None,
    **options: object,
) -> Stage:
    return Stage(
        "S",
        "tiny",
        prices or Prices(1, 0, 0),
        chat_template=chat,
        chat_template_kwargs=kwargs or {},
        options={"openai": {"base_url": url, "timeout_s": 5.0} | options},
    )


def query(prompt: str = "2+2=", room: int = 20) -> Query:
    return Query(prompt, "d", prompt, max_new_tokens=room)


@contextmanager
def opened(server: FakeServer, **options: Any) -> Iterator[OpenAIEngine]:
    """The engine of a stage, which retries at once, three times."""
    engine = open_stage(stage(server.url, **options))
    with stamina.set_testing(True, attempts=4, cap=True):
        try:
            yield engine
        finally:
            engine.unload()


def reply(choice: object = None, usage: object = COUNTS, **fields: object) -> str:
    """A reply with one choice; a field that is ... is left out."""
    body = {"choices": [choice or {"text": "4", "finish_reason": "stop"}], "usage": usage} | fields
    return json.dumps({name: value for name, value in body.items() if value is not ...})


def chat(message: object, finish_reason: str | None = "stop", **choice: object) -> str:
    """A reply with one message."""
    return reply({"message": message, "finish_reason": finish_reason} | choice)


def drafted(server: FakeServer, body: str | bytes, **options: Any) -> Draft:
    """What comes of a reply of status 200."""
    server.faults.append(saying(body))
    with opened(server, **options) as engine:
        [draft] = engine.generate([query()])
    return draft
