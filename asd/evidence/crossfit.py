"""Predictions for rows that the predictor has not seen (cross-fitting).

Folds come from a stable hash of what a row *is*, never from where it stands in a file: the same query falls
into the same fold in every run and under any order of the traces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

__all__ = ["assign_folds", "out_of_fold"]

Array = npt.NDArray[np.float64]
Predict = Callable[[Array], Array]


def assign_folds(keys: Sequence[str], n_folds: int, seed: int) -> npt.NDArray[np.intp]:
    """Fold of every key in `range(n_folds)`, a function of the key and the seed alone, shape (n,)."""
    digests = (blake2b(f"{seed}:{key}".encode(), digest_size=8).digest() for key in keys)
    return np.array([int.from_bytes(digest, "big") % n_folds for digest in digests], dtype=np.intp)


def out_of_fold(
    x: Array, scores: Array, folds: npt.NDArray[np.intp], fit: Callable[[Array, Array], Predict]
) -> Array:
    """Prediction of every row by a predictor fitted on the other folds, shape (n,).

    Args:
        x: Features, shape (n,) or (n, d).
        scores: Targets, shape (n,).
        folds: Fold of every row, shape (n,), at least two distinct.
        fit: Maps (features, targets) of the other folds to a function of features.
    """
    predicted = np.empty(len(scores))
    for fold in np.unique(folds):
        held_out = folds == fold
        predicted[held_out] = fit(x[~held_out], scores[~held_out])(x[held_out])
    return predicted
