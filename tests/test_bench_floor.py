"""Streams at a promised quality, in a made-up world: how many fall below it, and that this would be seen."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from asd.guarantee.certificate import LAMS, Promise
from asd.guarantee.record import EVERYTHING
from bench.promises import floor
from bench.promises.floor import FloorPopulation, Streamed, stream
from tests import worlds

PROMISE = Promise(delta=0.1, keep=0.9)
N_STREAMS = 40


@pytest.fixture(scope="module")
def population() -> FloorPopulation:
    fitting = worlds.sample(100, np.random.default_rng(1))[0]
    new = worlds.sample(400, np.random.default_rng(2))[0]
    rows = [replace(trace, query=replace(trace.query, id=f"new-{trace.query.id}")) for trace in new]
    return FloorPopulation(worlds.fitted(), worlds.ladder(), fitting, rows)


def streamed(population: FloorPopulation) -> list[Streamed]:
    rng = np.random.default_rng(3)
    return [stream(population, PROMISE, 400, 400, rng) for _ in range(N_STREAMS)]


@pytest.mark.slow
def test_few_streams_miss_their_floor_and_they_save_something(population: FloorPopulation) -> None:
    found = streamed(population)
    assert np.mean([one.missed for one in found]) <= PROMISE.delta
    assert np.mean([one.broken for one in found]) <= PROMISE.delta
    assert np.mean([one.saving for one in found]) > 0.05


@pytest.mark.slow
def test_few_requests_may_fall_below_a_floor_that_is_kept(population: FloorPopulation) -> None:
    """What is missed is judged on the stream's own requests, what is broken on all of them."""
    rng = np.random.default_rng(4)
    found = [stream(population, PROMISE, 400, 5, rng) for _ in range(N_STREAMS)]
    assert any(one.missed and not one.broken for one in found)


def test_where_rows_allow_nothing_the_reference_answers(population: FloorPopulation) -> None:
    """Two rows certify no quality: nothing is saved, and nothing missed."""
    assert stream(population, PROMISE, 2, 50, np.random.default_rng(5)) == Streamed(False, False, 0.0)


@pytest.mark.slow
def test_a_promise_that_calibration_rows_do_not_allow_is_seen(
    population: FloorPopulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate for the cheapest setting, whatever its quality: nearly every stream misses the floor."""
    honest = floor.promised

    def careless(sweeps: object, promise: Promise) -> object:
        given = honest(sweeps, promise)  # type: ignore[arg-type]
        grant = msgspec.structs.replace(given.grants[EVERYTHING], lam=LAMS[0])
        return msgspec.structs.replace(given, grants={EVERYTHING: grant})

    monkeypatch.setattr(floor, "promised", careless)
    found = streamed(population)
    assert np.mean([one.missed for one in found]) > 0.9
    assert all(one.broken for one in found)


@pytest.mark.parametrize(("missing", "code"), [(1, 0), (2, 1)])
def test_the_command_fails_where_more_streams_miss_than_delta_allows(
    monkeypatch: pytest.MonkeyPatch, missing: int, code: int
) -> None:
    """One of ten streams may."""
    left = iter([True] * missing + [False] * 10)
    monkeypatch.setattr(floor, "_collected", lambda *_: worlds.sample(100, np.random.default_rng(1))[0])
    monkeypatch.setattr(floor, "FloorPopulation", lambda *_: worlds)
    monkeypatch.setattr(worlds, "everyone", type("Sweep", (), {"stage_quality": np.ones(3)}), raising=False)
    monkeypatch.setattr(floor, "stream", lambda *_: Streamed(next(left), False, 0.5))
    done = CliRunner().invoke(floor.floor, ["--quality", "0.9", "--streams", "10"])
    assert done.exit_code == code, done.output
    assert "replayed" in done.output
    assert f"{missing * 10:.1f}%" in done.output
