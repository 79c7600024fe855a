"""The 31 published features, counted by hand."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import entropy

from asd.errors import ConfigError
from asd.evidence.prompt.published import FEATURES, N_PROMPT, at_stage, published_features, text_features
from asd.evidence.prompt.semantics import Projection, fit_semantics

PROMPT = "Why does the matrix converge, and if not?\nCompute it. Prove the theorem: compute!"


def named(row: np.ndarray) -> dict[str, float]:
    """The values of one prompt by name, without the semantic dimensions and the stage."""
    names = [f.name for f in FEATURES[:N_PROMPT] if f.group != "semantic"]
    return dict(zip(names, row.tolist(), strict=True))


def test_the_groups_have_their_published_sizes() -> None:
    """6 basic, 6 linguistic, 5 semantic, 5 task indicators, 4 complexity, 5 stage: 31, each name once."""
    sizes = Counter(feature.group for feature in FEATURES)
    assert sizes == {
        "basic": 6, "linguistic": 6, "semantic": 5, "task indicators": 5, "complexity": 4, "stage": 5
    }  # fmt: skip
    assert len({feature.name for feature in FEATURES}) == 31


def test_a_prompt_counted_by_hand() -> None:
    """Every feature of one prompt, worked out with a pencil."""
    got = named(text_features([PROMPT])[0])
    expected = {
        "word_count": 14, "sentence_count": 3, "character_count": len(PROMPT),
        "avg_words_per_sentence": 14 / 3, "avg_chars_per_word": 63 / 14, "vocab_diversity": 12 / 14,
        "is_question": 1, "question_word_count": 1, "complexity_score": 0.4 + 0.3 * 0.14,
        "technical_count": 2, "punct_count": 5, "multiline_indicator": 1,
        "math_score": 3 / 14, "code_score": 0, "factual_score": 0, "creative_score": 0,
        "reasoning_score": 4 / 14, "long_word_ratio": 4 / 14, "conjunction_count": 2,
        "info_density": 5 / 14,
        "text_entropy": entropy(list(Counter(PROMPT.encode()).values()), base=2),
    }  # fmt: skip
    assert got == pytest.approx(expected)


def test_a_prompt_is_what_it_is_in_a_batch() -> None:
    """Features do not depend on the neighbours, their number or the order."""
    prompts = [PROMPT, "", "Naïve café?", "x = 1\ny = 2", *(f"number {i} of them" for i in range(1100))]
    batch = text_features(prompts)
    np.testing.assert_array_equal(batch[:4], np.vstack([text_features([p]) for p in prompts[:4]]))
    np.testing.assert_array_equal(batch[::-1], text_features(prompts[::-1]))


def test_nothing_in_nothing_out() -> None:
    """No prompts make an empty table, an empty prompt a row of zeros."""
    assert text_features([]).shape == (0, 21)
    assert not text_features([""]).any()


def test_the_columns_are_in_the_order_of_the_table() -> None:
    """Semantic dimensions stand where `FEATURES` lists them, the rest around them."""
    prompts = [f"{a} {b} cat" for a in ("integral", "king", "gene", "loop") for b in ("war", "poem", "price")]
    project = Projection(fit_semantics(prompts, seed=0))
    table = published_features(prompts, project)
    semantic = [i for i, feature in enumerate(FEATURES) if feature.group == "semantic"]
    np.testing.assert_array_equal(table[:, semantic], project(prompts))
    np.testing.assert_array_equal(np.delete(table, semantic, axis=1), text_features(prompts))


def test_stages() -> None:
    """First, middle and last are marked, the position is raw and normalised; a lone stage is both."""
    prompt = np.zeros((2, N_PROMPT))
    of_stage = [at_stage(prompt, stage, 4)[1, N_PROMPT:].tolist() for stage in range(4)]
    assert of_stage == [[1, 0, 0, 0, 0], [0, 1, 0, 1, 1 / 3], [0, 1, 0, 2, 2 / 3], [0, 0, 1, 3, 1]]
    assert at_stage(prompt, 0, 1)[0, N_PROMPT:].tolist() == [1, 0, 1, 0, 0]


@pytest.mark.parametrize("stage", [-1, 3])
def test_a_stage_that_is_not_there(stage: int) -> None:
    """A position outside the ladder is refused."""
    with pytest.raises(ConfigError, match="ladder of 3"):
        at_stage(np.zeros((1, N_PROMPT)), stage, 3)
