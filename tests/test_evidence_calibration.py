"""Calibration maps against scikit-learn, and the choice between them."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from asd.evidence.calibration import (
    Isotonic,
    Platt,
    choose,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    sigmoid,
)


def rows(n: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of an overconfident classifier (twice too large), and what came of them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.5, 3.0, n)
    return logits, (rng.random(n) < 1 / (1 + np.exp(-logits / 2))).astype(float)


@given(st.floats(-800, 800))
def test_sigmoid_never_overflows(x: float) -> None:
    """Finite, in [0, 1] and symmetric however large the log-odds."""
    assert 0.0 <= sigmoid(x) <= 1.0
    assert sigmoid(x) + sigmoid(-x) == pytest.approx(1.0)
    assert sigmoid(math.log(3.0)) == pytest.approx(0.75)


def test_platt_equals_scikit_learn() -> None:
    """The same map as CalibratedClassifierCV(method="sigmoid") on the same decision values."""
    logits, scores = rows()
    identity = LogisticRegression().fit([[-1.0], [1.0]], [0, 1])
    identity.coef_, identity.intercept_ = np.array([[1.0]]), np.array([0.0])
    oracle = CalibratedClassifierCV(FrozenEstimator(identity), method="sigmoid", ensemble=False)
    want = oracle.fit(logits[:, None], scores).predict_proba(logits[:, None])[:, 1]
    fitted = fit_platt(logits, scores)
    assert [fitted(z) for z in logits.tolist()] == pytest.approx(want, abs=1e-4)


def test_isotonic_equals_scikit_learn() -> None:
    """Between and beyond its knots the map is scikit-learn's prediction."""
    logits, scores = rows()
    least = 1 / (len(logits) + 2)
    oracle = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(logits, scores)
    anywhere = np.linspace(-20, 20, 999)
    fitted = fit_isotonic(logits, scores)
    assert [fitted(z) for z in anywhere.tolist()] == pytest.approx(oracle.predict(anywhere), abs=1e-12)


def test_isotonic_never_claims_more_than_its_rows_show() -> None:
    """Ten rows, all right: at most 11/12."""
    fitted = fit_isotonic(np.arange(10.0), np.ones(10))
    assert fitted(99.0) == pytest.approx(11 / 12)


@pytest.mark.parametrize("knots", [((), ()), ((0.0, 1.0), (0.5,))])
def test_isotonic_without_matching_knots_is_refused(
    knots: tuple[tuple[float, ...], tuple[float, ...]],
) -> None:
    """A map that cannot be applied cannot be made, from a file least of all."""
    with pytest.raises(ValueError, match="as many probabilities as knots"):
        Isotonic(*knots)


def test_platt_is_chosen_where_the_error_is_a_sigmoid() -> None:
    """Overconfidence by a constant factor: Platt's two numbers beat isotonic's many."""
    logits, scores = rows()
    chosen = choose(logits, scores, np.arange(500) % 5)
    assert isinstance(chosen.map, Platt)
    assert chosen.map.slope == pytest.approx(0.5, abs=0.1)


def test_isotonic_is_chosen_where_the_error_is_a_step() -> None:
    """A classifier that is right 10 % below and 60 % above a step, whatever it says beyond that."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, 4000)
    scores = (rng.random(4000) < np.where(logits > 2.0, 0.6, 0.1)).astype(float)
    chosen = choose(logits, scores, np.arange(4000) % 5)
    assert isinstance(chosen.map, Isotonic)
    assert chosen.map(-5.0) == pytest.approx(0.1, abs=0.03)
    assert chosen.map(4.0) == pytest.approx(0.6, abs=0.06)


def test_out_of_fold_probabilities_come_from_the_other_folds() -> None:
    """A row's probability does not move with its own fold's scores, except through the choice of map."""
    logits, scores = rows()
    folds = np.arange(500) % 5
    flipped = np.where((folds == 0) & (np.arange(500) < 25), 1 - scores, scores)
    before, after = (choose(logits, s, folds) for s in (scores, flipped))
    assert type(before.map) is type(after.map)
    assert before.p_out_of_fold[folds == 0] == pytest.approx(after.p_out_of_fold[folds == 0], abs=1e-12)
    assert before.p_out_of_fold[folds == 1] != pytest.approx(after.p_out_of_fold[folds == 1], abs=1e-6)


def test_maps_survive_a_round_trip_through_json() -> None:
    """Both kinds are told apart by their tag."""
    logits, scores = rows()
    for fitted in (fit_platt(logits, scores), fit_isotonic(logits, scores)):
        assert msgspec.json.decode(msgspec.json.encode(fitted), type=Platt | Isotonic) == fitted


def test_a_temperature_is_recovered() -> None:
    """Log-odds that are three times too large get a third of their slope, and no offset."""
    rng = np.random.default_rng(0)
    true = rng.normal(0.0, 1.5, 20_000)
    scores = (rng.uniform(size=len(true)) < 1.0 / (1.0 + np.exp(-true))).astype(float)
    fitted = fit_temperature(3.0 * true, scores)
    assert fitted.slope == pytest.approx(1.0 / 3.0, rel=0.05)
    assert fitted.offset == 0.0
