"""What an engine in a process of its own has done for each request: lines that outlive a kill of either side.

The engine notes a call when it has ended; a line is written at once and whole. A server that was killed asks
the journal what the requests have used that it had not settled (`asd.serving.ledger.Ledger.recover`). Ask it
when the engine has ended the calls that ran, else they are missing.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import msgspec

from asd.errors import DataError, StorageError
from asd.serving.admission import Call
from asd.types import Usage

__all__ = ["Journal", "read_journal"]


class _JournalLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    request: str
    stage: str
    usage: Usage
    shadow: bool = False


class Journal:
    """A journal that one engine writes.

    Args:
        path: Continued if it exists; a last line that was cut off is removed.

    Raises:
        StorageError: It cannot be written; so does `note`.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.ftruncate(self._file, Path(path).read_bytes().rfind(b"\n") + 1)
        except OSError as error:
            raise StorageError(f"the journal {path} cannot be opened: {error.strerror}") from error

    def note(self, request: str, call: Call) -> None:
        """Note a call that has ended, for the request with this id."""
        line = msgspec.json.encode(_JournalLine(request, call.stage, call.usage, call.shadow)) + b"\n"
        try:
            n_written = os.write(self._file, line)
        except OSError as error:
            raise StorageError(f"the journal {self._path} cannot be written: {error.strerror}") from error
        if n_written < len(line):
            raise StorageError(f"the journal {self._path} cannot be written: the disk is full")

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def read_journal(path: str | Path) -> dict[str, list[Call]]:
    """The calls of every request, by its id; a last line that was cut off is left out.

    Raises:
        DataError: The file is missing, or holds something else.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise DataError(f"the journal {path} cannot be read: {error.strerror}") from error
    calls: defaultdict[str, list[Call]] = defaultdict(list)
    for number, line in enumerate(lines, 1):
        try:
            read = msgspec.json.decode(line, type=_JournalLine)
        except msgspec.DecodeError as error:
            raise DataError(f"{path}:{number} is no line of a journal: {error}") from error
        calls[read.request].append(Call(read.stage, read.usage, read.shadow))
    return dict(calls)
