"""Predictors behind one protocol: fitted, calibrated per stage, saved without code."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from asd.errors import ConfigError, DataError
from asd.evidence.metrics import auroc
from asd.evidence.prompt import ensemble_fitting
from asd.evidence.prompt.ensemble import MEMBERS, EnsembleModel, to_logits
from asd.evidence.prompt.ensemble_fitting import fit_ensemble, held_out
from asd.evidence.prompt.mlp import LAYERS, MlpModel, fit_mlp
from asd.evidence.prompt.predictors import FITS, QualityPredictor, fit_predictor, stacked

STAGES = ("S", "L")
EASY, HARD = "What is the capital of {}?", "Prove the theorem about the matrix of {}."
PLACES = [f"{a}{b}" for a, b in product("bdfghklmnprst", ("ari", "elo", "uma", "iko", "oxa"))]
PROMPTS = [text.format(place) for place in PLACES for text in (EASY, HARD)]
RNG = np.random.default_rng(0)
RIGHT = np.tile([[0.9, 0.95], [0.1, 0.7]], (len(PLACES), 1))
SCORES = (RNG.uniform(size=RIGHT.shape) < RIGHT).astype(float)


def rows_of(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, scores and groups where two features interact."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(n, 6))
    p = 1.0 / (1.0 + np.exp(-2.0 * rows[:, 0] - 2.0 * rows[:, 1] * rows[:, 2]))
    return rows, (rng.uniform(size=n) < p).astype(float), np.arange(n)


@dataclass(frozen=True)
class Fitted:
    """The five as one graph, and as their libraries know them."""

    model: EnsembleModel
    members: list[Any]


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    """Fitted once."""
    kept, make = [], ensemble_fitting._members
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble_fitting, "_members", lambda seed: kept.extend(make(seed)) or kept)
        return Fitted(fit_ensemble(*rows_of(500), seed=0), kept)


@pytest.fixture(scope="module")
def ensemble(fitted: Fitted) -> EnsembleModel:
    return fitted.model


def test_the_weights_favour_who_did_better(ensemble: EnsembleModel) -> None:
    """Trees see the interaction that ridge cannot, so ridge weighs least; the weights sum to 1."""
    weights = dict(zip(MEMBERS, ensemble.weights, strict=True))
    assert sum(ensemble.weights) == pytest.approx(1.0)
    assert weights["ridge"] < weights["gradient boosting"]


def test_the_prediction_is_the_weighted_mean(ensemble: EnsembleModel) -> None:
    """p, spread and log-odds follow from the members, which lie in [0, 1]."""
    rows, *_ = rows_of(40)
    opened = ensemble.open()
    prediction = opened.predict(rows * 3.0)
    assert prediction.members.shape == (40, 5)
    assert prediction.members.min() >= 0.0
    assert prediction.members.max() <= 1.0
    np.testing.assert_allclose(prediction.p, prediction.members @ np.array(ensemble.weights))
    np.testing.assert_allclose(prediction.spread, prediction.members.std(axis=1))
    np.testing.assert_allclose(opened.logits(rows * 3.0), to_logits(prediction.p))


def test_the_graph_predicts_what_the_libraries_do(fitted: Fitted) -> None:
    """ONNX gives the numbers of scikit-learn and LightGBM on rows that were not fitted on."""
    fresh = np.random.default_rng(5).normal(size=(64, 6)).astype(np.float32).astype(np.float64)
    theirs = np.column_stack([np.clip(member.predict(fresh), 0.0, 1.0) for member in fitted.members])
    np.testing.assert_allclose(fitted.model.open().predict(fresh).members, theirs, atol=1e-5)


def test_a_broken_graph_is_refused(ensemble: EnsembleModel) -> None:
    """Bytes that are no graph of ours raise DataError, weights of no mixture ValueError."""
    with pytest.raises(DataError, match="fit it again"):
        EnsembleModel(ensemble.weights, ensemble.onnx[:1000]).open()
    with pytest.raises(ValueError, match="weights of sum 1"):
        EnsembleModel((0.5, 0.5, 0.5, -0.5, 0.0), ensemble.onnx)


def test_no_query_is_torn_apart() -> None:
    """The held-out share is one of queries, and no query has rows on both sides."""
    groups = np.tile(np.arange(20), 3)
    out = held_out(groups, 0.2, seed=3)
    assert len(set(groups[out])) == 4
    assert not set(groups[out]) & set(groups[~out])
    assert held_out(np.array([0, 1, 1]), 0.99, seed=0).sum() in (1, 2)


@pytest.mark.slow
def test_the_network_is_what_torch_computes() -> None:
    """The kept numbers rank rows on any scale, alike in every fit; the layers are the published ones."""
    rows, scores, groups = rows_of(600)
    model = fit_mlp(rows * 50.0 + 7.0, scores, groups, seed=0)
    assert tuple(len(b) for b in model.biases) == LAYERS
    area = auroc(model.open().logits(rows * 50.0 + 7.0), scores)
    assert area is not None
    assert area > 0.8
    assert model == fit_mlp(rows * 50.0 + 7.0, scores, groups, seed=0)


def test_a_network_by_hand() -> None:
    """Two layers worked with a pencil: relu(2 * 3 - 1) * 2 + 1 = 11, relu(-1 * 3 + 1) = 0 adds nothing."""
    model = MlpModel((((2.0,), (-1.0,)), ((2.0, 5.0),)), ((-1.0, 1.0), (1.0,)))
    assert model.open().logits(np.array([[3.0]])).tolist() == [11.0]


@pytest.mark.parametrize(
    "layers",
    [
        ((((1.0,),),), ((1.0, 2.0),)),  # a row of weights without a bias
        ((((1.0,), (1.0,)),), ((1.0, 2.0),)),  # two outputs
        ((((1.0,), (1.0,)), ((1.0,),)), ((1.0, 2.0), (1.0,))),  # a layer that does not fit onto the last
    ],
)
def test_layers_that_do_not_fit(layers: tuple) -> None:
    """Weights and biases that make up no network are refused."""
    with pytest.raises(ValueError, match="MLP"):
        MlpModel(*layers)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_learns_what_is_hard(name: str, tmp_path: Path) -> None:
    """The kind of prompt and the stage move the probability the right way; a file changes nothing."""
    predictor = fit_predictor(PROMPTS, SCORES, STAGES, name, seed=0)
    fresh = [EASY.format("wylo"), HARD.format("wylo")]
    p = predictor.p(fresh)
    assert p[0, 0] > 0.7
    assert p[1, 0] < 0.3
    assert p[1, 1] > p[1, 0] + 0.2
    predictor.save(tmp_path / "p.json")
    again = QualityPredictor.load(tmp_path / "p.json")
    assert again.stages == STAGES
    np.testing.assert_array_equal(again.p(fresh), p)
    assert again.p([]).shape == (0, 2)


def test_the_ensemble_fits_into_the_same_file(ensemble: EnsembleModel, tmp_path: Path) -> None:
    """The graph survives JSON byte for byte."""
    logistic = fit_predictor(PROMPTS, SCORES, STAGES, "logistic", seed=0)
    file = msgspec.structs.replace(logistic.file, model=ensemble)
    decoded = msgspec.json.decode(msgspec.json.encode(file), type=type(file))
    assert decoded.model == ensemble


def test_stages_are_stacked() -> None:
    """Row i * n + j is prompt j at stage i."""
    features = np.arange(52.0).reshape(2, 26)
    rows = stacked(features, 3)
    assert rows.shape == (6, 31)
    np.testing.assert_array_equal(rows[2:4, :26], features)
    assert rows[:, 29].tolist() == [0, 0, 1, 1, 2, 2]


def test_an_unknown_predictor() -> None:
    """The message names the ones there are."""
    with pytest.raises(ConfigError, match=", ".join(FITS)):
        fit_predictor(PROMPTS, SCORES, STAGES, "oracle", seed=0)


def test_a_file_of_other_stages(tmp_path: Path) -> None:
    """A file whose calibration does not match its stages is refused."""
    predictor = fit_predictor(PROMPTS, SCORES, STAGES, "logistic", seed=0)
    predictor.save(tmp_path / "p.json")
    content = msgspec.json.decode((tmp_path / "p.json").read_bytes())
    (tmp_path / "q.json").write_bytes(msgspec.json.encode(content | {"stages": ["S", "M"]}))
    with pytest.raises(DataError, match="not those calibrated"):
        QualityPredictor.load(tmp_path / "q.json")
