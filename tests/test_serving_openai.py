"""OpenAI's own client against the endpoint behind a real uvicorn."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from asd.serving.endpoint.service import Capacity
from tests.endpoint import OnePolicy, Slow, client, running, scripted
from tests.test_serving_endpoint import Climb

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "add 1+2"}]
LINES = "one\u2028two\x85three\r\nfour \U0001f600"
"""Every line break that some reader of streams takes for the end of an event."""


@pytest.fixture(scope="module")
def ask() -> Iterator[OpenAI]:
    with running(scripted(L=LINES), OnePolicy(Climb("S", "L"))) as server, client(server) as asked:
        yield asked


def test_a_chat_is_answered(ask: OpenAI) -> None:
    reply = ask.chat.completions.create(model="asd", messages=MESSAGES, temperature=0, max_tokens=20)
    [choice] = reply.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (LINES, "assistant", "stop")
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0
    assert (reply.model_extra or {})["asd"]["stage"] == "L"


def test_a_streamed_chat_has_the_same_text_and_counts(ask: OpenAI) -> None:
    """Line breaks within the text end no event."""
    whole = ask.chat.completions.create(model="asd", messages=MESSAGES)
    options: Any = {"include_usage": True}
    chunks = list(
        ask.chat.completions.create(model="asd", messages=MESSAGES, stream=True, stream_options=options)
    )
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == LINES
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_clients_own_accumulator_reads_the_stream(ask: OpenAI) -> None:
    with ask.chat.completions.stream(model="asd", messages=MESSAGES) as stream:
        assert stream.get_final_completion().choices[0].message.content == LINES


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_end_the_text(ask: OpenAI, stream: bool) -> None:
    """Before the first of them, streamed or not."""
    reply: Any = ask.chat.completions.create(
        model="asd", messages=MESSAGES, stop=["thr", "two"], stream=stream
    )
    if stream:
        text = "".join(choice.delta.content or "" for chunk in reply for choice in chunk.choices)
    else:
        text = reply.choices[0].message.content
    assert text == "one\u2028"


def test_a_prompt_is_completed(ask: OpenAI) -> None:
    assert ask.completions.create(model="asd", prompt="add 1+2").choices[0].text == LINES
    stream = ask.completions.create(model="asd", prompt="add 1+2", stream=True)
    assert "".join(choice.text for chunk in stream for choice in chunk.choices) == LINES


def test_controls_go_beside_the_fields_into_headers_or_into_the_name(ask: OpenAI) -> None:
    """And the reply says what was asked."""
    for options in (
        {"extra_body": {"lam": 5}},
        {"extra_body": {"asd": {"lam": 5}}},
        {"extra_headers": {"x-asd-lam": "5"}},
        {"model": "asd/lam-5"},
    ):
        given: Any = {"model": "asd", "messages": MESSAGES} | options
        reply = ask.chat.completions.create(**given)
        assert (reply.model_extra or {})["asd"]["asked"] == {"lam": 5}


def test_models_are_listed(ask: OpenAI) -> None:
    assert [model.id for model in ask.models.list()] == [
        "asd",
        "asd/always-S",
        "asd/always-M",
        "asd/always-L",
    ]
    assert ask.models.retrieve("asd/always-L").id == "asd/always-L"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"extra_body": {"temperatur": 0}}, "temperatur"),
        ({"extra_body": {"lam": -1}}, "lam"),
        ({"extra_body": {"lam": 1, "quality": 0.9}}, "quality"),
        ({"extra_headers": {"x-asd-lamb": "1"}}, "lamb"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"temperature": 2.5}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_cannot_be_done_is_named(ask: OpenAI, options: dict[str, Any], named: str) -> None:
    """Never lost without a word."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask.chat.completions.create(model="asd", messages=MESSAGES, **options)
    assert named in caught.value.message
    assert caught.value.type == "invalid_request_error"


def test_an_unknown_model_is_not_found(ask: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-5"):
        ask.chat.completions.create(model="gpt-5", messages=MESSAGES)


def test_a_full_server_is_waited_for() -> None:
    """The client's own retries follow Retry-After."""

    engines = {name: Slow(name, "done", 0.1) for name in ("S", "M", "L")}
    one_at_a_time = Capacity(open=1)
    with running(engines, OnePolicy(Climb("S")), capacity=one_at_a_time) as server, client(server) as ask:
        with ask.chat.completions.create(model="asd", messages=MESSAGES, stream=True) as stream:
            with pytest.raises(openai.RateLimitError) as caught:
                ask.chat.completions.create(model="asd", messages=MESSAGES)
            assert caught.value.response.headers["retry-after"] == "1"
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "done"
        patient = ask.with_options(max_retries=3)
        assert patient.chat.completions.create(model="asd", messages=MESSAGES).choices[0].message.content


@pytest.mark.slow
def test_the_embedded_ladder_is_served_from_the_command_line(tmp_path: Path) -> None:
    """Two commands: start, ask. SIGTERM ends it with exit code 0."""
    command = [sys.executable, "-m", "asd", "serve", "--ladder", "tiny", "--port", "0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    ) as server:
        assert server.stderr is not None
        url = re.search(r"http://\S+", server.stderr.readline())
        assert url is not None
        with OpenAI(base_url=url[0], api_key="none") as ask:
            whole = ask.chat.completions.create(
                model="asd", messages=[{"role": "user", "content": "add 12+30"}]
            )
            stream = ask.chat.completions.create(
                model="asd", messages=[{"role": "user", "content": "add 12+30"}], stream=True
            )
            text = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
        assert whole.choices[0].message.content == text == "2+0=2,1+3=4:42"
        with urllib.request.urlopen(url[0].removesuffix("/v1") + "/ready") as ready:
            assert json.load(ready)["status"] == "ready"
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
