"""Latent semantic analysis, against scikit-learn's own pipeline."""

import msgspec
import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from asd.errors import DataError
from asd.evidence.prompt.semantics import N_DIMS, Projection, Semantics, fit_semantics

TOPICS = (
    "integral derivative matrix vector polynomial",
    "king battle empire treaty war",
    "cell protein gene enzyme membrane",
    "python function loop array string",
    "market demand price supply inflation",
    "poem rhyme verse stanza metaphor",
)
RNG = np.random.default_rng(0)
PROMPTS = [" ".join(RNG.choice(TOPICS[i % 6].split(), 8)) for i in range(120)]


@pytest.mark.slow
def test_agrees_with_scikit_learn() -> None:
    """Where no two words share a bucket: the numbers of TfidfVectorizer and TruncatedSVD, up to sign."""
    ours = Projection(fit_semantics(PROMPTS, seed=0))(PROMPTS)
    weights = TfidfVectorizer(sublinear_tf=True).fit_transform(PROMPTS)
    theirs = TruncatedSVD(N_DIMS, random_state=0).fit_transform(weights)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-4)


def test_one_prompt_is_what_it_is_in_a_batch() -> None:
    """A prompt's numbers do not depend on its neighbours; one without known words is all zeros."""
    project = Projection(fit_semantics(PROMPTS, seed=0))
    batch = project([*PROMPTS[:7], "", "42"])
    np.testing.assert_allclose(batch[3:4], project(PROMPTS[3:4]))
    assert not batch[7:].any()


def test_survives_json() -> None:
    """Written and read again, it gives the same numbers."""
    fitted = fit_semantics(PROMPTS, seed=0)
    again = msgspec.json.decode(msgspec.json.encode(fitted), type=Semantics)
    np.testing.assert_array_equal(Projection(again)(PROMPTS), Projection(fitted)(PROMPTS))


def test_too_little_to_fit() -> None:
    """Few prompts, or many with the same few words, are refused."""
    with pytest.raises(DataError, match="fit on more"):
        fit_semantics(PROMPTS[:5], seed=0)
    with pytest.raises(DataError, match="3 different words"):
        fit_semantics(["one two three"] * 50, seed=0)


def test_a_file_of_another_size_is_refused() -> None:
    """A projection that lacks buckets or dimensions is not read."""
    with pytest.raises(msgspec.ValidationError, match="buckets"):
        msgspec.json.decode(b'{"projection": [[1,2,3,4,5]], "idf": [1]}', type=Semantics)
    wrong = msgspec.json.encode({"projection": [[1.0]] * 4096, "idf": [1.0] * 4096})
    with pytest.raises(msgspec.ValidationError, match="needs 5 numbers"):
        msgspec.json.decode(wrong, type=Semantics)
