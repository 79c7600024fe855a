"""Engines for a command: weights that are on this machine are loaded without a progress bar of their own."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import click

from asd.engines import Engine
from asd.engines.closing import close
from asd.engines.registry import open_engines
from asd.ladder import Ladder

__all__ = ["closed_at_the_end", "keep_quiet", "open_quietly"]


def open_quietly(ladder: Ladder, device: str | None, engine: str = "transformers") -> dict[str, Engine]:
    """As `asd.engines.registry.open_engines`; closed when the command ends, and a bar is for downloads."""
    keep_quiet(ladder)
    return closed_at_the_end(open_engines(ladder, device, engine))


def keep_quiet(ladder: Ladder) -> None:
    """No progress bars of the hub's where all models are on this machine."""
    if all(Path(stage.model).is_absolute() for stage in ladder.stages):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def closed_at_the_end(engines: dict[str, Engine]) -> dict[str, Engine]:
    """The same engines, closed when the command ends, however it does."""
    for engine in engines.values():
        click.get_current_context().call_on_close(partial(close, engine))
    return engines
