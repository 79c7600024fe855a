"""One process at a time on a file: `flock` where there is one, else a lock file beside it.

A lock file that a killed process left behind has to be removed by hand, except on Windows, which removes it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from asd.errors import StorageError

__all__ = ["lock"]


def lock(path: str | Path, fd: int, doing: str = "collecting into") -> Callable[[], None]:
    """Lock a file that is open under a descriptor, until it is closed; returns what to call after that.

    Args:
        path: The file.
        fd: The descriptor.
        doing: What another process that has it would be doing with it.

    Raises:
        StorageError: Another process has locked it.
    """
    path = Path(path)
    try:
        import fcntl  # noqa: PLC0415  (not on Windows)
    except ImportError:
        return _lock_file(path.with_name(path.name + ".lock"), path, doing)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StorageError(f"another process is {doing} {path}; let it finish") from error
    return lambda: None


def _lock_file(beside: Path, path: Path, doing: str) -> Callable[[], None]:
    temporary = getattr(os, "O_TEMPORARY", 0)  # Windows: gone with the process
    try:
        fd = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_RDWR | temporary)
    except FileExistsError as error:
        raise StorageError(
            f"another process is {doing} {path}; let it finish, or remove {beside} if none is"
        ) from error

    def release() -> None:
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()

    return release
