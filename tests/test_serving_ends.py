"""How requests end that do not end by themselves: clients that leave, and a server that is told to stop."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from asd.engines import GREEDY, Sampling
from asd.policies import FixedStage
from asd.serving.endpoint.service import Capacity
from asd.types import Draft, Query
from tests.endpoint import OnePolicy, Server, Slow, chat, client, running

FEW = 5
"""Descriptors that come and go with the test's own connections; a hundred clients left."""
MESSAGES: Any = [{"role": "user", "content": "add 1+2"}]


@contextmanager
def slow(seconds: float, batch: int) -> Iterator[tuple[Server, Slow]]:
    engines = {name: Slow(name, "three", seconds) for name in ("S", "M", "L")}
    with running(engines, OnePolicy(FixedStage("S")), capacity=Capacity(batch=batch)) as server:
        yield server, engines["S"]


class Held(Slow):
    """A stage that answers once it is let, or after half a minute."""

    def __init__(self, stage_name: str, text: str) -> None:
        super().__init__(stage_name, text)
        self.open = threading.Event()

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        self.open.wait(30)
        return super().generate(queries, sampling)


def n_tasks(server: Server) -> int:
    return len(asyncio.all_tasks(server.application.service.dispatcher.loop))


def settled(server: Server) -> None:
    """Until nothing is open, for a while."""
    n_idle, until = 0, time.monotonic() + 60
    while n_idle < 10:
        assert time.monotonic() < until, "requests stay open"
        n_idle = 0 if server.application.service.n_open else n_idle + 1
        time.sleep(0.02)


def n_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def streamed(server: Server) -> str:
    with client(server) as ask:
        chunks = ask.chat.completions.create(model="asd", messages=MESSAGES, stream=True)
        return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@pytest.mark.slow
def test_clients_that_leave_leave_nothing_behind() -> None:
    """Neither tasks nor descriptors; stages are never asked for queries that still waited."""

    async def come_and_go(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps(chat(stream=True)).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        await asyncio.sleep(0.1)
        writer.close()
        await writer.wait_closed()

    async def crowd(port: int) -> None:
        await asyncio.gather(*(come_and_go(port) for _ in range(100)))

    with slow(0.4, batch=1) as (server, stage):
        streamed(server)  # whatever is made once is there from now on
        settled(server)
        tasks, descriptors = n_tasks(server), n_descriptors()
        asyncio.run(crowd(int(server.url.split(":")[2].removesuffix("/v1"))))
        settled(server)
        until = time.monotonic() + 10
        while time.monotonic() < until and n_tasks(server) > tasks:
            time.sleep(0.02)
        assert n_tasks(server) <= tasks
        assert n_descriptors() <= descriptors + FEW
        assert len(stage.calls) <= 4


@pytest.mark.slow
def test_a_signal_lets_accepted_requests_end_and_refuses_others() -> None:
    """Not ready from the signal on; then the server stops by itself."""
    engines = {name: Held(name, "three") for name in ("S", "M", "L")}
    with running(engines, OnePolicy(FixedStage("S"))) as server, ThreadPoolExecutor(8) as threads:
        accepted = [threads.submit(streamed, server) for _ in range(8)]
        until = time.monotonic() + 30
        while server.application.service.n_open < 8 and time.monotonic() < until:
            time.sleep(0.005)
        server.handle_exit(signal.SIGTERM, None)
        time.sleep(0.05)
        root = server.url.removesuffix("/v1")
        for request in (
            f"{root}/ready",
            Request(
                f"{server.url}/chat/completions",
                json.dumps(chat()).encode(),
                {"content-type": "application/json"},
            ),
        ):
            with pytest.raises(HTTPError, match="503"):
                urlopen(request)
        engines["S"].open.set()
        assert [one.result() for one in accepted] == ["three"] * 8
        for _ in range(500):
            if server.should_exit:
                break
            time.sleep(0.01)
        assert server.should_exit
