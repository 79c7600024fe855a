"""The taxonomy by rule and learned, and the published recommendation."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy.sparse import csr_array, hstack
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import normalize

from asd.errors import ConfigError, DataError
from asd.evidence.prompt.lexicon import EXPERTISE_WORDS, LOAD_WORDS, TASK_WORDS
from asd.evidence.prompt.published import text_features
from asd.evidence.prompt.semantics import N_BUCKETS, count_words
from asd.evidence.prompt.taxonomy import COMPLEXITIES, DOMAINS, EXPERTISE, LOADS, Profile, classify, recommend
from asd.evidence.prompt.taxonomy_model import Classifier, LearnedTaxonomy, fit_classifier


def test_the_published_sizes() -> None:
    """Eight domains, six levels, six loads, eleven characteristics, and words for every class."""
    assert (len(DOMAINS), len(COMPLEXITIES), len(LOADS)) == (8, 6, 6)
    assert len(Profile.__dataclass_fields__) == 11
    assert len(TASK_WORDS) == 8
    assert tuple(LOAD_WORDS) == LOADS
    assert tuple(EXPERTISE_WORDS) == EXPERTISE


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Who wrote Hamlet?", {"domain": "factual", "load": "recall", "factual_knowledge": True}),
        ("How much is the sum of 3, 4 and 5 dollars?", {"domain": "mathematical", "computation": True}),
        ("Write a python function that parses a string", {"domain": "technical", "code_generation": True}),
        ("Compose a poem with rhyme", {"domain": "creative", "load": "synthesis", "creativity": True}),
        ("Is the argument valid? Assume the premise, infer the conclusion.", {"domain": "reasoning"}),
        ("Compare supply and demand in a market", {"domain": "analytical", "load": "analysis"}),
        ("Translate the sentence into German", {"domain": "linguistic"}),
        ("xyzzy", {"domain": "conversational", "complexity": "trivial", "n_steps": 1, "n_tokens": 30}),
        ("Prove the theorem by deep learning research", {"complexity": "research", "n_steps": 20}),
        ("Does the plaintiff's contract hold?", {"expertise": "professional"}),
    ],
)
def test_rules(prompt: str, expected: dict[str, object]) -> None:
    """One plain prompt a rule."""
    profile = classify(prompt)
    assert {name: getattr(profile, name) for name in expected} == expected


def test_recommendation_by_hand() -> None:
    """The published weights multiplied and normalised; levels between are interpolated."""
    trivial = classify("xyzzy")
    np.testing.assert_allclose(recommend(trivial, 3), np.array([1.5, 1.0, 0.8]) / 3.3)
    expert = _with(trivial, complexity="expert", domain="mathematical")
    weights = np.array([0.5 * 0.9, 1.1, 1.6 * 1.3])
    np.testing.assert_allclose(recommend(expert, 3), weights / weights.sum())
    half = _with(trivial, complexity="moderate")
    np.testing.assert_allclose(recommend(half, 3), np.array([1.0, 1.0, 1.2]) / 3.2)


def test_ladders_of_other_lengths() -> None:
    """Five stages read between the published three; one stage gets everything; none is refused."""
    trivial = classify("xyzzy")
    np.testing.assert_allclose(recommend(trivial, 5), np.array([1.5, 1.25, 1.0, 0.9, 0.8]) / 5.45)
    assert recommend(trivial, 1).tolist() == [1.0]
    with pytest.raises(ConfigError, match="at least one stage"):
        recommend(trivial, 0)


def _with(profile: Profile, **changes: object) -> Profile:
    return replace(profile, **changes)


SUMS = [f"What is the sum of {i} and {i + 3}?" for i in range(40)]
RHYMES = [f"Write a poem about {a} and {b}" for a in ("love", "rain", "home", "cats") for b in "abcdefghij"]
CODE = [f"def f{i}(x): return" for i in range(40)]
LABELS = ["sum"] * 40 + ["poem"] * 40 + ["code"] * 40


def test_learns_three_kinds() -> None:
    """Kinds that differ in their words are told apart on prompts that were not fitted on."""
    fitted = fit_classifier(SUMS[:30] + RHYMES[:30] + CODE[:30], ["sum"] * 30 + ["poem"] * 30 + ["code"] * 30)
    assert (
        fitted.classify([*SUMS[30:], *RHYMES[30:], *CODE[30:]])
        == ["sum"] * 10 + ["poem"] * 10 + ["code"] * 10
    )


def test_two_classes_and_the_library() -> None:
    """With two labels, as scikit-learn keeps them, decisions are scikit-learn's."""
    rng = np.random.default_rng(0)
    vocabulary = ["sum", "poem", "def", "love", "two"]
    prompts = [" ".join(rng.choice(vocabulary, rng.integers(1, 25))) for _ in range(80)]
    labels = ["yes" if prompt.count("sum") > prompt.count("poem") else "no" for prompt in prompts]
    counts = count_words(prompts)
    words = normalize(csr_array((counts.tf, (counts.row, counts.bucket)), shape=(80, N_BUCKETS)))
    rows = hstack([words, csr_array(np.log1p(text_features(prompts)) / 4.0)]).tocsr()
    theirs = RidgeClassifier(1.0, class_weight="balanced", solver="sparse_cg").fit(rows, labels).predict(rows)
    assert fit_classifier(prompts, labels).classify(prompts) == theirs.tolist()
    assert len(set(theirs)) == 2


def test_a_prompt_without_words() -> None:
    """It still gets a label."""
    assert fit_classifier(SUMS + CODE, ["sum"] * 40 + ["code"] * 40).classify(["", "42"]) != []


def test_saved_and_loaded(tmp_path: Path) -> None:
    """A file gives the same labels; one with a missing weight is refused."""
    taxonomy = LearnedTaxonomy(dimensions={"kind": fit_classifier(SUMS + RHYMES + CODE, LABELS)})
    taxonomy.save(tmp_path / "t.json")
    assert LearnedTaxonomy.load(tmp_path / "t.json").classify(CODE[:2]) == {"kind": ["code", "code"]}
    fitted = taxonomy.dimensions["kind"]
    with pytest.raises(DataError, match="fit the taxonomy again"):
        msgspec.structs.replace(fitted, weights=tuple(row[1:] for row in fitted.weights)).__post_init__()
    with pytest.raises(DataError, match="rows of weights"):
        Classifier(labels=("a", "b"), weights=fitted.weights, biases=fitted.biases)


def test_one_label_only() -> None:
    """There is nothing to learn, and that is said."""
    with pytest.raises(DataError, match="nothing is to be learned"):
        fit_classifier(SUMS, ["sum"] * 40)
