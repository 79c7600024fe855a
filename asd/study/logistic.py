"""Many small logistic regressions on the same rows at once.

Penalised maximum likelihood by Newton's method, one weight vector a target:

    w_t = argmin  sum_i m_it [log(1 + exp(x_i w)) - y_it x_i w] + strength / 2 * |w without the last|^2

The last column of x is the constant, which is not penalised beyond what keeps it finite. A policy over 26
sets of stages needs thousands of fits of three to eight weights; scikit-learn, one call a fit, takes minutes
for that. Targets may be shares in [0, 1].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["fit_many", "sigmoid"]

Array = npt.NDArray[np.float64]

_N_STEPS = 25
_LONGEST_STEP = 4.0
_CONSTANT_STRENGTH = 1e-2
"""Penalty of the constant: a target that is never met gets log-odds near -7, not minus infinity."""


def sigmoid(x: Array) -> Array:
    """`1 / (1 + exp(-x))`, elementwise."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -35.0, 35.0))))


def fit_many(x: Array, targets: Array, masks: Array, strength: float) -> Array:
    """Weights of every target, shape (d, t).

    Args:
        x: Features, the last column constant, shape (n, d).
        targets: Shares in [0, 1], shape (n, t).
        masks: Weight of every row in every fit (0: not seen), shape (n, t).
        strength: Penalty.
    """
    n_features, n_targets = x.shape[1], targets.shape[1]
    penalty = np.full(n_features, strength)
    penalty[-1] = _CONSTANT_STRENGTH
    weights = np.zeros((n_features, n_targets))
    share = (masks * targets).sum(axis=0) / np.maximum(masks.sum(axis=0), 1.0)
    weights[-1] = np.log((share + 1e-3) / (1.0 - share + 1e-3))
    # Products of pairs of features, so that all curvatures are one matrix product.
    pairs = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)
    for _ in range(_N_STEPS):
        p = sigmoid(x @ weights)
        slope = x.T @ (masks * (p - targets)) + penalty[:, None] * weights
        curvature = (pairs.T @ (masks * p * (1.0 - p))).T.reshape(n_targets, n_features, n_features)
        curvature = curvature + np.diag(penalty + 1e-9)
        step = np.linalg.solve(curvature, slope.T[:, :, None])[:, :, 0].T
        weights = weights - np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
        if np.abs(step).max() < 1e-6:
            break
    return weights
