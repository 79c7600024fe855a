"""Prompts as terminals, pipes and editors hand them over, in real processes where bytes count."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import asd
from asd.cli import main
from asd.cli.prompt import read_prompt
from asd.errors import ConfigError

ROOT = Path(asd.__file__).parent.parent
SHOW = """
import sys
from asd.cli.prompt import read_prompt
from asd.errors import ConfigError
for argument in sys.argv[1:]:
    try:
        print(ascii(read_prompt(argument)))
    except ConfigError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("add 12+30", "add 12+30"),
        ("\ufeffadd 12+30", "add 12+30"),
        ("add 12+30\r", "add 12+30"),
        ("add 12+30\r\n", "add 12+30"),
        ("add 12+30\n", "add 12+30"),
        ("one\r\ntwo\rthree\n\n", "one\ntwo\nthree\n"),
        ("\tcafé \U0001f600\ufeff", "\tcafé \U0001f600\ufeff"),
        ("-1+2=", "-1+2="),
    ],
)
def test_what_surrounds_a_text_is_taken_off(given: str, text: str) -> None:
    """A byte order mark in front, carriage returns, one line end: the same for an argument and for a pipe."""
    assert read_prompt(given) == text
    with CliRunner().isolation(input=given.encode()):
        assert read_prompt("-") == text


@pytest.mark.parametrize("given", ["", " ", "\n", "\r\n", "\ufeff", "\ufeff\r\n\t"])
def test_nothing_is_no_prompt(given: str) -> None:
    """Marks and line ends alone are an empty prompt."""
    with pytest.raises(ConfigError, match="the prompt is empty"):
        read_prompt(given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (b"add 12+30 \xe9", "byte 0xe9 at position 10"),
        (b"\xff\xfea\x00d\x00", "byte 0xff at position 0"),
        (b"caf\xc3", "byte 0xc3 at position 3"),
        (b"\xed\xa0\xbd", "byte 0xed at position 0"),
    ],
)
def test_bytes_that_are_no_text_are_named(given: bytes, says: str) -> None:
    """Latin-1, UTF-16, a cut character, half of one: an error with byte, place and remedy."""
    with pytest.raises(ConfigError, match=f"the prompt is not UTF-8: {says}; convert it"):
        read_prompt(os.fsdecode(given))
    with (
        CliRunner().isolation(input=given),
        pytest.raises(ConfigError, match=f"the prompt is not UTF-8: {says}; convert it"),
    ):
        read_prompt("-")


def test_text_is_utf8_in_any_locale() -> None:
    """In a real process that knows ASCII only, an accent and an emoji arrive as they are, a wrong byte does
    not."""
    text, wrong = "é\U0001f600".encode(), b"add \xe9"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable.encode(), b"-c", SHOW.encode(), text, wrong, b"-"]
    done = subprocess.run(
        command, input=text + b"\r\n", capture_output=True, check=True, cwd=ROOT, env=os.environ | plain
    )
    argument, refused, piped = done.stdout.decode().splitlines()
    assert argument == piped == ascii(text.decode())
    assert "byte 0xe9 at position 4" in refused


def test_a_nul_is_refused() -> None:
    """No terminal can type it, and a tokenizer would make something of it."""
    with pytest.raises(ConfigError, match="NUL at character 7"):
        read_prompt("add 12+\x0030")


@pytest.mark.parametrize(
    "command", [("generate",), ("evidence", "classify"), ("evidence", "features")], ids=" ".join
)
def test_commands_end_with_one_line(command: tuple[str, ...]) -> None:
    """Every command that takes a prompt refuses what is no text, exit code 2 and no traceback."""
    done = CliRunner().invoke(main, [*command, "add 12+30 \udce9"])
    assert done.exit_code == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: the prompt is not UTF-8: byte 0xe9 at position 10; convert it, as in: ")
