"""A certified floor behind the real endpoint, with the embedded ladder: control stays in it, and says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import asd
from asd.cli import main
from asd.measurement.files import read_record, write_record
from asd.operations.control.floor import Floored
from asd.operations.control.floor_record import FloorRecord
from asd.resilience import Health
from asd.schema import msgspec
from asd.serving.endpoint.application import Application
from asd.serving.endpoint.server import Server
from tests.endpoint import chat, get, post

PROMPTS = [f"add {n}+{n + 7}" for n in range(11, 17)]


@pytest.fixture(scope="module")
def floor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certified by its own command on what the embedded stages answered just now; of a share that few rows
    can tell.
    """
    folder = tmp_path_factory.mktemp("floored")
    asd.collect("tiny", ["tiny-arithmetic"], limit=40, out=folder / "traces.jsonl")
    line = ["control", str(folder / "traces.jsonl"), "--tables", "floor", "--hours", "0.01", "--keep", "0.5"]
    found = CliRunner().invoke(main, [*line, "--out", str(folder / "floor.json")])
    assert found.exit_code == 0, found.output
    return folder / "floor.json"


def served(
    floor: Path, target: str, test: Callable[[Application, Floored], Awaitable[None]], *more: str
) -> None:
    """What `asd serve` would listen with, asked by hand."""

    async def run(server: Server) -> None:
        app, app.service = server.application, server.application._opened()
        controller = app.service._controller
        assert isinstance(controller, Floored)
        try:
            await test(app, controller)
        finally:
            await asyncio.wait_for(app.service.drained(), 60)
            app.service.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "run", lambda server, _: asyncio.run(run(server)))
        patch.setattr("asd.serving.endpoint.server.set_up_logs", lambda: None)
        line = [
            "serve",
            "--port",
            "0",
            "--controller",
            f"floored:5:{target}",
            "--certified-floor",
            str(floor),
        ]
        found = CliRunner().invoke(main, [*line, *more], catch_exceptions=False)
    assert found.exit_code == 0, found.output


async def ask(app: Application) -> None:
    """Some questions at once."""
    for reply in await asyncio.gather(*(post(app, chat(prompt)) for prompt in PROMPTS)):
        assert reply.status == 200, reply.body
        assert reply.json["asd"]["policy"].startswith("floored(lam=5,")


async def shown(app: Application) -> tuple[str, str]:
    """The line of the metric, and the page."""
    metrics, page = await get(app, "/metrics"), await get(app, "/")
    lines = metrics.body.decode().splitlines()
    return next(line for line in lines if line.startswith("asd_target_unheld")), page.body.decode()


@pytest.mark.slow
def test_what_cannot_be_held_is_said_before_any_percentile_is_known(
    floor: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A P95 that no call could keep: said at the first look after the first requests, too few for a P95; on
    the page, as a metric and once in the log.
    """

    async def test(app: Application, controller: Floored) -> None:
        assert (await shown(app))[0] == "asd_target_unheld 0.0"
        await ask(app)
        with caplog.at_level(logging.WARNING):
            await app.service.look(controller)
            assert "requests a second arrive, the certified settings bear 0" in controller.unheld
            metric, page = await shown(app)
            assert metric == "asd_target_unheld 1.0"
            assert page.count(controller.unheld) == 2  # the alarm, and the settings
            await ask(app)
            await app.service.look(controller)
        assert len([one for one in caplog.records if "not be held" in one.message]) == 1

    served(floor, "0.001", test)


@pytest.mark.slow
def test_control_stays_among_the_certified_tables(floor: Path) -> None:
    """Whatever P95 it is told between requests; at a target that is kept it says nothing."""
    digests = {table.digest for table in read_record(floor, FloorRecord).tables}

    async def test(app: Application, controller: Floored) -> None:
        for p95_s in (None, 900.0, 900.0, 0.0, 0.0):
            await ask(app)
            state = replace(app.service.monitor.meter.state(0), p95_s=p95_s)
            assert controller.policy(state).table.solved.digest in digests
            assert app.service.setting.policy is controller.policy(None)
            assert app.service.steering() == {"lam": 5.0, "mu": controller.mu}
        await app.service.look(controller)
        assert not controller.unheld
        metric, page = await shown(app)
        assert metric == "asd_target_unheld 0.0"
        assert "The target of P95 can be held with the quality floor." in page

    served(floor, "60", test)


@pytest.mark.slow
def test_a_stage_that_rests_leaves_no_floor(floor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(app: Application, controller: Floored) -> None:
        monkeypatch.setattr(Health, "resting", lambda _: frozenset("L"))
        await app.service.look(controller)
        _, page = await shown(app)
        assert "certified with every stage in reach: L cannot be asked now" in page
        monkeypatch.undo()
        await app.service.look(controller)
        assert not controller.unheld

    served(floor, "60", test)


@pytest.mark.slow
def test_stages_of_one_device_are_reckoned_as_one(floor: Path) -> None:
    """The embedded stages take turns, which bears less than a device each."""

    async def test(app: Application, controller: Floored) -> None:
        assert controller._devices == [["S", "M", "L"]]
        replicas = dict.fromkeys("SML", 1)
        apart = controller.bearing.rate(replicas, [("S",), ("M",), ("L",)], 60.0)
        assert controller.bearing.rate(replicas, controller._devices, 60.0) < apart

    served(floor, "60", test)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "--controller floored:5:0.3 --certified-floor {} --batch 8",
            "replicas 1 and batch 16, not with 1 and 8",
        ),
        ("--controller floored:4:0.3 --certified-floor {}", "for lam 5, not for 4: write floored:5:P95"),
        ("--controller floored:5:0.3", "name their file with --certified-floor"),
        ("--controller floored:5:0 --certified-floor {}", "a target is positive and finite"),
        ("--controller queue:5:1 --certified-floor {}", "give both or neither"),
        ("--certified-floor {}", "give both or neither"),
    ],
)
def test_a_floor_that_does_not_fit_is_refused(floor: Path, line: str, said: str) -> None:
    """Before the server listens."""
    found = CliRunner().invoke(main, ["serve", *line.format(floor).split()])
    assert found.exit_code == 2
    assert said in found.output


@pytest.mark.slow
def test_a_table_that_comes_out_otherwise_is_refused(floor: Path, tmp_path: Path) -> None:
    path = tmp_path / "floor.json"
    write_record(path, msgspec.structs.replace(read_record(floor, FloorRecord), load=0.1))
    line = ["serve", "--controller", "floored:5:0.3", "--certified-floor", str(path)]
    found = CliRunner().invoke(main, line)
    assert found.exit_code == 2
    assert "was certified: the file was changed" in found.output
