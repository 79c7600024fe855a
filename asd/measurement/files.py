"""Record files: JSON that is either whole or untouched, and never holds NaN.

Scope: what a record means is in `records`; this module only reads and writes.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from asd.errors import DataError, StorageError
from asd.measurement.records import Record
from asd.schema import msgspec
from asd.schema.explained import explained

__all__ = ["Paths", "as_paths", "check_writable", "read_record", "write_atomically", "write_record"]

T = TypeVar("T", bound=Record)
Paths = str | Path | Sequence[str | Path]
"""One path, or several."""


def read_record(path: str | Path, kind: type[T], *, upgrade: Callable[[Any], Any] | None = None) -> T:
    """Read a record file.

    Args:
        path: The file.
        kind: What it holds.
        upgrade: Brings what earlier versions wrote into the layout of this one.

    Raises:
        DataError: The file is missing, unreadable, cut off, from another schema or has unknown fields.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if upgrade is None:
            return msgspec.json.decode(content, type=kind)
        return msgspec.convert(upgrade(msgspec.json.decode(content)), kind)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; record it first") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, DataError) as error:
        why = explained(error, kind) if isinstance(error, msgspec.DecodeError) else error
        raise DataError(f"{path} cannot be read ({why}); restore it or record it again") from error


def write_record(path: str | Path, record: Record, expand: int = 2) -> None:
    """Write a record as JSON, laid out over lines down to nesting depth `expand`.

    Raises:
        DataError: A number in it is not finite.
        StorageError: The file could not be written; what was there before is intact.
    """
    content = msgspec.to_builtins(record)
    for where, number in _numbers(content, type(record).__name__):
        if not math.isfinite(number):
            raise DataError(f"{where} is {number}; only finite numbers are recorded")
    write_atomically(path, _lay_out(content, expand) + "\n")


def check_writable(path: str | Path) -> None:
    """Make sure, before the work is done, that a file can be written there: missing folders are made.

    Raises:
        StorageError: No permission, no regular file, or something in the way of its folders.
    """
    path = Path(path)
    try:
        _check_regular(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise StorageError(f"{path} could not be written ({error}); choose another path") from error


def as_paths(paths: Paths) -> list[Path]:
    """One path or several as a list."""
    return [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Replace a file in one step: it holds either the old text or all of the new one.

    Raises:
        StorageError: Disk full, no permission, not a regular file; what was there is intact.
    """
    path, temporary = Path(path), None
    try:
        _check_regular(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StorageError(f"{path} could not be written ({error}); what was there is intact") from error


def _check_regular(path: Path) -> None:
    if path.exists() and not path.is_file():  # renaming onto a device would take its place
        raise StorageError(f"{path} is not a regular file; choose another path")


def _numbers(content: Any, where: str) -> Iterator[tuple[str, float]]:
    if isinstance(content, float):
        yield where, content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _numbers(value, f"{where}.{key}")
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _numbers(value, f"{where}[{index}]")


def _lay_out(content: Any, depth: int) -> str:
    if depth == 0 or not content or not isinstance(content, dict | list | tuple):
        return msgspec.json.encode(content).decode()
    if isinstance(content, dict):
        lines = [f"{_lay_out(str(key), 0)}: {_lay_out(value, depth - 1)}" for key, value in content.items()]
        return "{\n" + ",\n".join(lines) + "\n}"
    return "[\n" + ",\n".join(_lay_out(value, depth - 1) for value in content) + "\n]"
