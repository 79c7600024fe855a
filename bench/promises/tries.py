"""The tries: faults under load, clients that leave, a server that is told to stop, and one that is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from asd.serving.cashier import Cashier
from asd.serving.endpoint.server import Server
from asd.serving.endpoint.service import tariff_of
from asd.serving.ledger import Ledger
from bench.promises.clients import RequestEnd, ask, leave
from bench.promises.server import serving
from bench.promises.stages import LADDER, WritingStage

__all__ = ["Faulty", "Left", "Stopped", "faults", "kill", "leavers", "stop"]

GRACE_S = 0.05
"""How long after its deadline a request may end."""
THINK_S = 0.5
"""Mean pause of a client between two requests."""


@dataclass(slots=True)
class Faulty:
    """What became of requests whose stages fail.

    Attributes:
        ends: How many were answered, refused or lost.
        late_s: By how much each request ended after its deadline; negative: before.
        met: How often each fault was met.
    """

    ends: Counter[str] = field(default_factory=Counter)
    late_s: list[float] = field(default_factory=list)
    met: Counter[str] = field(default_factory=Counter)

    @property
    def in_time(self) -> float:
        """Share that ended within its deadline and `GRACE_S`."""
        return float(np.mean(np.array(self.late_s) <= GRACE_S))


def faults(n: int, n_clients: int, seed: int) -> Faulty:
    """A crowd in a closed loop, with deadlines between 0.1 and 0.6 s; every fourth call of a stage fails."""
    found, left = Faulty(), count()

    async def client(port: int, rng: np.random.Generator) -> None:
        while (i := next(left)) < n:
            await asyncio.sleep(float(rng.exponential(THINK_S)))
            deadline_s = float(rng.uniform(0.1, 0.6))
            ended = await ask(port, f"ask {i}", deadline_s=deadline_s, stream=bool(rng.random() < 0.5))
            found.late_s.append(ended.seconds - deadline_s)
            found.ends[_kind(ended)] += 1

    async def crowd(port: int) -> None:
        await asyncio.gather(*(client(port, rng) for rng in np.random.default_rng(seed).spawn(n_clients)))

    with _process("--faults", str(seed)) as (process, port):
        asyncio.run(crowd(port))
        process.terminate()
        met, _ = process.communicate(timeout=30)
    found.met.update(json.loads(met))
    return found


def _kind(ended: RequestEnd) -> str:
    if not ended.complete:
        return "lost"
    return "answered" if ended.answered else "refused"


@dataclass(slots=True)
class Left:
    """What clients that left have left.

    Attributes:
        n_begun: Those for which a stage had begun to work.
        aborted_s: From the leaving of each of these to the end of the work.
        tasks: More than before, of asyncio.
        descriptors: More than before.
        mib: More memory after the second half than after the first.
    """

    n_begun: int
    aborted_s: list[float]
    tasks: int
    descriptors: int
    mib: float


def leavers(n: int, n_clients: int, seed: int) -> Left:
    """Clients that leave within 50 ms, of stages that would write for half a minute."""
    stages = {name: WritingStage(name, endless=True) for name in "SL"}
    at: dict[str, float] = {}

    async def crowd(port: int, numbers: range) -> None:
        room, rng = asyncio.Semaphore(n_clients), np.random.default_rng(seed + numbers.start)

        async def one(i: int, after_s: float) -> None:
            async with room:
                at[f"leave {i}"] = await leave(port, f"leave {i}", after_s)

        await asyncio.gather(*(one(i, float(rng.uniform(0, 0.05))) for i in numbers))

    with serving(stages) as (server, port):
        for half in (
            range(n_clients),
            range(n_clients, n_clients + n // 2),
            range(n_clients + n // 2, n_clients + n),
        ):
            asyncio.run(crowd(port, half))
            _until_idle(server)
            if half.start == 0:  # what is made once is there from now on
                tasks, descriptors = _tasks(server), _descriptors()
                at.clear()
            elif half.start == n_clients:
                mib = _mib()
        found = stages["S"].ended_at
        aborted = [found[prompt] - left for prompt, left in at.items() if prompt in found]
        return Left(len(aborted), aborted, _tasks(server) - tasks, _descriptors() - descriptors, _mib() - mib)


def _until_idle(server: Server) -> None:
    n_idle, until = 0, time.monotonic() + 60
    while n_idle < 10 and time.monotonic() < until:
        n_idle = 0 if server.application.service.n_open else n_idle + 1
        time.sleep(0.02)


def _tasks(server: Server) -> int:
    return len(asyncio.all_tasks(server.application.service.dispatcher.loop))


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def _process(*options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The server as a process of its own, and its port."""
    command = [sys.executable, "-m", "bench.promises.server", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            while not _is_ready(port):
                time.sleep(0.02)
            yield process, port
        finally:
            process.kill()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready") as reply:
            return bool(json.load(reply)["status"] == "ready")
    except OSError:
        return False


@dataclass(slots=True)
class Stopped:
    """What became of the requests of a crowd whose server was stopped in the middle.

    Attributes:
        ends: By kind; "refused" are those that came too late, without a byte or with 503.
        faults: What should not have been.
    """

    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


async def _crowd(
    port: int, n_clients: int, after_s: float, end: signal.Signals, pid: int
) -> list[tuple[float, RequestEnd]]:
    """Clients in a closed loop until nobody answers; each request with the seconds from the signal to it."""
    asked: list[tuple[float, RequestEnd]] = []
    loop = asyncio.get_running_loop()
    at = loop.time() + after_s

    async def client(i: int, rng: np.random.Generator) -> None:
        while loop.time() < at + 5:
            await asyncio.sleep(float(rng.exponential(THINK_S / 5)))
            sent = loop.time() - at
            ended = await ask(port, f"ask {i}", stream=i % 2 == 0)
            asked.append((sent, ended))
            if sent > 0 and not ended.answered:
                return

    loop.call_at(at, os.kill, pid, end)
    rngs = np.random.default_rng(pid).spawn(n_clients)
    await asyncio.gather(*(client(i, rng) for i, rng in enumerate(rngs)))
    return asked


def stop(ledger: Path, n_clients: int, seed: int) -> Stopped:
    """SIGTERM in the middle of a crowd: what was sent before is answered, the exit code is 0."""
    found, rng = Stopped(), np.random.default_rng(seed)
    with _process(str(ledger)) as (process, port):
        asked = asyncio.run(
            _crowd(port, n_clients, float(rng.uniform(0.5, 2.0)), signal.SIGTERM, process.pid)
        )
        if (code := process.wait(30)) != 0:
            found.faults.append(f"the server ended with exit code {code}")
    for sent, ended in asked:
        kind = _kind(ended)
        if kind == "lost" and ended.status == 0 and sent > -GRACE_S:
            kind = "refused"  # it had not been taken on when the server closed its socket
        if kind == "lost" or (kind == "refused" and sent < -GRACE_S):
            found.faults.append(
                f"a request sent {sent:.3f} s from the signal ended {ended.status}, {ended.body[-80:]!r}"
            )
        found.ends[kind] += 1
    return found


def kill(ledger: Path, n_clients: int, seed: int) -> Stopped:
    """SIGKILL in the middle of a crowd: whatever was answered is in the books, and nothing is held."""
    found, rng = Stopped(), np.random.default_rng(seed)
    with _process(str(ledger)) as (process, port):
        asked = asyncio.run(
            _crowd(port, n_clients, float(rng.uniform(0.5, 2.0)), signal.SIGKILL, process.pid)
        )
    tariff = tariff_of(LADDER, {name: WritingStage(name) for name in "SL"})
    with Cashier(ledger, tariff, keyless=True) as cashier:
        found.ends["recovered, estimated"] = sum(settled.estimated for settled in cashier.recovered)
        found.ends["recovered, counted"] = sum(not settled.estimated for settled in cashier.recovered)
    with Ledger(ledger, tariff) as books:
        books.audit()
    with closing(sqlite3.connect(ledger)) as database:
        booked = {
            name: (micros, bool(guess))
            for name, micros, guess in database.execute("SELECT id, micros, estimated FROM requests")
        }
    found.faults += [f"{name} is still held" for name, (micros, _) in booked.items() if micros is None]
    for _, ended in asked:
        found.ends[_kind(ended)] += 1
        if ended.answered and ended.complete and ended.body.startswith(b"{"):
            found.faults += _not_booked(ended, booked)
    return found


def _not_booked(ended: RequestEnd, booked: dict[str, tuple[int | None, bool]]) -> list[str]:
    """What is wrong with the books of a request that was answered."""
    delivered = ended.reply["asd"]
    micros, estimated = booked.get(delivered["id"], (None, False))
    cost = round(delivered["cost"] * 1e6)
    if micros is None or micros < cost - 2 or (not estimated and micros > cost + 2):
        return [f"{delivered['id']} cost {cost} and is booked at {micros}, estimated: {estimated}"]
    return []
