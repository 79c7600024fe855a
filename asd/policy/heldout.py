"""What fitted policies are worth on rows that they were not fitted on, fold by fold.

The border: policies are solved and played here on the rows' states, as numbers; no text is read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.ladder import ROOT
from asd.policy.estimate import Table, estimate_graph
from asd.policy.record import Errors, Replayed
from asd.stopping.recursion import Solution, solve

__all__ = ["Alone", "HeldOut", "cross_replay", "is_worth_more", "records", "replay", "standard_error"]

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


class HeldOut(NamedTuple):
    """Means over rows at one lam."""

    lam: float
    quality: float
    cost: float
    model_value: float
    errors: Errors

    @property
    def value(self) -> float:
        """Value realised."""
        return self.lam * self.quality - self.cost


def cross_replay(table: Table, folds: IntArray, lams: Array, alone: Alone) -> list[HeldOut]:
    """What policies solved on the other folds are worth on each fold, one value a lam."""
    sweep = np.unique(np.concatenate([np.geomspace(lams[0] / 8.0, lams[-1] * 8.0, 200), lams]))
    n = len(folds)
    quality, cost, promised = np.zeros((len(lams), n)), np.zeros((len(lams), n)), np.zeros((len(lams), n))
    for fold in np.unique(folds):
        held_out = folds == fold
        solution = solve(estimate_graph(table.where(~held_out)), sweep)
        for i, lam in enumerate(lams):
            quality[i, held_out], cost[i, held_out] = replay(solution, table.where(held_out), float(lam))
            promised[i, held_out] = solution.expected_value[solution.nearest(float(lam))]
    means = (quality.mean(axis=1), cost.mean(axis=1), promised.mean(axis=1))
    errors = [alone.errors(*row) for row in zip(quality, cost, strict=True)]
    rows = zip(map(float, lams), *(map(float, mean) for mean in means), errors, strict=True)
    return [HeldOut(*row) for row in rows]


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


def replay(solution: Solution, table: Table, lam: float) -> tuple[Array, Array]:
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


def is_worth_more(scaled: Sequence[HeldOut], plain: Sequence[HeldOut]) -> bool:
    """Summed over lams, each in proportion to what is at stake there: an answer and a run of the largest."""
    return sum((a.value - b.value) / (1.0 + a.lam) for a, b in zip(scaled, plain, strict=True)) > 0.0


def records(chosen: Sequence[HeldOut], other: Sequence[HeldOut]) -> tuple[Replayed, ...]:
    """For the artifact, beside what the other choice was worth."""
    return tuple(
        Replayed(**a._asdict(), alternative_value=b.value) for a, b in zip(chosen, other, strict=True)
    )
