"""Requests as OpenTelemetry traces: what a collector gets, and that it can be slow, or away."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from openai import OpenAI
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes

from asd.cli import main
from asd.errors import UnavailableError
from asd.policies import FixedStage, Lossless
from asd.serving.endpoint.application import Application
from asd.serving.endpoint.past import tracing
from asd.serving.endpoint.past.tracing import Tracing
from asd.serving.endpoint.service import Capacity
from asd.serving.monitoring.monitor import UNWATCHED, MonitorSettings
from asd.serving.tariff import Tariff
from tests.collector import Collector, collecting
from tests.endpoint import LADDER, STAGES, OnePolicy, Reply, Slow, chat, post, scripted, serve
from tests.test_serving_endpoint import Climb

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, CLIENT = 2, 3


def slow(seconds: float = 0.0, **others: Any) -> dict[str, Any]:
    return {name: Slow(name, "three", seconds) for name in STAGES} | others


def traced(
    test: Callable[[Application], Awaitable[Any]],
    url: str,
    *,
    engines: Mapping[str, Any] | None = None,
    policy: Any = None,
    prompts: bool = False,
    watching: MonitorSettings = UNWATCHED,
    capacity: Capacity | None = None,
) -> Any:
    """Run a test against a traced server; everything has been sent when it returns."""
    with Tracing(url, LADDER, Tariff(LADDER), prompts=prompts) as sending:

        async def with_it(app: Application) -> Any:
            app.service.tracing = sending
            return await test(app)

        settings = OnePolicy(policy or FixedStage("S"))
        return serve(engines or scripted(), settings, with_it, watching=watching, capacity=capacity)


def collected(body: Any, path: str = "/v1/chat/completions", **others: Any) -> tuple[Reply, Collector]:
    """One request, and all that was sent of it."""
    headers = others.pop("headers", {})
    leave_after = others.pop("leave_after", None)
    with collecting() as found:
        asked = lambda app: post(app, body, path, leave_after=leave_after, **headers)  # noqa: E731
        reply = traced(asked, found.url, **others)
    return reply, found


def test_a_request_is_a_span_in_the_clients_trace_and_every_call_one_below_it() -> None:
    """With what was decided, what it cost and what each call read and wrote."""
    body, given = chat(max_tokens=20, asd={"lam": 3}), {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    reply, found = collected(body, policy=Climb("S", "L"), headers=given)
    request, told = found.request, reply.json["asd"]
    assert (request.trace, request.parent, request.kind) == (TRACE, SPAN, SERVER)
    assert (request.name, request.failed) == ("POST /v1/chat/completions", False)
    wanted = {
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "asd",
        "gen_ai.request.max_tokens": 20,
        "gen_ai.response.id": reply.json["id"],
        "gen_ai.response.model": "scripted/L",
        "gen_ai.response.finish_reasons": [reply.json["choices"][0]["finish_reason"]],
        "gen_ai.usage.input_tokens": reply.json["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": reply.json["usage"]["completion_tokens"],
        "asd.stage": "L",
        "asd.p_good": 0.5,
        "asd.cost": told["cost"],
        "asd.calls": 2,
        "asd.policy": "climb",
        "asd.asked.lam": 3.0,
        "asd.outcome": "answered",
    }
    assert {name: request.attributes.get(name) for name in wanted} == wanted
    assert [(call.name, call.trace, call.parent, call.kind) for call in found.calls] == [
        ("chat S", TRACE, request.id, CLIENT),
        ("chat L", TRACE, request.id, CLIENT),
    ]
    assert sum(call.attributes["asd.cost"] for call in found.calls) == pytest.approx(told["cost"])
    assert all(request.start <= call.start <= call.end <= request.end for call in found.calls)
    assert found.paths == ["/v1/traces"] * len(found.paths)
    assert found.resource["service.name"] == "asd"


def test_a_verification_is_a_call_and_an_adopted_answer_is_none() -> None:
    """The verifier that accepts all of a draft writes nothing."""
    _, found = collected(chat(), engines=slow(), policy=Lossless(("S", "L")))
    draft, verification = found.calls
    assert (draft.name, verification.name) == ("chat S", "verify L")
    told = verification.attributes
    assert (told["asd.drafter"], told["asd.tokens.verified"], told["asd.tokens.accepted"]) == ("S", 2, 2)
    assert told["asd.action"] == "verify"


def test_names_are_those_of_the_conventions() -> None:
    """What begins with gen_ai, http or error is known there; all else is our own."""
    conventions = (gen_ai_attributes, http_attributes, error_attributes)
    known = {value for one in conventions for value in vars(one).values() if isinstance(value, str)}
    _, found = collected(chat(temperature=0.5, top_p=0.9), engines=slow(), prompts=True)
    _, failed = collected(chat(), engines=slow(S=Slow("S", UnavailableError("gone"))))
    sent = {name for one in (found, failed) for span in one.spans for name in span.attributes}
    assert {name for name in sent - known if not name.startswith("asd.")} == set()


def test_calls_for_several_requests_say_so() -> None:
    """Three at once: the first is called alone, the two that came meanwhile together."""
    with collecting() as found:
        asked = lambda app: asyncio.gather(*(post(app, chat()) for _ in range(3)))  # noqa: E731
        traced(asked, found.url, engines=slow(0.05))
    assert sorted(call.attributes["asd.batch_size"] for call in found.calls) == [1, 2, 2]
    assert max(call.attributes["asd.wait_s"] for call in found.calls) > 0.04


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_and_answers_are_sent_only_where_they_are_logged(stream: bool) -> None:
    engines = scripted(S="my secret answer")
    _, silent = collected(chat(stream=stream), engines=engines)
    sent = b"".join(silent.bodies)
    assert sent
    assert b"add 1+2" not in sent
    assert b"secret" not in sent
    _, telling = collected(chat(stream=stream), engines=engines, prompts=True)
    [asked] = json.loads(telling.request.attributes["gen_ai.input.messages"])
    assert asked == {"role": "user", "parts": [{"type": "text", "content": "add 1+2"}]}
    [told] = json.loads(telling.request.attributes["gen_ai.output.messages"])
    assert told == {"role": "assistant", "parts": [{"type": "text", "content": "my secret answer"}]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "others", "outcome", "kind"),
    [
        ({"n": 2}, {}, "refused", "unsupported_value"),
        ({"wrong": 2}, {}, "refused", "400"),
        ({}, {"engines": slow(S=Slow("S", UnavailableError("x")))}, "failed", "no_stage_left"),
        ({"asd": {"deadline_s": 0.01}}, {"engines": slow(0.2)}, "failed", "deadline_exceeded"),
        ({}, {"engines": slow(0.3), "leave_after": 0.05}, "left", "left"),
    ],
)
def test_what_brings_no_answer_is_an_error(
    stream: bool, body: dict[str, Any], others: dict[str, Any], outcome: str, kind: str
) -> None:
    """Refused, failed, too late or left: one span, its status an error."""
    _, found = collected(chat(stream=stream, **body), **others)
    request = found.request
    assert request.failed
    assert (request.attributes["asd.outcome"], request.attributes["error.type"]) == (outcome, kind)


def test_a_call_that_fails_is_an_error_and_the_request_none_where_another_stage_answers() -> None:
    """What the stage said is not sent: it may quote the prompt."""
    engines = slow(S=Slow("S", UnavailableError("no answer to add 1+2")))
    reply, found = collected(chat(), engines=engines, policy=Climb("S", "L"))
    assert (reply.status, found.request.failed) == (200, False)
    failed, answered = found.calls
    assert (failed.failed, failed.attributes["error.type"]) == (True, "UnavailableError")
    assert not answered.failed
    assert b"add 1+2" not in b"".join(found.bodies)


def test_calls_in_the_shadow_are_marked() -> None:
    _, found = collected(chat(), watching=MonitorSettings(share=1.0))
    assert [(call.name, call.attributes["asd.shadow"]) for call in found.calls] == [
        ("chat S", False),
        ("chat L", True),
    ]


def test_completions_are_traced_under_their_own_name() -> None:
    _, found = collected({"model": "asd", "prompt": "add 1+2"}, "/v1/completions")
    assert found.request.name == "POST /v1/completions"
    assert [call.name for call in found.calls] == ["text_completion S"]


def dead() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.parametrize("away", [True, False])
def test_a_collector_that_is_away_or_slow_costs_no_request_anything(
    away: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the end of the server more than `FLUSH_S`."""
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")  # it is sent to from the first request on

    async def many(app: Application) -> list[float]:
        took = []
        for _ in range(40):
            start = time.monotonic()
            assert (await post(app, chat())).status == 200
            took.append(time.monotonic() - start)
        return took

    with collecting(answers_after_s=60) as stuck:
        start = time.monotonic()
        took = traced(many, dead() if away else stuck.url)
        total = time.monotonic() - start
    assert max(took) < 1.0
    assert total < sum(took) + tracing.FLUSH_S + 1.0


@pytest.mark.parametrize(
    ("url", "at"),
    [
        ("http://host:4318", "http://host:4318/v1/traces"),
        ("http://host:4318/", "http://host:4318/v1/traces"),
        ("https://host/otlp/v1/traces", "https://host/otlp/v1/traces"),
        ("", None),
    ],
)
def test_traces_go_below_the_address_of_the_collector(url: str, at: str | None) -> None:
    assert tracing._traces_at(url) == at


@pytest.mark.parametrize("url", ["collector:4318", "grpc://host", "http://"])
def test_what_is_no_address_of_a_collector_is_refused(url: str) -> None:
    found = CliRunner().invoke(main, ["serve", "--port", "0", "--otlp", url])
    assert found.exit_code == 2
    assert f"--otlp is {url!r}" in found.output


def test_without_the_library_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, tracing.__name__)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    found = CliRunner().invoke(main, ["serve", "--port", "0", "--otlp", "http://127.0.0.1:4318"])
    assert found.exit_code == 2
    assert "opentelemetry is not installed; pip install 'asd[otel]'" in found.output


def test_a_server_that_sends_no_traces_does_without_the_library() -> None:
    line = "import sys, asd.cli.serve.endpoint; sys.exit('opentelemetry' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", line], cwd=Path(__file__).parents[1], check=False).returncode
        == 0
    )


def test_the_name_of_the_service_is_that_of_the_standard_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop,deployment.environment.name=test")
    _, found = collected(chat())
    assert found.resource["service.name"] == "shop"
    assert found.resource["deployment.environment.name"] == "test"


@pytest.mark.slow
def test_a_server_that_is_told_to_stop_sends_what_it_has() -> None:
    """The collector is that of the standard variable; spans would wait for five seconds otherwise."""
    with collecting() as found:
        command = [sys.executable, "-m", "asd", "serve", "--ladder", "tiny", "--port", "0", "--otlp"]
        named = {
            "HF_HUB_OFFLINE": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": found.url,
            "OTEL_BSP_SCHEDULE_DELAY": "60000",
        }
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | named) as server:
            assert server.stderr is not None
            url = re.search(r"http://\S+", server.stderr.readline())
            assert url is not None
            with OpenAI(base_url=url[0], api_key="none") as ask:
                ask.chat.completions.create(model="asd", messages=[{"role": "user", "content": "add 12+30"}])
            assert not found.spans
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
    assert found.request.attributes["asd.stage"] == "S"
    assert found.calls[0].name == "chat S"
