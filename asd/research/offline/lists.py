"""Lists of at most two models with a threshold, fitted directly on counted cost and accuracy.

FrugalGPT (arXiv 2305.05176) shortened to two: call i; return its answer if its confidence reaches t, else
call j and return that. Every i, j and t is tried, and per lam the one with the largest counted value on the
rows fitted on is taken. No probability is estimated; with few rows that is hard to beat.

With words, what is compared with t is the log-odds of a logistic regression on the confidence and on what the
words of prompt and answer say (`texts`), out of fold on the rows the thresholds are counted on.

With draws, each of so many bootstrap resamples of the rows takes its own list, and the lists vote (bagging,
Breiman 1996): most begin with the same model; those that do say whether to go on, and to which. The best of a
thousand lists on a few hundred rows owes its rank to noise, which the vote averages out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.research.offline.folds import deal
from asd.research.offline.logistic import fit_folds
from asd.research.offline.policies import STOPS, Bought, Choice
from asd.research.offline.signals import Signals
from asd.research.offline.texts import Texts
from asd.research.recordings.recording import Recording

__all__ = ["Lists"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

_N_FOLDS = 5


class _Table(NamedTuple):
    """One entry a list: first and second model (the first, if there is none), threshold; what was counted.

    `quality` and `cost` have shape (lists, draws).
    """

    first: Index
    second: Index
    threshold: Array
    quality: Array
    cost: Array


@dataclass(frozen=True, slots=True)
class Lists:
    """Every list of one or two models, thresholds at `n_steps` quantiles of the first one's signal.

    Attributes:
        n_steps: Thresholds tried of each list.
        words: Whether the words of prompts and answers count beside the confidence.
        n_draws: Resamples that vote; 0: the rows as they are.
        name: In tables.
    """

    n_steps: int = 50
    words: bool = False
    n_draws: int = 0
    name: str = "lists of two"

    def fit(self, train: Recording) -> _FittedLists:
        """Count cost and accuracy of every list at every threshold."""
        signals = Signals.fit(train)
        numbers, costs = signals.signals(train), train.costs / signals.unit
        reader = None
        if self.words:
            reader, numbers = _Reader.fit(train, numbers)
        weights = self._weights(len(train))
        quality, cost = weights @ train.scores, weights @ costs
        tables = [_alone(quality[:, i], cost[:, i], i) for i in range(len(train.stages))]
        tables += [self._pairs(i, numbers[:, i], train.scores, costs, weights) for i in range(len(costs.T))]
        return _FittedLists(signals, reader, _Table(*map(np.concatenate, zip(*tables, strict=True))))

    def _pairs(self, i: int, signal: Array, scores: Array, costs: Array, weights: Array) -> _Table:
        """Every list that begins with model `i`, at every threshold."""
        order, going = self._cuts(signal)
        others = np.delete(np.arange(len(scores.T)), i)
        values = np.concatenate([(scores - scores[:, [i]])[:, others], costs[:, others]], axis=1)
        gained, paid = np.split(_sums(weights[:, order], values[order], going), 2, axis=2)
        quality = weights @ scores[:, i] + gained.transpose(2, 0, 1)
        cost = weights @ costs[:, i] + paid.transpose(2, 0, 1)
        n_lists = len(others) * len(going)
        return _Table(
            np.full(n_lists, i),
            np.repeat(others, len(going)),
            np.tile(signal[order[going]], len(others)),
            quality.reshape(n_lists, len(weights)),
            cost.reshape(n_lists, len(weights)),
        )

    def _weights(self, n: int) -> Array:
        """Of every row in every draw, shape (draws, n); each draw's sum to 1."""
        if not self.n_draws:
            return np.full((1, n), 1.0 / n)
        return np.random.default_rng(0).multinomial(n, np.full(n, 1.0 / n), size=self.n_draws) / n

    def _cuts(self, signal: Array) -> tuple[Index, Index]:
        """The rows in the order of their signal, and how many of them go on at every threshold."""
        order = np.argsort(signal, kind="stable")
        # Equal signals go the same way: cut only where the signal rises, evenly among such places.
        rises = np.flatnonzero(np.diff(signal[order]) > 0.0) + 1
        evenly = np.unique(np.linspace(0, len(rises) - 1, self.n_steps).astype(np.intp))
        return order, rises[evenly] if len(rises) else rises


def _alone(quality: Array, cost: Array, i: int) -> _Table:
    itself = np.array([i])
    return _Table(itself, itself, np.array([-np.inf]), quality[None], cost[None])


def _sums(weights: Array, values: Array, going: Index) -> Array:
    """Weighted sums of the first `going[c]` rows of every column, shape (cuts, draws, columns)."""
    starts = np.append(0, going)[:-1]
    parts = [weights[:, a:b] @ values[a:b] for a, b in zip(starts.tolist(), going.tolist(), strict=True)]
    return np.cumsum(np.reshape(parts, (len(going), len(weights), values.shape[1])), axis=0)


class _Reader(NamedTuple):
    """Log-odds of success of every stage by its confidence and the words; weights of shape (4, K)."""

    texts: Texts
    weights: Array

    @classmethod
    def fit(cls, train: Recording, numbers: Array) -> tuple[_Reader, Array]:
        """The reader, and the log-odds of the rows fitted on by weights from other folds, shape (n, K)."""
        texts, folds = Texts.fit(train), deal(len(train), _N_FOLDS)
        odds, weights = np.empty_like(numbers), []
        for k in range(numbers.shape[1]):
            x = _told(numbers, texts.held_out, k)
            everything, *without = fit_folds(x, train.scores[:, [k]], folds, strength=1.0)
            for fold, fitted in enumerate(without):
                odds[folds == fold, k] = x[folds == fold] @ fitted[:, 0]
            weights.append(everything[:, 0])
        return cls(texts, np.stack(weights, axis=1)), odds

    def __call__(self, rows: Recording, numbers: Array) -> Array:
        words = self.texts.on(rows)
        columns = [_told(numbers, words, k) @ self.weights[:, k] for k in range(numbers.shape[1])]
        return np.stack(columns, axis=1)


def _told(numbers: Array, words: Array, k: int) -> Array:
    return np.stack([numbers[:, k], words[:, 0], words[:, 1 + k], np.ones(len(numbers))], axis=1)


class _FittedLists(NamedTuple):
    """What was counted, and what is needed to look at other rows."""

    signals: Signals
    reader: _Reader | None
    table: _Table

    def on(self, rows: Recording) -> _Sight:
        numbers = self.signals.signals(rows)
        return _Sight(self.table, numbers if self.reader is None else self.reader(rows, numbers))


class _Sight(NamedTuple):
    table: _Table
    numbers: Array

    def choose(self, lam: float, bought: Bought, index: Index) -> Choice:
        best = (lam * self.table.quality - self.table.cost).argmax(axis=0)
        first = self.table.first[best]
        i = int(np.bincount(first).argmax())
        if not bought:
            return Choice(np.full(len(index), i), np.full(len(index), i))
        if bought != (i,):
            second = next(k for k in bought if k != i)
            return Choice(np.full(len(index), STOPS), np.full(len(index), second))
        voting = best[first == i]
        goes_on = self.numbers[index, i, None] < self.table.threshold[voting]
        votes = goes_on @ np.eye(self.numbers.shape[1])[self.table.second[voting]]
        by_most = 2 * goes_on.sum(axis=1) > len(voting)
        return Choice(np.where(by_most, votes.argmax(axis=1), STOPS), np.full(len(index), i))
