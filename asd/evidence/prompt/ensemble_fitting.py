"""The five-model ensemble, fitted: random forest, gradient boosting, MLP, LightGBM and ridge on one table.

All are regressions of the score (squared error). The settings are the published ones (200 trees of depth 15;
200 at rate 0.1; layers 256, 128, 64, 32; 200 of depth 8; alpha 1) with additions, because scores are noisy
zeros and ones: leaves of 20 rows, a third of the features a split, early stopping. A fifth of the queries is
held out; a member's weight is its inverse mean squared error there. Members that need a scaler contain it.

scikit-learn and LightGBM fit; skl2onnx and onnxmltools translate into one ONNX graph, which alone is kept.
Scope: features and scores in, an `EnsembleModel` out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from asd.evidence.prompt.ensemble import INPUT, MEMBERS, OUTPUT, Ensemble, EnsembleModel

__all__ = ["fit_ensemble", "held_out"]

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

VALIDATION = 0.2
_OPSETS = {"": 17, "ai.onnx.ml": 3}
_IR_VERSION = 8


def fit_ensemble(rows: Array, scores: Array, groups: IntArray, *, seed: int) -> EnsembleModel:
    """Fit the five on four fifths of the groups, weigh them on the rest.

    Args:
        rows: Features, shape (n, d).
        scores: Quality in [0, 1], shape (n,).
        groups: Query of every row, shape (n,); rows of one query are not torn apart.
        seed: Of the split and of every member.
    """
    validation = held_out(groups, VALIDATION, seed)
    rows = rows.astype(np.float32).astype(np.float64)  # what the graph will see, so that thresholds agree
    members = _members(seed)
    for member in members:
        member.fit(rows[~validation], scores[~validation])
    onnx = _to_onnx(members, rows.shape[1])
    even = EnsembleModel((1.0 / len(MEMBERS),) * len(MEMBERS), onnx)
    predicted = Ensemble(even).predict(rows[validation]).members
    precision = 1.0 / np.mean((predicted - scores[validation, None]) ** 2 + 1e-12, axis=0)
    return EnsembleModel(tuple((precision / precision.sum()).tolist()), onnx)


def held_out(groups: IntArray, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Rows of a random share of the groups (at least one group, at least one left), shape (n,)."""
    distinct = np.unique(groups)
    n = min(max(1, round(share * len(distinct))), len(distinct) - 1)
    return np.isin(groups, np.random.default_rng(seed).permutation(distinct)[:n])


def _members(seed: int) -> list[Any]:
    """Unfitted, in the order of `MEMBERS`."""
    from lightgbm import LGBMRegressor  # noqa: PLC0415 - needed when fitting only
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor  # noqa: PLC0415
    from sklearn.linear_model import Ridge  # noqa: PLC0415
    from sklearn.neural_network import MLPRegressor  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    third = 1.0 / 3.0
    return [
        RandomForestRegressor(200, max_depth=15, min_samples_leaf=20, max_features=third, random_state=seed),
        GradientBoostingRegressor(
            n_estimators=200, learning_rate=0.1, min_samples_leaf=20, max_features=third, random_state=seed
        ),
        make_pipeline(
            StandardScaler(),
            MLPRegressor(
                hidden_layer_sizes=(256, 128, 64, 32),
                early_stopping=True,
                n_iter_no_change=5,
                random_state=seed,
            ),
        ),
        LGBMRegressor(n_estimators=200, max_depth=8, n_jobs=1, verbose=-1, random_state=seed),
        make_pipeline(StandardScaler(), Ridge(1.0)),
    ]


def _to_onnx(members: Sequence[Any], n_features: int) -> bytes:
    """One graph: every member's nodes under a prefix of their own, all reading the same rows."""
    from onnx import TensorProto, checker, compose, helper  # noqa: PLC0415
    from skl2onnx import convert_sklearn  # noqa: PLC0415
    from skl2onnx.common.data_types import FloatTensorType  # noqa: PLC0415

    _teach_lightgbm()
    shape = [(INPUT, FloatTensorType([None, n_features]))]
    parts = [
        compose.add_prefix(
            convert_sklearn(m, initial_types=shape, target_opset=_OPSETS), f"m{i}_", rename_inputs=False
        )
        for i, m in enumerate(members)
    ]
    nodes = [node for part in parts for node in part.graph.node]
    nodes.append(helper.make_node("Concat", [part.graph.output[0].name for part in parts], [OUTPUT], axis=1))
    graph = helper.make_graph(
        nodes,
        "ensemble",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, n_features])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, len(members)])],
        [weight for part in parts for weight in part.graph.initializer],
    )
    opsets = [helper.make_opsetid(*opset) for opset in _OPSETS.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def _teach_lightgbm() -> None:
    """Tell skl2onnx how to translate a LightGBM model."""
    from lightgbm import LGBMRegressor  # noqa: PLC0415
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm  # noqa: PLC0415
    from skl2onnx import update_registered_converter  # noqa: PLC0415
    from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes  # noqa: PLC0415

    update_registered_converter(
        LGBMRegressor,
        "LightGbmLGBMRegressor",
        calculate_linear_regressor_output_shapes,
        convert_lightgbm,
        options={"split": None},
    )
