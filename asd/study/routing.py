"""Policies that see the prompt alone, and the two that see nothing or everything.

`SingleStage` takes the stage with the largest lam * mean score - mean cost: its frontier is blind mixing of
single models. `PromptRouter` predicts every stage's score from the prompt's character n-grams (TF-IDF,
ridge regression) or from its nearest neighbours among the rows fitted on (what routers of the kNN kind do),
and its price from the prompt's length. `Foresight` is the oracle of the design: per row the best single
stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from asd.study.folds import evenly
from asd.study.policies import STOPS, Bought, Choice
from asd.study.recording import Recording
from asd.study.signals import Signals

__all__ = ["Foresight", "PromptRouter", "SingleStage"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


class _Table(NamedTuple):
    """Expected score and cost of every stage on every row: route by them, then stop."""

    quality: Array
    cost: Array

    def choose(self, lam: float, bought: Bought, index: Index) -> Choice:
        if bought:
            return Choice(np.full(len(index), STOPS), np.full(len(index), bought[0]))
        best = (lam * self.quality[index] - self.cost[index]).argmax(axis=1)
        return Choice(best, best)


@dataclass(frozen=True, slots=True)
class SingleStage:
    """The single stage of the largest mean value; knows nothing of a row."""

    name: str = "single stages"

    def fit(self, train: Recording) -> _Means:
        """Count means."""
        signals = Signals.fit(train)
        return _Means(train.scores.mean(axis=0), signals.mean_cost)


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
        return _Foreseen(Signals.fit(train).unit)


class _Foreseen(NamedTuple):
    unit: float

    def on(self, rows: Recording) -> _Table:
        return _Table(rows.scores, rows.costs / self.unit)


_MOST_ROWS = 3000
"""A prompt router compares with no more rows than this, evenly spaced: its memory grows with their square."""


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
        """Learn vocabulary and scores from the prompts; without any text the mean scores are all there is."""
        from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - takes a second

        signals = Signals.fit(train)
        used = train.take(evenly(len(train), _MOST_ROWS))
        mean = used.scores.mean(axis=0)
        if not any(prompt.strip() for prompt in used.prompts):
            return _FittedRouter(self, signals, None, None, used.scores - mean, mean)
        words = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=10_000
        )
        known = words.fit_transform(used.prompts)
        weights = used.scores - mean
        if self.kind == "ridge":
            likeness = (known @ known.T).toarray()
            weights = np.linalg.solve(likeness + self.strength * np.eye(len(used)), weights)
        return _FittedRouter(self, signals, words, known, weights, mean)


class _FittedRouter(NamedTuple):
    how: PromptRouter
    signals: Signals
    words: Any
    known: Any
    weights: Array
    mean: Array

    def on(self, rows: Recording) -> _Table:
        return _Table(self.mean + self._beyond(rows), self.signals.costs(rows))

    def _beyond(self, rows: Recording) -> Array:
        """Expected score beyond the mean, shape (n, K)."""
        if self.words is None:
            return np.zeros(rows.scores.shape)
        likeness = (self.words.transform(rows.prompts) @ self.known.T).toarray()
        if self.how.kind == "ridge":
            return np.asarray(likeness @ self.weights)
        n_neighbours = max(1, min(self.how.n_neighbours, len(self.weights) // 4))
        nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :n_neighbours]
        return np.asarray(self.weights[nearest].mean(axis=1))
