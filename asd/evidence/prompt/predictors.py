"""Predictors of success from features: one protocol, three ways to fit, one versioned file.

A predictor maps rows (features of a prompt and a stage) to log-odds; a map per stage, chosen by held-out
log-loss (`asd.evidence.calibration`), makes them probabilities. Which way to fit is chosen by cross-validated
decision regret (`asd.research.predictors.predictors`), not by taste.

    predictor = fit_predictor(prompts, scores, stages, "ensemble", seed=0)
    predictor.save(path);  QualityPredictor.load(path).p(["What is 2 + 2?"])       # (1, number of stages)

Scope: prompts in, probabilities out; nothing is priced and nothing decided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, Self

import msgspec
import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError, DataError
from asd.evidence import calibration
from asd.evidence.calibration import Calibration
from asd.evidence.crossfit import assign_folds
from asd.evidence.logistic import Logistic, fit_logistic
from asd.evidence.prompt.ensemble import EnsembleModel
from asd.evidence.prompt.ensemble_fitting import fit_ensemble
from asd.evidence.prompt.mlp import MlpModel, fit_mlp
from asd.evidence.prompt.published import at_stage, published_features
from asd.evidence.prompt.semantics import Projection, Semantics, fit_semantics
from asd.measurement.files import read_record, write_record
from asd.measurement.records import Record

__all__ = ["FITS", "Fit", "Predictor", "PredictorFile", "QualityPredictor", "fit_predictor", "stacked"]

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

N_FOLDS = 3


class Predictor(Protocol):
    """Rows of features to log-odds of success before calibration."""

    def logits(self, rows: Array) -> Array:
        """Log-odds of rows of shape (n, d), shape (n,)."""


class LogisticModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="logistic"):
    """A logistic regression as it is kept in a file."""

    logistic: Logistic

    def open(self) -> Logistic:
        """Ready to predict."""
        return self.logistic


Model = LogisticModel | MlpModel | EnsembleModel
Fit = Callable[[Array, Array, IntArray, int], Model]
"""(rows, scores, query of every row, seed) to a model."""


def _fit_logistic(rows: Array, scores: Array, groups: IntArray, seed: int) -> Model:  # noqa: ARG001
    return LogisticModel(fit_logistic(rows, scores, strength=0.1))


def _fit_mlp(rows: Array, scores: Array, groups: IntArray, seed: int) -> Model:
    return fit_mlp(rows, scores, groups, seed=seed)


def _fit_ensemble(rows: Array, scores: Array, groups: IntArray, seed: int) -> Model:
    return fit_ensemble(rows, scores, groups, seed=seed)


FITS: Mapping[str, Fit] = {"logistic": _fit_logistic, "mlp": _fit_mlp, "ensemble": _fit_ensemble}
"""By the name that the command line knows."""


class PredictorFile(Record, frozen=True, kw_only=True):
    """Everything of a fitted predictor, as one JSON file without code (the graph of an ensemble is ONNX).

    Attributes:
        stages: In ladder order.
        semantics: Of the semantic dimensions.
        model: Features of prompt and stage to log-odds.
        calibration: By stage.
    """

    format: Literal["asd-predictor"] = "asd-predictor"
    schema_version: Literal[1] = 1
    stages: tuple[str, ...]
    semantics: Semantics
    model: Model
    calibration: dict[str, Calibration]

    def __post_init__(self) -> None:
        if tuple(self.calibration) != self.stages or not self.stages:
            raise DataError(f"stages {self.stages} are not those calibrated, {tuple(self.calibration)}")


class QualityPredictor:
    """How likely each stage is to answer a prompt well, before it is asked."""

    def __init__(self, file: PredictorFile) -> None:
        self.file = file
        self._semantics = Projection(file.semantics)
        self._predictor: Predictor = file.model.open()
        self._maps = list(file.calibration.values())

    @property
    def stages(self) -> tuple[str, ...]:
        """Names in ladder order."""
        return self.file.stages

    def p(self, prompts: Sequence[str]) -> Array:
        """Calibrated success probability of every stage on every prompt, shape (n, number of stages)."""
        n, k = len(prompts), len(self.stages)
        if n == 0:
            return np.zeros((0, k))
        rows = stacked(published_features(prompts, self._semantics), k)
        logits = self._predictor.logits(rows).reshape(k, n)
        return np.array(
            [list(map(to_p, row)) for to_p, row in zip(self._maps, logits.tolist(), strict=True)]
        ).T

    def save(self, path: str | Path) -> None:
        """Write the file in one step; `StorageError` where that fails."""
        write_record(path, self.file)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file; `DataError` where it is missing, broken or of other features."""
        return cls(read_record(path, PredictorFile))


def stacked(features: Array, n_stages: int) -> Array:
    """Features of n prompts at every stage, one stage after the other, shape (n_stages * n, 31)."""
    return np.vstack([at_stage(features, stage, n_stages) for stage in range(n_stages)])


def fit_predictor(
    prompts: Sequence[str], scores: Array, stages: Sequence[str], name: str, *, seed: int
) -> QualityPredictor:
    """Fit on every row, calibrate each stage on predictions for rows that the model had not seen.

    Args:
        prompts: One a query.
        scores: Quality in [0, 1], shape (n, number of stages).
        stages: In ladder order.
        name: One of `FITS`.
        seed: Of folds, splits and models.

    Raises:
        ConfigError: No such way to fit.
        DataError: The prompts are too few or too much alike.
    """
    if name not in FITS:
        raise ConfigError(f"no predictor {name!r}; there are {', '.join(FITS)}")
    semantics = fit_semantics(prompts, seed=seed)
    rows = stacked(published_features(prompts, Projection(semantics)), len(stages))
    groups = np.tile(np.arange(len(prompts)), len(stages))
    folds = np.tile(assign_folds(prompts, N_FOLDS, seed), len(stages))
    logits, flat = np.empty(len(rows)), scores.T.ravel()
    for fold in np.unique(folds):
        seen = folds != fold
        logits[~seen] = FITS[name](rows[seen], flat[seen], groups[seen], seed).open().logits(rows[~seen])
    by_stage = (a.reshape(len(stages), -1) for a in (logits, flat, folds))
    maps = {s: calibration.choose(*of).map for s, *of in zip(stages, *by_stage, strict=True)}
    model = FITS[name](rows, flat, groups, seed)
    return QualityPredictor(
        PredictorFile(stages=tuple(stages), semantics=semantics, model=model, calibration=maps)
    )
