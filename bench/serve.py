"""What the endpoint adds to an answer, and how many requests it serves beside the largest stage alone.

    python -m bench.serve --requests 400 --seconds 60 --clients 8,32

`asd serve` runs as a process of its own; requests reach it over loopback, on connections that stay open.

Added latency: the smallest stage of the embedded ladder, alone and with a response cache that was filled
before, is asked directly (`await cascade.answer`) and through the endpoint. It then takes no time to speak
of, so the difference of two quantiles is what HTTP, admission and bookkeeping add. Clients of several
connections think for an exponential time of one second in the mean between requests. First byte: of a stream
whose stages compute.

Throughput: without the cache, closed loops of clients ask held-out questions, in turns of the cascade at a
share of quality, of the largest stage as it is served (`asd/always-L`, which drafts with S), and of the same
stage without its drafter, behind a server of its own; every answer is scored. Quality and latency are of all
answers of a turn together, requests per second of the whole time. CPU is what the server's process took an
answer, which also says something on a machine that others use. At last the cascade is compared at equal P95:
with as many clients as it holds within the P95 of the other.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, Self

import click
import numpy as np
from tabulate import tabulate

import asd
from asd.ladder import PRESETS, TINY_POLICY, Ladder
from asd.policies import FixedStage
from asd.policy.problem import LadderPrices
from asd.schema import msgspec
from asd.types import Query
from asd.workloads.catalogue import default_names, find_workloads

__all__ = ["serve"]

THINK_S = 1.0
SMALLEST, LARGEST = "asd/always-S", "asd/always-L"
UNDRAFTED = f"{LARGEST} without a drafter"
_PRICES = PRESETS / "tiny-prices.json"


class CountsParam(click.ParamType[tuple[int, ...]]):
    """Positive whole numbers with commas between them."""

    name = "counts"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """As a tuple."""
        try:
            counts = tuple(int(word) for word in str(value).split(","))
        except ValueError:
            counts = ()
        if not counts or min(counts) < 1:
            self.fail(f"{value!r} should be positive whole numbers with commas, as in 8,32", param, ctx)
        return counts


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
    """Answers of one model: seconds and score of each; how long all of them took, and what CPU time."""

    seconds: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    total_s: float = 0.0
    cpu_s: float = 0.0

    def add(self, other: Turn) -> None:
        """Another turn of the same."""
        self.seconds += other.seconds
        self.scores += other.scores
        self.total_s += other.total_s
        self.cpu_s += other.cpu_s

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.seconds) / self.total_s

    @property
    def p95_s(self) -> float:
        """Of an answer."""
        return float(np.quantile(self.seconds, 0.95))

    @property
    def quality(self) -> float:
        """Mean score."""
        return float(np.mean(self.scores))

    def row(self) -> list[object]:
        """What the table says of it."""
        n, p50 = len(self.seconds), 1000 * np.quantile(self.seconds, 0.5)
        times = f"{p50:.0f}", f"{1000 * self.p95_s:.0f}", f"{1000 * self.cpu_s / n:.1f}"
        return [n, f"{self.rate:.2f}", *times, f"{self.quality:.3f}"]


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


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server's port, and its process."""

    port: int
    pid: int

    @property
    def cpu_s(self) -> float:
        """CPU time of the process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(*options: str) -> Iterator[ServerProcess]:
    """`asd serve` with these options."""
    command = [sys.executable, "-m", "asd", "serve", "--port", "0", *options]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as file, subprocess.Popen(command, stderr=file) as server:  # noqa: S603
            try:
                yield ServerProcess(_port(log, server), server.pid)
            finally:
                server.send_signal(signal.SIGTERM)


def _port(log: Path, server: subprocess.Popen[bytes]) -> int:
    """The port that the server prints, once it takes connections there."""
    while server.poll() is None:
        found = re.search(r"127\.0\.0\.1:(\d+)/v1\n", log.read_text())
        with socket.socket() as probe:
            if found and probe.connect_ex(("127.0.0.1", int(found[1]))) == 0:
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
    server: ServerProcess, model: str, questions: Iterator[ScoredQuestion], n_clients: int, seconds: float
) -> Turn:
    """A closed loop of clients for so long; what they began is waited for, and counts."""
    found, start, cpu_s = Turn(), time.perf_counter(), server.cpu_s

    async def use() -> None:
        connection = await Connection.open(server.port)
        while (began := time.perf_counter()) < start + seconds:
            question = next(questions)
            reply = await connection.ask(question.body(model))
            found.seconds.append(time.perf_counter() - began)
            found.scores.append(question.score(reply["choices"][0]["message"]["content"]))
        connection.close()

    await asyncio.gather(*(use() for _ in range(n_clients)))
    found.total_s, found.cpu_s = time.perf_counter() - start, server.cpu_s - cpu_s
    return found


def compared(found: Mapping[tuple[str, int], Turn], cascade: str) -> Iterator[str]:
    """The cascade beside every other turn, at as many clients as it answers with a P95 that is no longer."""
    for (model, n), other in found.items():
        within = [
            (turn.rate, clients, turn)
            for (name, clients), turn in found.items()
            if name == cascade and turn.p95_s <= other.p95_s
        ]
        if model == cascade:
            continue
        if not within:
            yield f"{model}, {n} clients: the cascade's P95 is longer with any number of clients"
            continue
        rate, clients, best = max(within, key=lambda row: row[0])
        share = (
            f"{100 * best.quality / other.quality:.1f} % of its quality"
            if other.quality
            else f"quality {best.quality:.3f} beside none"
        )
        yield (
            f"{model}, {n} clients: within its P95 the cascade answers {rate / other.rate:.2f} times as many "
            f"requests/s ({clients} clients) at {share}"
        )


@click.command()
@click.option(
    "--requests", type=click.IntRange(min=1), default=400, show_default=True, help="Of every latency."
)
@click.option("--seconds", type=click.FloatRange(0), default=60.0, show_default=True, help="Of one turn.")
@click.option("--turns", type=click.IntRange(min=1), default=3, show_default=True, help="Of either model.")
@click.option(
    "--clients",
    type=CountsParam(),
    default="8,32",
    show_default=True,
    help="In the closed loops, with commas.",
)
@click.option("--quality", default=0.95, show_default=True, help="Share of the reference's, of the cascade.")
@click.option("--otlp", help="Servers send traces there. [default: they send none]")
def serve(
    requests: int,
    seconds: float,
    turns: int,
    clients: tuple[int, ...],
    quality: float,
    otlp: str | None,
) -> None:
    """Measure what the endpoint adds to an answer, and the requests a second that it serves."""
    questions, traced = _questions(100), () if otlp is None else ("--otlp", otlp)
    with tempfile.TemporaryDirectory() as folder:
        ladder = _cached_ladder(Path(folder))
        with served("--ladder", str(ladder), "--policy", str(TINY_POLICY), *traced) as cached:
            rows = [asyncio.run(added(ladder, cached.port, questions[:32], n, requests)) for n in (1, 50)]
    heads = [
        "connections",
        *(f"{which} {q}" for q in ("p50", "p99") for which in ("direct", "served", "added")),
    ]
    click.echo(f"{requests} requests, milliseconds\n{tabulate(rows, heads)}\n")
    cascade = f"asd/quality-{quality:g}"
    with tempfile.TemporaryDirectory() as folder, served(*traced) as whole:
        first = asyncio.run(first_bytes(whole.port, questions[:16]))
        click.echo(f"first byte of a stream: {1000 * max(first):.1f} ms at most in {len(first)}\n")
        undrafted = _undrafted_ladder(Path(folder))
        with served("--ladder", str(undrafted), "--policy", str(_policy_for(undrafted)), *traced) as plain:
            asked = {cascade: (whole, cascade), LARGEST: (whole, LARGEST), UNDRAFTED: (plain, LARGEST)}
            found = _throughput(asked, cycle(questions), clients, seconds, turns)
    rows = [[model, n, *each.row()] for (model, n), each in found.items()]
    heads = ["model", "clients", "answers", "requests/s", "p50 ms", "p95 ms", "CPU ms", "quality"]
    click.echo(tabulate(rows, heads) + "\n")
    for line in compared(found, cascade):
        click.echo(line)


def _throughput(
    asked: Mapping[str, tuple[ServerProcess, str]],
    questions: Iterator[ScoredQuestion],
    clients: Sequence[int],
    seconds: float,
    turns: int,
) -> dict[tuple[str, int], Turn]:
    """By the name of a row and its number of clients; `asked` says which server it asks for which model."""
    found = {(name, n): Turn() for n in clients for name in asked}
    for (name, n), so_far in list(found.items()) * turns:
        server, model = asked[name]
        so_far.add(asyncio.run(turn(server, model, questions, n, seconds)))
    return found


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
    path = folder / "tiny.toml"
    path.write_text(f'{_ladder()}\n[deployment]\nresponse_cache = "{folder}/answers.db"\n')
    return path


def _undrafted_ladder(folder: Path) -> Path:
    """The embedded ladder whose stages write alone, with no price of drafting."""
    path, prices = folder / "tiny.toml", folder / "prices.json"
    prices.write_text(re.sub(r',\s*"per_drafted": [\d.]+', "", _PRICES.read_text()))
    alone = "".join(line for line in _ladder().splitlines(True) if not line.startswith("drafter"))
    path.write_text(alone.replace(str(_PRICES), str(prices)))
    return path


def _policy_for(path: Path) -> Path:
    """A policy file for a server that is asked for single stages only: nothing it decides is used."""
    fitted, policy = asd.load_policy(TINY_POLICY), path.with_name("policy.json")
    prices = LadderPrices.of(Ladder.load(path), fitted.ladder.largest_run)
    msgspec.structs.replace(fitted, ladder=prices).save(policy)
    return policy


def _ladder() -> str:
    """The embedded ladder's file, as it may stand elsewhere."""
    text = (PRESETS / "tiny.toml").read_text().replace("../tiny", str(PRESETS.parent / "tiny"))
    return text.replace(_PRICES.name, str(_PRICES))


if __name__ == "__main__":
    serve()
