"""Measures of predicted probabilities against scikit-learn and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from asd.evidence.metrics import as_binary, auroc, calibration_error, log_loss, reliability

SEEDS = st.integers(0, 2**32 - 1)


def rows(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with ties, and binary scores of both classes."""
    rng = np.random.default_rng(seed)
    p = rng.integers(1, 20, n) / 20
    scores = (rng.random(n) < p).astype(float)
    scores[:2] = 0.0, 1.0
    return p, scores


@pytest.mark.slow
@given(SEEDS)
def test_measures_equal_scikit_learn(seed: int) -> None:
    """Log-loss, Brier score and AUROC on binary scores."""
    p, scores = rows(seed)
    got = reliability(p, scores)
    assert got.log_loss == pytest.approx(sklearn_metrics.log_loss(scores, p))
    assert got.brier == pytest.approx(sklearn_metrics.brier_score_loss(scores, p))
    assert got.auroc == pytest.approx(sklearn_metrics.roc_auc_score(scores, p))
    assert (got.n, got.base_rate) == (60, pytest.approx(scores.mean()))


@pytest.mark.slow
@given(SEEDS)
def test_graded_scores_are_shares_of_a_success(seed: int) -> None:
    """AUROC and log-loss of graded scores equal scikit-learn's on weighted binary rows."""
    rng = np.random.default_rng(seed)
    p, scores = rng.uniform(0.01, 0.99, 40), rng.random(40)
    twice, labels = np.tile(p, 2), np.repeat([1.0, 0.0], 40)
    weights = np.concatenate([scores, 1.0 - scores])
    assert auroc(p, scores) == pytest.approx(
        sklearn_metrics.roc_auc_score(labels, twice, sample_weight=weights)
    )
    assert log_loss(p, scores) == pytest.approx(
        sklearn_metrics.log_loss(labels, twice, sample_weight=weights)
    )


def test_auroc_of_one_class_is_none() -> None:
    """Where every row is a success there is nothing to rank."""
    assert auroc(np.array([0.2, 0.8]), np.ones(2)) is None


def test_log_loss_of_a_certain_error_is_large_and_finite() -> None:
    """A probability of 0 for what happened costs -log(1e-12)."""
    assert log_loss(np.array([0.0]), np.array([1.0])) == pytest.approx(-np.log(1e-12))


def test_calibration_error_worked_by_hand() -> None:
    """Two bins: (.2, .2) against 0 and 1 is .3 off, (.9, .9) against 1 and 1 is .1 off; mean .2."""
    p, scores = np.array([0.2, 0.9, 0.2, 0.9]), np.array([0.0, 1.0, 1.0, 1.0])
    assert calibration_error(p, scores, n_bins=2) == pytest.approx(0.2)


def test_binary_scores_are_not_doubled() -> None:
    """A right or wrong answer stays one row of weight 1."""
    binary = as_binary(np.array([1.0, 0.0, 1.0]))
    assert (binary.row.tolist(), binary.label.tolist(), binary.weight.tolist()) == (
        [0, 2, 1],
        [1.0, 1.0, 0.0],
        [1.0, 1.0, 1.0],
    )
