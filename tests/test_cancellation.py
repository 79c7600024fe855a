"""Calls that are cancelled: they end soon, say what was computed, and disturb nobody else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asd.cancellation import CancelToken, cancellable, token_of_call, tokens_of
from asd.cascade import Cascade
from asd.dispatch import Dispatcher
from asd.engines import Engine
from asd.engines.cache import CachingEngine, ResponseStore
from asd.engines.hf.engine import TransformersEngine
from asd.engines.hf.speculation import SpeculativeEngine
from asd.engines.http.engine import OpenAIEngine
from asd.engines.http.vllm import VllmServerEngine
from asd.errors import CallCancelledError, PartialBatchError
from asd.journey import Journey
from asd.ladder import Stage
from asd.policies import FixedStage
from asd.prices import Prices
from asd.resilience import Health
from asd.testing import ScriptedEngine
from asd.types import Action, Draft, Query
from tests.endpoint import Steps
from tests.fakeserver import FakeServer, Fault, serving
from tests.models import save_pair, stage

PRICE = Prices(1.0, 0.0, 1.0)


class After(CancelToken):
    """Cancelled when an engine has looked at it n times, as if a client left just then."""

    def __init__(self, n_looks: int) -> None:
        super().__init__()
        self._n_left = n_looks

    def __getattribute__(self, name: str) -> object:
        if name == "cancelled":
            self._n_left -= 1
            return self._n_left < 0
        return super().__getattribute__(name)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(params=["plain", "blocks"])
def engine(request: pytest.FixtureRequest, paths: tuple[Path, Path]) -> Engine:
    small, large = (
        TransformersEngine(stage(path, name), "cpu") for path, name in zip(paths, "SL", strict=True)
    )
    return large if request.param == "plain" else SpeculativeEngine(small, large, 2)


def rows(n: int) -> list[Query]:
    return [Query(str(i), "d", f"row {i}", max_new_tokens=24) for i in range(n)]


@pytest.mark.usefixtures("one_thread")
def test_a_cancelled_row_ends_where_it_is_and_the_others_go_on(engine: Engine) -> None:
    """Its draft is the beginning of its answer, unfinished, and counts what was computed; no more."""
    longest = max(rows(12), key=lambda query: len(engine.generate([query])[0].tokens))
    asked = [*rows(1), longest, *rows(2)[1:]]
    whole = engine.generate(asked)
    assert len(whole[1].tokens) > 8
    with cancellable(asked, [CancelToken(), After(2), CancelToken()]):
        cut = engine.generate(asked)
    assert [cut[i].tokens for i in (0, 2)] == [whole[i].tokens for i in (0, 2)]
    n = len(cut[1].tokens)
    assert 0 < n < len(whole[1].tokens)
    assert cut[1].tokens == whole[1].tokens[:n]
    assert not cut[1].finished
    assert cut[1].usage.n_decoded == n
    assert cut[1].usage.n_prompt == whole[1].usage.n_prompt


@pytest.mark.usefixtures("one_thread")
def test_a_call_that_is_cancelled_before_it_begins_computes_next_to_nothing(engine: Engine) -> None:
    asked = rows(1)
    token = CancelToken()
    token.cancel()
    with cancellable(asked, [token]):
        [draft] = engine.generate(asked)
    assert 1 <= draft.usage.n_passes <= 3
    assert not draft.finished


def test_part_of_an_answer_is_not_kept_for_others(tmp_path: Path) -> None:
    """Who asks the same later gets a whole one; what was written whole in the same batch is kept."""
    asked = rows(2)
    inner = ScriptedEngine("S", {query.prompt: ("whole", (-0.1,)) for query in asked})
    gone = CancelToken()
    gone.cancel()
    with ResponseStore(tmp_path / "answers") as store:
        engine = CachingEngine(inner, store, Stage("S", "made-up/S", PRICE), "r")
        with cancellable(asked, [CancelToken(), gone]):
            engine.generate(asked)
        engine.generate(asked)
    assert inner.calls == [("0", "1"), ("1",)]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving({"add": "three"}) as found:
        yield found


def noticing(there: threading.Event, gone: threading.Event) -> Fault:
    """Says nothing, and notices when the client closes the connection."""

    def fault(handler: Any) -> None:
        there.set()
        handler.connection.settimeout(10)
        if handler.connection.recv(1) == b"":
            gone.set()

    return fault


def cancelled_at(there: Callable[[], object], engine: Engine, query: Query) -> float:
    """Seconds between the cancelling of a call, once it is there, and its end."""
    token, at = CancelToken(), [0.0]

    def cancel() -> None:
        there()
        at[0] = time.perf_counter()
        token.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with cancellable([query], [token]), pytest.raises(CallCancelledError):
        engine.generate([query])
    thread.join()
    return time.perf_counter() - at[0]


@pytest.mark.parametrize("kind", [OpenAIEngine, VllmServerEngine])
def test_a_cancelled_request_is_closed_and_the_connection_pool_is_whole(
    server: FakeServer, kind: type[OpenAIEngine]
) -> None:
    """The server sees the connection close, by which it knows; the next request is answered."""
    there, gone = threading.Event(), threading.Event()
    server.faults.append(noticing(there, gone))
    options = {"openai": {"base_url": server.url, "model": "tiny", "concurrency": 1}}
    query = Query("q", "d", "add", max_new_tokens=8)
    with kind(Stage("L", "tiny", PRICE, options=options)) as engine:
        assert cancelled_at(there.wait, engine, query) < 1
        assert gone.wait(1)
        assert engine.generate([query])[0].text == "three"


def test_the_pause_before_another_attempt_can_be_cancelled(server: FakeServer) -> None:
    """Whatever the server asked for; no further attempt is made."""
    refused = threading.Event()

    def refuse(handler: Any) -> None:
        handler.reply(429, b"no", **{"Retry-After": "20"})
        refused.set()

    server.faults.append(refuse)
    options = {"openai": {"base_url": server.url, "model": "tiny"}}
    with OpenAIEngine(Stage("L", "tiny", PRICE, options=options)) as engine:
        assert cancelled_at(refused.wait, engine, Query("q", "d", "add", max_new_tokens=8)) < 1
    assert len(server.asked) == 1


def test_one_request_of_a_batch_is_cancelled_alone(server: FakeServer) -> None:
    """Equal queries of two clients are two."""
    server.delay = 0.2
    options = {"openai": {"base_url": server.url, "model": "tiny", "concurrency": 2}}
    asked = [Query("q", "d", "add", max_new_tokens=8) for _ in range(2)]
    tokens = [CancelToken(), CancelToken()]
    tokens[1].cancel()
    with (
        OpenAIEngine(Stage("L", "tiny", PRICE, options=options)) as engine,
        cancellable(asked, tokens),
        pytest.raises(PartialBatchError, match="1 of 2 queries") as caught,
    ):
        engine.generate(asked)
    assert caught.value.done[0].text == "three"
    assert isinstance(caught.value.failed[1], CallCancelledError)


def test_tokens_belong_to_one_call_in_one_thread() -> None:
    """Outside of it nothing is ever cancelled, and a call for several queries has no token of its own."""
    asked, tokens = rows(2), [CancelToken(), CancelToken()]
    with cancellable(asked, tokens):
        assert tokens_of(asked[::-1]) == tokens[::-1]
        assert token_of_call() not in tokens
        with cancellable(asked[:1], tokens[:1]):
            assert token_of_call() is tokens[0]
        other = threading.Thread(target=lambda: seen.extend(tokens_of(asked)))
        seen: list[CancelToken] = []
        other.start()
        other.join()
    assert not set(seen) & set(tokens)
    assert not set(tokens_of(asked)) & set(tokens)


def test_what_is_to_happen_on_cancelling_happens_once_late_or_not_and_not_after_the_block() -> None:
    token, seen = CancelToken(), []
    with token.calling(lambda: seen.append("outside")):
        pass
    with token.calling(lambda: seen.append("within")):
        token.cancel()
        token.cancel()
    with token.calling(lambda: seen.append("late")):
        assert token.cancelled
    assert seen == ["within", "late"]


def test_a_query_that_is_given_up_ends_its_running_call() -> None:
    """And its journey holds what was computed."""
    engine = Steps("S")
    cascade = Cascade({"S": engine}, FixedStage("S"), {"S": PRICE}, Health())

    async def main() -> tuple[Journey, float]:
        dispatcher, journey = Dispatcher({"S": engine}), Journey(Query("q", "d", "add"))
        walk = asyncio.create_task(dispatcher.walk(cascade, journey))
        await asyncio.sleep(0.1)
        walk.cancel()
        left = time.perf_counter()
        await dispatcher.settled(journey)
        dispatcher.close()
        return journey, time.perf_counter() - left

    journey, seconds = asyncio.run(main())
    assert seconds < 1
    assert journey.drafts["S"].usage.n_decoded == engine.written > 0


def test_a_cancelled_call_is_no_failure_of_its_stage() -> None:
    """It rests for nobody, however many clients leave."""
    health = Health(trip_after=1)

    def call(batch: list[int]) -> list[Draft]:
        raise CallCancelledError("gone")

    [batch] = health.call_in_batches(Action.draft("S"), call, rows(1), 1)
    assert batch[0].kind == "CallCancelledError"  # type: ignore[union-attr]
    assert not health.resting()
    assert not health.counts
