"""The five-model ensemble, applied: one ONNX graph from features to five predictions, averaged with weights.

    p = sum_m weight_m * clip(prediction_m, 0, 1),    spread = standard deviation of the five

The spread is disagreement between models fitted on the same rows; it is *not* the uncertainty of p. The
border: nothing is fitted here (`asd.evidence.prompt.ensemble_fitting` does); onnxruntime is imported when a
model is opened, and no file holds code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from asd.errors import DataError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["MEMBERS", "Ensemble", "EnsembleModel", "Prediction", "to_logits"]

Array = npt.NDArray[np.float64]

MEMBERS = ("random forest", "gradient boosting", "MLP 256-128-64-32", "LightGBM", "ridge")
"""The five, in the order of the graph's output."""

INPUT, OUTPUT = "rows", "members"
_LEAST_P = 1e-4


class Prediction(NamedTuple):
    """What the ensemble says of n rows.

    Attributes:
        p: Weighted mean in [0, 1], shape (n,).
        spread: Standard deviation over members, shape (n,).
        members: Each member's prediction in [0, 1], shape (n, 5).
    """

    p: Array
    spread: Array
    members: Array


class EnsembleModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="ensemble"):
    """The ensemble as it is kept in a file.

    Attributes:
        weights: One a member, in the order of `MEMBERS`, not negative, of sum 1.
        onnx: The graph, `rows` (n, d) float32 to `members` (n, 5).
    """

    weights: tuple[float, ...]
    onnx: bytes

    def __post_init__(self) -> None:
        is_mix = min(self.weights, default=-1.0) >= 0.0 and abs(sum(self.weights) - 1.0) < 1e-6
        if len(self.weights) != len(MEMBERS) or not is_mix:
            raise ValueError(f"an ensemble needs {len(MEMBERS)} weights of sum 1, got {self.weights}")

    def open(self) -> Ensemble:
        """Ready to predict; `DataError` where the graph is broken."""
        return Ensemble(self)


class Ensemble:
    """Predicts; satisfies `asd.evidence.prompt.predictors.Predictor`.

    Raises:
        DataError: The graph is broken or is none of ours.
    """

    def __init__(self, model: EnsembleModel) -> None:
        self._weights = np.array(model.weights)
        self._session = _open(model.onnx)
        shapes = [tensor.shape for tensor in (*self._session.get_inputs(), *self._session.get_outputs())]
        if len(shapes) != 2 or shapes[1][1:] != [len(MEMBERS)]:
            raise DataError(f"the ensemble's graph has inputs and outputs of shapes {shapes}; fit it again")
        self.n_features = int(shapes[0][1])

    def predict(self, rows: Array) -> Prediction:
        """Weighted mean, spread and members of rows of shape (n, n_features)."""
        [raw] = self._session.run([OUTPUT], {INPUT: rows.astype(np.float32)})
        members = np.clip(raw.astype(np.float64), 0.0, 1.0)
        return Prediction(members @ self._weights, members.std(axis=1), members)

    def logits(self, rows: Array) -> Array:
        """Log-odds of success before calibration, shape (n,)."""
        return to_logits(self.predict(rows).p)


def to_logits(p: Array) -> Array:
    """Log-odds of probabilities, kept 1e-4 away from 0 and 1."""
    kept = np.clip(p, _LEAST_P, 1.0 - _LEAST_P)
    return np.asarray(np.log(kept) - np.log1p(-kept))


def _open(onnx: bytes) -> InferenceSession:
    import onnxruntime  # noqa: PLC0415 - needed when an ensemble is opened only

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no common base
        raise DataError(f"the ensemble's graph cannot be read ({error}); fit it again") from error
