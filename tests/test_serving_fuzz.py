"""Whatever is sent: a documented status, errors in OpenAI's form, never a 500."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.policies import FixedStage
from asd.serving.endpoint.application import Application
from asd.serving.endpoint.bodies import FORMS
from asd.serving.endpoint.controls import CONTROLS
from asd.serving.endpoint.openapi import document
from tests.endpoint import OnePolicy, Reply, Slow, events, post, serve

PATHS = {"chat": "/v1/chat/completions", "text": "/v1/completions"}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
VALUES = ANYTHING | st.sampled_from(
    [1, 0, 0.5, True, "hold", "draft", "verified", "low", ["S"], [], {}, "asd"]
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """A request that could be answered, with some of its fields changed to anything, or any bytes at all."""
    endpoint = draw(st.sampled_from(["chat", "text"]))
    asks: dict[str, Any] = (
        {"messages": [{"role": "user", "content": "add 1+2"}]}
        if endpoint == "chat"
        else {"prompt": "add 1+2"}
    )
    names = st.sampled_from(FORMS[endpoint].__struct_fields__) | st.text(max_size=6)
    body = {"model": "asd"} | asks | draw(st.dictionaries(names, VALUES, max_size=3))
    return PATHS[endpoint], draw(st.just(json.dumps(body).encode()) | st.binary(max_size=30))


@pytest.mark.slow
@given(
    bodies(),
    st.dictionaries(
        st.sampled_from(CONTROLS) | st.just("lamb"),
        st.text(st.characters(codec="latin-1"), max_size=6),
        max_size=2,
    ),
)
def test_every_request_ends_in_a_documented_way(asked: tuple[str, bytes], controls: dict[str, str]) -> None:
    """200 with an answer, or one error in a body, or, in a stream, an error event and no end."""
    path, body = asked
    headers = {f"x-asd-{name.replace('_', '-')}": value for name, value in controls.items()}
    engines = {name: Slow(name, "three") for name in ("S", "M", "L")}

    async def test(app: Application) -> Reply:
        return await post(app, body, path, **headers)

    reply = serve(engines, OnePolicy(FixedStage("S")), test)
    known = document()["paths"][path]["post"]["responses"]
    assert str(reply.status) in known
    assert reply.status < 500 or reply.status == 504
    if reply.status != 200:
        assert reply.error.keys() == {"message", "type", "param", "code"}
        assert reply.error["message"]
    elif reply.headers["content-type"].startswith("text/event-stream"):
        assert reply.body.endswith(b"data: [DONE]\n\n") != ("error" in events(reply.body)[-1])
    else:
        assert reply.json["choices"][0]["finish_reason"] in {"stop", "deadline"}
