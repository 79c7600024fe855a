"""Features against numpy, and the invariances that a fitted predictor relies on."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.errors import DataError
from asd.evidence.features import (
    ANSWER_FEATURES,
    PAIR_FEATURES,
    PROMPT_FEATURES,
    QUANTILES,
    VERIFICATION_FEATURES,
    answer_features,
    log_odds,
    prompt_features,
    state_feature_names,
    state_features,
    verification_features,
)
from asd.types import Draft, Usage, Verification


def draft(logprobs: list[float], text: str = "x", *, stage: str = "S", finished: bool = True) -> Draft:
    n = len(logprobs)
    return Draft(stage, text, tuple(range(n)), tuple(logprobs), finished, Usage(5, n, n), 0.0)


def named(features: list[float] | tuple[float, ...], names: tuple[str, ...]) -> dict[str, float]:
    return dict(zip(names, features, strict=True))


@given(st.text(max_size=200))
def test_prompt_features_are_finite_and_as_many_as_their_names(prompt: str) -> None:
    """Any text gives one finite number per name."""
    features = prompt_features(prompt)
    assert len(features) == len(PROMPT_FEATURES)
    assert all(map(math.isfinite, features))


def test_counts_worked_by_hand() -> None:
    """Characters, words, lines, digits, capitals, punctuation and non-ASCII bytes of one prompt."""
    got = named(prompt_features("Add 12+3,\nplease: é"), PROMPT_FEATURES)
    want = {
        "characters": 19,
        "words": 4,
        "lines": 1,
        "digits": 3,
        "capitals": 1,
        "punctuation": 3,
        "not_ascii": 1,
        "distinct_words": 4,
        "mark_+": 1,
        "mark_,": 1,
        "mark_?": 0,
    }
    assert {name: got[name] for name in want} == pytest.approx({k: math.log1p(n) for k, n in want.items()})
    assert got["mean_word_length"] == pytest.approx((3 + 5 + 7 + 2) / 4)


def opening(prompt: str) -> tuple[int, float]:
    """Bucket of the first word, and what stands in its column by length; no other bucket may be set."""
    features = named(prompt_features(prompt), PROMPT_FEATURES)
    buckets = {name: f for name, f in features.items() if name.startswith("opening") and f}
    (first, by_length) = buckets
    assert by_length == f"{first}_by_length"
    assert buckets[first] == 1.0
    return int(first.removeprefix("opening_")), buckets[by_length]


def test_the_opening_is_the_first_word_without_case_digits_and_marks() -> None:
    """Values of numbers do not matter, nor does what follows; another word does."""
    assert opening("add 12+34")[0] == opening("ADD; 987")[0] == opening("  'add' nothing")[0]
    assert opening("r0 d7")[0] == opening("R5,x")[0]
    assert opening("add 12+34")[0] != opening("walk 12+34")[0]


def test_the_opening_is_crossed_with_the_length() -> None:
    """Log of characters + 1, centred at 4."""
    assert opening("add " + 96 * "1")[1] == pytest.approx(math.log(101) - 4)


@pytest.mark.parametrize("prompt", ["", "  \n", "?!", "\u00e9"])
def test_prompts_without_a_word_have_an_opening_too(prompt: str) -> None:
    """Nothing, blanks, marks: one bucket like any other."""
    opening(prompt)


@pytest.mark.slow
def test_hashed_words_do_not_depend_on_the_process() -> None:
    """Another interpreter with another hash seed computes the same features."""
    code = "from asd.evidence.features import prompt_features as f; print(f('walk from paris to quito'))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{prompt_features('walk from paris to quito')}\n".encode()}


@given(st.floats(-13, -1e-5))
def test_log_odds_is_the_logit_of_the_probability(logprob: float) -> None:
    """Within the clip, `log_odds` equals log(p / (1 - p))."""
    p = math.exp(logprob)
    assert log_odds(logprob) == pytest.approx(math.log(p / (1 - p)), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("logprob", "clipped"), [(0.0, 14.0), (-1e-9, 14.0), (-500.0, -14.0), (-math.inf, -14.0)]
)
def test_log_odds_is_clipped(logprob: float, clipped: float) -> None:
    """Certainty and impossibility stay finite."""
    assert log_odds(logprob) == clipped


@given(st.lists(st.floats(-12, 0), min_size=1, max_size=40))
def test_answer_features_equal_numpy(logprobs: list[float]) -> None:
    """Sum, mean, quantiles and length as numpy computes them."""
    got = named(answer_features(draft(logprobs)), ANSWER_FEATURES)
    assert got["sum_logprob"] == pytest.approx(max(-200.0, np.sum(logprobs)))
    assert got["mean_logprob"] == pytest.approx(got["sum_logprob"] / len(logprobs))
    assert got["log_n_tokens"] == pytest.approx(np.log1p(len(logprobs)))
    for q in QUANTILES:
        quantile = float(np.quantile(logprobs, q))
        assert got[f"log_odds_q{round(100 * q)}"] == pytest.approx(log_odds(quantile), rel=1e-6, abs=1e-6)


def test_a_cut_off_answer_is_told_from_a_finished_one() -> None:
    """`finished` is the only difference between the two."""
    cut, whole = (named(answer_features(draft([-0.1], finished=f)), ANSWER_FEATURES) for f in (False, True))
    assert {name for name in cut if cut[name] != whole[name]} == {"finished"}


def test_an_empty_answer_says_the_least() -> None:
    """No token: no feature is above that of any other answer."""
    empty, poor = answer_features(draft([])), answer_features(draft([-60.0, -70.0]))
    assert all(e <= p for e, p in zip(empty, poor, strict=True))


def test_missing_log_probabilities_are_refused() -> None:
    """Log-probabilities of some tokens only cannot be judged, and that is said."""
    bare = replace(draft([-0.1, -0.2]), logprobs=(-0.1,))
    with pytest.raises(DataError, match="'S' has 2 tokens and 1 log-probabilities"):
        answer_features(bare)


def test_a_nan_log_probability_is_refused() -> None:
    """NaN never becomes a probability."""
    with pytest.raises(DataError, match="'S' has a log-probability that is not a number"):
        answer_features(draft([-0.1, math.nan]))


def test_state_features_name_every_number() -> None:
    """Own features, one block per other answer, prompt log-odds: in the order of the names."""
    drafts = {
        "S": draft([-0.5], "4"),
        "M": draft([-0.2], "5", stage="M"),
        "L": draft([-0.1, -0.1], "4", stage="L"),
    }
    answers = {stage: answer_features(d) for stage, d in drafts.items()}
    names = state_feature_names("L", ("S", "M", "L"), ("S", "M", "L", "XL"))
    said = {stage: d.text for stage, d in drafts.items()}
    got = named(state_features("L", said, answers, [1.0, 2.0, 3.0, 4.0]), names)
    assert named(answers["L"], ANSWER_FEATURES).items() <= got.items()
    assert [got[f"S_{name}"] for name in PAIR_FEATURES] == [1.0, log_odds(-0.5), 0.0]
    assert [got[f"M_{name}"] for name in PAIR_FEATURES] == [0.0, 0.0, log_odds(-0.2)]
    assert [got[f"prompt_logit_{name}"] for name in ("S", "M", "L", "XL")] == [1.0, 2.0, 3.0, 4.0]


def verification(logprobs: list[float], n_accepted: int) -> Verification:
    n = len(logprobs)
    return Verification("L", "S", tuple(range(n)), tuple(logprobs), n_accepted, Usage(5, 0, 1, n), 0.0)


@given(st.lists(st.floats(-30.0, -1e-3), min_size=1, max_size=20), st.data())
def test_verification_features_equal_numpy(logprobs: list[float], data: st.DataObject) -> None:
    """Sum, quantiles as log-odds, share and fact of acceptance."""
    n_accepted = data.draw(st.integers(0, len(logprobs)))
    found = named(verification_features(verification(logprobs, n_accepted)), VERIFICATION_FEATURES)
    assert found["read_sum_logprob"] == pytest.approx(max(-200.0, np.sum(logprobs)))
    for q in QUANTILES:
        want = log_odds(float(np.quantile(logprobs, q)))
        assert found[f"read_log_odds_q{round(100 * q)}"] == pytest.approx(want, abs=1e-6)
    assert found["read_share_accepted"] == n_accepted / len(logprobs)
    assert found["read_accepted"] == float(n_accepted == len(logprobs))


def test_an_empty_draft_is_accepted_without_doubt() -> None:
    """There is nothing in it to reject; all numbers are finite."""
    features = named(verification_features(verification([], 0)), VERIFICATION_FEATURES)
    assert features["read_accepted"] == features["read_share_accepted"] == 1.0
    assert all(math.isfinite(x) for x in features.values())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (replace(verification([-0.1, -0.2], 1), logprobs=(-0.1,)), "'S' by 'L' has 2 tokens and 1 log-prob"),
        (verification([math.nan, -0.2], 1), "'S' by 'L' has a log-probability that is not a number"),
    ],
)
def test_a_verification_without_its_numbers_is_refused(broken: Verification, message: str) -> None:
    """Naming the pair of stages."""
    with pytest.raises(DataError, match=message):
        verification_features(broken)
