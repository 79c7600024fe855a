"""Keys, caps and books behind the endpoint: who is refused, and that every call is booked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from asd.serving.cashier import Cashier
from asd.serving.endpoint.service import Capacity, tariff_of
from asd.serving.keys import Keyring, Limits
from asd.serving.spending import read_spending
from tests.endpoint import LADDER, OnePolicy, Server, Slow, running
from tests.test_serving_endpoint import Climb

Connect = Callable[[str], OpenAI]
MESSAGES: Any = [{"role": "user", "content": "add 1+2"}]
CALL = {"S": 1 + 0.03 + 0.2, "L": 1 + 0.03 + 0.8}
"""What a call of a `Slow` stage costs: 3 prompt tokens, 2 written ones."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def engines() -> dict[str, Slow]:
    return {name: Slow(name, name, 0.05) for name in ("S", "M", "L")}


@pytest.fixture
def server(path: Path, engines: dict[str, Slow]) -> Iterator[Server]:
    with Cashier(path, tariff_of(LADDER, engines)) as cashier:
        settings = OnePolicy(Climb("S", "L"), ("S", "L"))
        with running(engines, settings, admission=cashier, capacity=Capacity(open=64)) as found:
            yield found


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[[str], OpenAI]]:
    """A client with this key."""
    with ExitStack() as stack:
        yield lambda secret: stack.enter_context(OpenAI(base_url=server.url, api_key=secret, max_retries=0))


def counted(engines: dict[str, Slow]) -> float:
    """What the stages themselves have counted, priced by hand."""
    return sum(CALL[name] * sum(map(len, engines[name].calls)) for name in CALL)


def booked(path: Path, key: str) -> float:
    """Once nothing is open any more."""
    for _ in range(200):
        rows = [row for row in read_spending(path).rows if row.key == key]
        if rows and not any(row.n_open or row.held_micros for row in rows):
            return sum(row.micros for row in rows) / 1e6
        time.sleep(0.02)
    raise AssertionError("a request is still open in the books")


def test_without_a_known_key_nobody_is_served(connect: Connect, path: Path) -> None:
    """Nor with one that was revoked meanwhile."""
    with Keyring(path) as keyring:
        secret = keyring.add("alice").secret
        connect(secret).chat.completions.create(model="asd", messages=MESSAGES)
        keyring.revoke("alice")
    for wrong in (secret, "sk-1", "asd-" + "0" * 12 + "-" + "x" * 43):
        with pytest.raises(openai.AuthenticationError) as caught:
            connect(wrong).chat.completions.create(model="asd", messages=MESSAGES)
        assert wrong not in caught.value.message
    with pytest.raises(openai.AuthenticationError):
        connect("sk-1").models.list()


def test_the_books_are_what_the_stages_have_counted(
    connect: Connect, path: Path, engines: dict[str, Slow]
) -> None:
    """Streamed or not, and where the client leaves in the middle of a call."""
    with Keyring(path) as keyring:
        ask = connect(keyring.add("alice").secret)
    ask.chat.completions.create(model="asd", messages=MESSAGES)
    for _ in ask.chat.completions.create(model="asd", messages=MESSAGES, stream=True):
        pass
    with ask.chat.completions.create(model="asd", messages=MESSAGES, stream=True) as stream:
        next(iter(stream))
    with pytest.raises(openai.APITimeoutError):
        ask.chat.completions.create(model="asd", messages=MESSAGES, timeout=0.02)
    time.sleep(0.3)
    assert booked(path, "alice") == pytest.approx(counted(engines), abs=1e-5)
    assert len(engines["S"].calls) >= 3


def test_no_cap_is_passed_however_many_ask_at_once(
    connect: Connect, path: Path, engines: dict[str, Slow]
) -> None:
    """Those that could pass it are refused, with when to come again; the others are answered."""
    cap = 40.0
    with Keyring(path) as keyring:
        secret = keyring.add("alice", Limits(cap_day=int(cap * 1e6))).secret

    def one(_: int) -> openai.RateLimitError | None:
        try:
            connect(secret).chat.completions.create(model="asd", messages=MESSAGES, max_tokens=2)
        except openai.RateLimitError as error:
            return error
        return None

    with ThreadPoolExecutor(16) as threads:
        refused = [error for error in threads.map(one, range(32)) if error]
    assert 0 < len(refused) < 32
    assert {error.code for error in refused} == {"insufficient_quota"}
    assert all(int(error.response.headers["retry-after"]) >= 1 for error in refused)
    assert booked(path, "alice") == pytest.approx(counted(engines), abs=1e-5)
    assert booked(path, "alice") <= cap


def test_a_budget_lowers_what_is_held(connect: Connect, path: Path) -> None:
    """So that a small request fits under a small cap."""
    with Keyring(path) as keyring:
        ask = connect(keyring.add("alice", Limits(cap_total=5 * 10**6)).secret)
    with pytest.raises(openai.RateLimitError):
        ask.chat.completions.create(model="asd", messages=MESSAGES, max_tokens=2)
    reply = ask.chat.completions.create(
        model="asd", messages=MESSAGES, max_tokens=2, extra_body={"budget": 4.5}
    )
    assert reply.choices[0].message.content == "S"


def test_metrics_tell_what_the_books_say(
    connect: Connect, server: Server, path: Path, engines: dict[str, Slow]
) -> None:
    """Prometheus' text format; refused requests count too."""
    with Keyring(path) as keyring:
        ask = connect(keyring.add("alice").secret)
    ask.chat.completions.create(model="asd", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError):
        ask.chat.completions.create(model="asd", messages=MESSAGES, n=2)
    spent = booked(path, "alice")
    root = server.url.removesuffix("/v1")
    lines = ask.with_options(base_url=root).get("/metrics", cast_to=str).splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values['asd_requests_total{key="alice",outcome="answered"}'] == "1.0"
    assert values['asd_requests_total{key="alice",outcome="refused"}'] == "1.0"
    assert values['asd_answers_total{stage="L"}'] == "1.0"
    assert float(values['asd_spend_total{key="alice"}']) == pytest.approx(spent)
    assert values['asd_request_seconds_count{stage="L"}'] == "1.0"
