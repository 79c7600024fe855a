"""`asd serve` in front of two vLLM servers, one of which is killed and started again in the middle of a load.

Everything is a process of its own: the servers have the smallest and the largest stage of the embedded
ladder, the cascade's policy is fitted on what they answer, and clients ask by the `openai` package.
"""

from __future__ import annotations

import itertools
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock

import pytest
from openai import APIStatusError, OpenAI

from asd.engines.hf.engine import TransformersEngine
from asd.ladder import Ladder
from asd.serving.ledger import Ledger
from asd.serving.tariff import MICRO, Tariff
from asd.workloads.catalogue import find_workloads
from tests.vllm.server import VllmServer

STAGES = ("S", "L")
DATASETS = ["tiny-arithmetic", "tiny-text", "tiny-lookup", "tiny-reasoning"]
ROOM = 40
N_CLIENTS = 8
STEP = 30
"""Requests that end before the kill, while the server is away, and after it answers again."""
PATIENCE_S = 300.0

HEAD = """
name = "two"
price_unit = "declared"
prices_measured = "declared, after those of the embedded ladder"
"""
PRICES = {
    "S": "per_call = 1.0, per_prompt_token = 0.016, per_decoded_token = 0.9",
    "L": "per_call = 0.1, per_prompt_token = 0.26, per_decoded_token = 12.9, per_verified = 0.17",
}
STAGE = """
[[stages]]
name = "{name}"
model = "{model}"
chat_template = true
engine = "openai"
prices = {{ {prices} }}

[stages.options.openai]
base_url = "{url}"
model = "small"
dialect = "vllm"
attempts = 2
patience_s = 1.0
timeout_s = 60.0
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A ladder of two servers with a policy that was fitted on their answers."""

    folder: Path
    servers: dict[str, VllmServer]

    def path(self, name: str) -> str:
        """Of a file that was made for it."""
        return str(self.folder / name)

    def asd(self, *arguments: str) -> str:
        """Run a command to its end; its standard output."""
        command = [sys.executable, "-m", "asd", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("served")
    models = {stage.name: stage.model for stage in Ladder.load("tiny").stages}
    servers = {name: VllmServer(models[name], folder / f"{name}.log") for name in STAGES}
    with ExitStack() as stack:
        for server in servers.values():
            server.begin()
            stack.callback(server.kill)
        for server in servers.values():
            server.wait()
        stages = (
            STAGE.format(name=name, model=models[name], url=servers[name].url, prices=PRICES[name])
            for name in STAGES
        )
        (folder / "two.toml").write_text(HEAD + "".join(stages))
        found = Place(folder, servers)
        ladder, traces = ("--ladder", found.path("two.toml")), found.path("traces.jsonl")
        found.asd("collect", *ladder, "--datasets", ",".join(DATASETS), "--limit", "40", "--out", traces)
        found.asd("fit", traces, *ladder, "--out", found.path("policy.json"))
        yield found


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, str]]:
    """What every stage says to every prompt of the load, by prompt, from the transformers engine."""
    queries = [query for workload in find_workloads(DATASETS) for query in workload.queries("test", 8)]
    stages = {stage.name: stage for stage in Ladder.load("tiny").stages}
    drafts = [TransformersEngine(stages[name], "cpu").generate(queries) for name in STAGES]
    return {
        query.prompt: {draft.stage: draft.text for draft in of_query}
        for query, *of_query in zip(queries, *drafts, strict=True)
    }


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request ended: its answer and what was delivered, or the error."""

    prompt: str
    text: str
    delivered: dict[str, object]


@dataclass(slots=True)
class Load:
    """Clients in a closed loop, until they are told to end."""

    url: str
    prompts: list[str]
    over: Event = field(default_factory=Event)
    ended: list[Ended] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def run(self, number: int) -> None:
        """One client; every other request is a stream."""
        with OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
            for i, prompt in enumerate(itertools.islice(itertools.cycle(self.prompts), number, None)):
                if self.over.is_set():
                    return
                try:
                    ended = _ask(client, prompt, stream=i % 2 == 0)
                except APIStatusError as error:
                    with self.lock:
                        self.refused.append(f"{error.status_code} {error.code}")
                else:
                    with self.lock:
                        self.ended.append(ended)

    def until(self, n: int, stage: str | None = None) -> None:
        """Until so many further requests have ended, answered by a stage where one is named."""
        start, began = len(self.ended), time.monotonic()
        while sum(stage in {None, one.delivered["stage"]} for one in self.ended[start:]) < n:
            assert self.refused == []
            assert time.monotonic() - began < PATIENCE_S, f"stage {stage} answers no more"
            time.sleep(0.1)


def _ask(client: OpenAI, prompt: str, *, stream: bool) -> Ended:
    asked = {"model": "asd", "messages": [{"role": "user", "content": prompt}], "max_tokens": ROOM}
    if not stream:
        reply = client.chat.completions.create(**asked)
        return Ended(prompt, reply.choices[0].message.content, reply.model_extra["asd"])
    chunks = list(client.chat.completions.create(**asked, stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    return Ended(prompt, text, chunks[-1].model_extra["asd"])


def _url_of(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where the cascade is, once it says so."""
    while (found := re.search(r"two at (\S+)", log.read_text())) is None:
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.1)
    return found[1]


@pytest.mark.parametrize("victim", STAGES)
def test_a_server_that_is_killed_under_load_and_comes_back_loses_nothing(
    place: Place, answers: dict[str, dict[str, str]], victim: str
) -> None:
    """Every request is answered, by the other stage where it must be; books are exact, nothing is held."""
    [alive] = set(STAGES) - {victim}
    killed, other = place.servers[victim], place.servers[alive]
    ledger, log = place.folder / f"{victim}.db", place.folder / f"{victim}.serve.log"
    options = ("--lam", "5", "--port", "0", "--ledger", str(ledger))
    fitted = ("--ladder", place.path("two.toml"), "--policy", place.path("policy.json"))
    command = [sys.executable, "-m", "asd", "serve", *fitted, *options]
    written = other.n_written()
    with log.open("wb") as told, subprocess.Popen(command, stderr=told) as process:
        try:
            load = Load(_url_of(process, log), list(answers))
            with ThreadPoolExecutor(N_CLIENTS) as clients:
                running = [clients.submit(load.run, number) for number in range(N_CLIENTS)]
                try:
                    load.until(STEP)
                    killed.kill()
                    load.until(STEP)
                    killed.start()
                    load.until(1, victim)
                    load.until(STEP)
                finally:
                    load.over.set()
            for client in running:
                client.result()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert load.refused == []
    for ended in load.ended:
        assert ended.text == answers[ended.prompt][str(ended.delivered["stage"])]
    _check_books(ledger, load, other.n_written() - written, alive)
    days = json.loads(place.asd("serve", "ledger", "--ledger", str(ledger), "--json"))["rows"]
    totals = [sum(day[name] for day in days) for name in ("n_requests", "n_open", "held_micros")]
    assert totals == [len(load.ended), 0, 0]


def _check_books(ledger: Path, load: Load, written: int, other: str) -> None:
    """Every answer is booked at its cost, and of the other stage what its server has counted."""
    with Ledger(ledger, Tariff(Ladder.load(ledger.parent / "two.toml"))) as books:
        books.audit()
    with closing(sqlite3.connect(ledger)) as database:
        booked = dict(database.execute("SELECT id, micros FROM requests WHERE NOT estimated"))
        passes = database.execute("SELECT sum(n_passes) FROM calls WHERE stage = ?", (other,))
        assert passes.fetchone() == (written,)  # a verification has the server write a token too
    for ended in load.ended:
        delivered = ended.delivered
        cost, micros = float(delivered["cost"]) * MICRO, booked[delivered["id"]]
        assert cost - 1 <= micros <= cost + float(delivered["calls"])
