"""kill -9 of a server in the middle of a crowd, beside an engine in a process of its own that lives on."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import msgspec
import numpy as np

from asd.serving.admission import Call
from asd.serving.cashier import Cashier
from asd.serving.journal import Journal, read_journal
from asd.serving.keys import Keyring
from asd.serving.ledger import Ledger
from asd.serving.tariff import Tariff
from bench.ledger.crowds import KEYS, LADDER, cost_of, request, walk

__all__ = ["Killed", "kills"]


@dataclass(slots=True)
class Killed:
    """What one kill left.

    Attributes:
        n_acknowledged: Requests that the server had settled and said so.
        n_open: Requests that were open.
        faults: What should not have been.
    """

    n_acknowledged: int = 0
    n_open: int = 0
    faults: list[str] = field(default_factory=list)


class _CallOrder(msgspec.Struct):
    """What a server asks of the engine: a call that it makes for a request."""

    request: str
    call: Call


class _JournalledEngine:
    """An engine in a process of its own: makes calls, counts what they cost, notes them in a journal."""

    def __init__(self, journal: Path) -> None:
        self._journal = Journal(journal)
        self._spent: Counter[str] = Counter()
        self._n_open = 0

    async def serve(self, at: Path) -> None:
        """Until it is killed."""
        server = await asyncio.start_unix_server(self._answer, at)
        await server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._n_open += 1
        try:
            while line := await reader.readline():
                if line == b"?\n":
                    told = {"open": self._n_open - 1, "spent": self._spent}
                    writer.write(json.dumps(told).encode() + b"\n")
                elif line.endswith(b"\n"):
                    self._call(msgspec.json.decode(line, type=_CallOrder))
                    writer.write(b"done\n")
                await writer.drain()
        except ConnectionError:
            pass  # a server that was killed reads no answers
        finally:
            self._n_open -= 1
            writer.close()

    def _call(self, line: _CallOrder) -> None:
        self._spent[line.request] += cost_of(line.call)
        self._journal.note(line.request, line.call)


def run_engine(at: Path, journal: Path) -> None:
    """The engine's process."""
    asyncio.run(_JournalledEngine(journal).serve(at))


def run_server(path: Path, at: Path, acknowledged: Path, seed: int, n_clients: int) -> None:
    """The server's process: until it is killed, clients ask and what is settled is acknowledged."""

    async def client(cashier: Cashier, number: int, to: int) -> None:
        rng = np.random.default_rng([seed, number])
        reader, writer = await asyncio.open_unix_connection(at)
        for i in count():
            facts = request(rng, f"{seed}-{number}-{i}")
            ticket = await cashier.admit(facts)
            calls = list(walk(rng, replace(facts, shadow=ticket.shadow)))
            for call in calls:
                writer.write(msgspec.json.encode(_CallOrder(facts.id, call)) + b"\n")
                await reader.readline()
            settled = await ticket.settle(calls)
            os.write(to, f"{facts.id} {settled.micros}\n".encode())

    async def crowd() -> None:
        to = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with Cashier(path, Tariff(LADDER)) as cashier:
            await asyncio.gather(*(client(cashier, number, to) for number in range(n_clients)))

    asyncio.run(crowd())


def kills(n_kills: int, folder: Path, seed: int = 0, n_clients: int = 32) -> Iterator[Killed]:
    """Kill a server at so many moments, one after the other on the same books."""
    rng, processes = np.random.default_rng(seed), multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["__main__", __name__])
    path, at, journal = folder / "ledger.db", folder / "engine", folder / "journal"
    with Keyring(path) as keyring:
        for key in KEYS:
            keyring.add(key)
    engine = processes.Process(target=run_engine, args=(at, journal), daemon=True)
    engine.start()
    try:
        for number in range(n_kills):
            acknowledged = folder / f"acknowledged-{number}"
            acknowledged.touch()
            args = (path, at, acknowledged, number, n_clients)
            server = processes.Process(target=run_server, args=args, daemon=True)
            server.start()
            _wait_for(acknowledged, int(rng.integers(0, 60)))
            time.sleep(rng.uniform(0, 0.005))
            os.kill(server.pid or 0, signal.SIGKILL)
            server.join()
            yield _left(path, acknowledged, _counted(at), journal if number % 2 else None)
    finally:
        engine.kill()
        engine.join()


def _wait_for(acknowledged: Path, n_lines: int) -> None:
    give_up = time.monotonic() + 60
    while acknowledged.read_bytes().count(b"\n") < n_lines and time.monotonic() < give_up:
        time.sleep(0.001)


def _counted(at: Path) -> dict[str, int]:
    """What the engine has counted by request, once it has answered everything that the server had asked."""
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            while connection.connect_ex(str(at)):
                time.sleep(0.01)
            connection.sendall(b"?\n")
            told = json.loads(connection.makefile().readline())
        if not told["open"]:
            return dict(told["spent"])
        time.sleep(0.001)


def _left(path: Path, acknowledged: Path, counted: dict[str, int], journal: Path | None) -> Killed:
    """Start again, and compare the books with what was acknowledged and with what was counted."""
    known = None if journal is None else read_journal(journal)
    with Cashier(path, Tariff(LADDER), journal=known) as cashier:
        found = Killed(n_open=len(cashier.recovered))
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT id, micros, held, estimated FROM requests").fetchall()
    booked = {name: micros for name, micros, _, _ in rows}
    for line in acknowledged.read_text().splitlines():
        name, micros = line.split()
        found.n_acknowledged += 1
        if booked.get(name) != int(micros):
            found.faults.append(f"{name}: acknowledged {micros}, booked {booked.get(name)}")
    for name, micros, held, is_estimated in rows:
        spent = counted.get(name, 0)
        if micros is None:
            found.faults.append(f"{name} is still held")
        elif is_estimated and not spent <= micros == held:
            found.faults.append(f"{name}: estimated at {micros}, held {held}, counted {spent}")
        elif not is_estimated and micros != spent:
            found.faults.append(f"{name}: booked {micros}, counted {spent}")
    with Ledger(path, Tariff(LADDER)) as books:
        books.audit()
    return found
