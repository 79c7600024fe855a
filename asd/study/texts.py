"""What the words of a prompt and of an answer say of success: ridge regression on character n-grams.

A text is its hashed n-grams (2 to 4 characters), (1 + log count) times their rarity among the rows fitted on
(log (n + 1) / (n_with_it + 1), 0 if never seen: what all prompts begin with says nothing), of unit length; K
is the product of any two prompts, for a stage that has answered plus that of the answers.
With K centred and hat matrix H = K (K + strength I)^-1 + 1/n,

    held_out_i = y_i - (y_i - (H y)_i) / (1 - H_ii)

is the prediction of row i by all others, so that nothing learned from these numbers has seen the row's own
score. They are given as log-odds beyond the stage's mean: 0 where words say nothing, or where there are none.
The border: text in, numbers out.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from asd.study.folds import evenly
from asd.study.recording import Recording

__all__ = ["Texts"]

Array = npt.NDArray[np.float64]

_N_BUCKETS = 2**16
_MOST_CHARACTERS = 500
"""Of a longer text, so many from either end are read."""
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
    _prompts: _Grams
    _answers: tuple[_Grams, ...]
    _ridges: tuple[_Ridge, ...]

    @classmethod
    @lru_cache(maxsize=1)
    def fit(cls, train: Recording) -> Texts:
        """Learn from the scores of the rows; methods fitted on the same rows in turn share it."""
        used = evenly(len(train), _MOST_ROWS)
        rows = train.take(used)
        prompts = _Grams.fit(rows.prompts)
        answers = tuple(_Grams.fit([texts[k] for texts in rows.texts]) for k in range(len(rows.stages)))
        shared = prompts.likeness(rows.prompts)
        ridges = [_Ridge.fit(shared, rows.scores)]
        ridges += [
            _Ridge.fit(shared + grams.likeness([texts[k] for texts in rows.texts]), rows.scores[:, [k]])
            for k, grams in enumerate(answers)
        ]
        fitted = cls(np.empty(0), prompts, answers, tuple(ridges))
        held_out = np.empty((len(train), 1 + len(rows.stages)))
        others = np.setdiff1d(np.arange(len(train)), used)
        held_out[others] = fitted.on(train.take(others))
        held_out[used] = np.stack([ridge.held_out for ridge in ridges], axis=1)
        return cls(held_out, prompts, answers, tuple(ridges))

    def on(self, rows: Recording) -> Array:
        """Mean log-odds of all stages by the prompt, then of every stage by its answer too: (m, 1 + K)."""
        shared = self._prompts.likeness(rows.prompts)
        columns = [self._ridges[0](shared)]
        for k, (grams, ridge) in enumerate(zip(self._answers, self._ridges[1:], strict=True)):
            columns.append(ridge(shared + grams.likeness([texts[k] for texts in rows.texts])))
        return np.stack(columns, axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class _Grams:
    """The texts fitted on, as weighted n-grams: a sparse matrix of unit rows."""

    rarity: npt.NDArray[np.float32]
    known: Any

    @classmethod
    def fit(cls, texts: Sequence[str]) -> _Grams:
        counts = _counted(texts)
        seen = np.bincount(counts.indices, minlength=_N_BUCKETS)
        rarity = np.where(seen > 0, np.log((1.0 + len(texts)) / (1.0 + seen)), 0.0).astype(np.float32)
        return cls(rarity, _weighted(counts, rarity))

    def likeness(self, texts: Sequence[str]) -> Array:
        """Products with the texts fitted on, shape (m, n)."""
        return np.asarray(
            (_weighted(_counted(texts), self.rarity) @ self.known.T).toarray(), dtype=np.float64
        )


def _counted(texts: Sequence[str]) -> Any:
    """Sparse rows of 1 + log count, shape (m, buckets)."""
    from scipy.sparse import csr_matrix  # noqa: PLC0415 - takes half a second

    found = [_grams(text) for text in texts]
    ends = np.cumsum([0, *(len(buckets) for buckets, _ in found)])
    buckets = np.concatenate([np.empty(0, dtype=np.int32), *(b for b, _ in found)])
    counts = np.concatenate([np.empty(0, dtype=np.float32), *(c for _, c in found)])
    return csr_matrix((counts, buckets, ends), shape=(len(texts), _N_BUCKETS))


def _weighted(counts: Any, rarity: npt.NDArray[np.float32]) -> Any:
    weighted = counts.copy()
    weighted.data *= rarity[weighted.indices]
    weighted.eliminate_zeros()
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    weighted.data /= np.repeat(np.maximum(length, 1e-9), np.diff(weighted.indptr)).astype(np.float32)
    return weighted


@lru_cache(maxsize=8192)
def _grams(text: str) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
    """Buckets of a text's n-grams, ascending, and 1 + log of how often each occurs."""
    words = " ".join(text.lower().split())
    if len(words) > 2 * _MOST_CHARACTERS:
        words = words[:_MOST_CHARACTERS] + words[-_MOST_CHARACTERS:]
    raw = f" {words} ".encode() if words else b""
    hashed = [zlib.crc32(raw[i : i + n]) % _N_BUCKETS for n in (2, 3, 4) for i in range(len(raw) - n + 1)]
    buckets, counts = np.unique(np.array(hashed, dtype=np.uint16), return_counts=True)
    return buckets, (1.0 + np.log(counts)).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Ridge:
    """Kernel ridge regression with an intercept, its predictions averaged over targets as log-odds."""

    mean: Array
    centre: Array
    weights: Array
    held_out: Array

    @classmethod
    def fit(cls, kernel: Array, scores: Array) -> _Ridge:
        n, mean, centre = len(scores), scores.mean(axis=0), kernel.mean(axis=0)
        centred = kernel - centre - centre[:, None] + kernel.mean()
        inverse = np.linalg.inv(centred + _STRENGTH * np.eye(n))
        weights = inverse @ (scores - mean)
        missed = _STRENGTH * weights / np.maximum(_STRENGTH * np.diag(inverse) - 1.0 / n, 1e-9)[:, None]
        return cls(mean, centre, weights, _beyond(scores - missed, mean))

    def __call__(self, kernel: Array) -> Array:
        return _beyond(self.mean + (kernel - self.centre) @ self.weights, self.mean)


def _beyond(p: Array, mean: Array) -> Array:
    """Log-odds beyond those of the mean, averaged over targets, shape (n,)."""
    return np.asarray((_log_odds(p) - _log_odds(mean)).mean(axis=1))


def _log_odds(p: Array) -> Array:
    kept = np.clip(p, _LEAST, 1.0 - _LEAST)
    return np.asarray(np.log(kept / (1.0 - kept)))
