"""An open-loop client of a served cascade: requests go out when they are due, answered or not.

Every request is streamed, so that the first text has a time of its own. How late a request went out is kept
beside it (`lag_s`): latencies count from when it was due, and a client that is late itself can be told.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import httpx2

from asd.errors import EngineError
from asd.measurement.records import Record
from asd.types import Query

__all__ = ["Sent", "ask_all", "ask_in_turn"]

_TIMEOUT_S = 300.0


class Sent(Record, frozen=True, kw_only=True):
    """One request as the client saw it.

    Attributes:
        query: Position of the query.
        due_s: When it was to go out, from the beginning of the run.
        lag_s: How much later it did.
        first_s: From `due_s` to the first text.
        seconds: From `due_s` to the end.
        stage: Whose answer was returned.
        calls: Made for it.
        cost: Priced, in the ladder's price unit.
    """

    query: int
    due_s: float
    lag_s: float
    first_s: float
    seconds: float
    stage: str
    calls: int
    cost: float


def ask_all(
    url: str,
    asked: Mapping[str, object],
    queries: Sequence[Query],
    due: Sequence[tuple[float, int]],
    tell: Callable[[], object] = lambda: None,
) -> list[Sent]:
    """Ask so many times, each at its time, and wait for all answers.

    Args:
        url: Of the endpoint, as in "http://127.0.0.1:8000/v1".
        asked: Of every request: its model, and what else it says.
        queries: What may be asked.
        due: Seconds from now and position of a query, one a request.
        tell: Called after every answer.

    Raises:
        EngineError: The server refused or broke off a request.
    """
    return asyncio.run(_ask_all(url, asked, queries, due, tell))


def ask_in_turn(
    url: str, asked: Mapping[str, object], queries: Sequence[Query], order: Sequence[int]
) -> list[Sent]:
    """Ask one after the other, and pause as long as each took: a server that is idle half of the time.

    Args:
        url: As of `ask_all`.
        asked: As of `ask_all`.
        queries: What may be asked.
        order: Positions of queries, one a request.

    Raises:
        EngineError: As `ask_all`.
    """
    return asyncio.run(_ask_in_turn(url, asked, queries, order))


async def _ask_in_turn(
    url: str, asked: Mapping[str, object], queries: Sequence[Query], order: Sequence[int]
) -> list[Sent]:
    async with _client(url) as client:
        began, found = time.perf_counter(), []
        for number in order:
            sent = await _sent(client, asked, queries, number, time.perf_counter() - began, began)
            found.append(sent)
            await asyncio.sleep(sent.seconds)
        return found


async def _ask_all(
    url: str,
    asked: Mapping[str, object],
    queries: Sequence[Query],
    due: Sequence[tuple[float, int]],
    tell: Callable[[], object],
) -> list[Sent]:
    async with _client(url) as client:
        began = time.perf_counter()

        async def one(at: float, number: int) -> Sent:
            await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
            found = await _sent(client, asked, queries, number, at, began)
            tell()
            return found

        return list(await asyncio.gather(*(one(at, number) for at, number in due)))


def _client(url: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=url, timeout=_TIMEOUT_S, limits=httpx2.Limits(max_connections=None))


async def _sent(
    client: httpx2.AsyncClient,
    asked: Mapping[str, object],
    queries: Sequence[Query],
    number: int,
    due_s: float,
    began: float,
) -> Sent:
    lag = time.perf_counter() - began - due_s
    try:
        found = await _ask(client, asked, queries[number], lambda: time.perf_counter() - began - due_s)
    except httpx2.HTTPError as error:
        raise EngineError(f"query {queries[number].id!r} was not answered: {error!r}") from error
    return Sent(query=number, due_s=due_s, lag_s=lag, **found)


async def _ask(
    client: httpx2.AsyncClient, asked: Mapping[str, object], query: Query, clock: Callable[[], float]
) -> dict[str, Any]:
    body = {
        **asked,
        "messages": [{"role": "user", "content": query.prompt}],
        "max_tokens": query.max_new_tokens,
        "stream": True,
    }
    first, delivered = None, None
    async with client.stream("POST", "/chat/completions", json=body) as reply:
        if reply.status_code != 200:
            text = (await reply.aread()).decode(errors="replace")
            raise EngineError(f"the server answered {reply.status_code}: {text[:200]}")
        async for chunk in _chunks(reply):
            texts = [choice.get("delta", {}).get("content") for choice in chunk.get("choices", [])]
            first = clock() if first is None and any(texts) else first
            delivered = chunk.get("asd", delivered)
    seconds = clock()
    if not delivered or "stage" not in delivered:
        raise EngineError(f"the stream of query {query.id!r} ended without saying what was delivered")
    return {
        "first_s": seconds if first is None else first,
        "seconds": seconds,
        "stage": delivered["stage"],
        "calls": delivered["calls"],
        "cost": delivered["cost"],
    }


async def _chunks(reply: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in reply.aiter_lines():
        if line.startswith("data:") and (text := line.removeprefix("data:").strip()) != "[DONE]":
            yield json.loads(text)
