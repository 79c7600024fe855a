"""Character n-grams: hashed as zlib does, counted as scikit-learn does, multiplied as plain matrices are."""

from __future__ import annotations

import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from asd.research.offline import grams
from asd.research.offline.grams import N_BUCKETS, Grams, count_grams, products

TEXTS = ["the sea", "the sky", "", "the oak and the sea", "zebra", "the sea"]


@pytest.mark.slow
@given(st.lists(st.text(max_size=30), min_size=1, max_size=6))
def test_buckets_are_those_of_zlib(texts: list[str]) -> None:
    """Row by row, every 2 to 4 bytes of the normalised text are counted at their CRC-32."""
    counted = count_grams(texts)
    for i, text in enumerate(texts):
        raw = grams._normalised(text)
        parts = [raw[start : start + n] for n in (2, 3, 4) for start in range(len(raw) - n + 1)]
        expected = Counter(zlib.crc32(part) % N_BUCKETS for part in parts)
        row = counted[i]
        assert dict(zip(row.indices.tolist(), row.data.tolist(), strict=True)) == pytest.approx(
            {bucket: 1 + np.log(n) for bucket, n in expected.items()}, rel=1e-6
        )


def test_grams_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many n-grams as scikit-learn counts, weighted 1 + log; of a long text both ends."""
    weights = count_grams(["  The cat\nand the CAT "]).data
    counts = CountVectorizer(analyzer="char", ngram_range=(2, 4)).fit_transform([" the cat and the cat "])
    assert sorted(weights.tolist()) == pytest.approx(sorted((1 + np.log(counts.data)).tolist()), rel=1e-6)
    monkeypatch.setattr(grams, "_MOST_CHARACTERS", 3)
    assert count_grams(["abcdefgh 1"]).indices.tolist() == count_grams(["abch 1"]).indices.tolist()


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few texts are hashed or weighted at once, rows and products stay the same."""
    fitted = Grams.fit(count_grams(TEXTS))
    weights = np.random.default_rng(0).normal(size=(N_BUCKETS, 2))
    at_once, told = count_grams(TEXTS).toarray(), fitted.project(TEXTS, weights)
    monkeypatch.setattr(grams, "_BLOCK_BYTES", 10)
    monkeypatch.setattr(grams, "_BLOCK_TEXTS", 2)
    assert (count_grams(TEXTS).toarray() == at_once).all()
    assert fitted.project(TEXTS, weights) == pytest.approx(told)
    assert told == pytest.approx(fitted.weighted(count_grams(TEXTS)) @ weights)
    assert fitted.project([], weights).shape == (0, 2)


def test_rare_n_grams_weigh_more_and_texts_have_unit_length() -> None:
    """A text's product with itself is 1; sharing a rare word is more likeness than sharing a common one."""
    counts = count_grams(["the sea", "the sky", "the oak", "zebra"])
    fitted = Grams.fit(counts)
    likeness = products(fitted.weighted(count_grams(["the sea", "the zebra", ""])), fitted.weighted(counts))
    assert likeness[0, 0] == pytest.approx(1.0)
    assert likeness[1, 3] > likeness[1, 1] > 0.0
    assert not likeness[2].any()


def test_what_all_texts_have_weighs_nothing_or_what_it_is_given() -> None:
    """n texts with it of n: log 1 = 0; a floor is added to every n-gram that was seen, and to no other."""
    counts = count_grams(["ab", "ab ab"])
    shared, unseen = count_grams(["ab"]).indices, count_grams(["zzz"]).indices
    assert not Grams.fit(counts).rarity[shared].any()
    floored = Grams.fit(counts, least=1.0).rarity
    assert floored[shared] == pytest.approx(1.0)
    assert not floored[unseen].any()


@pytest.mark.parametrize("common", [0.0, 0.4, 1.0])
def test_products_are_those_of_dense_matrices(monkeypatch: pytest.MonkeyPatch, common: float) -> None:
    """Wherever the line between common and rare n-grams is drawn."""
    monkeypatch.setattr(grams, "_COMMON", common)
    rows = Grams.fit(count_grams(TEXTS)).weighted(count_grams(TEXTS))
    expected = rows.toarray() @ rows[:4].toarray().T
    assert products(rows, rows[:4]) == pytest.approx(expected, abs=1e-6)
