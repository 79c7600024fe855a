"""Requests as OpenTelemetry traces, sent to a collector by OTLP over HTTP. Needs `asd[otel]`.

    POST /v1/chat/completions        a request, from its arrival to its end; it continues the client's trace
      chat S                         a call of a stage that answered, or went on from what it had verified
      verify M                       a call of a stage that read a draft

Names are the GenAI conventions' (`gen_ai.*`) and HTTP's where there are any, else our own under `asd.`. Spans
are put together once a request has ended and are sent by a thread of their own: a collector that is slow or
away costs a request nothing, and spans that find its queue full are lost. What a stage or a refusal said is
never sent, as it may quote the prompt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from threading import Thread
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from starlette.types import Message, Send

import asd
from asd.errors import ConfigError
from asd.journey import DispatchedCall
from asd.ladder import Ladder
from asd.serving.admission import calls_of
from asd.serving.endpoint.bodies import Endpoint, ParsedRequest
from asd.serving.endpoint.refusals import refusal_of
from asd.serving.endpoint.replies import Replies, finish_of, text_of
from asd.serving.endpoint.settings import RequestSettings
from asd.serving.endpoint.walks import Delivered
from asd.serving.monitoring.events import ANSWERED, Ended, Outcome
from asd.serving.tariff import MICRO, Tariff
from asd.types import Draft, Failure, Verification

__all__ = ["RequestSpan", "Tracing"]

FLUSH_S = 3.0
"""For so long at most the end of the server waits for a collector."""
PATH = "/v1/traces"
"""Of traces, below the address of a collector."""
OPERATIONS: dict[Endpoint, tuple[str, str]] = {
    "chat": ("chat", "/v1/chat/completions"),
    "text": ("text_completion", "/v1/completions"),
}
"""By endpoint, the conventions' name of what it does, and its route."""

Attributes = dict[str, Any]


class Tracing:
    """Sends a trace of every request; a context manager that sends what is left when it ends.

    The standard variables say the rest: headers and time limits of the exporter (`OTEL_EXPORTER_OTLP_*`),
    `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, the queue (`OTEL_BSP_*`).

    Args:
        collector: Its address, as "http://127.0.0.1:4318"; "": that of the standard variables.
        ladder: Of the stages.
        tariff: What their calls cost.
        prompts: Send what was asked and answered too.

    Raises:
        ConfigError: The address is none.
    """

    def __init__(self, collector: str, ladder: Ladder, tariff: Tariff, *, prompts: bool) -> None:
        self.ladder = ladder
        self.models = {stage.name: stage.model for stage in ladder.stages}
        self.tariff = tariff
        self.prompts = prompts
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(_traces_at(collector))))
        self._tracer = self._provider.get_tracer("asd", asd.__version__)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Send what is left, within `FLUSH_S`."""
        sending = Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(FLUSH_S)

    def begin(self, endpoint: Endpoint, headers: Iterable[tuple[str, str]]) -> RequestSpan:
        """The span of a request that has just arrived, within the trace that its headers name."""
        return RequestSpan(self, self._tracer, endpoint, propagate.extract(dict(headers)))


class RequestSpan:
    """The span of one request, ended by `refused` or by `ended`.

    Args:
        tracing: What all requests share.
        tracer: Makes spans.
        endpoint: That was asked.
        parent: The client's trace.
    """

    def __init__(self, tracing: Tracing, tracer: Tracer, endpoint: Endpoint, parent: Context) -> None:
        self._tracing = tracing
        self._tracer = tracer
        self._operation, route = OPERATIONS[endpoint]
        self._arrived, self._arrived_ns = asyncio.get_running_loop().time(), time.time_ns()
        self._span = tracer.start_span(
            f"POST {route}",
            parent,
            SpanKind.SERVER,
            {
                "http.request.method": "POST",
                "http.route": route,
                "gen_ai.operation.name": self._operation,
                "gen_ai.provider.name": "asd",
            },
            start_time=self._arrived_ns,
        )

    def sending(self, send: Send) -> Send:
        """The same, seen by the span: it has the status that the client got."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._span.set_attribute("http.response.status_code", message["status"])
            await send(message)

        return sent

    def refused(self, key: str, outcome: Outcome, error: Exception) -> None:
        """The request was not taken on."""
        self._span.set_attributes({"asd.key": key, "asd.outcome": outcome})
        _fail(self._span, outcome if outcome == "left" else _kind(error))
        self._span.end()

    def ended(
        self,
        asked: ParsedRequest,
        setting: RequestSettings,
        ended: Ended,
        delivered: Delivered | None,
        shadow: Sequence[DispatchedCall] = (),
    ) -> None:
        """The request has ended, and no stage works for it any more."""
        span = self._span
        span.set_attributes(
            _asked(asked)
            | {"asd.key": ended.key, "asd.outcome": ended.outcome, "asd.cost": ended.micros / MICRO}
            | ({} if delivered is None else self._delivered(asked, setting, delivered))
        )
        if self._tracing.prompts:
            span.set_attributes(_words(asked, delivered))
        if ended.outcome not in ANSWERED:
            _fail(span, ended.outcome if ended.error is None else _kind(ended.error))
        for call in ended.dispatched:
            self._call(call, in_shadow=False)
        for call in shadow:
            self._call(call, in_shadow=True)
        span.end(self._arrived_ns + int(ended.seconds * 1e9))

    def _delivered(self, asked: ParsedRequest, setting: RequestSettings, delivered: Delivered) -> Attributes:
        """The decision, as the reply has it, and what the conventions know of an answer."""
        replies = Replies(asked, setting, self._tracing.ladder.price_unit)
        told, usage = replies.delivery(delivered), replies.usage(delivered)
        own = {name: value for name, value in told.items() if name not in {"id", "asked"}}
        return {f"asd.{name}": value for name, value in own.items() if value is not None} | {
            "gen_ai.response.model": self._tracing.models[told["stage"]],
            "gen_ai.response.finish_reasons": [finish_of(delivered)],
            "gen_ai.usage.input_tokens": usage["prompt_tokens"],
            "gen_ai.usage.output_tokens": usage["completion_tokens"],
        }

    def _call(self, call: DispatchedCall, *, in_shadow: bool) -> None:
        """A span of one call; an answer that took none has none."""
        paid = [] if isinstance(call.result, Failure | None) else calls_of([call.result])
        if not paid and not isinstance(call.result, Failure):
            return
        verb = "verify" if call.action.kind == "verify" else self._operation
        span = self._tracer.start_span(
            f"{verb} {call.action.stage}",
            set_span_in_context(self._span),
            SpanKind.CLIENT,
            {
                "gen_ai.operation.name": verb,
                "gen_ai.provider.name": "asd",
                "gen_ai.request.model": self._tracing.models[call.action.stage],
                "asd.stage": call.action.stage,
                "asd.action": call.action.kind,
                "asd.wait_s": call.began - call.asked,
                "asd.batch_size": call.n_queries,
                "asd.shadow": in_shadow,
            },
            start_time=self._ns(call.began),
        )
        if isinstance(call.result, Failure):
            _fail(span, call.result.kind)
        elif call.result is not None:
            span.set_attributes(_result(call.result, words=self._tracing.prompts))
            span.set_attribute("asd.cost", sum(map(self._tracing.tariff.micros, paid)) / MICRO)
        span.end(self._ns(call.ended))

    def _ns(self, at: float) -> int:
        """Nanoseconds since 1970, of a time by the event loop's clock."""
        return self._arrived_ns + int((at - self._arrived) * 1e9)


def _asked(asked: ParsedRequest) -> Attributes:
    query, sampling = asked.query, asked.sampling
    return {
        "gen_ai.request.model": asked.model,
        "gen_ai.request.max_tokens": query.max_new_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.response.id": query.id,
        "asd.stream": asked.stream,
        **{f"asd.asked.{name}": value for name, value in asked.controls.given.items()},
    }


def _result(result: Draft | Verification, *, words: bool) -> Attributes:
    """What a call read and wrote; an answer's text only with `words`."""
    usage = result.usage
    found: Attributes = {
        "gen_ai.usage.input_tokens": usage.n_prompt,
        "gen_ai.usage.output_tokens": usage.n_decoded,
        "asd.tokens.verified": usage.n_verified,
        "asd.tokens.drafted": usage.n_drafted,
        "asd.passes": usage.n_passes,
    }
    if isinstance(result, Verification):
        return found | {"asd.tokens.accepted": result.n_accepted, "asd.drafter": result.drafter}
    return found | ({"gen_ai.output.messages": _message("assistant", result.text)} if words else {})


def _words(asked: ParsedRequest, delivered: Delivered | None) -> Attributes:
    """What was asked and answered, in the conventions' form."""
    parts = [_part(one.role, one.content) for one in asked.query.conversation]
    found = {"gen_ai.input.messages": msgspec.json.encode(parts).decode()}
    if delivered is not None:
        found["gen_ai.output.messages"] = _message("assistant", text_of(delivered.draft))
    return found


def _message(role: str, text: str) -> str:
    return msgspec.json.encode([_part(role, text)]).decode()


def _part(role: str, text: str) -> Mapping[str, object]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def _kind(error: BaseException) -> str:
    """A short name of an error; its message may quote the prompt."""
    refusal = refusal_of(error)
    return refusal.code or str(refusal.status)


def _fail(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


def _resource() -> Resource:
    """Who sends: what the standard variables say, else "asd"."""
    found = Resource.create({SERVICE_VERSION: asd.__version__})
    named = str(found.attributes[SERVICE_NAME])
    return found.merge(Resource({SERVICE_NAME: "asd"})) if named.startswith("unknown_service") else found


def _traces_at(collector: str) -> str | None:
    """Where traces go; None: where the standard variables say."""
    if not collector:
        return None
    address = urlsplit(collector)
    if address.scheme not in {"http", "https"} or not address.hostname:
        raise ConfigError(
            f"--otlp is {collector!r}; give the address of a collector, as http://127.0.0.1:4318"
        )
    return collector if address.path.endswith(PATH) else collector.rstrip("/") + PATH
