"""Lists of at most two stages with a threshold: counted on rows, then elected by a vote of resamples.

FrugalGPT (arXiv 2305.05176) shortened to two: call i; return its answer if its signal reaches t, else call j
and return that. Every i, j and t is counted, and at one lam the list with the largest counted value
lam * quality - cost is taken. No probability is estimated; with few rows that is hard to beat.

With draws, each of so many bootstrap resamples of the rows takes its own list, and the lists vote (bagging,
Breiman 1996): most begin with the same stage; those that do say whether to escalate, and to which. The best
of a thousand lists on a few hundred rows owes its rank to noise, which the vote averages out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError

__all__ = ["RETURN", "ListTable", "RecordedRows", "Vote", "count"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

RETURN = -1
"""The choice that returns the first answer; every other one is the position of the stage to call."""


@dataclass(frozen=True, slots=True, eq=False)
class RecordedRows:
    """Recorded outcomes of K stages on n queries; costs in any common unit.

    Attributes:
        signal: What each stage's own answer is compared by, larger where it is likelier right, shape (n, K).
        score: Quality of each stage's answer, shape (n, K).
        alone: Cost of each stage's call as the first, shape (n, K).
        after: Cost of a second call by the stage called first and the one called then, shape (n, K, K).
    """

    signal: Array
    score: Array
    alone: Array
    after: Array

    def __len__(self) -> int:
        return len(self.score)

    def where(self, rows: npt.NDArray[np.bool_]) -> RecordedRows:
        """The rows of a mask."""
        return RecordedRows(self.signal[rows], self.score[rows], self.alone[rows], self.after[rows])

    def play(self, vote: Vote) -> tuple[Array, Array]:
        """Score and cost of every row by an elected list, shape (n,) each."""
        row, first = np.arange(len(self)), vote.first
        then = vote.choose(self.signal[:, first])
        stage = np.where(then == RETURN, first, then)
        more = np.where(then == RETURN, 0.0, self.after[row, first, stage])
        return self.score[row, stage], self.alone[:, first] + more


class Vote(NamedTuple):
    """The lists elected at one lam that begin with the same stage, one a draw.

    Attributes:
        first: Position of the stage they begin with.
        second: Of the stage they escalate to, `first` where they never do, shape (v,).
        threshold: They escalate where the first answer's signal is below, shape (v,).
        value: Mean of their counted values.
    """

    first: int
    second: Index
    threshold: Array
    value: float

    def tally(self, signal: Array) -> Array:
        """How many lists call each stage next, by its position, shape (m, stages); the others call none."""
        goes_on = signal[:, None] < self.threshold
        return np.asarray(goes_on @ np.eye(int(self.second.max()) + 1)[self.second])

    def choose(self, signal: Array) -> Index:
        """For signals of shape (m,): where most lists escalate, the stage that most of these name."""
        votes = self.tally(signal)
        return np.where(2.0 * votes.sum(axis=1) > len(self.second), votes.argmax(axis=1), RETURN)


class ListTable(NamedTuple):
    """One entry a list, shape (L,); what was counted of it in every draw, shape (L, draws)."""

    first: Index
    second: Index
    threshold: Array
    quality: Array
    cost: Array

    def elect(self, lam: float, *, first: int | None = None, out: Collection[int] = ()) -> Vote:
        """Let every draw take its best list.

        Args:
            lam: Trade-off weight.
            first: The stage that has answered already; None: the one that most draws begin with. Where no
                draw would begin with it, each takes the best of the lists that do.
            out: Stages that cannot be called.

        Raises:
            ConfigError: No stage can be called.
        """
        values = lam * self.quality - self.cost
        closed = np.isin(self.second, list(out)) & (self.second != self.first)
        if first is None:
            closed |= np.isin(self.first, list(out))
        if closed.all():
            raise ConfigError("a list needs a stage to begin with, and none can be called")
        best = _best(values, closed)
        if first is None:
            first = int(np.bincount(self.first[best]).argmax())
        if first not in self.first[best]:
            best = _best(values, closed | (self.first != first))
        voting = np.flatnonzero(self.first[best] == first)
        chosen = best[voting]
        return Vote(first, self.second[chosen], self.threshold[chosen], float(values[chosen, voting].mean()))


def _best(values: Array, closed: npt.NDArray[np.bool_]) -> Index:
    """The open list of largest value in every draw, shape (draws,)."""
    return np.asarray(np.where(closed[:, None], -np.inf, values).argmax(axis=0), dtype=np.intp)


def count(rows: RecordedRows, n_draws: int = 0, n_steps: int = 50) -> ListTable:
    """Quality and cost of every list, thresholds at `n_steps` quantiles of the first stage's signal.

    Args:
        rows: Counted on.
        n_draws: Bootstrap resamples; 0: the rows as they are.
        n_steps: Thresholds of each pair of stages, at most.
    """
    weights = _weights(len(rows), n_draws)
    stages = range(rows.score.shape[1])
    parts = [_alone(weights, rows, i) for i in stages] + [_pairs(weights, rows, i, n_steps) for i in stages]
    return ListTable(*map(np.concatenate, zip(*parts, strict=True)))


def _weights(n: int, n_draws: int) -> Array:
    """Of every row in every draw, shape (draws, n); each draw's sum to 1."""
    if not n_draws:
        return np.full((1, n), 1.0 / n)
    return np.random.default_rng(0).multinomial(n, np.full(n, 1.0 / n), size=n_draws) / n


def _alone(weights: Array, rows: RecordedRows, i: int) -> ListTable:
    itself = np.array([i])
    quality, cost = weights @ rows.score[:, i], weights @ rows.alone[:, i]
    return ListTable(itself, itself, np.array([-np.inf]), quality[None], cost[None])


def _pairs(weights: Array, rows: RecordedRows, i: int, n_steps: int) -> ListTable:
    """Every list that begins with stage `i` and may escalate, at every threshold."""
    order, going = _cuts(rows.signal[:, i], n_steps)
    others = np.delete(np.arange(rows.score.shape[1]), i)
    values = np.concatenate([(rows.score - rows.score[:, [i]])[:, others], rows.after[:, i, others]], axis=1)
    gained, paid = np.split(_sums(weights[:, order], values[order], going), 2, axis=2)
    quality = weights @ rows.score[:, i] + gained.transpose(2, 0, 1)
    cost = weights @ rows.alone[:, i] + paid.transpose(2, 0, 1)
    n_lists = len(others) * len(going)
    return ListTable(
        np.full(n_lists, i),
        np.repeat(others, len(going)),
        np.tile(rows.signal[order[going], i], len(others)),
        quality.reshape(n_lists, len(weights)),
        cost.reshape(n_lists, len(weights)),
    )


def _cuts(signal: Array, n_steps: int) -> tuple[Index, Index]:
    """The rows in the order of their signal, and how many of them escalate at every threshold."""
    order = np.argsort(signal, kind="stable")
    # Equal signals go the same way: cut only where the signal rises, evenly among such places.
    rises = np.flatnonzero(np.diff(signal[order]) > 0.0) + 1
    evenly = np.unique(np.linspace(0, len(rises) - 1, n_steps).astype(np.intp))
    return order, rises[evenly] if len(rises) else rises


def _sums(weights: Array, values: Array, going: Index) -> Array:
    """Weighted sums of the first `going[c]` rows of every column, shape (cuts, draws, columns)."""
    starts = np.append(0, going)[:-1]
    parts = [weights[:, a:b] @ values[a:b] for a, b in zip(starts.tolist(), going.tolist(), strict=True)]
    return np.cumsum(np.reshape(parts, (len(going), len(weights), values.shape[1])), axis=0)
