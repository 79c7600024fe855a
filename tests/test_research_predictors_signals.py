"""What a signal is worth: known ones of a made-up world."""

from __future__ import annotations

import numpy as np
import pytest

from asd.research.predictors.signals import ALL, recorded_signals, traced_signals, worth_of_signals
from asd.research.recordings.outcomes import RecordedOutcomes, from_traces
from tests import worlds
from tests.recordings import recording, records


def outcomes(n: int = 300) -> tuple[RecordedOutcomes, dict[str, np.ndarray]]:
    """S is right with probability p at a fifth of L's cost; one signal is p, one noise, one p blurred."""
    rng = np.random.default_rng(0)
    p = rng.uniform(size=n)
    scores = (rng.uniform(size=(n, 2)) < np.column_stack([p, np.full(n, 0.85)])).astype(float)
    noise = rng.normal(size=(n, 2, 1))
    sure = np.stack([np.column_stack([p, noise[:, 1, 0]])], axis=2)
    made = RecordedOutcomes(
        stages=("S", "L"),
        prompts=tuple(f"prompt {i}" for i in range(n)),
        scores=scores,
        costs=np.tile([0.2, 1.0], (n, 1)),
        answers=noise,
        n_left_out=0,
    )
    return made, {"sure": sure, "noise": noise, "blurred": sure + 0.2 * noise}


def test_a_better_signal_has_a_larger_auroc_and_buys_cheaper_quality() -> None:
    """Noise is worth nothing: a half, and what the stages alone cost; all together are worth the best."""
    made, signals = outcomes()
    none, *found = worth_of_signals(made, signals, seed=0)
    worth = {signal.name: signal for signal in found}
    assert none.auroc is None
    assert list(worth) == ["sure", "noise", "blurred", ALL]
    assert worth["noise"].auroc == pytest.approx(0.5, abs=0.1)
    # S is right with probability p, uniform: P(right one is surer) = 5/6; L's signal is noise: 1/2.
    assert worth["sure"].auroc == pytest.approx((5 / 6 + 1 / 2) / 2, abs=0.08)
    at = {name: signal.shares[0.05] for name, signal in worth.items()}
    assert worth["noise"].auroc < worth["blurred"].auroc < worth["sure"].auroc
    assert at["sure"] < at["noise"] - 0.03
    assert at["noise"] == pytest.approx(none.shares[0.05], abs=0.05)
    assert at[ALL] == pytest.approx(at["sure"], abs=0.05)


def test_every_recorded_column_is_a_signal(tmp_path) -> None:
    """Texts, length, confidence and named columns, of every answer."""
    rows = records(60)
    for row in rows:
        row["outputs"]["small"]["signals"] = {"judge": row["outputs"]["small"]["score"]}
    found = recorded_signals(recording(tmp_path / "rows.jsonl", rows))
    assert list(found) == ["prompt text", "prompt and answer text", "answer length", "confidence", "judge"]
    assert {table.shape[:2] for table in found.values()} == {(60, 3)}
    assert found["judge"][:, 0, 0].tolist() == [row["outputs"]["small"]["score"] for row in rows]
    assert found["judge"][:, 1:].sum() == 0.0


@pytest.mark.slow
def test_own_traces_tell_of_every_token() -> None:
    """In the world where log-probabilities are the certainty, they beat the prompt and the length."""
    traces, _ = worlds.sample(400, np.random.default_rng(0))
    found = worth_of_signals(from_traces(traces, worlds.ladder()), traced_signals(traces, ("S", "L")), seed=0)
    auroc = {worth.name: worth.auroc for worth in found}
    assert auroc["token log-probabilities"] > max(auroc["prompt text"], auroc["answer length"]) + 0.1
