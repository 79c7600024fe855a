"""From a ladder and the name of an engine to its engines."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from asd.engines import Drafted, alone, step_mode
from asd.engines.hf.engine import TransformersEngine
from asd.engines.registry import open_drafted, open_engines
from asd.engines.residency import Residency
from asd.errors import ConfigError
from asd.ladder import Drafter, Ladder, Stage
from asd.prices import Prices
from asd.testing import ScriptedEngine

SMALL, LARGE = Stage("S", "/none/S", Prices(1, 0, 0)), Stage("L", "/none/L", Prices(2, 0, 0))


def ladder(*stages: Stage) -> Ladder:
    return Ladder("two", stages, "declared", "made up")


def test_one_engine_a_stage_and_nothing_loaded() -> None:
    """Engines come in ladder order under their stages' names; missing weights do not matter yet."""
    assert not Path("/none").exists()
    engines = open_engines(ladder(SMALL, LARGE), "cpu")
    assert [(name, engine.stage_name) for name, engine in engines.items()] == [("S", "S"), ("L", "L")]


def test_a_stage_that_names_its_engine_gets_it() -> None:
    """The stage's own choice goes before the run's, which serves the others."""
    own = ladder(SMALL, replace(LARGE, engine="abacus"))
    with pytest.raises(
        ConfigError, match="stage 'L': no engine named 'abacus'; there are transformers, vllm, o"
    ):
        open_engines(own, "cpu")
    engines = open_engines(ladder(replace(SMALL, engine="transformers")), "cpu", engine="abacus")
    assert isinstance(engines["S"], TransformersEngine)


def test_options_for_nobody_are_refused() -> None:
    """Settings that no engine reads are an error, whichever engine runs the stage."""
    with pytest.raises(
        ConfigError, match="stage 'S' has options for 'abacus'; options are for transformers, vllm, openai"
    ):
        open_engines(ladder(replace(SMALL, options={"abacus": {"x": 1}})), "cpu")
    with pytest.raises(
        ConfigError, match=r"options\.transformers: .* field `x`; the known fields are device, kv_cache_g"
    ):
        open_engines(ladder(replace(SMALL, options={"transformers": {"x": 1}})), "cpu")
    assert len(open_engines(ladder(replace(SMALL, options={"vllm": {"max_model_len": 64}})), "cpu")) == 1


def test_without_the_libraries_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the engine's libraries are not installed, the error says what to install."""
    monkeypatch.delitem(sys.modules, "asd.engines.hf.engine", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"pip install 'asd\[transformers\]'"):
        open_engines(ladder(SMALL))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'asd\[vllm\]'"):
        open_engines(ladder(SMALL), engine="vllm")


def test_a_stage_drafts_where_its_prices_say_that_it_pays() -> None:
    """Where drafted tokens have no price, and in an engine of another kind, it writes alone."""
    pays = replace(LARGE, prices=Prices(2, 0, 0, per_drafted=0.1), drafter=Drafter("S", 5))
    own = ladder(replace(SMALL, batched={4: SMALL.prices}), replace(pays, batched={4: LARGE.prices}))
    engines = open_engines(own, "cpu")
    assert isinstance(engines["L"], Drafted)
    assert alone(engines["L"]).stage_name == engines["L"].stage_name == "L"
    assert not isinstance(engines["S"], Drafted)
    assert not isinstance(open_engines(own, "cpu", batch=4)["L"], Drafted)
    assert isinstance(
        open_drafted(ladder(SMALL, replace(LARGE, drafter=Drafter("S", 5))), "cpu")["L"], Drafted
    )
    served = ladder(SMALL, replace(pays, engine="openai", options={"openai": {"base_url": "http://none/v1"}}))
    assert not isinstance(open_engines(served, "cpu")["L"], Drafted)


def test_stages_say_how_they_make_their_decode_steps() -> None:
    """On a CPU each is launched by itself; a drafted stage has its verifier's mode; others do not say."""
    engines = open_drafted(Ladder.load("tiny"), "cpu")
    assert [step_mode(engine) for engine in engines.values()] == ["eager"] * 3
    resident = Residency(engines, dict.fromkeys(engines, 1.0), 3.0).engines["L"]
    assert step_mode(resident) == "eager"
    assert step_mode(ScriptedEngine("S", {})) is None
