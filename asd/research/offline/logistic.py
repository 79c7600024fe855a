"""Many small logistic regressions on the same rows at once.

Penalised maximum likelihood by Newton's method, one weight vector a target:

    w_t = argmin  sum_i [log(1 + exp(x_i w)) - y_it x_i w] + strength / 2 * |w without the last|^2

The last column of x is the constant, which is not penalised beyond what keeps it finite. A policy over 26
sets of stages needs thousands of fits of three to eight weights; scikit-learn, one call a fit, takes minutes
for that. Targets may be shares in [0, 1].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["fit_folds", "fit_many", "sigmoid"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

_N_STEPS = 100
_LONGEST_STEP = 4.0
_SMALLEST_STEP = 1e-5
"""A target whose weights move by less is done: Newton's next step would be about the square of it."""
_CONSTANT_STRENGTH = 1e-2
"""Penalty of the constant: a target that is never met gets log-odds near -7, not minus infinity."""


def sigmoid(x: Array) -> Array:
    """`1 / (1 + exp(-x))`, elementwise."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -35.0, 35.0))))


def fit_many(x: Array, targets: Array, strength: float, start: Array | None = None) -> Array:
    """Weights of every target, shape (d, t).

    Args:
        x: Features, the last column constant, shape (n, d).
        targets: Shares in [0, 1], shape (n, t).
        strength: Penalty.
        start: Weights to start from, shape (d, t); None: a constant each. They change the time alone.
    """
    penalty = np.full(x.shape[1], strength)
    penalty[-1] = _CONSTANT_STRENGTH
    weights = _constants(x, targets) if start is None else start.copy()
    # Products of pairs of features, so that all curvatures are one matrix product; each pair once.
    one, other = corner = np.triu_indices(x.shape[1])
    pairs = x[:, one] * x[:, other]
    active = np.arange(targets.shape[1])
    last, before = np.zeros_like(weights), np.zeros(len(active))
    for _ in range(_N_STEPS):
        slope, step = _step(x, pairs, corner, penalty, weights[:, active], targets[:, active])
        # Where the slope along the last step has turned round, that step was too long: take half of it back.
        too_long = (slope * last).sum(axis=0) < -0.5 * before
        taken = np.where(too_long, -0.5 * last, step)
        before = np.where(too_long, 0.5 * before, (slope * step).sum(axis=0))
        last = np.where(too_long, 0.5 * last, step)
        weights[:, active] -= taken
        moving = np.abs(taken).max(axis=0) >= _SMALLEST_STEP
        active, last, before = active[moving], last[:, moving], before[moving]
        if not active.size:
            break
    return weights


def fit_folds(x: Array, targets: Array, folds: Index, strength: float) -> list[Array]:
    """`fit_many` on all rows, then without each fold in turn."""
    everything = fit_many(x, targets, strength)
    seen = (folds != fold for fold in range(int(folds.max()) + 1))
    return [everything, *(fit_many(x[rows], targets[rows], strength, everything) for rows in seen)]


def _constants(x: Array, targets: Array) -> Array:
    """Weights by which every row gets about the mean of the targets."""
    weights = np.zeros((x.shape[1], targets.shape[1]))
    share = targets.mean(axis=0)
    weights[-1] = np.log((share + 1e-3) / (1.0 - share + 1e-3))
    return weights


def _step(
    x: Array, pairs: Array, corner: tuple[Index, Index], penalty: Array, weights: Array, targets: Array
) -> tuple[Array, Array]:
    """Slope of the penalised loss, and Newton's step against it, not too long; shape (d, t) each."""
    p = sigmoid(x @ weights)
    slope = x.T @ (p - targets) + penalty[:, None] * weights
    one, other = corner
    curvature = np.empty((targets.shape[1], len(penalty), len(penalty)))
    curvature[:, one, other] = curvature[:, other, one] = (pairs.T @ (p * (1.0 - p))).T
    curvature += np.diag(penalty + 1e-9)
    step = np.linalg.solve(curvature, slope.T[:, :, None])[:, :, 0].T
    return slope, step / np.maximum(np.abs(step).max(axis=0) / _LONGEST_STEP, 1.0)
