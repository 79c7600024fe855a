"""HTTP as far as the endpoints need it, in pure ASGI: bodies in, JSON and events out, clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from asd.serving.endpoint.refusals import RequestError

__all__ = ["ClientGoneError", "body_of", "headers_of", "send_events", "send_json", "unless_gone"]

JSON = ("content-type", "application/json")
EVENTS = (
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache"),
    ("x-accel-buffering", "no"),
)


class ClientGoneError(Exception):
    """Nobody is there to be answered."""


def headers_of(scope: Scope) -> list[tuple[str, str]]:
    """Names, in lower case, and values."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]


async def body_of(scope: Scope, receive: Receive, most: int, seconds: float) -> bytes:
    """The JSON body of a request.

    Args:
        scope: Of the request.
        receive: Its messages.
        most: Bytes that it may have.
        seconds: How long its arrival may take.

    Raises:
        RequestError: It is too large, too slow, or not declared as JSON. A browser can send other types from
            any page without asking.
        ClientGoneError: The client left meanwhile.
    """
    headers = dict(headers_of(scope))
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" or "content-encoding" in headers:
        raise RequestError(415, "send JSON as it is: content-type: application/json, no content-encoding")
    try:
        async with asyncio.timeout(seconds):
            return await _collected(receive, most)
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {seconds:g} s") from None


async def _collected(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        body += message.get("body", b"")
        if len(body) > most:
            raise RequestError(413, f"the body has more than {most} bytes", code="request_too_large")
        if not message.get("more_body", False):
            return bytes(body)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work; cancel it as soon as the client has gone. The body must have been read."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.wait({task, gone})
    if not task.cancelled():
        task.result()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_json(send: Send, status: int, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> None:
    """A reply that is there as a whole."""
    await send(_start(status, [JSON, ("content-length", str(len(body))), *headers]))
    await send({"type": "http.response.body", "body": body})


async def send_events(send: Send, events: AsyncIterator[bytes], headers: Iterable[tuple[str, str]]) -> None:
    """A reply that comes in events, each sent as soon as it is there."""
    await send(_start(200, [*EVENTS, *headers]))
    async for one in events:
        await send({"type": "http.response.body", "body": one, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _start(status: int, headers: Iterable[tuple[str, str]]) -> Message:
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return {"type": "http.response.start", "status": status, "headers": encoded}
