"""What `python -m bench.serve` measures, on stages whose answers and times are known."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import repeat

import pytest

from asd.policies import FixedStage
from asd.types import Query
from bench.serve import ScoredQuestion, first_bytes, paced, turn
from tests.endpoint import OnePolicy, Server, Slow, running

TOOK_S = 0.2
RIGHT = ScoredQuestion(Query("q", "d", "add 1+2"), lambda text: float(text == "three"))
WRONG = ScoredQuestion(Query("q", "d", "add 1+2"), lambda text: float(text == "four"))


@pytest.fixture
def server() -> Iterator[Server]:
    engines = {name: Slow(name, "three", TOOK_S) for name in ("S", "M", "L")}
    with running(engines, OnePolicy(FixedStage("S"))) as found:
        yield found


def port_of(server: Server) -> int:
    return int(server.url.split(":")[2].removesuffix("/v1"))


def test_a_turn_counts_answers_their_times_and_their_scores(server: Server) -> None:
    """Two clients, one answer after the other each, until the time is over."""
    found = asyncio.run(turn(port_of(server), "asd", repeat(RIGHT), 2, 0.5 * TOOK_S))
    assert found.scores == [1.0, 1.0]
    assert TOOK_S <= min(found.seconds) <= max(found.seconds) <= found.total_s
    wrong = asyncio.run(turn(port_of(server), "asd", repeat(WRONG), 1, 0.5 * TOOK_S))
    assert wrong.scores == [0.0]


def test_the_first_byte_of_a_stream_comes_before_the_answer(server: Server) -> None:
    assert min(asyncio.run(first_bytes(port_of(server), [RIGHT, RIGHT]))) < TOOK_S / 2


@pytest.mark.slow
@pytest.mark.parametrize(("n_clients", "n"), [(1, 5), (3, 6)])
def test_only_the_wait_for_an_answer_is_timed(
    n_clients: int, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the time that clients think in between."""
    monkeypatch.setattr("bench.serve.THINK_S", 0.4)

    async def ask(question: ScoredQuestion) -> None:
        await asyncio.sleep(0.01)

    took = asyncio.run(paced([ask] * n_clients, [RIGHT], n))
    assert len(took) == n
    assert min(took) >= 0.01
