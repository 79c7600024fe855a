"""What fitted policies are worth on rows that they were not fitted on, fold by fold.

Scope: policies are solved and played here on the rows' states, as numbers; no text is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.ladder import ROOT
from asd.policy.estimate import EstimationTable, estimate_graph
from asd.policy.lists import N_DRAWS
from asd.policy.record import Errors, Replayed
from asd.stopping.lists import RecordedRows, count
from asd.stopping.recursion import Solution, solve

__all__ = ["Alone", "HeldOut", "listed", "replay", "solved", "standard_error"]

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
_Setting = tuple[Array, Array, float]
"""Score and cost of every row, and the value promised."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Settings on n rows, none of which they were fitted on.

    Attributes:
        lams: Of the settings, shape (L,).
        quality: Score of the answer returned, shape (L, n).
        cost: Cost units, shape (L, n).
        promised: Value that the fit promised, mean over the rows, shape (L,).
    """

    lams: Array
    quality: Array
    cost: Array
    promised: Array

    @property
    def values(self) -> Array:
        """Realised value of every setting, shape (L,)."""
        return np.asarray(self.lams * self.quality.mean(axis=1) - self.cost.mean(axis=1))

    def is_worth_more(self, other: HeldOut) -> bool:
        """Summed over lams, each in proportion to what is at stake: an answer and a run of the largest."""
        more: list[float] = ((self.values - other.values) / (1.0 + self.lams)).tolist()
        return sum(more) > 0.0

    def records(self, other: HeldOut, alone: Alone) -> tuple[Replayed, ...]:
        """For the artifact, beside what the other choice was worth."""
        means = (self.lams, self.quality.mean(axis=1), self.cost.mean(axis=1), self.promised, other.values)
        return tuple(
            Replayed(
                lam=lam,
                quality=quality,
                cost=cost,
                model_value=promised,
                alternative_value=alternative,
                errors=alone.errors(self.quality[i], self.cost[i]),
            )
            for i, (lam, quality, cost, promised, alternative) in enumerate(
                zip(*(mean.tolist() for mean in means), strict=True)
            )
        )


def solved(table: EstimationTable, folds: IntArray, lams: Array) -> HeldOut:
    """What policies solved on the other folds are worth on each fold."""
    sweep = np.unique(np.concatenate([np.geomspace(lams[0] / 8.0, lams[-1] * 8.0, 200), lams]))

    def play(seen: Mask, held_out: Mask) -> Iterator[_Setting]:
        solution, rows = solve(estimate_graph(table.where(seen)), sweep), table.where(held_out)
        for lam in lams.tolist():
            yield *replay(solution, rows, lam), float(solution.expected_value[solution.nearest(lam)])

    return _cross_played(play, folds, lams)


def listed(rows: RecordedRows, folds: IntArray, lams: Array) -> HeldOut:
    """What lists counted and elected on the other folds are worth on each fold."""

    def play(seen: Mask, held_out: Mask) -> Iterator[_Setting]:
        table, others = count(rows.where(seen), N_DRAWS), rows.where(held_out)
        for lam in lams.tolist():
            vote = table.elect(lam)
            yield *others.play(vote), vote.value

    return _cross_played(play, folds, lams)


def _cross_played(play: Callable[[Mask, Mask], Iterator[_Setting]], folds: IntArray, lams: Array) -> HeldOut:
    quality, cost, promised = np.zeros((3, len(lams), len(folds)))
    for fold in np.unique(folds):
        held_out = folds == fold
        for i, setting in enumerate(play(~held_out, held_out)):
            quality[i, held_out], cost[i, held_out], promised[i, held_out] = setting
    return HeldOut(lams, quality, cost, promised.mean(axis=1))


class Alone(NamedTuple):
    """Score and cost of the largest stage alone on every row, shape (n,) each."""

    quality: Array
    cost: Array

    def errors(self, quality: Array, cost: Array) -> Errors:
        """Of the means of a policy's scores and costs on the same rows."""
        return Errors(
            quality=standard_error(quality),
            cost=standard_error(cost),
            lost=standard_error(quality - self.quality),
            saved=standard_error(cost - self.cost),
        )


def standard_error(values: Array) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def replay(solution: Solution, table: EstimationTable, lam: float) -> tuple[Array, Array]:
    """Score and cost of every row of the table under the solved policy, each of shape (n,)."""
    n = len(table.rows[ROOT].bins)
    costs = {(move.source.name, move.action): cost for move, cost in table.costs.items()}
    quality, cost = np.zeros(n), np.zeros(n)
    open_at = [(ROOT, np.arange(n))]
    while open_at:
        name, index = open_at.pop()
        rows = table.rows[name]
        lam_index = [solution.nearest(wanted) for wanted in (lam / rows.scale[index]).tolist()]
        action = solution.action[name][lam_index, rows.bins[index]]
        stopped = index[action == -1]
        quality[stopped] = rows.score[stopped]
        for k, edge in enumerate(solution.graph.outgoing(name)):
            going = index[action == k]
            cost[going] += costs[name, edge.action][going]
            open_at.append((edge.target, going))
    return quality, cost
