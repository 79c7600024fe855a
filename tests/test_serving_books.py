"""Keys, caps and books behind the endpoint: who is refused, and that every call is booked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from asd.cancellation import tokens_of
from asd.engines import GREEDY, Sampling
from asd.errors import CallCancelledError
from asd.policies import FixedStage
from asd.serving.admission import RequestFacts
from asd.serving.cashier import Cashier
from asd.serving.endpoint.service import Capacity, tariff_of
from asd.serving.keys import KeyLimits, Keyring
from asd.serving.spending import read_spending
from asd.serving.tariff import prompt_bound
from asd.types import Draft, Query
from tests.endpoint import LADDER, OnePolicy, Server, Slow, Steps, running
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_no_cap_is_passed_however_many_ask_at_once(
    connect: Connect, path: Path, engines: dict[str, Slow]
) -> None:
    """Those that could pass it are refused, with when to come again; the others are answered."""
    cap = 40.0
    with Keyring(path) as keyring:
        secret = keyring.add("alice", KeyLimits(cap_day=int(cap * 1e6))).secret

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
        ask = connect(keyring.add("alice", KeyLimits(cap_total=5 * 10**6)).secret)
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


@pytest.mark.parametrize("leaves", ["client", "deadline"])
def test_what_was_computed_until_a_call_was_cancelled_is_booked(path: Path, leaves: str) -> None:
    """To the token, within a second of when the client left or its deadline came; the rest is free again."""
    stage = Steps("S")
    engines = {"S": stage, "M": Slow("M", "M"), "L": Slow("L", "L")}
    with Cashier(path, tariff_of(LADDER, engines)) as cashier, Keyring(path) as keyring:
        secret = keyring.add("alice").secret
        with (
            running(engines, OnePolicy(FixedStage("S")), admission=cashier) as server,
            OpenAI(base_url=server.url, api_key=secret, max_retries=0) as ask,
        ):
            patience: dict[str, Any] = (
                {"timeout": 0.2} if leaves == "client" else {"extra_body": {"deadline_s": 0.2}}
            )
            with pytest.raises((openai.APITimeoutError, openai.InternalServerError)):
                ask.chat.completions.create(model="asd", messages=MESSAGES, **patience)
            left = time.monotonic()
            spent = booked(path, "alice")
            assert time.monotonic() - left < 1
    assert 0 < stage.written < 100
    assert spent == pytest.approx(1 + 0.01 + 0.1 * stage.written, abs=1e-5)
    [row] = read_spending(path).rows
    assert row.estimated_micros == 0


def test_a_cancelled_call_that_nobody_has_counted_is_booked_at_its_bound(path: Path) -> None:
    """As estimated: at most this was spent. What other calls of the request took is known."""

    class Uncounted(Slow):
        def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:  # noqa: ARG002
            [token] = tokens_of(queries)
            while not token.cancelled:
                time.sleep(0.01)
            raise CallCancelledError("the connection was closed")

    engines = {"S": Slow("S", "S"), "M": Slow("M", "M"), "L": Uncounted("L", "")}
    tariff = tariff_of(LADDER, engines)
    with Cashier(path, tariff) as cashier, Keyring(path) as keyring:
        secret = keyring.add("alice").secret
        with (
            running(engines, OnePolicy(Climb("S", "L"), ("S", "L")), admission=cashier) as server,
            OpenAI(base_url=server.url, api_key=secret, max_retries=0) as ask,
        ):
            reply = ask.chat.completions.create(
                model="asd", messages=MESSAGES, max_tokens=7, extra_body={"deadline_s": 0.2}
            )
            assert reply.choices[0].finish_reason == "deadline"
            spent = booked(path, "alice")
    facts = RequestFacts("r", "alice", "asd", ("S", "L"), prompt_bound(Query("q", "d", "add 1+2")), 7)
    assert spent == pytest.approx(CALL["S"] + tariff.call_bound("L", facts) / 1e6, abs=1e-5)
    [row] = read_spending(path).rows
    assert row.estimated_micros == row.micros
