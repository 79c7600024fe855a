"""`asd serve` on the command line: what it refuses before it listens."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from asd.cli import main
from asd.serving.endpoint.server import Server
from tests.test_engines_deployment import ladder_file


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--host 0.0.0.0", "--ledger"),
        ("--cap-day 5", "--ledger"),
        ("--lam 1 --quality 0.9", "both"),
        ("--quality 0.95 --certified", "guarantees no quality, not 0.95"),
        ("--certified maybe", "'refuse', 'reference'"),
        ("--port 9 keys list", "--port"),
        ("--ladder llama2", "asd fit"),
        ("--max-open 0", "--max-open"),
    ],
)
def test_what_cannot_be_served_is_refused(line: str, said: str) -> None:
    """With what to do about it, and exit code 2."""
    found = CliRunner().invoke(main, ["serve", *line.split()])
    assert found.exit_code == 2
    assert said in found.output


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            'only = { domain = ["code"] }',
            "domains ['code']; there are mathematical, technical, factual",
        ),
        ("only = { domain = [] }", "only names no domain; name some of mathematical"),
        (
            'only = { domain = ["technical"] }',
            "'S', answers what no other may; drop its only",
        ),
        ('adaptor = "./lora"', "unknown field `adaptor`"),
    ],
)
def test_options_of_a_stage_that_there_are_not_are_refused_by_name(
    tmp_path: Path, option: str, said: str
) -> None:
    """Before anything is loaded, and exit code 2."""
    ladder = tmp_path / "mine.toml"
    prices = "prices = { per_call = 1.0, per_prompt_token = 0.0, per_decoded_token = 1.0 }"
    head = 'name = "mine"\nprice_unit = "declared"\nprices_measured = "declared"\n'
    ladder.write_text(f'{head}[[stages]]\nname = "S"\nmodel = "./S"\n{prices}\n{option}\n')
    found = CliRunner().invoke(main, ["serve", "--ladder", str(ladder)])
    assert found.exit_code == 2
    assert said in found.output


@pytest.mark.slow
def test_a_controller_that_is_named_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """About requests that name nothing, as soon as the server listens."""
    seen: list[str] = []

    async def opened(server: Server) -> None:
        service = server.application._opened()
        seen.append(service.setting.policy.name)
        service.close()

    monkeypatch.setattr(Server, "run", lambda server, _: asyncio.run(opened(server)))
    monkeypatch.setattr("asd.serving.endpoint.server.set_up_logs", lambda: None)
    found = CliRunner().invoke(main, ["serve", "--port", "0", "--controller", "queue:5:2"])
    assert found.exit_code == 0, found.output
    assert seen == ["queue-aware(lam=5,mu=2,ahead=1)"]


@pytest.mark.slow
def test_the_address_that_is_printed_takes_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the server's own start-up, so that whoever waits for the line is not refused."""
    connected: list[tuple[str, int]] = []

    def run(_: Server, sockets: list[socket.socket]) -> None:
        with socket.create_connection(sockets[0].getsockname(), timeout=5) as client:
            connected.append(client.getpeername())

    monkeypatch.setattr(Server, "run", run)
    monkeypatch.setattr("asd.serving.endpoint.server.set_up_logs", lambda: None)
    found = CliRunner().invoke(main, ["serve", "--port", "0"])
    assert found.exit_code == 0, found.output
    [(_, port)] = connected
    assert f"tiny at http://127.0.0.1:{port}/v1" in found.output


@pytest.mark.slow
def test_what_was_loaded_is_not_looked_through_while_requests_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full collection finds only what requests have left: the stages and their libraries are kept out."""
    followed: list[int] = []
    monkeypatch.setattr(Server, "run", lambda *_: followed.append(len(gc.get_objects())))
    monkeypatch.setattr("asd.serving.endpoint.server.set_up_logs", lambda: None)
    try:
        found = CliRunner().invoke(main, ["serve", "--port", "0"])
    finally:
        gc.unfreeze()
    assert found.exit_code == 0, found.output
    assert followed[0] < 0.1 * len(gc.get_objects())


def test_a_controller_is_refused_where_no_price_says_how_long_a_load_takes(tmp_path: Path) -> None:
    """Of stages that take turns in memory; with room for all of them none is asked for."""
    ladder = str(ladder_file(tmp_path, "memory_gib = 0.025"))
    found = CliRunner().invoke(
        main, ["serve", "--ladder", ladder, "--port", "0", "--controller", "queue:5:2"]
    )
    assert found.exit_code == 2
    assert "no price says how long a load of stage 'S' takes" in found.output


def test_a_host_that_is_not_here_is_named(tmp_path: Path) -> None:
    """Another port would not help."""
    ledger = str(tmp_path / "ledger.db")
    found = CliRunner().invoke(main, ["serve", "--host", "203.0.113.1", "--ledger", ledger])
    assert found.exit_code == 2
    assert "cannot listen on 203.0.113.1:8000" in found.output
    assert "choose another --host" in found.output


def test_a_port_that_is_taken_is_named() -> None:
    """Before a model is loaded, and exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = CliRunner().invoke(main, ["serve", "--port", port])
    assert found.exit_code == 2
    assert f"127.0.0.1:{port}" in found.output
    assert logging.getLogger().level != logging.INFO  # what is never served sets up no logs of a server
    assert "--port" in found.output
