"""What the endpoint adds to an answer, and how many requests it serves beside the largest stage alone.

    python -m bench.serve --requests 400 --seconds 60

`asd serve` runs as a process of its own; requests reach it over loopback, on connections that stay open.

Added latency: the smallest stage of the embedded ladder, alone and with a response cache that was filled
before, is asked directly (`await cascade.answer`) and through the endpoint. It then takes no time to speak
of, so the difference of two quantiles is what HTTP, admission and bookkeeping add. Clients of several
connections think for an exponential time of one second in the mean between requests. First byte: of a stream
whose stages compute.

Throughput: without the cache, a closed loop of clients asks held-out questions, in turns of the cascade at a
share of quality and of the largest stage alone (`asd/always-L`), and every answer is scored. Quality and
latency are of all answers of a turn together, requests per second of the whole time.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, Self

import click
import numpy as np
from tabulate import tabulate

import asd
from asd.ladder import PRESETS, TINY_POLICY
from asd.policies import FixedStage
from asd.types import Query
from asd.workloads.catalogue import default_names, find_workloads

__all__ = ["serve"]

THINK_S = 1.0
SMALLEST, LARGEST = "asd/always-S", "asd/always-L"


@dataclass(frozen=True, slots=True)
class ScoredQuestion:
    """A held-out question and what an answer to it is worth."""

    query: Query
    score: Callable[[str], float]

    def body(self, model: str, **fields: Any) -> dict[str, Any]:
        """The request that asks it."""
        messages = [{"role": "user", "content": self.query.prompt}]
        controls = {"max_tokens": self.query.max_new_tokens, "answers": self.query.form.kind}
        return {"model": model, "messages": messages, **controls, **fields}


@dataclass(slots=True)
class Turn:
    """Answers of one model: seconds that each took, its score, and how long all of them took together."""

    seconds: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    total_s: float = 0.0

    def row(self, model: str) -> list[object]:
        """What the table says of it."""
        p50, p95 = (1000 * np.quantile(self.seconds, q) for q in (0.5, 0.95))
        rate = len(self.seconds) / self.total_s
        return [
            model,
            len(self.seconds),
            f"{rate:.2f}",
            f"{p50:.0f}",
            f"{p95:.0f}",
            f"{np.mean(self.scores):.3f}",
        ]


class Connection:
    """A connection to the endpoint that stays open; as little of HTTP as a measurement needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """To this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, body: dict[str, Any]) -> bytes:
        """Send a chat; the head of the reply."""
        sent = json.dumps(body).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        self._writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(sent) + sent)
        return await self._reader.readuntil(b"\r\n\r\n")

    async def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """The reply, which must be an answer."""
        head = await self.send(body)
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None, head
        reply: dict[str, Any] = json.loads(await self._reader.readexactly(int(length[1])))
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise click.ClickException(f"the endpoint refused a request: {reply}")
        return reply

    async def first_byte(self, body: dict[str, Any]) -> float:
        """Seconds until something of a stream is there; the connection is good for nothing more."""
        start = time.perf_counter()
        await self.send(body | {"stream": True})
        await self._reader.readexactly(1)
        return time.perf_counter() - start

    def close(self) -> None:
        """Leave."""
        self._writer.close()


@contextmanager
def served(*options: str) -> Iterator[int]:
    """`asd serve` with these options: its port."""
    command = [sys.executable, "-m", "asd", "serve", "--port", "0", *options]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as file, subprocess.Popen(command, stderr=file) as server:  # noqa: S603
            try:
                yield _port(log, server)
            finally:
                server.send_signal(signal.SIGTERM)


def _port(log: Path, server: subprocess.Popen[bytes]) -> int:
    while server.poll() is None:
        if found := re.search(r"127\.0\.0\.1:(\d+)/v1\n(?:.*\n)*.*Uvicorn running", log.read_text()):
            return int(found[1])
        time.sleep(0.05)
    raise click.ClickException(f"the server did not start: {log.read_text()}")


async def paced(
    clients: Sequence[Callable[[ScoredQuestion], Awaitable[object]]],
    questions: Sequence[ScoredQuestion],
    n: int,
) -> list[float]:
    """Seconds of n answers, asked by these clients; several of them think between their requests."""
    took: list[float] = []

    async def use(ask: Callable[[ScoredQuestion], Awaitable[object]], rng: np.random.Generator) -> None:
        for question in rng.choice(np.array(questions, object), -(-n // len(clients))):
            await asyncio.sleep(rng.exponential(THINK_S) if len(clients) > 1 else 0)
            start = time.perf_counter()
            await ask(question)
            took.append(time.perf_counter() - start)

    rngs = np.random.default_rng(0).spawn(len(clients))
    await asyncio.gather(*(use(ask, rng) for ask, rng in zip(clients, rngs, strict=True)))
    return took


async def added(
    ladder: Path, port: int, questions: Sequence[ScoredQuestion], n_clients: int, n: int
) -> list[object]:
    """Latency of the same answers, directly and through the endpoint."""
    connections = [await Connection.open(port) for _ in range(n_clients)]
    through = [lambda q, c=c: c.ask(q.body(SMALLEST)) for c in connections]
    with asd.load(ladder, policy=FixedStage("S")) as cascade:
        for question in questions:  # fills the cache; the server's too, it is the same file
            await cascade.answer(question.query)
        direct = await paced([lambda q: cascade.answer(q.query)] * n_clients, questions, n)
    for i in range(max(len(connections), len(questions))):  # warms both
        await connections[i % len(connections)].ask(questions[i % len(questions)].body(SMALLEST))
    endpoint = await paced(through, questions, n)
    for connection in connections:
        connection.close()
    found = [1000 * np.quantile(took, q) for q in (0.5, 0.99) for took in (direct, endpoint)]
    return [
        n_clients,
        *(f"{ms:.2f}" for ms in (*found[:2], found[1] - found[0], *found[2:], found[3] - found[2])),
    ]


async def first_bytes(port: int, questions: Sequence[ScoredQuestion]) -> list[float]:
    """Of streams, one after the other."""
    found = []
    for question in questions:
        connection = await Connection.open(port)
        found.append(await connection.first_byte(question.body(LARGEST)))
        connection.close()
    return found


async def turn(
    port: int, model: str, questions: Iterator[ScoredQuestion], n_clients: int, seconds: float
) -> Turn:
    """A closed loop of clients for so long; what they began is waited for, and counts."""
    found, start = Turn(), time.perf_counter()

    async def use() -> None:
        connection = await Connection.open(port)
        while (began := time.perf_counter()) < start + seconds:
            question = next(questions)
            reply = await connection.ask(question.body(model))
            found.seconds.append(time.perf_counter() - began)
            found.scores.append(question.score(reply["choices"][0]["message"]["content"]))
        connection.close()

    await asyncio.gather(*(use() for _ in range(n_clients)))
    found.total_s = time.perf_counter() - start
    return found


@click.command()
@click.option(
    "--requests", type=click.IntRange(min=1), default=400, show_default=True, help="Of every latency."
)
@click.option("--seconds", type=click.FloatRange(0), default=60.0, show_default=True, help="Of one turn.")
@click.option("--turns", type=click.IntRange(min=1), default=3, show_default=True, help="Of either model.")
@click.option(
    "--clients", type=click.IntRange(min=1), default=8, show_default=True, help="In the closed loop."
)
@click.option("--quality", default=0.95, show_default=True, help="Share of the reference's, of the cascade.")
def serve(requests: int, seconds: float, turns: int, clients: int, quality: float) -> None:
    """Measure what the endpoint adds to an answer, and the requests a second that it serves."""
    questions = _questions(100)
    with tempfile.TemporaryDirectory() as folder:
        ladder = _cached_ladder(Path(folder))
        with served("--ladder", str(ladder), "--policy", str(TINY_POLICY)) as port:
            rows = [asyncio.run(added(ladder, port, questions[:32], n, requests)) for n in (1, 50)]
    heads = [
        "connections",
        *(f"{which} {q}" for q in ("p50", "p99") for which in ("direct", "served", "added")),
    ]
    click.echo(f"{requests} requests, milliseconds\n{tabulate(rows, heads)}\n")
    found = {model: Turn() for model in (f"asd/quality-{quality:g}", LARGEST)}
    with served() as port:
        first = asyncio.run(first_bytes(port, questions[:16]))
        click.echo(f"first byte of a stream: {1000 * max(first):.1f} ms at most in {len(first)}\n")
        asking = cycle(questions)
        for model in list(found) * turns:
            one = asyncio.run(turn(port, model, asking, clients, seconds))
            found[model].seconds += one.seconds
            found[model].scores += one.scores
            found[model].total_s += one.total_s
    click.echo(
        tabulate(
            [each.row(model) for model, each in found.items()],
            ["model", "answers", "requests/s", "p50 ms", "p95 ms", "quality"],
        )
    )


def _questions(limit: int) -> list[ScoredQuestion]:
    """Held-out ones of every embedded workload, mixed."""
    rows = [
        ScoredQuestion(query, lambda text, workload=workload, query=query: workload.score(query, text))  # type: ignore[misc]
        for workload in find_workloads(default_names())
        for query in workload.queries("test", limit)
    ]
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]


def _cached_ladder(folder: Path) -> Path:
    """The embedded ladder with a response cache."""
    text = (PRESETS / "tiny.toml").read_text()
    text = text.replace("../tiny", str(PRESETS.parent / "tiny")).replace(
        "tiny-prices", f"{PRESETS}/tiny-prices"
    )
    path = folder / "tiny.toml"
    path.write_text(f'{text}\n[deployment]\nresponse_cache = "{folder}/answers.db"\n')
    return path


if __name__ == "__main__":
    serve()
