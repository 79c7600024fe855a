"""A prompt from the command line or from standard input, as the text a model is given."""

from __future__ import annotations

import os
import sys
from codecs import BOM_UTF8

from asd.errors import ConfigError

__all__ = ["read_prompt"]


def read_prompt(argument: str, name: str = "prompt") -> str:
    """The prompt that an argument gives; "-" reads it from standard input. Messages call it `name`.

    Both are UTF-8, whatever the locale. What editors and pipes leave around a text is taken off: a byte order
    mark in front, carriage returns at line ends, one line end at the end.

    Raises:
        ConfigError: It is empty, or bytes in it are no text.
    """
    given = sys.stdin.buffer.read() if argument == "-" else _as_bytes(argument)
    try:
        text = given.removeprefix(BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the {name} is not UTF-8: byte {error.object[error.start]:#04x} at position {error.start}; "
            "convert it, as in: iconv -f latin1 -t utf-8"
        ) from error
    if "\0" in text:
        raise ConfigError(f"the {name} holds a NUL at character {text.index(chr(0))}; give text, in UTF-8")
    text = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    if not text.strip():
        raise ConfigError(f"the {name} is empty; give one, or - to read it from standard input")
    return text


def _as_bytes(argument: str) -> bytes:
    """An argument as it was given, where Python could not decode it too."""
    try:
        return argument.encode()
    except UnicodeEncodeError:
        return os.fsencode(argument)
