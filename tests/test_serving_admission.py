"""What a request says of itself before it runs, and which calls it is charged for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from asd.errors import ConfigError
from asd.serving.admission import Call, RequestFacts, calls_of
from asd.types import NO_CALL, Draft, Usage, Verification

FACTS = RequestFacts("r1", "alice", "asd", ("S", "L"), n_prompt=10, max_new_tokens=20)
DRAFT = Draft("S", "4", (1, 2), (-0.1, -0.2), finished=True, usage=Usage(3, 2, 2), seconds=0.0)
READ = Verification("L", "S", (1, 2), (-0.1, -0.2), 2, Usage(3, 0, 1, 2), seconds=0.0)


@pytest.mark.parametrize(
    "wrong", [{"stages": ()}, {"n_prompt": -1}, {"max_new_tokens": 0}, {"attempts": 0}], ids=str
)
def test_facts_that_bound_nothing_are_refused(wrong: dict[str, Any]):
    """No stage, no room, no attempt, fewer than no tokens."""
    with pytest.raises(ConfigError, match="r1"):
        replace(FACTS, **wrong)


def test_an_empty_prompt_is_a_request():
    """A prompt of no tokens is not missing."""
    assert replace(FACTS, n_prompt=0).n_tokens == 20


def test_calls_that_were_not_made_are_not_charged():
    """What came from a store and what was accepted whole took no call; all others are in their order."""
    whole = replace(DRAFT, stage="L", usage=NO_CALL)
    cached = replace(DRAFT, cached=True)
    assert calls_of([DRAFT, READ, whole, cached]) == [Call("S", DRAFT.usage), Call("L", READ.usage)]
    assert calls_of([DRAFT], shadow=True) == [Call("S", DRAFT.usage, shadow=True)]
