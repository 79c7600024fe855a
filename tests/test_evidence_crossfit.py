"""Folds that depend on the row alone, and predictions that never saw it."""

from __future__ import annotations

import numpy as np

from asd.evidence.crossfit import assign_folds, out_of_fold

KEYS = [f"tiny/{i}" for i in range(1000)]


def test_the_fold_of_a_row_does_not_depend_on_the_others() -> None:
    """Any order and any subset of the rows gives every key the same fold."""
    folds = dict(zip(KEYS, assign_folds(KEYS, 5, seed=0), strict=True))
    some = KEYS[::-3]
    assert [folds[key] for key in some] == assign_folds(some, 5, seed=0).tolist()


def test_folds_are_about_equal_and_change_with_the_seed() -> None:
    """A thousand keys over five folds: each within four standard errors of 200."""
    folds = assign_folds(KEYS, 5, seed=0)
    assert np.abs(np.bincount(folds, minlength=5) - 200).max() < 4 * np.sqrt(1000 * 0.2 * 0.8)
    assert (folds != assign_folds(KEYS, 5, seed=1)).any()


def test_known_folds() -> None:
    """Recorded once: the assignment is part of what makes an artifact reproducible."""
    assert assign_folds(KEYS[:8], 5, seed=0).tolist() == [4, 1, 2, 4, 0, 4, 2, 1]


def test_a_row_is_predicted_from_the_other_folds_only() -> None:
    """With the mean as predictor, every row gets the mean of the other folds' scores."""
    scores, folds = np.array([1.0, 2.0, 3.0, 10.0]), np.array([0, 0, 1, 2])
    got = out_of_fold(np.zeros(4), scores, folds, lambda _, y: lambda x: np.full(len(x), y.mean()))
    assert got.tolist() == [6.5, 6.5, 13 / 3, 2.0]
