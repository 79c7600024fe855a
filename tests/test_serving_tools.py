"""Tools and response formats: asked of the stages that accept them, refused by name where there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError

from asd.api import policy_of
from asd.engines import Engine
from asd.engines.http.stages import open_stage
from asd.engines.prompts import encode
from asd.errors import ConfigError, RefusedError
from asd.ladder import Ladder
from asd.serving.endpoint.controls import Controls
from asd.serving.endpoint.refusals import RequestError
from asd.serving.endpoint.settings import SettingCache
from asd.serving.monitoring.decisions import DecisionLog
from asd.serving.monitoring.monitor import UNWATCHED, MonitorSettings
from asd.serving.tariff import prompt_bound
from asd.testing import ScriptedEngine
from asd.traces import read_traces
from asd.traces.served import uncensored
from asd.types import Query
from tests.endpoint import STAGES, Server, client, running, scripted
from tests.fakeserver import FakeServer, refusing, saying, serving
from tests.served import chat, stage
from tests.test_serving_shadow import header

LADDER = Ladder.load("tiny")
FITTED = policy_of(LADDER)
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
FORMAT: Any = {"type": "json_object"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"at": "Graz"}'}}
OTHER = CALL | {"id": "c2"}
CALLS = chat({"content": None, "tool_calls": [CALL, OTHER]}, "tool_calls")
USER: Any = {"role": "user", "content": "add 1+2"}
ASKS: Any = {"model": "asd", "messages": [USER]}


@contextmanager
def served(
    watching: MonitorSettings = UNWATCHED, **accepts: list[str]
) -> Iterator[tuple[Server, FakeServer]]:
    """The embedded policy over scripted stages, the named of which are behind one server and accept these."""
    with serving({"add 1+2": "3"}) as server:
        engines: dict[str, Engine] = dict(scripted())
        for name, what in accepts.items():
            engines[name] = open_stage(replace(stage(server.url, chat=True, accepts=what), name=name))
        with running(engines, SettingCache(FITTED, LADDER), ladder=LADDER, watching=watching) as found:
            yield found, server


def test_a_call_of_a_tool_is_the_stages_own() -> None:
    """The request goes to it word for word; the reply has its calls, their reason and no text."""
    with served(L=["tools"]) as (found, server), client(found) as asks:
        server.faults.append(saying(CALLS))
        reply = asks.chat.completions.create(
            **ASKS, tools=TOOLS, tool_choice="auto", parallel_tool_calls=False
        )
        [sent] = server.asked
    assert (sent["tools"], sent["tool_choice"], sent["parallel_tool_calls"]) == (TOOLS, "auto", False)
    [choice] = reply.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    calls = choice.message.tool_calls or []
    assert [call.to_dict() for call in calls] == [CALL, OTHER]
    assert reply.model_extra["asd"]["stage"] == "L"


def test_a_stream_accumulates_to_the_same_calls() -> None:
    """By the accumulator of OpenAI's library, which goes by the index of every call."""
    with served(L=["tools"]) as (found, server), client(found) as asks:
        server.faults.append(saying(CALLS))
        with asks.chat.completions.stream(**ASKS, tools=TOOLS) as stream:
            [choice] = stream.get_final_completion().choices
    assert choice.finish_reason == "tool_calls"
    said = [
        (call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls or []
    ]
    assert said == [(one["id"], "weather", '{"at": "Graz"}') for one in (CALL, OTHER)]


def test_the_log_says_that_more_was_asked_than_its_text(tmp_path: Path) -> None:
    """And nothing is fitted on it: such requests are never drawn for the shadow."""
    path = tmp_path / "served.jsonl"
    with DecisionLog(path, header(LADDER), prompts=True) as log:
        watching = MonitorSettings(1.0, every_stage=True, log=log)
        with served(watching, L=["tools"]) as (found, server), client(found) as asks:
            server.faults.append(saying(CALLS))
            asks.chat.completions.create(**ASKS, tools=TOOLS)
    [logged] = read_traces(path)
    assert logged.query.tags["needs"] == "tools"
    assert not uncensored([logged], ["L"])


def test_what_a_tool_said_goes_back_to_the_stage() -> None:
    """The whole conversation as it was sent, the calls and their results among it."""
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    told = {"role": "tool", "tool_call_id": "c1", "content": "rain"}
    with served(L=["tools"]) as (found, server), client(found) as asks:
        reply = asks.chat.completions.create(model="asd", messages=[USER, called, told], tools=TOOLS)
        [sent] = server.asked
    assert [one["role"] for one in sent["messages"]] == ["user", "assistant", "tool"]
    assert sent["messages"][1]["tool_calls"] == [CALL]
    assert sent["messages"][2] == told
    assert reply.choices[0].message.content == "3"


@pytest.mark.parametrize("accepts", [{"M": ["response_format"]}, {"M": ["response_format"], "L": ["tools"]}])
def test_only_stages_that_accept_it_are_asked(accepts: dict[str, list[str]]) -> None:
    with served(**accepts) as (found, server), client(found) as asks:
        reply = asks.chat.completions.create(**ASKS, response_format=FORMAT)
        assert [sent["response_format"] for sent in server.asked] == [FORMAT]
    assert reply.model_extra["asd"]["stage"] == "M"
    assert reply.model_extra["asd"]["calls"] == 1


def test_several_that_accept_it_are_a_cascade_in_which_none_verifies() -> None:
    settings = SettingCache(FITTED, LADDER)
    setting = asyncio.run(settings.of(Controls(stages=STAGES), verify=False))
    assert setting.stages == STAGES
    assert "p_good is an estimate" in asyncio.run(settings.of(Controls(), verify=False)).note
    assert "p_good is an estimate" in setting.note
    assert not setting.guaranteed
    draft = ScriptedEngine("S", {"add 1+2": ("3", (-3.0,))}).generate([Query("q", "d", "add 1+2")])[0]
    decided = setting.policy.decide(Query("q", "d", "add 1+2"), {"S": draft})
    assert {str(action) for action in decided.values} == {"stop", "M", "L"}
    with pytest.raises(RequestError, match="give a lam instead"):
        asyncio.run(settings.of(Controls(quality=0.9), verify=False))


def test_where_all_stages_accept_it_none_verifies_either() -> None:
    with served(S=["tools"], M=["tools"], L=["tools"]) as (found, _), client(found) as asks:
        reply = asks.chat.completions.create(**ASKS, tools=TOOLS)
    assert "p_good is an estimate" in reply.model_extra["asd"]["note"]


@pytest.mark.parametrize(
    ("fields", "accepts", "param"),
    [
        ({"tools": TOOLS}, {}, "tools"),
        ({"response_format": FORMAT}, {"L": ["tools"]}, "response_format"),
        ({"tools": TOOLS, "response_format": FORMAT}, {"L": ["tools"], "M": ["response_format"]},
         "response_format"),
        ({"tools": TOOLS, "extra_body": {"stages": ["S"]}}, {"L": ["tools"]}, "tools"),
        ({"tool_choice": "required"}, {"L": ["tools"]}, "tool_choice"),
        ({"functions": TOOLS}, {"L": ["tools"]}, "functions"),
    ],
)  # fmt: skip
def test_what_no_stage_accepts_is_refused_by_name(
    fields: dict[str, Any], accepts: dict[str, list[str]], param: str
) -> None:
    """Nothing is asked."""
    with served(**accepts) as (found, server), client(found) as asks:
        with pytest.raises(BadRequestError) as caught:
            asks.chat.completions.create(**ASKS, **fields)
        assert server.asked == []
    assert caught.value.param == param


def test_what_a_server_objects_to_in_tools_is_the_querys_and_trips_no_breaker() -> None:
    """Nobody's malformed tools keep the stage from others."""
    with served(L=["tools"]) as (found, server), client(found) as asks:
        for _ in range(4):
            server.faults.append(refusing(400, "Unknown parameter: 'tools[0].size'"))
            with pytest.raises(BadRequestError, match="tools"):
                asks.chat.completions.create(**ASKS, tools=TOOLS)
        reply = asks.chat.completions.create(**ASKS, extra_body={"stages": ["L"]})
    assert reply.choices[0].message.content == "3"


def test_stages_that_cannot_refuse_such_a_query() -> None:
    """Those that run here, and servers whose ladder does not say that they can."""
    query = replace(Query("q", "d", "add 1+2"), extras={"tools": TOOLS})
    with pytest.raises(RefusedError, match="needs tools"):
        encode(query, LADDER.stages[0], None, None, 1)
    with serving({"add 1+2": "3"}) as server:
        engine = open_stage(stage(server.url, chat=True))
        with pytest.raises(RefusedError, match="needs tools"):
            engine.generate([query])
        engine.unload()
        assert server.asked == []


def test_a_stage_without_a_chat_template_accepts_nothing() -> None:
    with pytest.raises(ConfigError, match="chat_template = true"):
        open_stage(stage("http://127.0.0.1:9/v1", accepts=["tools"]))
    with pytest.raises(ConfigError, match="accepts"):
        open_stage(stage("http://127.0.0.1:9/v1", chat=True, accepts=["images"]))


def test_the_bound_of_a_prompt_covers_its_tools() -> None:
    """Written out as indented JSON, twice."""
    plain = Query("q", "d", "add 1+2")
    schema = {"type": "function", "function": {"name": "f", "description": "x" * 5000}}
    assert prompt_bound(replace(plain, extras={"tools": [schema]})) - prompt_bound(plain) > 10_000
