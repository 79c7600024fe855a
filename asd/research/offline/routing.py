"""Policies that see the prompt alone, and the two that see nothing or everything.

`SingleStage` takes the stage with the largest lam * mean score - mean cost: its frontier is blind mixing of
single models. `PromptRouter` predicts every stage's score from the prompt's character n-grams (`grams`) by
ridge regression, or from its nearest neighbours among the rows fitted on (what routers of the kNN kind do),
and its price from the prompt's length. `Foresight` is the oracle of the design: per row the best single
stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from asd.research.offline.grams import Grams, count_grams, products
from asd.research.offline.policies import STOPS, Bought, RowActions
from asd.research.offline.signals import Signals, cost_unit
from asd.research.recordings.recording import Recording

__all__ = ["Foresight", "PromptRouter", "SingleStage"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


class _Table(NamedTuple):
    """Expected score and cost of every stage on every row: route by them, then stop."""

    quality: Array
    cost: Array

    def choose(self, lam: float, bought: Bought, index: Index) -> RowActions:
        if bought:
            return RowActions(np.full(len(index), STOPS), np.full(len(index), bought[0]))
        best = (lam * self.quality[index] - self.cost[index]).argmax(axis=1)
        return RowActions(best, best)


@dataclass(frozen=True, slots=True)
class SingleStage:
    """The single stage of the largest mean value; knows nothing of a row."""

    name: str = "single stages"

    def fit(self, train: Recording) -> _Means:
        """Count means."""
        return _Means(train.scores.mean(axis=0), train.costs.mean(axis=0) / cost_unit(train))


class _Means(NamedTuple):
    quality: Array
    cost: Array

    def on(self, rows: Recording) -> _Table:
        shape = rows.scores.shape
        return _Table(np.broadcast_to(self.quality, shape), np.broadcast_to(self.cost, shape))


@dataclass(frozen=True, slots=True)
class Foresight:
    """The oracle: it reads the scores and costs of the rows it routes, and pays for one stage."""

    name: str = "oracle"

    def fit(self, train: Recording) -> _Foreseen:
        """Only the cost unit is fitted."""
        return _Foreseen(cost_unit(train))


class _Foreseen(NamedTuple):
    unit: float

    def on(self, rows: Recording) -> _Table:
        return _Table(rows.scores, rows.costs / self.unit)


_MOST_ROWS = 3000
"""A prompt router learns from no more rows than this, evenly spaced: its memory grows with their square."""
_BLOCK = 1000
"""Prompts compared at once."""


@dataclass(frozen=True, slots=True)
class PromptRouter:
    """Expected scores from the prompt's text.

    Attributes:
        kind: "ridge" or "neighbours".
        strength: Ridge penalty.
        n_neighbours: How many, at most a quarter of the rows.
    """

    kind: Literal["ridge", "neighbours"] = "ridge"
    strength: float = 5.0
    n_neighbours: int = 40

    @property
    def name(self) -> str:
        """With its kind."""
        return f"prompt router ({self.kind})"

    def fit(self, train: Recording) -> _FittedRouter:
        """Learn n-grams and scores from the prompts; without any text the mean scores are all there is."""
        used = train.thinned(_MOST_ROWS)
        counts = count_grams(used.prompts)
        grams = Grams.fit(counts, least=1.0)  # as TF-IDF has it: common n-grams count too
        known, mean = grams.weighted(counts), used.scores.mean(axis=0)
        beyond: _NgramRidge | _Neighbours = _Neighbours(grams, known, used.scores - mean, self.n_neighbours)
        if self.kind == "ridge":
            penalty = self.strength * np.eye(len(used))
            weights = np.linalg.solve(products(known, known) + penalty, used.scores - mean)
            beyond = _NgramRidge(grams, known.T @ weights)
        return _FittedRouter(Signals.fit(train), mean, beyond)


class _NgramRidge(NamedTuple):
    """Linear in the n-grams of the prompt; weights of shape (buckets, K)."""

    grams: Grams
    weights: Array

    def __call__(self, prompts: npt.NDArray[np.object_]) -> Array:
        return self.grams.project(prompts, self.weights)


class _Neighbours(NamedTuple):
    """Mean of the rows with the likest prompts; scores beyond the mean of shape (n, K)."""

    grams: Grams
    known: Any
    scores: Array
    most: int

    def __call__(self, prompts: npt.NDArray[np.object_]) -> Array:
        n_neighbours = max(1, min(self.most, len(self.scores) // 4))
        found = [np.empty((0, self.scores.shape[1]))]
        for start in range(0, len(prompts), _BLOCK):
            rows = self.grams.weighted(count_grams(prompts[start : start + _BLOCK]))
            nearest = np.argsort(-products(rows, self.known), axis=1, kind="stable")[:, :n_neighbours]
            found.append(self.scores[nearest].mean(axis=1))
        return np.concatenate(found)


class _FittedRouter(NamedTuple):
    signals: Signals
    mean: Array
    beyond: _NgramRidge | _Neighbours

    def on(self, rows: Recording) -> _Table:
        return _Table(self.mean + self.beyond(rows.prompts), self.signals.costs(rows))
