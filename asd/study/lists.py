"""Lists of at most two models with a threshold, fitted directly on counted cost and accuracy.

FrugalGPT (arXiv 2305.05176) shortened to two: call i; return its answer if its confidence reaches t, else
call j and return that. Every i, j and t is tried, and per lam the one with the largest counted value on the
rows fitted on is taken. No probability is estimated; with few rows that is hard to beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.study.policies import STOPS, Bought, Choice
from asd.study.recording import Recording
from asd.study.signals import Signals

__all__ = ["Lists"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Lists:
    """Every list of one or two models, thresholds at `n_steps` quantiles of the first one's signal."""

    n_steps: int = 50
    name: str = "lists of two"

    def fit(self, train: Recording) -> _FittedLists:
        """Count cost and accuracy of every list at every threshold."""
        signals = Signals.fit(train)
        numbers, costs = signals.signals(train), train.costs / signals.unit
        tables = [_alone(train.scores[:, i], costs[:, i], i) for i in range(len(train.stages))]
        tables += [
            self._pair(numbers[:, i], train.scores, costs, i, j)
            for i, j in permutations(range(len(train.stages)), 2)
        ]
        return _FittedLists(signals, np.concatenate(tables))

    def _pair(self, signal: Array, scores: Array, costs: Array, i: int, j: int) -> Array:
        order = np.argsort(signal, kind="stable")
        # Equal signals go the same way: cut only where the signal rises, evenly among such places.
        rises = np.flatnonzero(np.diff(signal[order]) > 0.0) + 1
        evenly = np.unique(np.linspace(0, len(rises) - 1, self.n_steps).astype(np.intp))
        going = rises[evenly] if len(rises) else rises
        gained = np.cumsum((scores[:, j] - scores[:, i])[order])[going - 1] / len(order)
        paid = np.cumsum(costs[order, j])[going - 1] / len(order)
        n = len(going)
        return np.stack(
            [np.full(n, i), np.full(n, j), signal[order[going]],
             scores[:, i].mean() + gained, costs[:, i].mean() + paid], axis=1,
        )  # fmt: skip


def _alone(scores: Array, costs: Array, i: int) -> Array:
    return np.array([[i, i, -np.inf, scores.mean(), costs.mean()]])


class _FittedLists(NamedTuple):
    """One row a candidate: first, second, threshold, quality, cost."""

    signals: Signals
    table: Array

    def on(self, rows: Recording) -> _Sight:
        return _Sight(self.table, self.signals.signals(rows))


class _Sight(NamedTuple):
    table: Array
    numbers: Array

    def choose(self, lam: float, bought: Bought, index: Index) -> Choice:
        first, second, threshold, *_ = self.table[(lam * self.table[:, 3] - self.table[:, 4]).argmax()]
        i, j = int(first), int(second)
        if not bought:
            return Choice(np.full(len(index), i), np.full(len(index), i))
        if bought != (i,):
            return Choice(np.full(len(index), STOPS), np.full(len(index), j))
        goes_on = self.numbers[index, i] < threshold
        return Choice(np.where(goes_on, j, STOPS), np.full(len(index), i))
