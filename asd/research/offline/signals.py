"""What is known of a row in a state: a number a stage bought, how far answers agree, what a call will cost.

A stage's number is its confidence, brought to one scale whatever it was recorded on: the mean of its rank
among the rows fitted on and of its standardised value (log-probabilities are spread over magnitudes near 0,
so theirs is -log(-c); shares become log-odds). A stage without confidences speaks by the length of its
answer and of the prompt, through a logistic regression on its own scores.

What a call will cost is a linear function of the prompt's length: prices are per token, and the prompt is
known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from asd.research.offline.logistic import fit_many
from asd.research.recordings.recording import Recording

__all__ = ["Signals", "cost_unit"]

Array = npt.NDArray[np.float64]

Kind = Literal["none", "log", "share", "score"]

_LIMIT = 3.0
_HUGE = 1e9
_UNUSED = np.zeros(3)
"""Weights of what a stage with confidences of its own is not judged by."""


@dataclass(frozen=True, slots=True, eq=False)
class _Scale:
    """Rank and standardised value of one raw number, mixed."""

    ordered: Array
    mean: float
    spread: float

    @classmethod
    def of(cls, raw: Array) -> _Scale:
        return cls(np.sort(raw), float(raw.mean()), float(raw.std()) or 1.0)

    def __call__(self, raw: Array) -> Array:
        below = np.searchsorted(self.ordered, raw, "left") + np.searchsorted(self.ordered, raw, "right")
        rank = (below + 1.0) / (2.0 * len(self.ordered) + 2.0)
        # sqrt(12) gives a uniform rank unit variance.
        standard = np.clip((raw - self.mean) / self.spread, -_LIMIT, _LIMIT)
        return np.asarray((np.sqrt(12.0) * (rank - 0.5) + standard) / 2.0)


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    """Fitted on rows, applied to others.

    Attributes:
        unit: Mean cost of a call of the dearest stage, in the recording's unit.
        mean_cost: Of every stage, in cost units, shape (K,).
    """

    unit: float
    mean_cost: Array
    _kinds: tuple[Kind, ...]
    _scales: tuple[_Scale, ...]
    _own: Array
    _lines: Array
    _agreement: Array
    _prompt: _Scale
    _words: tuple[_Scale, ...]

    @classmethod
    def fit(cls, train: Recording) -> Signals:
        """Learn scales and prices from the rows."""
        unit = cost_unit(train)
        prompt = _Scale.of(train.prompt_length)
        words = tuple(_Scale.of(_words(train, k)) for k in range(len(train.stages)))
        kinds = tuple(_kind(train.confidence[:, k]) for k in range(len(train.stages)))
        own = [
            _own_weights(_about(train, k, prompt, words[k]), train.scores[:, k])
            if kind == "none"
            else _UNUSED
            for k, kind in enumerate(kinds)
        ]
        unscaled = cls(
            unit=unit,
            mean_cost=train.costs.mean(axis=0) / unit,
            _kinds=kinds,
            _scales=(),
            _own=np.stack(own),
            _lines=_price_lines(train.prompt_length, train.costs / unit),
            _agreement=np.nan_to_num(train.agreement).mean(axis=0),
            _prompt=prompt,
            _words=words,
        )
        return replace(unscaled, _scales=tuple(_Scale.of(raw) for raw in unscaled._raw(train)))

    def signals(self, rows: Recording) -> Array:
        """One number a stage, larger where its answer is likelier to be right as it says; shape (n, K)."""
        raw = self._raw(rows)
        return np.stack([scale(values) for scale, values in zip(self._scales, raw, strict=True)], axis=1)

    def _raw(self, rows: Recording) -> list[Array]:
        """Of every stage, its confidence; where it has none, what the lengths of answer and prompt say."""
        return [
            _about(rows, k, self._prompt, self._words[k]) @ self._own[k]
            if kind == "none"
            else _spread(kind, rows.confidence[:, k])
            for k, kind in enumerate(self._kinds)
        ]

    def features(self, rows: Recording, signals: Array, bought: Sequence[int]) -> Array:
        """Signals of the stages bought, their agreements, and the constant: shape (n, d)."""
        pairs = [2.0 * (np.nan_to_num(rows.agreement[:, a, b]) - self._agreement[a, b])
                 for a, b in combinations(bought, 2)]  # fmt: skip
        return np.stack([*(signals[:, k] for k in bought), *pairs, np.ones(len(rows))], axis=1)

    def costs(self, rows: Recording) -> Array:
        """What a call of every stage will cost, in cost units, shape (n, K)."""
        length = rows.prompt_length[:, None]
        expected = self._lines[0] + self._lines[1] * length
        return np.asarray(np.clip(expected, 0.2 * self.mean_cost, 5.0 * self.mean_cost))


def cost_unit(rows: Recording) -> float:
    """Mean cost of a call of the dearest stage; 1 where nothing costs anything."""
    return float(rows.costs.mean(axis=0).max()) or 1.0


def _words(rows: Recording, k: int) -> Array:
    return np.log1p(np.nan_to_num(rows.words[:, k]))


def _about(rows: Recording, k: int, prompt: _Scale, words: _Scale) -> Array:
    """What a stage without confidences is judged by."""
    return np.stack([words(_words(rows, k)), prompt(rows.prompt_length), np.ones(len(rows))], axis=1)


def _own_weights(about: Array, scores: Array) -> Array:
    return np.asarray(fit_many(about, scores[:, None], strength=3.0)[:, 0])


def _kind(confidence: Array) -> Kind:
    """What scale a stage's confidences are on, by the range they take."""
    finite = confidence[np.isfinite(confidence)]
    if not finite.size:
        return "none"
    if finite.max() <= 0.0:
        return "log"
    return "share" if finite.min() >= 0.0 and finite.max() <= 1.0 else "score"


def _spread(kind: Kind, confidence: Array) -> Array:
    """Confidence on a scale without piled-up ends, null as the lowest."""
    known = np.nan_to_num(confidence, nan=-_HUGE, neginf=-_HUGE, posinf=_HUGE)
    if kind == "log":
        return np.asarray(-np.log(np.clip(-known, 1e-8, 50.0)))
    if kind == "share":
        share = np.clip(known, 1e-8, 1.0 - 1e-8)
        return np.asarray(np.log(share / (1.0 - share)))
    return np.asarray(np.sign(known) * np.log1p(np.abs(known)))


def _price_lines(length: Array, costs: Array) -> Array:
    """Offset and slope of cost over prompt length, least squares, shape (2, K)."""
    spread = length - length.mean()
    if not spread.any():
        return np.stack([costs.mean(axis=0), np.zeros(costs.shape[1])])
    slope = spread @ costs / (spread @ spread)
    return np.stack([costs.mean(axis=0) - slope * length.mean(), slope])
