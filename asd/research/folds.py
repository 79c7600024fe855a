"""Which rows are used for what: dealt into folds like cards, or taken evenly where there are too many."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["deal", "evenly"]


def deal(n: int, n_folds: int, seed: int = 0) -> npt.NDArray[np.intp]:
    """Fold of every row, shape (n,); sizes differ by at most one."""
    folds = np.arange(n) % n_folds
    np.random.default_rng(seed).shuffle(folds)
    return folds


def evenly(n: int, most: int) -> npt.NDArray[np.intp]:
    """All positions, or `most` of them evenly spaced, ascending."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(np.intp)
