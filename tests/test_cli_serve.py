"""`asd serve` on the command line: what it refuses before it listens."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from asd.cli import main


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--host 0.0.0.0", "--ledger"),
        ("--cap-day 5", "--ledger"),
        ("--lam 1 --quality 0.9", "both"),
        ("--quality 0.95 --certified", "guarantees no quality"),
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


@pytest.mark.parametrize("option", ['only = { domain = ["code"] }', 'adapter = "./lora"'])
def test_options_of_a_stage_that_there_are_not_are_refused_by_name(tmp_path: Path, option: str) -> None:
    """Before anything is loaded, and exit code 2."""
    ladder = tmp_path / "mine.toml"
    prices = "prices = { per_call = 1.0, per_prompt_token = 0.0, per_decoded_token = 1.0 }"
    head = 'name = "mine"\nprice_unit = "declared"\nprices_measured = "declared"\n'
    ladder.write_text(f'{head}[[stages]]\nname = "S"\nmodel = "./S"\n{prices}\n{option}\n')
    found = CliRunner().invoke(main, ["serve", "--ladder", str(ladder)])
    assert found.exit_code == 2
    assert f"unknown field `{option.split(maxsplit=1)[0]}`" in found.output


def test_a_port_that_is_taken_is_named() -> None:
    """Before a model is loaded, and exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = CliRunner().invoke(main, ["serve", "--port", port])
    assert found.exit_code == 2
    assert f"127.0.0.1:{port}" in found.output
    assert logging.getLogger().level != logging.INFO  # what is never served sets up no logs of a server
    assert "--port" in found.output
