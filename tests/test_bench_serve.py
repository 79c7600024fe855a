"""What `python -m bench.serve` measures, on stages whose answers and times are known."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from itertools import repeat

import pytest
from click.testing import CliRunner

from asd.policies import FixedStage
from asd.types import Query
from bench.serve import (
    LARGEST,
    UNDRAFTED,
    ScoredQuestion,
    ServerProcess,
    Turn,
    compared,
    first_bytes,
    paced,
    serve,
    served,
    turn,
)
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
    found = asyncio.run(
        turn(ServerProcess(port_of(server), os.getpid()), "asd", repeat(RIGHT), 2, 0.5 * TOOK_S)
    )
    assert found.scores == [1.0, 1.0]
    assert TOOK_S <= min(found.seconds) <= max(found.seconds) <= found.total_s
    wrong = asyncio.run(
        turn(ServerProcess(port_of(server), os.getpid()), "asd", repeat(WRONG), 1, 0.5 * TOOK_S)
    )
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


def test_the_cascade_is_compared_at_as_many_clients_as_the_others_p95_allows() -> None:
    """And where it is slower with any number, that is said."""
    found = {
        ("asd", 8): Turn([1.0] * 20, [0.9] * 20, 2.0),
        ("asd", 32): Turn([2.0] * 60, [0.9] * 60, 3.0),
        ("asd", 64): Turn([4.0] * 90, [0.9] * 90, 3.0),
        ("L", 8): Turn([3.0] * 10, [1.0] * 10, 2.0),
        ("fast", 8): Turn([0.5] * 10, [1.0] * 10, 2.0),
    }
    beside_l, beside_fast = compared(found, "asd")
    assert "4.00 times as many requests/s (32 clients) at 90.0 % of its quality" in beside_l
    assert "longer with any number" in beside_fast
    wrong = {("asd", 8): Turn([1.0], [1.0], 1.0), ("L", 8): Turn([2.0], [0.0], 2.0)}
    [beside_wrong] = compared(wrong, "asd")
    assert "2.00 times as many requests/s (8 clients) at quality 1.000 beside none" in beside_wrong


@pytest.mark.parametrize("counts", ["", "8,", "0", "eight"])
def test_numbers_of_clients_are_positive_whole_numbers(counts: str) -> None:
    result = CliRunner().invoke(serve, ["--clients", counts])
    assert result.exit_code == 2
    assert "as in 8,32" in result.output


@pytest.mark.slow
def test_a_server_is_measured_once_it_takes_connections() -> None:
    """And its process is the one whose CPU time counts."""
    with served() as found:
        before = found.cpu_s
        asyncio.run(turn(found, "asd/always-S", repeat(RIGHT), 1, 0.2))
        assert found.cpu_s > before > 0


@pytest.mark.slow
def test_the_command_measures_every_row_of_its_tables() -> None:
    """Each server starts, the one whose stages have no drafter too."""
    asked = ["--requests", "2", "--seconds", "0.1", "--turns", "1", "--clients", "1"]
    result = CliRunner().invoke(serve, asked)
    assert result.exit_code == 0, result.output
    measured = re.findall(r"^(asd/.*?)  +1 +\d", result.output, re.MULTILINE)
    assert measured == ["asd/quality-0.95", LARGEST, UNDRAFTED]
