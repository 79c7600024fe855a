"""What the words of a prompt and of an answer say of success: ridge regression on character n-grams.

Texts are the rows of `asd.research.offline.grams`; K is the product of any two prompts, for a stage that has
answered plus that of the answers. With K centred and hat matrix H = K (K + strength I)^-1 + 1/n,

    held_out_i = y_i - (y_i - (H y)_i) / (1 - H_ii)

is the prediction of row i by all others, so that nothing learned from these numbers has seen the row's own
score. They are given as log-odds beyond the stage's mean: 0 where words say nothing, or where there are none.
Other rows are predicted by one weight an n-gram, so that time and memory grow with their texts alone. The
border: text in, numbers out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asd.research.folds import evenly
from asd.research.offline.grams import Grams, count_grams, products
from asd.research.recordings.recording import Recording

__all__ = ["Texts"]

Array = npt.NDArray[np.float64]

_MOST_ROWS = 500
"""More rows than this, evenly spaced, are not fitted on: time grows with the cube."""
_STRENGTH = 8.0
_LEAST = 0.02
"""Predictions of a linear model are kept so far from 0 and 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Fitted on rows, applied to others; one column for the prompt, then one a stage for its answer.

    Attributes:
        held_out: On the rows fitted on, none of them predicted by itself, shape (n, 1 + K).
    """

    held_out: Array
    _prompts: _NgramScores
    _answers: tuple[_NgramScores, ...]
    _ridges: tuple[_KernelRidge, ...]

    @classmethod
    @lru_cache(maxsize=1)
    def fit(cls, train: Recording) -> Texts:
        """Learn from the scores of the rows; methods fitted on the same rows in turn share it."""
        used = evenly(len(train), _MOST_ROWS)
        rows = train.take(used)
        prompts, *answers = (_FittedTexts.of(texts) for texts in (rows.prompts, *rows.texts.T))
        shared = products(prompts.known, prompts.known)
        ridges = [_KernelRidge.fit(shared, rows.scores)]
        ridges += [
            _KernelRidge.fit(shared + products(column.known, column.known), rows.scores[:, [k]])
            for k, column in enumerate(answers)
        ]
        fitted = cls(
            np.empty(0),
            prompts.reader(np.concatenate([ridge.weights for ridge in ridges], axis=1)),
            tuple(c.reader(ridge.weights) for c, ridge in zip(answers, ridges[1:], strict=True)),
            tuple(ridges),
        )
        held_out = np.empty((len(train), len(ridges)))
        others = np.setdiff1d(np.arange(len(train)), used)
        held_out[others] = fitted.on(train.take(others))
        held_out[used] = np.stack([ridge.held_out for ridge in ridges], axis=1)
        return replace(fitted, held_out=held_out)

    def on(self, rows: Recording) -> Array:
        """Mean log-odds of all stages by the prompt, then of every stage by its answer too: (m, 1 + K)."""
        return _said(self, rows)


@lru_cache(maxsize=1)
def _said(texts: Texts, rows: Recording) -> Array:
    """`Texts.on`, worked out once for the methods that look at the same rows in turn."""
    n_stages = len(rows.stages)
    by_prompt = texts._prompts(rows.prompts)
    columns = [texts._ridges[0].beyond(by_prompt[:, :n_stages])]
    for k, (reader, ridge) in enumerate(zip(texts._answers, texts._ridges[1:], strict=True)):
        columns.append(ridge.beyond(by_prompt[:, [n_stages + k]] + reader(rows.texts[:, k])))
    return np.stack(columns, axis=1)


class _NgramScores(NamedTuple):
    """Products of texts with those fitted on, summed by weights: one weight an n-gram, shape (buckets, t)."""

    grams: Grams
    weights: Array

    def __call__(self, texts: npt.NDArray[np.object_]) -> Array:
        return self.grams.project(texts, self.weights)


class _FittedTexts(NamedTuple):
    """Prompts, or answers of one stage, of the rows fitted on: sparse rows of unit length."""

    grams: Grams
    known: Any

    @classmethod
    def of(cls, texts: npt.NDArray[np.object_]) -> _FittedTexts:
        counts = count_grams(texts)
        grams = Grams.fit(counts)
        return cls(grams, grams.weighted(counts))

    def reader(self, weights: Array) -> _NgramScores:
        """For weights of the texts, shape (n, t)."""
        return _NgramScores(self.grams, self.known.T @ weights)


@dataclass(frozen=True, slots=True, eq=False)
class _KernelRidge:
    """Kernel ridge regression with an intercept, its predictions averaged over targets as log-odds."""

    mean: Array
    offset: Array
    weights: Array
    held_out: Array

    @classmethod
    def fit(cls, kernel: Array, scores: Array) -> _KernelRidge:
        n, mean, centre = len(scores), scores.mean(axis=0), kernel.mean(axis=0)
        centred = kernel - centre - centre[:, None] + kernel.mean()
        inverse = np.linalg.inv(centred + _STRENGTH * np.eye(n))
        weights = inverse @ (scores - mean)
        missed = _STRENGTH * weights / np.maximum(_STRENGTH * np.diag(inverse) - 1.0 / n, 1e-9)[:, None]
        return cls(mean, mean - centre @ weights, weights, _beyond(scores - missed, mean))

    def beyond(self, weighted: Array) -> Array:
        """Predictions from products with the rows fitted on, weighted and summed, shape (m, targets)."""
        return _beyond(self.offset + weighted, self.mean)


def _beyond(p: Array, mean: Array) -> Array:
    """Log-odds beyond those of the mean, averaged over targets, shape (n,)."""
    return np.asarray((_log_odds(p) - _log_odds(mean)).mean(axis=1))


def _log_odds(p: Array) -> Array:
    kept = np.clip(p, _LEAST, 1.0 - _LEAST)
    return np.asarray(np.log(kept / (1.0 - kept)))
