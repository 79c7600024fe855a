"""Policies: in a state (what has been bought so far), stop or run which stage next.

One protocol for the optimal policy and for everything it is compared with. `OptimalPolicy` looks up an exact
solution; `Myopic` looks one step ahead on the same graph; `StaticWalk` and `ClosedForm` climb the ladder by
thresholds; `ListPolicy` lets short lists vote; `FixedStage`, `Lossless` and `RandomMix` look at nothing;
`Oracle` has foresight and exists for replay only.

Scope: a policy names the next action; it runs no stage, prices nothing and never reads a reference, a
score or a tag. Value = lam * quality - cost, costs in cost units (one mean run of the largest stage alone).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol, runtime_checkable

from asd.policies.blind import FixedStage, Lossless, RandomMix
from asd.policies.climbing import ClosedForm, StaticWalk
from asd.policies.lists import ListPolicy
from asd.policies.oracle import Oracle
from asd.policies.solved import Myopic, OptimalPolicy
from asd.types import Decision, Drafts, Query, Verification

__all__ = [
    "ClosedForm",
    "FixedStage",
    "ListPolicy",
    "Lossless",
    "Myopic",
    "OptimalPolicy",
    "Oracle",
    "Policy",
    "RandomMix",
    "Reroutable",
    "StaticWalk",
]


class Policy(Protocol):
    """`decide` gets the drafts bought so far (insertion order = order of the calls; empty at first).

    It also gets the current verification: what a larger stage said of one of these drafts, until another
    stage answers. It must not stop on an empty mapping, and must name only stages that have not been run:
    `Decision(STOP, "S")` returns S's answer, `Decision(Action.draft("M"), "S")` lets M answer, and
    `Decision(Action.verify("M"), "S")` lets M read S's answer ("S>M").
    """

    @property
    def name(self) -> str:
        """Short, unique in a sweep, stable over runs: it becomes part of a baseline key."""

    def decide(self, query: Query, drafts: Drafts, verification: Verification | None = None) -> Decision:
        """Choose the next action for one query."""


@runtime_checkable
class Reroutable(Policy, Protocol):
    """A policy that can say what it would do if some stages were not there."""

    def without(self, stages: Collection[str]) -> Policy:
        """The policy of the same problem without these stages; `ConfigError` where nothing is left to do."""
