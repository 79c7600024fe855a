"""States and moves of the stopping problem: their names, order and number, against lists made by hand."""

from __future__ import annotations

from itertools import combinations

import pytest

from asd.stopping.states import Move, State, moves, stage_sets, states
from asd.types import Action

ALL_PAIRS = ("S>M", "S>L", "M>L")


def test_stage_sets_are_all_sets_smaller_first() -> None:
    """Three stages: seven sets, in ladder order."""
    assert ["".join(s) for s in stage_sets(("S", "M", "L"))] == ["S", "M", "L", "SM", "SL", "ML", "SML"]


def test_names() -> None:
    """The root, a set of stages, and the same with the stage that has read the best answer."""
    named = [State(()), State(("S",)), State(("S", "M")), State(("S", "M"), "L")]
    assert [state.name for state in named] == ["root", "S", "S+M", "S+M>L"]


def test_three_stages_that_can_all_verify() -> None:
    """Twelve states; a set with a verifier stands behind the set and before what it leads to."""
    names = [state.name for state in states(("S", "M", "L"), ALL_PAIRS)]
    sets = ["root", "S", "M", "L", "S>M", "S>L", "M>L", "S+M", "S+L", "M+L", "S+M>L", "S+M+L"]
    assert names == sets


def test_without_verifications_the_states_are_the_sets_of_stages() -> None:
    """And the moves are those of a ladder whose drafts are thrown away."""
    assert [state.name for state in states(("S", "M"))] == ["root", "S", "M", "S+M"]
    taken = [(move.source.name, str(move.action), move.target.name) for move in moves(("S", "M"))]
    assert taken == [("root", "S", "S"), ("root", "M", "M"), ("S", "M", "S+M")]


@pytest.mark.parametrize("missing", ALL_PAIRS)
def test_a_verifier_needs_to_have_read_every_answer_in_hand(missing: str) -> None:
    """Without one pair, every set with its drafter has no state with its verifier."""
    drafter, verifier = missing.split(">")
    names = {state.name for state in states(("S", "M", "L"), [p for p in ALL_PAIRS if p != missing])}
    gone = {name for name in ("S>M", "S>L", "M>L", "S+M>L") if drafter in name and name[-1] == verifier}
    assert gone
    assert not gone & names


def test_moves_from_a_verified_answer() -> None:
    """The verifier goes on, another stage starts anew, or a still larger one reads the same answer."""
    found = {
        (str(move.action), move.target.name, move.continues)
        for move in moves(("S", "M", "L"), ALL_PAIRS)
        if move.source == State(("S",), "M")
    }
    assert found == {("M", "S+M", True), ("L", "S+L", False), (">L", "S>L", False)}


@pytest.mark.parametrize("n_stages", [1, 2, 3, 4])
def test_every_move_leads_forward_and_buys_one_thing(n_stages: int) -> None:
    """Targets stand behind sources; either one larger stage has answered or a larger one has read."""
    stages = "ABCD"[:n_stages]
    pairs = [f"{a}>{b}" for a, b in combinations(stages, 2)]
    rank = {state: i for i, state in enumerate(states(stages, pairs))}
    found = moves(stages, pairs)
    assert len(set(found)) == len(found)
    assert len({(move.source, move.action) for move in found}) == len(found)
    for move in found:
        assert rank[move.source] < rank[move.target]
        new = set(move.target.answered) - set(move.source.answered)
        assert (new == {move.stage}) == (move.target.verifier is None)
        assert all(stages.index(move.stage) > stages.index(s) for s in move.source.answered)
    assert len(rank) == 2**n_stages + sum(2**j - 1 for j in range(1, n_stages))


def test_an_action_names_the_stage_and_what_it_does() -> None:
    """A later answer is drafted, a reading verifies."""
    answer, read = Move(State(("S",)), State(("S", "L"))), Move(State(("S",)), State(("S",), "L"))
    assert (answer.stage, answer.action) == ("L", Action.draft("L"))
    assert (read.stage, read.action) == ("L", Action.verify("L"))
