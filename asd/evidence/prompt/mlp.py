"""The published small network: layers 64, 32, 16, 1, ReLU, dropout 0.1, a sigmoid at the end, squared error.

Fitted by torch as published (Adam at 1e-3, weight decay 1e-5, the rate halved on a plateau, a fifth of the
queries held out, early stopping with patience 10, best state kept); applied in numpy, kept as plain numbers.
The standardisation of the features is part of the first layer. Scope: rows of numbers in, log-odds out.
"""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from asd.evidence.prompt.ensemble_fitting import VALIDATION, held_out

__all__ = ["Mlp", "MlpModel", "fit_mlp"]

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

LAYERS = (64, 32, 16, 1)
DROPOUT = 0.1
BATCH, PATIENCE, MOST_EPOCHS = 64, 10, 200


class MlpModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="mlp"):
    """Weights `(outputs, inputs)` and biases by layer; the last layer has one output."""

    weights: tuple[tuple[tuple[float, ...], ...], ...]
    biases: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        sizes = [len(biases) for biases in self.biases]
        if sizes != [len(layer) for layer in self.weights] or sizes[-1:] != [1]:
            raise ValueError("an MLP needs a bias for every row of every layer, and one output")
        widths = [{len(row) for row in layer} for layer in self.weights]
        if widths[1:] != [{size} for size in sizes[:-1]] or len(widths[0]) != 1:
            raise ValueError("the layers of the MLP do not fit onto each other")

    def open(self) -> Mlp:
        """Ready to predict."""
        return Mlp(self)


class Mlp:
    """Predicts; satisfies `asd.evidence.prompt.predictors.Predictor`."""

    def __init__(self, model: MlpModel) -> None:
        pairs = zip(model.weights, model.biases, strict=True)
        self._layers = [(np.array(weights).T, np.array(biases)) for weights, biases in pairs]
        self.n_features = len(model.weights[0][0])

    def logits(self, rows: Array) -> Array:
        """Log-odds of success before calibration, shape (n,)."""
        *hidden, (weights, biases) = self._layers
        for w, b in hidden:
            rows = np.maximum(rows @ w + b, 0.0)
        return np.asarray((rows @ weights + biases)[:, 0])


def fit_mlp(rows: Array, scores: Array, groups: IntArray, *, seed: int) -> MlpModel:
    """Fit the network; arguments as for `asd.evidence.prompt.ensemble_fitting.fit_ensemble`."""
    import torch  # noqa: PLC0415 - needed when fitting only
    from torch import nn  # noqa: PLC0415

    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    spread[spread < 1e-9] = 1.0
    x, y = (torch.tensor(a, dtype=torch.float32) for a in ((rows - mean) / spread, scores))
    validation = torch.from_numpy(held_out(groups, VALIDATION, seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = [nn.Linear(i, o) for i, o in zip((rows.shape[1], *LAYERS), LAYERS, strict=False)]
        hidden = [m for layer in linear[:-1] for m in (layer, nn.ReLU(), nn.Dropout(DROPOUT))]
        _train(nn.Sequential(*hidden, linear[-1], nn.Sigmoid(), nn.Flatten(0)), x, y, validation)
    weights = [layer.weight.detach().double().numpy() for layer in linear]
    biases = [layer.bias.detach().double().numpy() for layer in linear]
    biases[0] = biases[0] - weights[0] @ (mean / spread)
    weights[0] = weights[0] / spread
    return MlpModel(
        tuple(tuple(map(tuple, w.tolist())) for w in weights), tuple(tuple(b.tolist()) for b in biases)
    )


def _train(net: Any, x: Any, y: Any, validation: Any) -> None:
    """Minibatches until the squared error on the validation rows has not fallen for `PATIENCE` epochs."""
    import torch  # noqa: PLC0415
    from torch.nn.functional import mse_loss  # noqa: PLC0415

    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=PATIENCE // 2)
    x_fit, y_fit = x[~validation], y[~validation]
    least, best, waited = float("inf"), copy.deepcopy(net.state_dict()), 0
    for _ in range(MOST_EPOCHS):
        net.train()
        for batch in torch.randperm(len(x_fit)).split(BATCH):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            mse_loss(net(x_fit[batch]), y_fit[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        net.eval()
        with torch.no_grad():
            loss = float(mse_loss(net(x[validation]), y[validation]))
        schedule.step(loss)
        waited += 1
        if loss < least:
            least, best, waited = loss, copy.deepcopy(net.state_dict()), 0
        if waited == PATIENCE:
            break
    net.load_state_dict(best)
