"""The server's application within the test's process: scripted stages, any policy, requests by hand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any, TypeVar

from openai import OpenAI

from asd.cancellation import tokens_of
from asd.engines import GREEDY, LOSSLESS, Acceptance, Engine, Sampling
from asd.ladder import Ladder, Stage
from asd.policies import FixedStage, Policy
from asd.prices import Prices
from asd.serving.endpoint.application import Application
from asd.serving.endpoint.controls import Controls
from asd.serving.endpoint.server import Server, listening, url_of
from asd.serving.endpoint.service import Capacity, Service
from asd.serving.endpoint.settings import RequestSettings
from asd.serving.loopback import Loopback
from asd.serving.monitoring.monitor import UNWATCHED, MonitorSettings
from asd.testing import ScriptedEngine
from asd.types import Draft, Query, Usage, Verification

T = TypeVar("T")

STAGES = ("S", "M", "L")
LADDER = Ladder(
    "scripted",
    tuple(
        Stage(name, f"scripted/{name}", Prices(1.0, 0.01, rate))
        for name, rate in zip(STAGES, (0.1, 0.2, 0.4), strict=True)
    ),
    "declared",
    "made up for a test",
)


class Slow:
    """A stage that takes its time, in its thread; what it says is up to `text`."""

    def __init__(self, stage_name: str, text: str | Exception, seconds: float = 0.0) -> None:
        self.stage_name = stage_name
        self.text = text
        self.seconds = seconds
        self.calls: list[tuple[str, ...]] = []

    def load(self) -> None: ...

    unload = synchronise = load

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:  # noqa: ARG002
        self.calls.append(tuple(query.id for query in queries))
        time.sleep(self.seconds)
        if isinstance(self.text, Exception):
            raise self.text
        usage = Usage(3, 2, 2)
        return [Draft(self.stage_name, self.text, (7, 8), (-0.25, -0.5), True, usage, 0.0) for _ in queries]

    def verify(
        self,
        queries: Sequence[Query],  # noqa: ARG002
        drafts: Sequence[Draft],
        acceptance: Acceptance = LOSSLESS,  # noqa: ARG002
    ) -> list[Verification]:
        time.sleep(self.seconds)
        return [
            Verification(
                self.stage_name, d.stage, (7, 8), (-0.25, -0.5), 2, Usage(3, 0, 1, 2), 0.0, text=d.text
            )
            for d in drafts
        ]

    def continue_(
        self,
        queries: Sequence[Query],  # noqa: ARG002
        verifications: Sequence[Verification],  # noqa: ARG002
        acceptance: Acceptance = LOSSLESS,  # noqa: ARG002
    ) -> list[Draft]:
        raise AssertionError("every draft is accepted whole")


class Steps(Slow):
    """Writes a token every 20 ms, for 5 s or until it is cancelled, and counts them."""

    def __init__(self, stage_name: str) -> None:
        super().__init__(stage_name, "")
        self.written = 0

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:  # noqa: ARG002
        self.calls.append(tuple(query.id for query in queries))
        tokens = tokens_of(queries)
        counts = [0] * len(queries)
        for _ in range(250):
            still_open = [i for i, token in enumerate(tokens) if not token.cancelled]
            for i in still_open:
                counts[i] += 1
            if not still_open:
                break
            time.sleep(0.02)
        self.written += sum(counts)
        return [
            Draft(self.stage_name, "a" * n, tuple(range(n)), (-0.1,) * n, n == 250, Usage(1, n, n), 0.0)
            for n in counts
        ]


@dataclass
class OnePolicy:
    """Settings that give everybody the same policy."""

    policy: Policy
    stages: tuple[str, ...] = STAGES

    @property
    def default(self) -> RequestSettings:
        return RequestSettings(self.policy, self.stages)

    @property
    def hurried(self) -> RequestSettings:
        return RequestSettings(FixedStage(self.stages[0]), self.stages[:1], "busy")

    async def of(self, asked: Controls, temperature: float = 0.0, *, verify: bool = True) -> RequestSettings:  # noqa: ARG002
        return RequestSettings(self.policy, self.stages)


@dataclass
class Reply:
    """What came back, and when: `pieces` are (seconds from the start, bytes)."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(piece for _, piece in self.pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


def application(service: Service) -> Application:
    found = Application(lambda: service, loopback_only=True)
    found.service = service
    return found


def serve(
    engines: Mapping[str, Engine],
    settings: Any,
    test: Callable[[Application], Awaitable[T]],
    *,
    capacity: Capacity | None = None,
    ladder: Ladder = LADDER,
    admission: Any = None,
    watching: MonitorSettings = UNWATCHED,
) -> T:
    """Run a test against an application; whatever was taken on must have ended with it."""

    async def main() -> T:
        admits, room = admission or Loopback(), capacity or Capacity()
        service = Service(engines, ladder, settings, ("text",), admits, room, watching)
        try:
            result = await test(application(service))
            await asyncio.wait_for(service.drained(), 30)
            return result
        finally:
            service.close()

    return asyncio.run(main())


def chat(prompt: str = "add 1+2", **fields: Any) -> dict[str, Any]:
    return {"model": "asd", "messages": [{"role": "user", "content": prompt}], **fields}


async def post(
    app: Application,
    body: Any,
    path: str = "/v1/chat/completions",
    *,
    leave_after: float | None = None,
    **headers: str,
) -> Reply:
    """Send a body, JSON unless it is bytes already; the client leaves after so many seconds, or stays."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await request(
        app, "POST", path, sent, {"content-type": "application/json"} | _names(headers), leave_after
    )


@contextmanager
def running(engines: Mapping[str, Engine], settings: Any, **others: Any) -> Iterator[Server]:
    """The application behind a real uvicorn on a loopback port, in a thread of its own."""
    parts = {"ladder": LADDER, "forms": ("text",), "admission": Loopback(), "capacity": Capacity()} | others
    app = Application(lambda: Service(engines, settings=settings, **parts), loopback_only=True)
    with listening("127.0.0.1", 0) as at:
        server = Server(app)
        thread = Thread(target=server.run, args=([at],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            server.url = url_of(at)
            yield server
        finally:
            server.application.service.draining = True  # as a signal has it: pages end
            server.should_exit = True
            thread.join()


def client(server: Server, **options: Any) -> OpenAI:
    return OpenAI(base_url=server.url, api_key="none", max_retries=0, **options)


async def get(app: Application, path: str, **headers: str) -> Reply:
    return await request(app, "GET", path, b"", _names(headers), None)


def _names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


async def request(
    app: Application,
    method: str,
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    leave_after: float | None,
) -> Reply:
    reply, loop = Reply(), asyncio.get_running_loop()
    start, messages = loop.time(), [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.sleep(60 if leave_after is None else leave_after)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            reply.complete = not message.get("more_body", False)
            if message.get("body"):
                reply.pieces.append((loop.time() - start, message["body"]))

    given = {"host": "127.0.0.1:8000"} | dict(headers)
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000), "state": {},
    }  # fmt: skip
    await app(scope, receive, send)
    return reply


def events(body: bytes) -> list[dict[str, Any]]:
    """The data of a stream, comments and `[DONE]` left out."""
    lines = (line.removeprefix("data: ") for line in body.decode().splitlines() if line.startswith("data: "))
    return [json.loads(line) for line in lines if line != "[DONE]"]


def text_of(body: bytes) -> str:
    """What a client has at the end: the deltas, and what replaced them."""
    text = ""
    for event in events(body):
        if (event.get("asd") or {}).get("replace") is not None:
            text = event["asd"]["replace"]
        for choice in event["choices"]:
            text += (choice["delta"].get("content") or "") if "delta" in choice else choice["text"]
    return text


def scripted(**texts: str) -> dict[str, Engine]:
    """Stages that answer "add 1+2"."""
    return {name: ScriptedEngine(name, {"add 1+2": (texts.get(name, "3"), (-0.1, -0.2))}) for name in STAGES}
