"""The states of a cascade's stopping problem and the moves between them: which there are, and their names.

A state is the set of stages that have answered, and possibly a later stage that has read the best of their
answers: "S+M" and "S+M>L". Moves only buy: another, larger stage answers (what was verified is forgotten,
except by the stage that verified, which continues from there), or a larger stage reads the best answer. So
the states make up a directed acyclic graph whose root is the empty set.

Scope: names and order only; what a move costs and where it leads is estimated in `asd.policy.estimate`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

from asd.ladder import ROOT
from asd.types import VERIFY, Action, pair_name

__all__ = ["Move", "State", "moves", "stage_sets", "states", "verifier_in"]


@dataclass(frozen=True, slots=True)
class State:
    """What has been bought.

    Attributes:
        answered: Stages that have answered, in ladder order.
        verifier: The stage that has read the best of their answers; None: nobody has.
    """

    answered: tuple[str, ...]
    verifier: str | None = None

    @property
    def name(self) -> str:
        """Name of its node: "root", "S+M", "S+M>L"."""
        answered = "+".join(self.answered) or ROOT
        return answered if self.verifier is None else pair_name(answered, self.verifier)


def verifier_in(name: str) -> str | None:
    """The stage that has read the best answer in the state of that name; None: nobody has."""
    return name.partition(VERIFY)[2] or None


@dataclass(frozen=True, slots=True)
class Move:
    """One purchase."""

    source: State
    target: State

    @property
    def stage(self) -> str:
        """The stage that works."""
        return self.target.answered[-1] if self.target.verifier is None else self.target.verifier

    @property
    def action(self) -> Action:
        """What a decision for it says: the stage drafts, or verifies where it reads an answer."""
        return Action("draft" if self.target.verifier is None else "verify", self.stage)

    @property
    def continues(self) -> bool:
        """The stage continues from what it has verified."""
        return self.target.verifier is None and self.source.verifier == self.stage


def stage_sets(stages: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty set of stages in ladder order, smaller sets first."""
    return list(chain.from_iterable(combinations(stages, size) for size in range(1, len(stages) + 1)))


def states(stages: Sequence[str], pairs: Collection[str] = ()) -> list[State]:
    """All states, the root first, each before those it leads to.

    Args:
        stages: Of the ladder, in its order.
        pairs: Which stage can read whose draft, as in "S>M"; a state with a verifier needs all of its own.
    """
    found = [State(())]
    for size in range(1, len(stages) + 1):
        sets = list(combinations(stages, size))
        found += [State(answered) for answered in sets]
        found += [
            State(answered, verifier)
            for answered in sets
            for verifier in _larger(answered, stages)
            if all(pair_name(drafter, verifier) in pairs for drafter in answered)
        ]
    return found


def moves(stages: Sequence[str], pairs: Collection[str] = ()) -> list[Move]:
    """All moves, in the order of the states they leave; of one state, answers before verifications."""
    known = states(stages, pairs)
    found = []
    for source in known:
        larger = _larger(source.answered, stages)
        found += [Move(source, State((*source.answered, stage))) for stage in larger]
        if source.verifier is not None:
            larger = _larger((source.verifier,), stages)
        found += [
            Move(source, target) for stage in larger if (target := State(source.answered, stage)) in known
        ]
    return found


def _larger(answered: Sequence[str], stages: Sequence[str]) -> Sequence[str]:
    """The stages above the last one of these."""
    return stages[stages.index(answered[-1]) + 1 :] if answered else stages
