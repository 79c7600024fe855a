"""What words say of success: against scikit-learn, leaving rows out by hand, and on words that tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from asd.research.offline import texts
from asd.research.offline.texts import Texts
from asd.research.recordings.recording import Recording
from tests.recordings import recording, records


def told(path: Path, n: int, seed: int = 0) -> Recording:
    """Rows whose prompt says how hard they are, and whose small answer says whether it is right."""
    rows = records(n, seed)
    for row in rows:
        hard = row["outputs"]["large"]["score"] == 0
        row["prompt"] += "prove the conjecture" if hard else "name the capital"
        right = row["outputs"]["small"]["score"] == 1
        row["outputs"]["small"]["response"] = "certainly paris" if right else "it depends on context"
    return recording(path / "told.jsonl", rows)


def test_ridge_on_a_kernel_is_ridge_on_its_features() -> None:
    """Predictions for other rows equal scikit-learn's with an unpenalised intercept."""
    rng = np.random.default_rng(0)
    x, other, y = rng.normal(size=(40, 5)), rng.normal(size=(7, 5)), rng.uniform(0.3, 0.7, size=(40, 1))
    fitted = texts._KernelRidge.fit(x @ x.T, y)
    expected = Ridge(alpha=texts._STRENGTH).fit(x, y[:, 0]).predict(other)
    p = fitted.beyond(other @ x.T @ fitted.weights) + np.log(y.mean() / (1 - y.mean()))
    np.testing.assert_allclose(1 / (1 + np.exp(-p)), expected, rtol=1e-6)


def test_held_out_predictions_are_those_without_the_row() -> None:
    """In closed form what refitting without each row gives."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(15, 4)), rng.uniform(0.3, 0.7, size=15)
    at_once = texts._KernelRidge.fit(x @ x.T, y[:, None]).held_out + np.log(y.mean() / (1 - y.mean()))
    for i in range(15):
        others = np.arange(15) != i
        alone = Ridge(alpha=texts._STRENGTH).fit(x[others], y[others]).predict(x[[i]])[0]
        assert 1 / (1 + np.exp(-at_once[i])) == pytest.approx(alone)


def test_words_that_tell_are_heard(tmp_path: Path) -> None:
    """Hard prompts lie below easy ones, right answers above wrong ones."""
    train = told(tmp_path, 300)
    fitted = Texts.fit(train)
    test = told(tmp_path, 200, seed=9)
    for columns, rows in ((fitted.held_out, train), (fitted.on(test), test)):
        easy, right = rows.scores[:, 2] == 1, rows.scores[:, 0] == 1
        assert columns[easy, 0].mean() > columns[~easy, 0].mean() + 0.5
        assert columns[right, 1].min() > columns[~right, 1].max()
        assert columns.shape == (len(rows), 4)


def test_without_words_nothing_is_said(tmp_path: Path) -> None:
    """No prompts and no answers: 0 for every row."""
    rows = told(tmp_path, 60)
    mute = replace(rows, prompts=np.full(60, "", object), texts=np.full((60, 3), "", object))
    fitted = Texts.fit(mute)
    assert np.abs(fitted.on(rows)).max() < 1e-9
    # leaving a row out moves the mean, and that alone
    assert np.ptp(np.abs(fitted.held_out)) < 0.2


def test_of_too_many_rows_the_others_are_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are not fitted on are predicted like any other row."""
    monkeypatch.setattr(texts, "_MOST_ROWS", 50)
    rows = told(tmp_path, 120)
    fitted = Texts.fit(rows)
    used = texts.evenly(120, 50)
    others = np.setdiff1d(np.arange(120), used)
    np.testing.assert_allclose(fitted.held_out[others], fitted.on(rows.take(others)))
    assert not np.allclose(fitted.held_out[used], fitted.on(rows.take(used)))
