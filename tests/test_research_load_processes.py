"""Servers of stages that are started, killed and started again, also in the middle of a comparison."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import pytest
from click.testing import CliRunner

from asd.cli import main
from asd.errors import ConfigError, EngineError
from asd.ladder import Ladder
from asd.policies import FixedStage
from asd.research.load import measured, processes, reality, replayed
from asd.research.load.measured import RealityHeader, ServedLadder
from asd.research.load.processes import Outage, PriceTables, StageServers, is_server
from asd.research.load.reality import run_reality
from asd.research.load.replayed import AsServed, compare
from tests.endpoint import OnePolicy, Slow, running
from tests.test_research_load_reality import prices
from tests.worlds import fitted_verified, ladder, sample, verified


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def behind_servers(port: int, *names: str) -> Ladder:
    """The made-up ladder, these stages of it at that port."""
    there = {"openai": {"base_url": f"http://127.0.0.1:{port}/v1"}}
    stages = tuple(
        replace(stage, engine="openai", options=there) if stage.name in names else stage
        for stage in ladder().stages
    )
    return replace(ladder(), price_unit="ms", stages=stages)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def a_server(port: int) -> str:
    """Something that listens; a 404 says as much as an answer."""
    return f"{sys.executable} -m http.server {port} --bind 127.0.0.1"


def test_a_killed_server_is_started_again_and_ends_with_the_context() -> None:
    port = free_port()
    with StageServers(behind_servers(port, "L"), {"L": a_server(port)}) as servers:
        assert listens(port)
        with ThreadPoolExecutor(1) as aside:
            gone = aside.submit(servers.interrupt, Outage(stage="L", start_s=0.2, seconds=1.0))
            time.sleep(0.7)
            assert not listens(port)
            measured = gone.result()
        assert httpx2.get(f"http://127.0.0.1:{port}/v1/models").status_code == 404
        assert measured.stage == "L"
        assert 0.2 <= measured.start_s < 0.7
        assert measured.seconds >= 1.0
    assert not listens(port)


def test_a_server_that_ends_at_once_is_named_with_its_command() -> None:
    port = free_port()
    with (
        pytest.raises(EngineError, match=r"the server of stage 'L' does not answer at .*; run .*-c pass"),
        StageServers(behind_servers(port, "L"), {"L": f"{sys.executable} -c pass"}),
    ):
        pytest.fail("nothing listens")
    with (
        pytest.raises(EngineError, match="the server of stage 'L' did not start"),
        StageServers(behind_servers(port, "L"), {"L": "/no/such/program"}),
    ):
        pytest.fail("nothing runs")


@pytest.mark.parametrize("stage", ["S", "XL"])
def test_only_stages_behind_servers_are_started(stage: str) -> None:
    found = behind_servers(1, "L")
    assert [is_server(found, name) for name in ("S", "L")] == [False, True]
    with pytest.raises(ConfigError, match=rf"stage '{stage}' is not behind a server; .* that are: L "):
        StageServers(found, {stage: "true"})


def test_outages_are_read_and_what_is_none_is_refused() -> None:
    assert Outage.parse("L:60:30") == Outage(stage="L", start_s=60.0, seconds=30.0)
    for text in ("L", "L:60", "L:-1:3", "L:1:0", "L:a:b", "L:inf:3"):
        with pytest.raises(ConfigError, match="is no outage; write STAGE:START:SECONDS"):
            Outage.parse(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--down", "L:60:30"], "what starts the server of that stage"),
        (["--serve-stage", "L"], "write STAGE=COMMAND"),
        (["--serve-stage", "L=x", "--down", "L:60"], "is no outage"),
    ],
)
def test_the_command_says_what_is_missing(options: list[str], message: str) -> None:
    found = CliRunner().invoke(main, ["reality", "traces.jsonl", *options])
    assert found.exit_code == 2
    assert message in found.output


@pytest.mark.parametrize(("away", "simulated"), [(3.0, 60.0), (60.5, 120.0)])
def test_a_simulated_outage_lasts_whole_rests(away: float, simulated: float) -> None:
    """A stage that failed is asked again once it has rested, not as soon as it listens."""
    assert Outage(stage="L", start_s=5.0, seconds=away).away_s == simulated


def test_stages_behind_servers_do_not_share_this_machine() -> None:
    place = ServedLadder("made-up", behind_servers(1, "L"), None, fitted_verified(), [])
    assert {name: server.place for name, server in place.servers(4).items()} == {"S": "device", "L": None}


@pytest.mark.slow
def test_a_run_in_which_a_stage_is_killed_is_measured_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outage is part of the file, and nothing is asked of the simulated stage in it."""
    rng, port = np.random.default_rng(6), free_port()
    traces = verified(sample(120, rng)[0], rng)
    place = ServedLadder(
        "made-up", behind_servers(port, "L"), None, fitted_verified(), traces, "other", {"L": a_server(port)}
    )
    priced: list[str] = []

    def priced_now(name: str, _: int) -> PriceTables:
        priced.append(name)
        return prices()

    @contextmanager
    def served(*_: object) -> Iterator[str]:
        engines = {name: Slow(name, "3") for name in "SL"}
        with running(engines, OnePolicy(FixedStage("S"), ("S", "L")), ladder=place.ladder) as server:
            yield server.url

    monkeypatch.setattr(measured, "measured_prices", priced_now)
    monkeypatch.setattr(reality, "served", served)
    monkeypatch.setattr(reality, "_PROBE", 3)
    monkeypatch.setattr(processes, "COOL_DOWN_S", 1.0)
    monkeypatch.setattr(replayed, "as_served", lambda *_: AsServed(1.0, 0.0))
    asked = RealityHeader(
        ladder="x", lam=20.0, batch=4, loads=(0.5,), minutes=0.05, n_queries=120,
        down=Outage(stage="L", start_s=0.5, seconds=0.5),
    )  # fmt: skip
    found = run_reality(place, asked, tmp_path / "reality.json", lambda _: None, 3)
    plain, interrupted = found.blocks
    assert (plain.seconds, interrupted.seconds) == (3.0, 3.0)
    assert priced == ["other", "other"]
    assert plain.down is None
    assert interrupted.down is not None
    assert (plain.rho, plain.rate) == (interrupted.rho, interrupted.rate)
    assert 0.5 <= interrupted.down.start_s < 1.0
    assert 0.5 <= interrupted.down.seconds < 20.0
    shares = [compare(place, found, [number], 1)[1].shares["L"] for number in (0, 1)]
    assert shares[1] < 0.9 * shares[0]
    assert run_reality(place, asked, tmp_path / "reality.json", lambda _: None, 3) == found
