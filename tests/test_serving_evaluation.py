"""The delivered quality: its interval, its alarm, and what scores change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.serving.monitoring.evaluation import ALPHA, FEWEST, Evaluation, agree
from asd.types import AnswerForm, Draft, Query, Usage


def compared(same: np.ndarray, promised: float | None = None) -> Evaluation:
    found = Evaluation(promised)
    for one in same:
        found.compare(same=bool(one))
    return found


def draft(text: str) -> Draft:
    return Draft("S", text, (), (), True, Usage(1, 1, 1), 0.0)


def test_nothing_is_claimed_before_anything_was_compared() -> None:
    found = Evaluation(0.95).delivered()
    assert (found.n, found.share, found.at_risk, found.calibration) == (0, None, False, None)
    assert found.low == 0
    assert found.high > 1


@given(st.integers(1, 400), st.floats(0.0, 1.0), st.integers(0, 99))
def test_the_estimate_lies_within_its_interval(n: int, p: float, seed: int) -> None:
    same = np.random.default_rng(seed).random(n) < p
    found = compared(same).delivered()
    assert found.share == pytest.approx(same.mean())
    assert found.low <= found.share + 1e-3
    assert found.share <= found.high + 1e-3


@pytest.mark.parametrize("p", [0.8, 0.97])
def test_the_interval_covers_the_truth_as_often_as_it_says(p: float) -> None:
    """At 95 %; and it is of use: narrower than ten points at 1,500 rows."""
    rng = np.random.default_rng(5)
    found = [compared(rng.random(1500) < p).delivered() for _ in range(60)]
    assert sum(one.low <= p <= one.high for one in found) >= 54
    assert max(one.high - one.low for one in found) < 0.1


def test_a_kept_promise_raises_no_alarm_and_a_broken_one_does_soon() -> None:
    """Within 1,500 comparisons, where 90 % are kept and 95 % are promised."""
    rng = np.random.default_rng(1)
    found = compared(rng.random(20_000) < 0.96, 0.95)
    assert not found.at_risk
    for same in rng.random(1500) < 0.90:
        found.compare(same=bool(same))
        if found.at_risk:
            break
    assert found.at_risk
    for _ in range(2000):
        found.compare(same=True)
    assert not found.at_risk


def test_the_alarm_is_as_rare_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the border of the promise, with alarms at one in a hundred: the mean run length is at least that."""
    monkeypatch.setattr("asd.serving.monitoring.evaluation.ALPHA", 0.01)
    rng, lengths = np.random.default_rng(3), []
    for _ in range(40):
        found, n = Evaluation(0.9), 0
        while not found.at_risk and n < 600:
            found.compare(same=bool(rng.random() < 0.9))
            n += 1
        lengths.append(n)
    assert np.mean(lengths) >= 100
    assert ALPHA < 0.01


def test_scores_count_in_place_of_agreement() -> None:
    """Of an answer that is the reference's, for both; of another one, for itself alone."""
    found = Evaluation()
    right, wrong = found.compare(same=True), found.compare(same=False)
    right.score = right.reference = 0.5
    wrong.score = 1.0
    assert found.delivered().share == pytest.approx(1.0)
    wrong.reference = 0.0
    assert found.delivered().share == pytest.approx(3.0)


def test_calibration_is_told_from_scores_once_there_are_some() -> None:
    found = Evaluation()
    for i in range(FEWEST):
        assert found.delivered().calibration is None
        found.score(float(i % 2), 0.9)
    told = found.delivered().calibration
    assert told is not None
    assert (told.n, told.base_rate, told.calibration_error) == (FEWEST, 0.5, pytest.approx(0.4))


@pytest.mark.parametrize(
    ("kind", "one", "other", "same"),
    [
        ("number", "so it is 42", "42.0", True),
        ("number", "42", "41", False),
        ("number", "no idea", "no idea", False),
        ("text", "abc", "abc", True),
        ("text", "abc", "abc.", False),
    ],
)
def test_replies_agree_by_what_they_answer(kind: str, one: str, other: str, same: bool) -> None:
    query = Query("q", "d", "?", form=AnswerForm(kind))  # type: ignore[arg-type]
    assert agree(query, draft(one), draft(other)) is same
