"""What `asd fit` makes of a recording, played on other rows: the very policy that a cascade runs.

The recording becomes traces on a ladder whose prices give back the recorded costs; `asd.policy.fit` fits on
them, its evidence judges the other rows, and at every lam the policy of the file decides. Only the look-up is
done here for many rows at once; through `asd.cascade.Cascade` every row comes to the same answer and cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from asd.evidence import Evidence
from asd.ladder import ROOT, Ladder, Stage
from asd.policies import ListPolicy, OptimalPolicy
from asd.policy.artifact import PolicyArtifact
from asd.policy.fit import fit
from asd.policy.record import Method
from asd.research.offline.policies import STOPS, Bought, RowActions, as_traces, prices_of
from asd.research.recordings.recording import Recording
from asd.schema import msgspec
from asd.types import Trace

__all__ = ["COMMAND", "Deployable", "FittedDeployable", "ladder_of", "traces_of"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

COMMAND = "asd fit"
"""Rows of tables that are named by it are what it makes."""


@dataclass(frozen=True, slots=True)
class Deployable:
    """`asd fit --method`."""

    how: Method | Literal["auto"]

    @property
    def name(self) -> str:
        """As the command is called."""
        return f"{COMMAND} --method {self.how}"

    def fit(self, train: Recording) -> FittedDeployable:
        """What the command learns from these rows."""
        both = _fitted(train)
        contest = both.fit.contest
        chosen = contest.chosen if self.how == "auto" and contest is not None else self.how
        return FittedDeployable(both if chosen == "lists" else msgspec.structs.replace(both, lists=None))


@lru_cache(maxsize=1)
def _fitted(train: Recording) -> PolicyArtifact:
    """Lists and, beside them, the stopping problem; fitted once for the methods that ask in turn."""
    return fit(traces_of(train), ladder_of(train), fitted_at="replayed", method="lists")


def traces_of(rows: Recording) -> list[Trace]:
    """The rows as traces; their positions tell queries of the same name apart."""
    return [
        replace(trace, query=replace(trace.query, id=f"{trace.query.id} #{i}"))
        for i, trace in enumerate(as_traces(rows))
    ]


def ladder_of(rows: Recording) -> Ladder:
    """The stages, at prices that give back what was recorded."""
    stages = (Stage(name, name, prices) for name, prices in prices_of(rows).items())
    return Ladder("recorded", tuple(stages), "recorded", "recorded with the outcomes")


class FittedDeployable(NamedTuple):
    """The policy file."""

    artifact: PolicyArtifact

    def on(self, rows: Recording) -> _PolicySight:
        """Look at rows with its evidence."""
        return _PolicySight(self.artifact, self.artifact.evidence(), traces_of(rows))


class _JudgedRows(NamedTuple):
    """Every row in one state: bin, relative cost, best answer and its probability, shape (n,)."""

    bins: Index
    scale: Array
    answer: Index
    p: Array


@dataclass(slots=True, eq=False)
class _PolicySight:
    """The policies of the file before some rows."""

    artifact: PolicyArtifact
    evidence: Evidence
    traces: Sequence[Trace]
    _judged: dict[Bought, _JudgedRows] = field(default_factory=dict, init=False)
    _policies: dict[float, ListPolicy | OptimalPolicy] = field(default_factory=dict, init=False)

    def choose(self, lam: float, bought: Bought, index: Index) -> RowActions:
        """What the policy decides."""
        if lam not in self._policies:
            self._policies[lam] = self.artifact.policy(lam)
        policy = self._policies[lam]
        if isinstance(policy, ListPolicy):
            return self._by_vote(policy, bought, index)
        return self._by_solution(policy, bought, index)

    def _by_vote(self, policy: ListPolicy, bought: Bought, index: Index) -> RowActions:
        first = policy.elected().first
        if not bought:
            return RowActions(np.full(len(index), first), np.full(len(index), first))
        if bought != (first,):
            second = next(k for k in bought if k != first)
            return RowActions(np.full(len(index), STOPS), np.full(len(index), second))
        action = policy.elected(policy.stages[first]).choose(self._state(bought).p[index])
        return RowActions(action, np.full(len(index), first))

    def _by_solution(self, policy: OptimalPolicy, bought: Bought, index: Index) -> RowActions:
        stages, judged, solution = self.artifact.model.stages, self._state(bought), policy.solution
        node = "+".join(stages[k] for k in bought) or ROOT
        positions = [stages.index(edge.action.stage) for edge in solution.graph.outgoing(node)]
        lam_index = [solution.nearest(policy.lam / scale) for scale in judged.scale[index].tolist()]
        action = solution.action[node][lam_index, judged.bins[index]]
        # The solver's -1 stops; of the others each is the position of an edge.
        return RowActions(np.array([*positions, STOPS])[action], judged.answer[index])

    def _state(self, bought: Bought) -> _JudgedRows:
        if bought not in self._judged:
            stages = self.artifact.model.stages
            seen = []
            for trace in self.traces:
                drafts = {stages[k]: trace.outcomes[stages[k]].draft for k in bought}
                state = self.evidence.judge(trace.query, drafts)
                answer = 0 if state.answer is None else stages.index(state.answer)
                p = 0.0 if state.answer is None else state.p_good[state.answer]
                seen.append((state.bin, state.scale, answer, p))
            self._judged[bought] = _JudgedRows(*map(np.array, zip(*seen, strict=True)))
        return self._judged[bought]
