"""The exported logistic regression against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from asd.evidence.calibration import sigmoid
from asd.evidence.logistic import fit_logistic, smoothed_targets


def rows(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Features on very different scales, one of them constant, and scores that depend on two."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(n, 4)) * [1.0, 100.0, 0.01, 0.0] + [0.0, 50.0, 0.0, 7.0]
    p = 1 / (1 + np.exp(-(x[:, 0] + 0.02 * (x[:, 1] - 50.0))))
    return x, (rng.random(n) < p).astype(float)


def test_equals_scikit_learn_predict_proba() -> None:
    """Folding scaler and coefficients into one dot product changes no probability by more than 1e-9."""
    x, scores = rows()
    targets = smoothed_targets(scores)
    scaled = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=10_000, tol=1e-6))
    scaled.named_steps["standardscaler"].fit(x)
    both = np.vstack([x, x])
    labels, weights = np.repeat([1.0, 0.0], len(x)), np.concatenate([targets, 1 - targets])
    model = scaled.named_steps["logisticregression"]
    model.fit(scaled.named_steps["standardscaler"].transform(both), labels, sample_weight=weights)
    want = scaled.predict_proba(x)[:, 1]
    fitted = fit_logistic(x, scores, strength=0.5)
    assert [sigmoid(fitted.logit(row)) for row in x.tolist()] == pytest.approx(want, abs=1e-9)


def test_one_row_and_many_rows_agree() -> None:
    """The hot path and the fitting path compute the same log-odds."""
    x, scores = rows()
    fitted = fit_logistic(x, scores, strength=1.0)
    assert [fitted.logit(row) for row in x.tolist()] == pytest.approx(fitted.logits(x), abs=1e-9)


def test_a_constant_feature_gets_no_weight() -> None:
    """Its scale is unknown, so it may not move a new row."""
    x, scores = rows()
    assert fit_logistic(x, scores, strength=1.0).weights[3] == 0.0


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_stage_that_is_always_alike_gets_a_finite_probability(label: float) -> None:
    """One class only: the probability is Platt's smoothed target, not 0 or 1."""
    x, scores = rows()
    fitted = fit_logistic(x, np.full_like(scores, label), strength=1.0)
    expected = 401 / 402 if label else 1 / 402
    assert sigmoid(fitted.logit(x[0].tolist())) == pytest.approx(expected, rel=1e-3)


def test_a_feature_that_separates_gets_a_finite_weight() -> None:
    """Separable classes and no penalty: smoothing keeps the log-odds at what n rows can show."""
    x = np.concatenate([np.full(50, -1.0), np.full(50, 1.0)])[:, None]
    fitted = fit_logistic(x, (x[:, 0] > 0).astype(float), strength=np.inf)
    assert sigmoid(fitted.logit([1.0])) == pytest.approx(51 / 52, rel=1e-3)


def test_graded_scores_pull_the_probability_to_their_mean() -> None:
    """Scores of .25 everywhere give a probability of .25."""
    x, scores = rows()
    fitted = fit_logistic(x, np.full_like(scores, 0.25), strength=1.0)
    assert sigmoid(fitted.logit(x[0].tolist())) == pytest.approx(0.25, abs=0.005)
