"""Outcomes as one table, and the comparison of predictors on it."""

from dataclasses import replace

import numpy as np
import pytest

from asd.errors import DataError
from asd.evidence.metrics import reliability
from asd.evidence.prompt.ensemble import MEMBERS
from asd.evidence.prompt.predictors import FITS, Model
from asd.ladder import Ladder
from asd.research.predictors.predictors import PredictorComparison, best, compare, decision_regret, r_squared
from asd.research.recordings.outcomes import RecordedOutcomes, from_recording, from_traces
from asd.research.recordings.recording import Counts, Recording
from asd.types import Draft, Outcome, Query, Trace, Usage

RECORDING = Recording(
    stages=("s", "m", "l"),
    keys=(("d", "q1"), ("d", "q2")),
    prompts=np.array(["2+2?", "3+3?"], dtype=object),
    scores=np.array([[1.0, 0.0, 1.0], [0.0, 0.5, 1.0]]),
    costs=np.array([[0.5, 2.0, 4.0], [0.5, 2.0, 12.0]]),
    latency=np.full((2, 3), np.nan),
    confidence=np.array([[-0.5, np.nan, -np.inf], [-1.0, np.nan, -0.1]]),
    texts=np.full((2, 3), "", dtype=object),
    words=np.array([[6.0, np.nan, 0.0], [1.0, 1.0, 1.0]]),
    agreement=np.array([np.full((3, 3), 0.5), [[1.0, 0.0, 1.0], [0.0, 1.0, np.nan], [1.0, np.nan, 1.0]]]),
    counts=Counts(5, 2, {}, {}, {}, "recorded"),
)


def test_a_recording_becomes_outcomes() -> None:
    """Costs in runs of the largest, and what every answer says; what is missing is marked, not made up."""
    got = from_recording(RECORDING)
    assert got.prompts == ("2+2?", "3+3?")
    assert got.n_left_out == 3
    np.testing.assert_array_equal(got.scores, RECORDING.scores)
    np.testing.assert_allclose(got.costs, RECORDING.costs / 8.0)
    np.testing.assert_allclose(got.answers[0], [[-0.5, 1, np.log(7), 0], [0, 0, 0, 0.5], [-100, 1, 0, 0.5]])
    assert got.answers[1, :, 3].tolist() == [0.0, 0.0, 0.5]


def test_what_cannot_be_used() -> None:
    """Without prompts there is nothing to predict from, without a cost no unit."""
    with pytest.raises(DataError, match="1 queries have no prompt"):
        from_recording(replace(RECORDING, prompts=("", "3+3?")))
    with pytest.raises(DataError, match="'l' costs 0"):
        from_recording(replace(RECORDING, costs=np.zeros((2, 3))))


def test_own_traces() -> None:
    """Own traces give per-token features and the ladder's prices."""
    ladder = Ladder.load("tiny")

    def outcome(stage: str, text: str, score: float | None) -> Outcome:
        draft = Draft(stage, text, (1, 2), (-0.1, -0.2), finished=True, usage=Usage(3, 2, 2), seconds=0.1)
        return Outcome(draft, score)

    query = Query("q", "d", "add 1+1")
    whole = Trace(query, {"S": outcome("S", "2", 1), "M": outcome("M", "3", 0), "L": outcome("L", "2", 1)})
    unscored = Trace(query, dict(whole.outcomes) | {"L": outcome("L", "2", None)})
    got = from_traces([whole, unscored], ladder)
    prices = [stage.prices.cost(Usage(3, 2, 2)) for stage in ladder.stages]
    np.testing.assert_allclose(got.costs, [np.array(prices) / prices[-1]])
    assert got.answers.shape == (1, 3, 10)
    assert got.answers[0, :, -1].tolist() == [0.0, 0.0, 0.5]
    assert got.n_left_out == 1
    with pytest.raises(DataError, match="no trace is scored"):
        from_traces([unscored], ladder)


def two_kinds(n: int = 240) -> RecordedOutcomes:
    """Easy prompts both stages know; hard ones only the large one; confidence tells who was lucky."""
    rng = np.random.default_rng(0)
    hard = np.arange(n) % 2 == 1
    words = rng.choice(["ari", "elo", "uma", "iko", "oxa", "bre", "tul"], size=(n, 2))
    prompts = tuple(
        f"Prove the theorem of {a} and {b}" if h else f"What is {a} {b}?"
        for h, (a, b) in zip(hard, words, strict=True)
    )
    p = np.where(hard[:, None], [0.3, 0.9], [0.9, 0.95])
    scores = (rng.uniform(size=(n, 2)) < p).astype(float)
    answers = (scores + rng.normal(0.0, 0.3, (n, 2)))[:, :, None]
    return RecordedOutcomes(("S", "L"), prompts, scores, np.tile([0.1, 1.0], (n, 1)), answers, 0)


def test_regret_by_hand() -> None:
    """Stopping on a wrong answer that the largest would have got right costs lam - 1; going on in vain costs
    1."""
    scores = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    outcomes = RecordedOutcomes(
        ("S", "L"), ("a", "b", "c"), scores, np.tile([0.1, 1.0], (3, 1)), np.zeros((3, 2, 1)), 0
    )
    asked = np.full((3, 2), 0.5)
    answered = np.array([[0.9, 0.0], [0.2, 0.0], [0.4, 0.0]])
    assert decision_regret(answered, asked, outcomes, lam=5.0) == pytest.approx((4.0 + 1.0 + 0.0) / 3)


def test_r_squared_is_scikit_learns() -> None:
    """The share of variance explained, over all stages."""
    from sklearn.metrics import r2_score  # noqa: PLC0415

    rng = np.random.default_rng(0)
    p, scores = rng.uniform(size=(50, 3)), rng.integers(0, 2, (50, 3)).astype(float)
    assert r_squared(p, scores) == pytest.approx(r2_score(scores.ravel(), p.ravel()))


@pytest.mark.slow
def test_predictors_beat_the_base_rate_where_there_is_something_to_know() -> None:
    """Prompts tell more than nothing, answers more than prompts; the regret follows."""
    fits = {"logistic": FITS["logistic"]}
    table = {(c.known, c.name): c for c in compare(two_kinds(), seed=0, lams=(2.0,), fits=fits)}
    assert len(table) == 2 * 2
    nothing = table["prompt", "base rate of the stage"]
    prompt, answer = table["prompt", "logistic"], table["prompt + answer", "logistic"]
    assert answer.r_squared > prompt.r_squared + 0.1 > nothing.r_squared + 0.2
    assert answer.regret < prompt.regret < nothing.regret


@pytest.mark.slow
def test_the_members_of_an_ensemble_stand_beside_it() -> None:
    """Each of the five alone has a row, and none is the average."""
    fitted: dict[int, Model] = {}

    def once(rows: np.ndarray, *args: object) -> Model:
        width = rows.shape[1]
        fitted[width] = fitted.get(width) or FITS["ensemble"](rows, *args)
        return fitted[width]

    table = compare(two_kinds(120), seed=0, fits={"ensemble": once})
    names = [c.name for c in table if c.known == "prompt"]
    assert names == ["base rate of the stage", "ensemble", *(f"- {name}" for name in MEMBERS)]
    assert len({round(c.r_squared, 9) for c in table if c.known == "prompt"}) == len(names)


def test_the_best_can_be_fitted() -> None:
    """Least regret wins among what can be kept, not among members, and not by R^2."""
    rows = reliability(np.array([0.5, 0.5]), np.array([0.0, 1.0]))
    entries = [("mlp", 0.9, 0.3), ("logistic", 0.1, 0.2), ("- ridge", 0.5, 0.1), ("ensemble", 0.5, 0.25)]
    assert (
        best([PredictorComparison("prompt", n, r2, rows, regret) for n, r2, regret in entries], "prompt").name
        == "logistic"
    )
