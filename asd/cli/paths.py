"""Files that a command writes, checked before the work is done rather than after it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

__all__ = ["NEW_FILE"]


class _NewFile(click.Path):
    """A file that is there or can be made: its folder exists."""

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"{str(path)!r}: {str(path.parent)!r} is no folder; make it first", param, ctx)
        return path


NEW_FILE = _NewFile(dir_okay=False, writable=True)
"""Type of an option that names it; gives a `Path`."""
