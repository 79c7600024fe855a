"""Which rows fit and which are held out, dealt by position like cards: every fold gets as many, by chance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["deal"]


def deal(n: int, n_folds: int, seed: int = 0) -> npt.NDArray[np.intp]:
    """Fold of every row, shape (n,); sizes differ by at most one."""
    folds = np.arange(n) % n_folds
    np.random.default_rng(seed).shuffle(folds)
    return folds
