"""What knowing costs: features of prompts, loading the five-model ensemble, and asking it.

The ensemble is fitted once on the prompts and scores of this very run, so it is as large as one in use. A
machine without the libraries of the extra "ensemble" skips its cells; a gate that knows them says MISSING.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from asd.evidence.published import published_features, text_features
from asd.evidence.semantics import Projection, fit_semantics
from asd.measurement.records import Cell
from bench.cells import overhead_cell
from bench.session import Session

Record = Callable[[Cell], None]

N_PROMPTS = 10_000
BATCH = 256


@pytest.fixture(scope="module")
def prompts(session: Session) -> list[str]:
    """Ten thousand: the questions of the run, over and over."""
    own = [trace.query.prompt for outcomes in session.outcomes.values() for trace in outcomes.traces]
    return [own[i % len(own)] for i in range(N_PROMPTS)]


@pytest.fixture(scope="module")
def fitted(session: Session) -> tuple[bytes, "np.ndarray[Any, np.dtype[np.float64]]"]:
    """The ensemble as a file holds it, and the rows it was fitted on."""
    for library in ("lightgbm", "onnxmltools", "onnxruntime", "skl2onnx"):
        pytest.importorskip(library)
    from asd.evidence.ensemble_fitting import fit_ensemble  # noqa: PLC0415  (needs the extra)
    from asd.evidence.predictors import stacked  # noqa: PLC0415

    traces = [trace for outcomes in session.outcomes.values() for trace in outcomes.traces]
    asked = [trace.query.prompt for trace in traces]
    stages = [stage.name for stage in session.matrix.ladder.stages]
    scores = np.array([trace.outcomes[stage].score for stage in stages for trace in traces], dtype=np.float64)
    features = published_features(asked, Projection(fit_semantics(asked, seed=0)))
    rows = stacked(features, len(stages))
    model = fit_ensemble(rows, scores, np.tile(np.arange(len(asked)), len(stages)), seed=0)
    return msgspec.json.encode(model), rows


def test_features(prompts: list[str], record: Record, benchmark: Any) -> None:
    """The published features of ten thousand prompts, without the semantic ones."""
    features = benchmark.pedantic(text_features, args=(prompts,), rounds=5, iterations=1, warmup_rounds=1)
    record(overhead_cell("published-features", "prompts_10000_s", benchmark.stats.stats.data))
    assert features.shape == (N_PROMPTS, 21)


def test_load(fitted: Any, record: Record, benchmark: Any) -> None:
    """From the bytes of a file to an ensemble that can be asked."""
    from asd.evidence.ensemble import EnsembleModel  # noqa: PLC0415

    def load() -> Any:
        return msgspec.json.decode(fitted[0], type=EnsembleModel).open()

    ensemble = benchmark.pedantic(load, rounds=10, iterations=1, warmup_rounds=1)
    record(overhead_cell("ensemble-load", "load_s", benchmark.stats.stats.data))
    assert ensemble.n_features == fitted[1].shape[1]


@pytest.mark.parametrize("n", [1, BATCH])
def test_predict(n: int, fitted: Any, record: Record, benchmark: Any) -> None:
    """One query at a time and a batch, through all five members."""
    from asd.evidence.ensemble import EnsembleModel  # noqa: PLC0415

    ensemble = msgspec.json.decode(fitted[0], type=EnsembleModel).open()
    rows = fitted[1][np.arange(n) % len(fitted[1])]  # again from the start where a run is short
    prediction = benchmark.pedantic(ensemble.predict, args=(rows,), rounds=50, iterations=4, warmup_rounds=2)
    record(overhead_cell(f"ensemble-{n}", "predict_s", benchmark.stats.stats.data))
    assert prediction.members.shape == (n, 5)
