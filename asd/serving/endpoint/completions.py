"""The two endpoints that answer: from a request to a reply, at once or as a stream.

A request is refused before the first byte or not at all: whoever was taken on hears of a later failure by the
status, or, once a stream has begun, by an event with the error and no `[DONE]` after it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing

import msgspec
from starlette.types import Receive, Scope, Send

from asd.serving.endpoint.bodies import Endpoint, read
from asd.serving.endpoint.http import (
    ClientGoneError,
    body_of,
    headers_of,
    send_events,
    send_json,
    unless_gone,
)
from asd.serving.endpoint.refusals import RequestError, refusal_of
from asd.serving.endpoint.replies import DONE, Replies, comment, event, text_of
from asd.serving.endpoint.runs import ActiveRequest
from asd.serving.endpoint.service import Service
from asd.serving.endpoint.shows import Change, Screen
from asd.serving.endpoint.walks import Delivered
from asd.serving.monitoring.events import Outcome

__all__ = ["Completions", "bearer_of"]

_LOG = logging.getLogger(__name__)

FIRST_BYTE_S = 0.03
"""A stream with nothing to show by then begins with a comment; until then a failure has its own status."""
PING_S = 5.0
"""Between comments; proxies close connections that are silent for some tens of seconds."""
NOBODY = "-"
"""In metrics, a client whose key is not known."""
MOST_BYTES = 4 * 2**20
BODY_S = 30.0


class Completions:
    """One of the endpoints, as an ASGI application.

    Args:
        service: Gives what all requests share.
        endpoint: Whose forms.
    """

    def __init__(self, service: Callable[[], Service], endpoint: Endpoint) -> None:
        self._service = service
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        arrived, service, headers = asyncio.get_running_loop().time(), self._service(), headers_of(scope)
        key, tracing = NOBODY, service.tracing
        span = None if tracing is None else tracing.begin(self._endpoint, headers)
        send = send if span is None else span.sending(send)
        try:
            key = service.admission.authenticate(bearer_of(headers))
            body = await body_of(scope, receive, MOST_BYTES, BODY_S)
            asked = read(self._endpoint, body, headers, scope["state"]["id"])
            run = await service.open(asked, key, arrived)
        except Exception as error:
            outcome: Outcome = "left" if isinstance(error, ClientGoneError) else "refused"
            service.monitor.refused(key, outcome)
            if outcome == "refused":
                await _refuse(send, error)
            if span is not None:
                span.refused(key, outcome, error)
            return
        run.span = span
        try:
            await unless_gone(receive, self._reply(run, service.ladder.price_unit, send))
        finally:
            run.close()

    async def _reply(self, run: ActiveRequest, price_unit: str, send: Send) -> None:
        replies = Replies(run.asked, run.setting, price_unit)
        end = asyncio.create_task(run.end())
        try:
            await asyncio.wait({end}, timeout=FIRST_BYTE_S if run.asked.stream else None)
            if end.done() and (error := end.exception()) is not None:
                await _refuse(send, error)
            elif run.asked.stream:
                async with aclosing(_events(run, end, replies)) as events:
                    await send_events(send, events, [("x-asd-id", run.asked.query.id)])
            else:
                delivered = await end
                body = msgspec.json.encode(replies.whole(delivered))
                await send_json(send, 200, body, replies.headers(delivered))
        finally:
            end.cancel()
            await asyncio.wait({end})


async def _events(
    run: ActiveRequest, end: asyncio.Task[Delivered], replies: Replies
) -> AsyncGenerator[bytes]:
    """The stream: comments while nothing may be shown, text, the end with what was delivered."""
    screen = Screen(run.asked.controls.show or "hold", run.setting.stages)
    if not end.done():
        yield comment("asd is at work")
    if run.asked.endpoint == "chat":
        yield event(replies.begin())
    while not end.done():
        if not await _moved(run, end):
            yield comment("asd is at work")
            continue
        for change in screen.after(run.walk.state):
            run.shows_text()
            yield _shown(change, replies)
    if (error := end.exception()) is not None:
        yield event(_reported(error).error)
        return
    delivered = end.result()
    run.shows_text()
    for chunk in _last(screen, delivered, replies, counts=run.asked.include_usage):
        yield chunk


def _last(screen: Screen, delivered: Delivered, replies: Replies, *, counts: bool) -> Iterator[bytes]:
    for change in screen.end(text_of(delivered.draft)):
        yield _shown(change, replies)
    if delivered.draft.tool_calls:
        yield event(replies.calls(delivered))
    yield event(replies.finish(delivered))
    if counts:
        yield event(replies.counts(delivered))
    yield DONE


def _shown(change: Change, replies: Replies) -> bytes:
    return event(replies.replacement(change.text) if change.replaces else replies.piece(change.text))


async def _moved(run: ActiveRequest, end: asyncio.Task[Delivered]) -> bool:
    """Until the walk has made a step or ended; False: neither happened for a while."""
    moved = asyncio.create_task(run.walk.moved.wait())
    try:
        done, _ = await asyncio.wait({moved, end}, timeout=PING_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        moved.cancel()
    run.walk.moved.clear()
    return bool(done)


async def _refuse(send: Send, error: BaseException) -> None:
    refusal = _reported(error)
    await send_json(send, refusal.status, refusal.body, refusal.headers.items())


def _reported(error: BaseException) -> RequestError:
    """What the client is told; the log gets the kind of error, and where it came from."""
    refusal = refusal_of(error)
    if refusal.status == 500:
        _LOG.error("%s: %s", refusal.code, type(error).__name__, exc_info=error)
    elif refusal.status > 500:
        _LOG.warning("refused: %s", refusal.code)
    return refusal


def bearer_of(headers: list[tuple[str, str]]) -> str | None:
    """The API key that a request carries."""
    for name, value in headers:
        scheme, _, secret = value.partition(" ")
        if name == "authorization" and scheme.lower() == "bearer" and secret.strip():
            return secret.strip()
    return None
