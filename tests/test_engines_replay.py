"""`asd.engines.replay`: recorded outcomes come back as drafts, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from asd.engines import Acceptance, Engine, Sampling, Verifier
from asd.engines.replay import ReplayEngine
from asd.errors import ConfigError, DataError
from asd.types import NO_CALL, Draft, Outcome, Query, Trace, Usage, Verification

Q1 = Query(id="1", dataset="d", prompt="one")
Q2 = Query(id="2", dataset="d", prompt="two")
ELSEWHERE = replace(Q1, dataset="e")


def draft(stage: str, text: str) -> Draft:
    return Draft(stage, text, (5, 2), (-0.5, -0.1), True, Usage(3, 2, 2), 0.25)


TRACES = [
    Trace(Q1, {"S": Outcome(draft("S", "s1"), 1.0), "L": Outcome(draft("L", "l1"), 1.0)}),
    Trace(Q2, {"S": Outcome(draft("S", "s2"), 0.0)}),
    Trace(ELSEWHERE, {"S": Outcome(draft("S", "e1"), 0.0)}),
]


def test_plays_the_recorded_drafts_in_the_order_asked() -> None:
    """Every query gets its own recorded draft, unchanged, in the order of the queries."""
    engine: Engine = ReplayEngine("S", TRACES)
    engine.load()
    engine.synchronise()
    assert engine.generate([Q2, Q1]) == [draft("S", "s2"), draft("S", "s1")]
    engine.unload()
    assert engine.generate([Q1]) == [draft("S", "s1")]
    assert engine.stage_name == "S"


def test_queries_are_told_apart_by_dataset() -> None:
    """The same id in another dataset is another query."""
    assert ReplayEngine("S", TRACES).generate([ELSEWHERE])[0].text == "e1"


def test_missing_outcome_is_an_error_that_names_both() -> None:
    """A query never run on the stage raises and names dataset and id."""
    with pytest.raises(DataError, match=r"'L' for query '2' of dataset 'd'"):
        ReplayEngine("L", TRACES).generate([Q2])


def test_two_outcomes_for_one_query_are_an_error() -> None:
    """A query recorded twice raises: there is no telling which is meant."""
    with pytest.raises(DataError, match="two outcomes"):
        ReplayEngine("S", [TRACES[0], TRACES[0]])


def test_a_recording_cannot_be_sampled() -> None:
    """Sampling from a recording raises."""
    with pytest.raises(ConfigError, match=r"temperature 0\.7"):
        ReplayEngine("S", TRACES).generate([Q1], Sampling(0.7, np.random.default_rng(0)))


READ = Verification("L", "S", (5, 9, 2), (-0.5, -3.0, -0.1), 1, Usage(3, 0, 1, 3), 0.5)
READING = [Trace(Q1, TRACES[0].outcomes, {"S>L": READ})]


def test_plays_recorded_verifications() -> None:
    """What L said of S's draft, and L's own answer as what it writes after the accepted prefix."""
    engine = ReplayEngine("L", READING)
    assert isinstance(engine, Verifier)
    assert engine.verify([Q1], [draft("S", "s1")]) == [READ]
    [went_on] = engine.continue_([Q1], [READ])
    assert went_on == replace(draft("L", "l1"), usage=Usage(n_prompt=0, n_decoded=1, n_passes=0))


def test_going_on_after_everything_was_accepted_takes_no_call() -> None:
    """Nothing is left to decode."""
    whole = replace(READ, tokens=(5, 2), logprobs=(-0.5, -0.1), n_accepted=2)
    [went_on] = ReplayEngine("L", READING).continue_([Q1], [whole])
    assert went_on.usage == NO_CALL


def test_a_draft_that_is_the_stage_s_own_answer_is_told_with_its_text() -> None:
    """Where the accepted prefix is the recorded answer to its end, it is that answer; else L goes on."""
    own = Draft("L", "l's words", (5, 9, 2), (-0.5, -0.2, -0.1), True, Usage(3, 3, 3), 0.1)
    whole = replace(READ, n_accepted=3)

    def told(read: Verification, own: Draft) -> str | None:
        engine = ReplayEngine("L", [Trace(Q1, {"L": Outcome(own, 1.0)}, {"S>L": read})])
        return engine.verify([Q1], [draft("S", "s1")])[0].text

    assert told(whole, own) == "l's words"
    cut = replace(whole, tokens=(5, 9), logprobs=(-0.5, -3.0), n_accepted=2, complete=False)
    for read, answer in [
        (READ, own),
        (cut, own),
        (whole, replace(own, finished=False)),
        (whole, replace(own, tokens=(5, 9, 3))),
        (replace(READ, n_accepted=0), replace(own, tokens=())),
    ]:
        assert told(read, answer) is None


def test_a_verification_that_was_not_recorded_is_an_error() -> None:
    """Naming pair, query and dataset."""
    with pytest.raises(DataError, match=r"'M>L' for query '1' of dataset 'd'"):
        ReplayEngine("L", READING).verify([Q1], [draft("M", "m1")])


def test_a_recording_verifies_as_it_was_recorded() -> None:
    """Lossless and greedy; anything else is refused."""
    lenient = Acceptance(tolerance=0.5)
    engine = ReplayEngine("L", READING)
    with pytest.raises(ConfigError, match="lossless"):
        engine.verify([Q1], [draft("S", "s1")], lenient)
    with pytest.raises(ConfigError, match="lossless"):
        engine.continue_([Q1], [READ], lenient)


DRAFTED = Usage(3, 1, n_passes=1, n_drafted=4, n_saved=1)
GONE_ON = Usage(0, 1, n_passes=1, n_drafted=2, n_saved=1)


@pytest.mark.parametrize("drafter", [True, False])
def test_plays_a_stage_with_its_drafter_or_without(drafter: bool) -> None:
    """What was recorded with a drafter is counted as recorded, or as the stage alone would count it."""
    own = replace(draft("L", "l1"), usage=DRAFTED)
    recorded = Trace(Q1, {"L": Outcome(own, 1.0)}, {"S>L": READ}, {"S>L": GONE_ON})
    engine = ReplayEngine("L", [recorded], drafter=drafter)
    assert engine.generate([Q1])[0].usage == (DRAFTED if drafter else Usage(3, 1, 2))
    assert engine.continue_([Q1], [READ])[0].usage == (GONE_ON if drafter else Usage(0, 1, 2))
