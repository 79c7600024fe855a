"""Actions, and how decisions and failures are written with them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.schema.decisions import completion_row, decision_row
from asd.types import NO_CALL, STOP, Action, Completion, Decision, Draft, Failure, Query

names = st.text(min_size=1).filter(lambda name: ">" not in name and name != "stop")
actions = st.one_of(st.just(STOP), names.map(Action.draft), names.map(Action.verify))


@given(actions)
def test_an_action_survives_its_text(action: Action) -> None:
    """What is written is read back as the same action, so no two are written alike."""
    assert Action.parse(str(action)) == action


@pytest.mark.parametrize(
    ("text", "action"), [("stop", STOP), ("L", Action("draft", "L")), (">L", Action("verify", "L"))]
)
def test_the_text_of_an_action(text: str, action: Action) -> None:
    """As files, logs and tables have always had it."""
    assert str(action) == text
    assert Action.parse(text) == action


@pytest.mark.parametrize("text", ["", ">", ">>L", "S>L", ">stop"])
def test_what_names_no_action(text: str) -> None:
    """Nothing, no stage, a pair, or a stage of a name that is taken."""
    with pytest.raises(ValueError, match=f"{text!r} names no action"):
        Action.parse(text)


@pytest.mark.parametrize(
    ("kind", "stage"), [("stop", "L"), ("draft", ""), ("verify", ""), ("read", "L"), ("draft", "S>L")]
)
def test_an_action_that_cannot_be(kind: Any, stage: str) -> None:
    """Stopping takes no stage, the others take one, and there are no others."""
    with pytest.raises(ValueError, match="action"):
        Action(kind, stage)


def test_a_decision_takes_an_action() -> None:
    """Text is refused where it is given, with what to give instead."""
    with pytest.raises(TypeError, match=r"got '>L'; give asd\.STOP, .*asd\.Action\.verify\(stage\)"):
        Decision(">L", "S")  # type: ignore[arg-type]


def test_a_completion_is_written_with_the_text_of_actions() -> None:
    """Every other field is as msgspec writes it, in the order of the class."""
    decisions = (
        Decision(Action.verify("L"), "S", {"S": 0.5}, {STOP: 1.0, Action.verify("L"): 2.0}),
        Decision(STOP, "S", votes={STOP: 0.75, Action.draft("L"): 0.25}),
    )
    draft = Draft("S", "4", (1,), (-0.5,), finished=True, usage=NO_CALL, seconds=0.1)
    failure = Failure(Action.verify("L"), "EngineError", "down")
    done = Completion(Query("q", "d", "?"), "S", "4", (draft,), decisions, 1.0, failures=(failure,))
    row = completion_row(done)
    assert [*row] == [*Completion.__dataclass_fields__]
    assert row["drafts"] == msgspec.to_builtins(done.drafts)
    assert msgspec.json.encode(row["failures"]) == b'[{"action":">L","kind":"EngineError","message":"down"}]'
    assert [*map(decision_row, decisions)] == row["decisions"]
    assert msgspec.json.encode(row["decisions"]) == (
        b'[{"action":">L","answer":"S","p_good":{"S":0.5},"values":{"stop":1.0,">L":2.0},"votes":{}},'
        b'{"action":"stop","answer":"S","p_good":{},"values":{},"votes":{"stop":0.75,"L":0.25}}]'
    )
