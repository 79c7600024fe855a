"""When the first token of an answer may be shown, by what decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asd.cascade import Cascade
from asd.ladder import Ladder
from asd.policies import FixedStage, Lossless
from asd.types import Completion, Query
from bench.metrics.hardware import ttft_s
from tests.endpoint import LADDER, Slow

FIRST = {"S": 0.1, "M": 0.3, "L": 0.7}
CHAIN = Lossless(("S", "L"))


def answered(ladder: Ladder, policy: FixedStage | Lossless = CHAIN) -> Completion:
    engines = {name: Slow(name, "three") for name in FIRST}
    [done] = Cascade(engines, policy, ladder).run([Query("q", "d", "write a poem")], 1)
    return done


def test_a_stage_by_itself_shows_its_first_token() -> None:
    assert ttft_s(answered(LADDER, FixedStage("M")), FixedStage("M"), FIRST) == FIRST["M"]


def test_a_chain_shows_what_its_last_stage_has_read() -> None:
    """Draft and reading; what it writes after them is shown as it is written."""
    done = answered(LADDER)
    timed = replace(
        done,
        drafts=tuple(replace(draft, seconds=0.25) for draft in done.drafts),
        verifications=tuple(replace(read, seconds=0.5) for read in done.verifications),
    )
    assert ttft_s(timed, CHAIN, FIRST) == pytest.approx(0.75)


def test_a_chain_without_its_drafts_is_a_stage_by_itself() -> None:
    """S is for other domains here: L writes alone, and its first token comes after some time, not at once."""
    stages = tuple(replace(s, only=("mathematical",)) if s.name == "S" else s for s in LADDER.stages)
    done = answered(replace(LADDER, stages=stages))
    assert [draft.stage for draft in done.drafts] == ["L"]
    assert ttft_s(done, CHAIN, FIRST) == FIRST["L"]
