"""Short lists elected by a vote: which stage to call first, and after its answer whether to call another.

Lists and their vote are `asd.stopping.lists`; the signal is the calibrated success probability of the first
answer. Where a stage reads a draft and continues from it for less than a run of its own takes, it does so.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from asd.errors import PolicyMismatchError
from asd.evidence import Evidence
from asd.policies.checks import check_lam, check_stages
from asd.stopping.lists import RETURN, ListTable, Vote
from asd.types import STOP, Action, Decision, Drafts, Query, Verification, pair_name

__all__ = ["ListPolicy"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ListPolicy:
    """At most two answers: the first stage's, and the second's where most lists escalate.

    Attributes:
        evidence: What is known about the answers so far.
        table: Every list, counted on the rows fitted on; costs in cost units.
        stages: Names, by the table's positions.
        reads: Pairs of which the second stage reads the first one's draft before it answers, as in "S>L".
        lam: Cost units that one fully right answer is worth.
        out: Stages that are not called.

    Raises:
        ConfigError: `lam` is negative or not finite, a stage is named twice, or no stage can be called.
    """

    evidence: Evidence
    table: ListTable
    stages: tuple[str, ...]
    reads: frozenset[str]
    lam: float
    out: frozenset[str] = frozenset()
    _elected: dict[str | None, Vote] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_lam(self.lam)
        check_stages(self.stages)
        self.elected()

    @property
    def name(self) -> str:
        """The name with its lam, as in `lists(lam=2)`."""
        return f"lists(lam={self.lam:g})"

    def decide(self, query: Query, drafts: Drafts, verification: Verification | None = None) -> Decision:
        """Call the first stage, then let the lists vote; `PolicyMismatchError` for a stage of no list."""
        if not drafts:
            return Decision(Action.draft(self.stages[self.elected().first]), None)
        *_, latest = drafts
        if verification is not None and verification.stage not in self.out:
            p_good = self.evidence.judge(query, drafts, verification).p_good
            return Decision(Action.draft(verification.stage), latest, p_good)
        p_good = self.evidence.judge(query, drafts).p_good
        if len(drafts) > 1:
            return Decision(STOP, latest, p_good)
        vote, signal = self.elected(latest), np.array([p_good[latest]])
        action = self._action(latest, int(vote.choose(signal)[0]))
        return Decision(action, latest, p_good, votes=self._votes(latest, vote, signal))

    def elected(self, first: str | None = None) -> Vote:
        """The lists that decide after an answer of `first`; None: before any."""
        if first not in self._elected:
            if first is not None and first not in self.stages:
                raise PolicyMismatchError(f"stage {first!r} is in no list; the lists are of {self.stages}")
            at = None if first is None else self.stages.index(first)
            out = [k for k, stage in enumerate(self.stages) if stage in self.out]
            self._elected[first] = self.table.elect(self.lam, first=at, out=out)
        return self._elected[first]

    def without(self, stages: Collection[str]) -> ListPolicy:
        """The vote among the lists that are left without these stages; `ConfigError` where none is."""
        return replace(self, out=self.out | frozenset(stages))

    def _action(self, latest: str, chosen: int) -> Action:
        if chosen == RETURN:
            return STOP
        stage = self.stages[chosen]
        reads = pair_name(latest, stage) in self.reads
        return Action.verify(stage) if reads else Action.draft(stage)

    def _votes(self, latest: str, vote: Vote, signal: Array) -> dict[Action, float]:
        """Share of the lists for returning the answer, and for every stage that one of them calls."""
        [tally] = vote.tally(signal)
        calls = {self._action(latest, int(k)): float(tally[k]) for k in np.flatnonzero(tally)}
        n = len(vote.second)
        return {STOP: 1.0 - tally.sum() / n, **{action: votes / n for action, votes in calls.items()}}
