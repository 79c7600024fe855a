"""Engines for a command: weights that are on this machine are loaded without a progress bar of their own."""

from __future__ import annotations

import os
from pathlib import Path

from asd.engines import Engine
from asd.engines.opening import open_engines
from asd.ladder import Ladder

__all__ = ["open_quietly"]


def open_quietly(ladder: Ladder, device: str | None, engine: str = "transformers") -> dict[str, Engine]:
    """As `asd.engines.opening.open_engines`; a bar is for downloads."""
    if all(Path(stage.model).is_absolute() for stage in ladder.stages):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return open_engines(ladder, device, engine)
