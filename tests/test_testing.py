"""`asd.testing`: the fakes do what their script says."""

from __future__ import annotations

import pytest

from asd.engines import Engine
from asd.errors import ConfigError, EngineError
from asd.testing import FakeClock, Script, ScriptedEngine
from asd.types import Draft, Query, Usage

ADD = Query(id="a", dataset="d", prompt="what is 2+2")
SUB = Query(id="b", dataset="d", prompt="2-2")
ANSWERS = {ADD.prompt: ("4", (-0.1, -0.2)), SUB.prompt: Script("zer", (-0.3,), finished=False)}


def test_scripted_answers_come_back_as_drafts() -> None:
    """Text, log-probabilities, counts and end follow the script, in the order of the queries."""
    engine: Engine = ScriptedEngine("S", ANSWERS)
    unfinished, four = engine.generate([SUB, ADD])
    assert (four.stage, four.text, four.logprobs, four.finished) == ("S", "4", (-0.1, -0.2), True)
    assert four.usage == Usage(n_prompt=3, n_decoded=2, n_passes=2)
    assert len(four.tokens) == len(four.logprobs)
    assert (unfinished.text, unfinished.finished) == ("zer", False)


def test_a_prompt_without_a_script_raises() -> None:
    """What the script does not know is an error, not an empty answer."""
    with pytest.raises(EngineError, match="'S' has no answer to '1\\+1'"):
        ScriptedEngine("S", ANSWERS).generate([Query(id="c", dataset="d", prompt="1+1")])


def test_every_call_is_written_down_and_takes_its_time() -> None:
    """Calls record the ids of their batch; each takes the scripted seconds on the shared clock."""
    clock = FakeClock(10.0)
    engine = ScriptedEngine("S", ANSWERS, seconds_per_call=0.5, clock=clock)
    drafts = engine.generate([ADD, SUB]) + engine.generate([ADD])
    assert engine.calls == [("a", "b"), ("a",)]
    assert [draft.seconds for draft in drafts] == [0.5] * 3
    assert clock() == 11.0


def test_loading_is_visible() -> None:
    """Load, unload and the loading that `generate` does show in `loaded`."""
    engine = ScriptedEngine("S", ANSWERS)
    assert not engine.loaded
    engine.load()
    assert engine.loaded
    engine.unload()
    assert not engine.loaded
    engine.synchronise()
    engine.generate([ADD])
    assert engine.loaded


def test_clock_moves_only_forward() -> None:
    """Time stands still until advanced, and never goes back."""
    clock = FakeClock()
    assert clock() == clock() == 0.0
    clock.advance(2.5)
    assert clock() == 2.5
    with pytest.raises(ConfigError, match="-1"):
        clock.advance(-1)


def test_a_scripted_stage_reads_drafts() -> None:
    """The scripted text is accepted whole; of another one what both begin with, the rest being unlikely."""
    stage = ScriptedEngine("L", {ADD.prompt: ("four", (-0.1, -0.2, -0.3, -0.4))})
    [same], [other], [unlike] = (
        stage.verify([ADD], [draft]) for draft in (_draft("four", 2), _draft("fox!!!", 6), _draft("", 1))
    )
    assert (same.accepted, same.tokens, same.logprobs) == (True, (0, 1, 2, 3), (-0.1, -0.2, -0.3, -0.4))
    assert (other.n_accepted, other.logprobs) == (2, (-0.1, -0.2, -5.0, -5.0, -5.0, -5.0))
    assert (unlike.n_accepted, unlike.logprobs) == (0, (-5.0,))
    assert same.usage == Usage(n_prompt=3, n_decoded=0, n_passes=1, n_verified=4)
    assert (same.stage, same.drafter) == ("L", "S")


def test_a_scripted_stage_goes_on_from_what_it_accepted() -> None:
    """Its own answer, counting the tokens that were left; every call is written down."""
    stage = ScriptedEngine("L", {ADD.prompt: ("four", (-0.1, -0.2, -0.3, -0.4))})
    [read] = stage.verify([ADD], [_draft("fox", 3)])
    [draft] = stage.continue_([ADD], [read])
    assert (draft.text, draft.tokens) == ("four", (0, 1, 2, 3))
    assert draft.usage == Usage(n_prompt=0, n_decoded=2, n_passes=1)
    assert stage.calls == [("a",), ("a",)]


def _draft(text: str, n: int) -> Draft:
    return Draft("S", text, tuple(range(n)), (-0.1,) * n, True, Usage(3, n, n), 0.0)
