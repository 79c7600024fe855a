"""Five numbers for what a prompt is about: latent semantic analysis (Deerwester et al. 1990).

Words are hashed into buckets, counted with sublinear tf-idf weights, and projected onto the directions in
which the prompts of the fitting rows differ most (a truncated singular value decomposition):

    dims = (w @ projection) / |w|,    w_b = (1 + log count_b) * idf_b

These are directions of word co-occurrence, fitted where they are used, and work offline in microseconds. They
are **not** the output of a neural sentence encoder, and words that the fitting rows lack say nothing. The
border: text in, numbers out; scikit-learn is imported when fitting only.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from asd.errors import DataError

__all__ = ["N_BUCKETS", "N_DIMS", "Projection", "Semantics", "WordCounts", "count_words", "fit_semantics"]

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

N_DIMS = 5
N_BUCKETS = 4096
_WORD = re.compile(r"[^\W\d_]+")


class Semantics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fitted projection.

    Attributes:
        projection: Inverse document frequency times direction, by bucket: `N_BUCKETS` rows of `N_DIMS`.
        idf: Inverse document frequency by bucket, `N_BUCKETS` numbers.
    """

    projection: tuple[tuple[float, ...], ...]
    idf: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.idf) != N_BUCKETS or len(self.projection) != N_BUCKETS:
            raise ValueError(
                f"semantics need one weight for each of {N_BUCKETS} buckets, got {len(self.idf)}"
            )
        if any(len(row) != N_DIMS for row in self.projection):
            raise ValueError(f"every bucket needs {N_DIMS} numbers")


class Projection:
    """A `Semantics` as arrays, ready to apply; a prompt without words is all zeros."""

    def __init__(self, semantics: Semantics) -> None:
        self._projection = np.array(semantics.projection)
        self._idf = np.array(semantics.idf)

    def __call__(self, prompts: Sequence[str]) -> Array:
        """Dimensions of every prompt, shape (n, N_DIMS), each row of length at most 1."""
        counts = count_words(prompts)
        norms = np.sqrt(np.bincount(counts.row, (counts.tf * self._idf[counts.bucket]) ** 2, len(prompts)))
        dims = np.zeros((len(prompts), N_DIMS))
        np.add.at(dims, counts.row, counts.tf[:, None] * self._projection[counts.bucket])
        norms[norms == 0.0] = 1.0
        return dims / norms[:, None]


def fit_semantics(prompts: Sequence[str], *, seed: int) -> Semantics:
    """Directions of largest variation among the prompts.

    Args:
        prompts: At least `N_DIMS + 1` with different words.
        seed: Of the randomised decomposition.

    Raises:
        DataError: Too few prompts, or too few different words in them.
    """
    from scipy.sparse import csr_array  # noqa: PLC0415 - needed when fitting only
    from sklearn.decomposition import TruncatedSVD  # noqa: PLC0415
    from sklearn.preprocessing import normalize  # noqa: PLC0415

    counts = count_words(prompts)
    n_with = np.bincount(counts.bucket, minlength=N_BUCKETS)
    if len(prompts) <= N_DIMS or np.count_nonzero(n_with) <= N_DIMS:
        raise DataError(
            f"{len(prompts)} prompts with {np.count_nonzero(n_with)} different words are too few for "
            f"{N_DIMS} semantic dimensions; fit on more"
        )
    idf = np.where(n_with > 0, np.log((1.0 + len(prompts)) / (1.0 + n_with)) + 1.0, 0.0)
    weights = csr_array(
        (counts.tf * idf[counts.bucket], (counts.row, counts.bucket)), shape=(len(prompts), N_BUCKETS)
    )
    svd = TruncatedSVD(N_DIMS, random_state=seed).fit(normalize(weights))
    projection = (svd.components_ * idf).T.round(6)
    return Semantics(tuple(map(tuple, projection.tolist())), tuple(idf.round(6).tolist()))


class WordCounts(NamedTuple):
    """The words of many prompts: prompt `row[i]` has weight `tf[i]` in `bucket[i]`, pairs distinct."""

    row: IntArray
    bucket: IntArray
    tf: Array


def count_words(prompts: Sequence[str]) -> WordCounts:
    """Hashed words of every prompt, ignoring case, with sublinear weights `1 + log count`."""
    words = [_WORD.findall(prompt.lower()) for prompt in prompts]
    row = np.repeat(np.arange(len(prompts)), [len(found) for found in words])
    bucket = np.array([_bucket(word) for found in words for word in found], dtype=np.intp)
    pairs, counts = np.unique(row * N_BUCKETS + bucket, return_counts=True)
    return WordCounts(pairs // N_BUCKETS, pairs % N_BUCKETS, 1.0 + np.log(counts))


@lru_cache(maxsize=1 << 16)
def _bucket(word: str) -> int:
    """CRC-32, so that it is the same in every process and on every machine."""
    return zlib.crc32(word.encode()) % N_BUCKETS
