"""The routes of the server, and what every request goes through before them.

A server without keys answers requests for a loopback name only: a page that a browser has open can give its
own name the address 127.0.0.1. No CORS headers are sent.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from asd.serving.endpoint.completions import BODY_S, MOST_BYTES, Completions, bearer_of
from asd.serving.endpoint.controls import FIXED, MODEL
from asd.serving.endpoint.http import ClientGoneError, body_of, headers_of, send_json
from asd.serving.endpoint.openapi import document
from asd.serving.endpoint.pages import Pages
from asd.serving.endpoint.past.feedback import take
from asd.serving.endpoint.refusals import RequestError, refusal_of
from asd.serving.endpoint.service import Service
from asd.serving.loopback import is_loopback

__all__ = ["Application"]

ID = re.compile(r"[!-~]{1,128}")
"""Request ids of clients that are echoed; others get one of ours."""


class Application:
    """The server as an ASGI application.

    Args:
        opened: Opens the service, on the event loop that is to run it.
        loopback_only: Refuse requests for other names than those of this machine.

    Attributes:
        service: Once the application has started.
    """

    def __init__(self, opened: Callable[[], Service], *, loopback_only: bool) -> None:
        self.service: Service
        self._opened = opened
        self._loopback_only = loopback_only
        self._routes = Starlette(
            routes=[
                Route("/v1/chat/completions", Completions(lambda: self.service, "chat"), methods=["POST"]),
                Route("/v1/completions", Completions(lambda: self.service, "text"), methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/models/{model:path}", self._model),
                Route("/v1/asd/requests/{request}", self._request),
                Route("/v1/asd/feedback", self._feedback, methods=["POST"]),
                Route("/metrics", self._metrics),
                *Pages(lambda: self.service).routes,
                Route("/health", self._health),
                Route("/ready", self._ready),
                Route("/openapi.json", self._openapi),
            ],
            exception_handlers={HTTPException: _of_http, RequestError: _refused, Exception: _refused},
            lifespan=self._lifespan,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give a request its id, and answer it."""
        if scope["type"] != "http":
            await self._routes(scope, receive, send)
            return
        headers = dict(headers_of(scope))
        given = headers.get("x-request-id", "")
        name = given if ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"
        scope.setdefault("state", {})["id"] = f"chatcmpl-{secrets.token_hex(12)}"
        answer, receive = _echoing(self._counting(send), name), self._counting_in(receive)
        if self._loopback_only and not is_loopback(_host(headers.get("host", ""))):
            refusal = RequestError(
                403, "a server without keys answers requests for this machine's own name only"
            )
            await send_json(answer, refusal.status, refusal.body)
            return
        await self._routes(scope, receive, answer)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.service = self._opened()
        service = self.service
        going_on = [
            asyncio.create_task(work) for work in (service.monitor.look(service.steering), service.steer())
        ]
        try:
            yield
        finally:
            for task in going_on:
                task.cancel()
            await self.service.drained()
            self.service.close()

    def _counting(self, send: Send) -> Send:
        async def counted(message: Message) -> None:
            self.service.monitor.transferred(0, len(message.get("body", b"")))
            await send(message)

        return counted

    def _counting_in(self, receive: Receive) -> Receive:
        async def counted() -> Message:
            message = await receive()
            self.service.monitor.transferred(len(message.get("body", b"")), 0)
            return message

        return counted

    async def _models(self, request: Request) -> Response:
        self._authenticated(request)
        return _json({"object": "list", "data": self._listed()})

    async def _model(self, request: Request) -> Response:
        self._authenticated(request)
        name = request.path_params["model"]
        found = [model for model in self._listed() if model["id"] == name]
        if not found:
            raise RequestError(404, f"there is no model {name!r}", code="model_not_found", param="model")
        return _json(found[0])

    async def _request(self, request: Request) -> Response:
        key = self._authenticated(request)
        kept = self.service.history.find(request.path_params["request"], key)
        if kept is None:
            raise RequestError(404, "no such request is remembered", code="request_not_found")
        return Response(kept.explained, media_type="application/json")

    async def _feedback(self, request: Request) -> Response:
        key = self._authenticated(request)
        try:
            body = await body_of(request.scope, request.receive, MOST_BYTES, BODY_S)
        except ClientGoneError as error:
            raise RequestError(400, "the client left") from error
        return _json(take(self.service.history, self.service.monitor, key, body))

    async def _metrics(self, request: Request) -> Response:
        key = self._authenticated(request)
        seen_by = None if self.service.admission.is_operator(key) else key
        return Response(self.service.monitor.metrics.text(seen_by), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def _health(self, _: Request) -> Response:
        return _json({"status": "ok"})

    async def _ready(self, _: Request) -> Response:
        draining = self.service.draining
        status = {"status": "draining" if draining else "ready", "open": self.service.n_open}
        return _json(status, 503 if draining else 200)

    async def _openapi(self, _: Request) -> Response:
        return _json(document())

    def _authenticated(self, request: Request) -> str:
        try:
            return self.service.admission.authenticate(bearer_of(headers_of(request.scope)))
        except Exception as error:
            raise refusal_of(error) from error

    def _listed(self) -> list[dict[str, Any]]:
        stages = (f"{MODEL}/{FIXED}{stage.name}" for stage in self.service.ladder.stages)
        return [{"id": name, "object": "model", "created": 0, "owned_by": MODEL} for name in (MODEL, *stages)]


def _echoing(send: Send, name: str) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-request-id", name.encode("ascii"))]
        await send(message)

    return answer


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _refused(_: Request, error: Exception) -> Response:
    refusal = refusal_of(error)
    return Response(refusal.body, refusal.status, refusal.headers, media_type="application/json")


def _of_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = RequestError(error.status_code, error.detail)
    return Response(refusal.body, refusal.status, error.headers, media_type="application/json")


def _host(header: str) -> str:
    """The name in a Host header, without its port."""
    bracketed = re.fullmatch(r"\[(.*)\](:\d+)?", header)
    return bracketed[1] if bracketed else header.rpartition(":")[0] or header
