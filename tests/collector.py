"""A little OpenTelemetry collector: HTTP on a loopback port, and the spans that were sent to it, decoded."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

ERROR = 2
"""Status code of a span that went wrong, as OTLP has it."""


@dataclass
class SentSpan:
    """A span as a collector sees it; ids in hexadecimal, times in nanoseconds."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    start: int
    end: int
    failed: bool
    attributes: dict[str, Any]


@dataclass
class Collector:
    """What came, in the order in which it came."""

    url: str = ""
    spans: list[SentSpan] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    resource: dict[str, Any] = field(default_factory=dict)

    def take(self, body: bytes) -> None:
        self.bodies.append(body)
        for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = {one.key: _value(one.value) for one in sent.resource.attributes}
            self.spans += [_span(one) for scope in sent.scope_spans for one in scope.spans]

    @property
    def request(self) -> SentSpan:
        """The only span of a request."""
        [found] = [span for span in self.spans if span.name.startswith("POST ")]
        return found

    @property
    def calls(self) -> list[SentSpan]:
        """Those of stages, in order."""
        calls = [span for span in self.spans if not span.name.startswith("POST ")]
        return sorted(calls, key=lambda span: span.start)


@contextmanager
def collecting(answers_after_s: float = 0.0) -> Iterator[Collector]:
    """A collector that is there; a slow one takes so long for every answer."""
    found, over = Collector(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.paths.append(self.path)
            found.take(self.rfile.read(int(self.headers["content-length"])))
            over.wait(answers_after_s)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield found
        finally:
            over.set()
            server.shutdown()
            thread.join()


def eventually(found: Collector, n: int) -> None:
    """Until so many spans have come."""
    until = time.monotonic() + 30
    while len(found.spans) < n:
        assert time.monotonic() < until, f"{len(found.spans)} of {n} spans came"
        time.sleep(0.01)


def _span(sent: Any) -> SentSpan:
    return SentSpan(
        sent.name,
        sent.kind,
        sent.trace_id.hex(),
        sent.span_id.hex(),
        sent.parent_span_id.hex(),
        sent.start_time_unix_nano,
        sent.end_time_unix_nano,
        sent.status.code == ERROR,
        {one.key: _value(one.value) for one in sent.attributes},
    )


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind or "string_value")
