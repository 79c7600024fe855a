"""A client that notes how a request ended, and one that leaves."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

__all__ = ["RequestEnd", "ask", "leave"]

PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """How a request ended.

    Attributes:
        status: Of HTTP; 0: nothing came.
        complete: The reply was there to its last byte.
        seconds: From sending to its end.
        body: What came.
    """

    status: int
    complete: bool
    seconds: float
    body: bytes = b""

    @property
    def answered(self) -> bool:
        """With an answer; else with a status or an event that says why not."""
        return self.status == 200 and b'"error"' not in self.body

    @property
    def reply(self) -> Any:
        """The JSON of a reply that is no stream."""
        return json.loads(self.body)


async def _sent(port: int, body: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = json.dumps({"model": "asd", **body}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    writer.write(
        f"{head}content-type: application/json\r\ncontent-length: {len(sent)}\r\n\r\n".encode() + sent
    )
    return reader, writer


def _messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


async def ask(port: int, prompt: str, **fields: Any) -> RequestEnd:
    """Ask, and wait for the end, for `PATIENCE_S` at most."""
    start = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await _sent(port, {"messages": _messages(prompt), **fields})
            try:
                received = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        received = b""
    seconds = time.perf_counter() - start
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        return RequestEnd(0, False, seconds)
    length = next(
        (line.partition(b":")[2] for line in head.lower().split(b"\r\n") if b"content-length" in line), None
    )
    complete = body.endswith(b"0\r\n\r\n") if length is None else len(body) == int(length)
    return RequestEnd(int(head[9:12]), complete, seconds, body)


async def leave(port: int, prompt: str, after_s: float) -> float:
    """Ask, and leave after a while; when that was (`time.monotonic`)."""
    _, writer = await _sent(port, {"messages": _messages(prompt), "stream": True})
    await asyncio.sleep(after_s)
    left = time.monotonic()
    writer.transport.abort()
    return left
