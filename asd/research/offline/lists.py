"""Lists of at most two models with a threshold (`asd.stopping.lists`), on recorded outcomes.

What is compared with the threshold is the first model's confidence. With words, it is the log-odds of a
logistic regression on the confidence and on what the words of prompt and answer say (`texts`), out of fold on
the rows the thresholds are counted on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.research.folds import deal
from asd.research.offline.logistic import fit_folds
from asd.research.offline.policies import STOPS, Bought, RowActions
from asd.research.offline.signals import Signals
from asd.research.offline.texts import Texts
from asd.research.recordings.recording import Recording
from asd.stopping.lists import ListTable, RecordedRows, count

__all__ = ["Lists"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

_N_FOLDS = 5
_MOST_ROWS = 5000
"""More rows than this, evenly spaced, are not counted on."""


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
        train = train.thinned(_MOST_ROWS)
        signals = Signals.fit(train)
        numbers, costs = signals.signals(train), train.costs / signals.unit
        reader = None
        if self.words:
            reader, numbers = _ConfidenceModel.fit(train, numbers)
        after = np.broadcast_to(costs[:, None], (len(train), *(2 * costs.shape[1:])))
        rows = RecordedRows(numbers, train.scores, costs, after)
        return _FittedLists(signals, reader, count(rows, self.n_draws, self.n_steps))


class _ConfidenceModel(NamedTuple):
    """Log-odds of success of every stage by its confidence and the words; weights of shape (4, K)."""

    texts: Texts
    weights: Array

    @classmethod
    def fit(cls, train: Recording, numbers: Array) -> tuple[_ConfidenceModel, Array]:
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
    reader: _ConfidenceModel | None
    table: ListTable

    def on(self, rows: Recording) -> _ListSight:
        numbers = self.signals.signals(rows)
        return _ListSight(self.table, numbers if self.reader is None else self.reader(rows, numbers))


class _ListSight(NamedTuple):
    table: ListTable
    numbers: Array

    def choose(self, lam: float, bought: Bought, index: Index) -> RowActions:
        vote = self.table.elect(lam)
        i = vote.first
        if not bought:
            return RowActions(np.full(len(index), i), np.full(len(index), i))
        if bought != (i,):
            second = next(k for k in bought if k != i)
            return RowActions(np.full(len(index), STOPS), np.full(len(index), second))
        return RowActions(vote.choose(self.numbers[index, i]), np.full(len(index), i))
