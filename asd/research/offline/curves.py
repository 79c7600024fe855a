"""A method's whole sweep on rows: one setting a lam, row by row; and the same by cross-validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.research.folds import deal
from asd.research.offline.policies import Fitted, Method, play
from asd.research.recordings.recording import Recording
from asd.stopping.hull import Hull

__all__ = [
    "LOSSES",
    "SWEEP",
    "Curve",
    "best_stage",
    "cost_shares",
    "cross_validate",
    "cross_validate_all",
    "in_order",
    "splits",
    "sweep",
]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

LOSSES = (0.01, 0.02, 0.05)
"""Where frontiers are read off, in quality below the best single model."""

_BLOCK = 10_000
"""Rows that are played at once."""
_N_RESAMPLES = 200
_MOST_DRAWN = 2_000_000
"""Numbers drawn at once."""

SWEEP = tuple(float(lam) for lam in np.geomspace(0.05, 500.0, 29))
"""Where a method's own curve is looked at; a factor of 1.39 apart."""


class Curve(NamedTuple):
    """L settings on n rows of K stages.

    Attributes:
        lams: Shape (L,).
        quality: Score of the answer returned, shape (L, n).
        cost: Of all calls, in the recording's unit, shape (L, n).
        answer: Position of the stage whose answer is returned, shape (L, n).
        called: Stages called, shape (L, n, K).
    """

    lams: Array
    quality: Array
    cost: Array
    answer: Index
    called: npt.NDArray[np.bool_]

    def points(self) -> list[tuple[float, float]]:
        """Mean cost and mean quality of every setting."""
        return list(zip(self.cost.mean(axis=1).tolist(), self.quality.mean(axis=1).tolist(), strict=True))

    def at(self, lam: float) -> Curve:
        """One of its settings."""
        i = self.lams.tolist().index(lam)
        return Curve._make(part[i : i + 1] for part in self)

    def values(self, unit: float) -> Array:
        """Of every setting and row, lam * quality - cost with the cost in `unit`, shape (L, n)."""
        return np.asarray(self.lams[:, None] * self.quality - self.cost / unit)


def sweep(fitted: Fitted, rows: Recording, lams: Sequence[float]) -> Curve:
    """Play rows at every lam, some thousand rows at a time: what a method sees of them takes room."""
    n = len(rows)
    blocks = (
        [rows.take(np.arange(i, min(i + _BLOCK, n))) for i in range(0, n, _BLOCK)] if n > _BLOCK else [rows]
    )
    found = [_swept(fitted, block, lams) for block in blocks]
    return found[0] if len(found) == 1 else in_order(found, np.arange(n))


def _swept(fitted: Fitted, rows: Recording, lams: Sequence[float]) -> Curve:
    sight = fitted.on(rows)
    played = [play(sight, rows, float(lam)) for lam in lams]
    return Curve(np.array(lams, dtype=np.float64), *(np.stack(part) for part in zip(*played, strict=True)))


def splits(n: int, n_folds: int, seed: int) -> Iterator[tuple[Index, Index]]:
    """Rows to fit on and rows held out, fold by fold."""
    folds = deal(n, n_folds, seed)
    for fold in range(n_folds):
        yield np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)


def cross_validate(
    method: Method, rows: Recording, lams: Sequence[float], n_folds: int = 5, seed: int = 1
) -> Curve:
    """Play every row by the method fitted on the other folds."""
    return cross_validate_all((method,), rows, lams, n_folds, seed)[0]


def cross_validate_all(
    methods: Sequence[Method], rows: Recording, lams: Sequence[float], n_folds: int = 5, seed: int = 1
) -> list[Curve]:
    """The same of several methods, on the same folds; what they learn alike is learned once a fold."""
    parts = list(splits(len(rows), n_folds, seed))
    curves: list[list[Curve]] = [[] for _ in methods]
    for seen, held_out in parts:
        train, other = rows.take(seen), rows.take(held_out)
        for found, method in zip(curves, methods, strict=True):
            found.append(sweep(method.fit(train), other, lams))
    back = np.argsort(np.concatenate([held_out for _, held_out in parts]))
    return [in_order(found, back) for found in curves]


def in_order(curves: Sequence[Curve], order: Index) -> Curve:
    """Rows of several curves of the same settings one after another, then put in this order."""
    joined = (np.concatenate(part, axis=1)[:, order] for part in zip(*(c[1:] for c in curves), strict=True))
    return Curve(curves[0].lams, *joined)


def cost_shares(rows: Recording, curves: Sequence[Curve]) -> list[Array]:
    """What quality costs by every curve: on the rows, then on 200 resamples of them.

    Returns:
        Of every curve, the cost at each of `LOSSES` below the best single model over its cost, shape
        (1 + resamples, losses); 1 where the best single model is free, so that nothing can be saved.
    """
    n, rng, found = len(rows), np.random.default_rng(0), []
    for n_draws in (0, *_portions(_N_RESAMPLES, max(1, _MOST_DRAWN // n))):
        drawn = rng.multinomial(n, np.full(n, 1.0 / n), size=n_draws) if n_draws else np.ones((1, n))
        weights = drawn / n
        alone = weights @ rows.costs, weights @ rows.scores
        found.append([_drawn_shares(*alone, weights @ c.cost.T, weights @ c.quality.T) for c in curves])
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def _portions(total: int, most: int) -> list[int]:
    """A number as a sum of others that are no larger than `most`."""
    return [min(most, total - start) for start in range(0, total, most)]


def _drawn_shares(cost: Array, quality: Array, costs: Array, qualities: Array) -> Array:
    """By draw: from means of single models, shape (draws, K), and of the curve's settings, (draws, L)."""
    draws = zip(cost, quality, costs, qualities, strict=True)
    return np.stack([_shares(*means) for means in draws])


def best_stage(quality: Array, cost: Array) -> int:
    """The stage of the largest mean score, the cheaper of equals; order of summing decides nothing."""
    return min(range(len(quality)), key=lambda k: (-round(float(quality[k]), 9), float(cost[k])))


def _shares(cost: Array, quality: Array, costs: Array, qualities: Array) -> Array:
    best = best_stage(quality, cost)
    singles = zip(cost.tolist(), quality.tolist(), strict=True)
    hull = Hull([*singles, *zip(costs.tolist(), qualities.tolist(), strict=True)])
    shares = [hull.cost_at(float(quality[best]) - loss) for loss in LOSSES]
    # The best single model is on the hull, so that every loss is reached.
    reached = np.array([share for share in shares if share is not None], dtype=np.float64)
    return reached / float(cost[best]) if cost[best] > 0.0 else np.ones_like(reached)
