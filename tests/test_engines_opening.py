"""From a ladder to its engines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from asd.engines.opening import open_engines
from asd.errors import ConfigError
from asd.ladder import Ladder, Prices, Stage

LADDER = Ladder(
    "two",
    (Stage("S", "/none/S", Prices(1, 0, 0)), Stage("L", "/none/L", Prices(2, 0, 0))),
    "declared",
    "made up",
)


def test_one_engine_a_stage_and_nothing_loaded() -> None:
    """Engines come in ladder order under their stages' names; missing weights do not matter yet."""
    assert not Path("/none").exists()
    assert [(name, e.stage_name) for name, e in open_engines(LADDER, "cpu").items()] == [
        ("S", "S"),
        ("L", "L"),
    ]


def test_without_torch_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the engine's libraries are not installed, the error says what to install."""
    monkeypatch.delitem(sys.modules, "asd.engines.transformers", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"pip install 'asd\[transformers\]'"):
        open_engines(LADDER)
