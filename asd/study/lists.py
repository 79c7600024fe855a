"""Lists of at most two models with a threshold, fitted directly on counted cost and accuracy.

FrugalGPT (arXiv 2305.05176) shortened to two: call i; return its answer if its confidence reaches t, else
call j and return that. Every i, j and t is tried, and per lam the one with the largest counted value on the
rows fitted on is taken. No probability is estimated; with few rows that is hard to beat.

With words, what is compared with t is the log-odds of a logistic regression on the confidence and on what the
words of prompt and answer say (`texts`), out of fold on the rows the thresholds are counted on.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.study.folds import deal
from asd.study.logistic import fit_many
from asd.study.policies import STOPS, Bought, Choice
from asd.study.recording import Recording
from asd.study.signals import Signals
from asd.study.texts import Texts

__all__ = ["Lists"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

_N_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Lists:
    """Every list of one or two models, thresholds at `n_steps` quantiles of the first one's signal.

    Attributes:
        n_steps: Thresholds tried of each list.
        words: Whether the words of prompts and answers count beside the confidence.
        name: In tables.
    """

    n_steps: int = 50
    words: bool = False
    name: str = "lists of two"

    def fit(self, train: Recording) -> _FittedLists:
        """Count cost and accuracy of every list at every threshold."""
        signals = Signals.fit(train)
        numbers, costs = signals.signals(train), train.costs / signals.unit
        reader = None
        if self.words:
            reader, numbers = _Reader.fit(train, numbers)
        tables = [_alone(train.scores[:, i], costs[:, i], i) for i in range(len(train.stages))]
        tables += [
            self._pair(numbers[:, i], train.scores, costs, i, j)
            for i, j in permutations(range(len(train.stages)), 2)
        ]
        return _FittedLists(signals, reader, np.concatenate(tables))

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


class _Reader(NamedTuple):
    """Log-odds of success of every stage by its confidence and the words; weights of shape (4, K)."""

    texts: Texts
    weights: Array

    @classmethod
    def fit(cls, train: Recording, numbers: Array) -> tuple[_Reader, Array]:
        """The reader, and the log-odds of the rows fitted on by weights from other folds, shape (n, K)."""
        texts, folds = Texts.fit(train), deal(len(train), _N_FOLDS)
        masks = np.stack([np.ones(len(train)), *(folds != fold for fold in range(_N_FOLDS))], axis=1)
        odds, weights = np.empty_like(numbers), []
        for k in range(numbers.shape[1]):
            x = _told(numbers, texts.held_out, k)
            fitted = fit_many(x, np.repeat(train.scores[:, [k]], masks.shape[1], axis=1), masks, strength=1.0)
            odds[:, k] = (x @ fitted)[np.arange(len(x)), 1 + folds]
            weights.append(fitted[:, 0])
        return cls(texts, np.stack(weights, axis=1)), odds

    def __call__(self, rows: Recording, numbers: Array) -> Array:
        words = self.texts.on(rows)
        columns = [_told(numbers, words, k) @ self.weights[:, k] for k in range(numbers.shape[1])]
        return np.stack(columns, axis=1)


def _told(numbers: Array, words: Array, k: int) -> Array:
    return np.stack([numbers[:, k], words[:, 0], words[:, 1 + k], np.ones(len(numbers))], axis=1)


class _FittedLists(NamedTuple):
    """One row a candidate: first, second, threshold, quality, cost."""

    signals: Signals
    reader: _Reader | None
    table: Array

    def on(self, rows: Recording) -> _Sight:
        numbers = self.signals.signals(rows)
        return _Sight(self.table, numbers if self.reader is None else self.reader(rows, numbers))


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
