"""Texts as weighted character n-grams: sparse rows of unit length, and products of them.

A text is its hashed n-grams (2 to 4 bytes of UTF-8), (1 + log count) times their rarity among the rows fitted
on (log (n + 1) / (n_with_it + 1), 0 if never seen: what all prompts begin with says nothing), of unit length.
The bucket of an n-gram is its CRC-32 modulo `N_BUCKETS`, computed for all positions of many texts at once:
a loop over n-grams, here or in scikit-learn, takes thirty times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["N_BUCKETS", "Grams", "count_grams", "products"]

Array = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint32]
Texts = Sequence[str] | npt.NDArray[np.object_]

N_BUCKETS = 2**16
_SIZES = (2, 3, 4)
_MOST_CHARACTERS = 500
"""Of a longer text, so many from either end are read."""
_BLOCK_BYTES = 2**16
"""Text hashed at once: its n-grams are sorted within the processor's cache."""
_BLOCK_TEXTS = 2000
"""Texts counted at once where only a few numbers of each are kept."""
_COMMON = 0.1
"""n-grams in a larger share of texts are multiplied as dense columns."""


def _crc_table() -> Words:
    table: Words = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = ((table >> 1) ^ np.where(table & 1, np.uint32(0xEDB88320), np.uint32(0))).astype(np.uint32)
    return table


_TABLE = _crc_table()


def count_grams(texts: Texts) -> Any:
    """Sparse rows of 1 + log count, shape (m, N_BUCKETS), float32."""
    from scipy.sparse import csr_matrix  # noqa: PLC0415 - takes half a second

    sizes, buckets, counts = [np.zeros(1, dtype=np.intp)], [np.empty(0, np.int32)], [np.empty(0, np.intp)]
    for raws in _blocks(texts):
        found, times = np.unique(_hashed(raws), return_counts=True)
        sizes.append(np.bincount(found >> 16, minlength=len(raws)))
        buckets.append((found & 0xFFFF).astype(np.int32))
        counts.append(times)
    weights = (1.0 + np.log(np.concatenate(counts))).astype(np.float32)
    ends = np.cumsum(np.concatenate(sizes))
    return csr_matrix((weights, np.concatenate(buckets), ends), shape=(len(texts), N_BUCKETS))


def _blocks(texts: Texts) -> Iterator[list[bytes]]:
    """Normalised texts as bytes, about `_BLOCK_BYTES` at once."""
    block: list[bytes] = []
    size = 0
    for text in texts:
        block.append(_normalised(text))
        size += len(block[-1]) + 1
        if size >= _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _normalised(text: str) -> bytes:
    words = " ".join(text.lower().split())
    if len(words) > 2 * _MOST_CHARACTERS:
        words = words[:_MOST_CHARACTERS] + words[-_MOST_CHARACTERS:]
    return f" {words} ".encode() if words else b""


def _hashed(raws: Sequence[bytes]) -> Words:
    """Position of the text times 2^16 plus the bucket, for every n-gram of every text."""
    data = np.frombuffer(b"".join(raws), dtype=np.uint8)
    lengths = np.array([len(raw) for raw in raws])
    row = np.repeat(np.arange(len(raws), dtype=np.uint32) << 16, lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(data))
    state = _crc_step(np.full(len(data), 0xFFFFFFFF, dtype=np.uint32), data)
    keys = []
    for size in _SIZES:
        state = _crc_step(state[:-1], data[size - 1 :])
        keys.append((row[: len(state)] | (~state & 0xFFFF))[left[: len(state)] >= size])
    return np.concatenate(keys)


def _crc_step(state: Words, byte: npt.NDArray[np.uint8]) -> Words:
    """CRC-32 after one more byte, before the final inversion."""
    low = state.astype(np.uint8) ^ byte[: len(state)]
    return np.asarray(_TABLE[low] ^ (state >> 8), dtype=np.uint32)


@dataclass(frozen=True, slots=True, eq=False)
class Grams:
    """How rare every n-gram is among the texts fitted on, shape (N_BUCKETS,)."""

    rarity: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, counts: Any, least: float = 0.0) -> Grams:
        """Learn from the rows of `count_grams`; an n-gram that all texts have weighs `least`."""
        seen = np.bincount(counts.indices, minlength=N_BUCKETS)
        rarity = np.where(seen > 0, np.log((1.0 + counts.shape[0]) / (1.0 + seen)) + least, 0.0)
        return cls(rarity.astype(np.float32))

    def weighted(self, counts: Any) -> Any:
        """Sparse rows of unit length, without n-grams that say nothing."""
        rows = counts.copy()
        rows.data *= self.rarity[rows.indices]
        rows.eliminate_zeros()
        length = np.sqrt(np.add.reduceat(np.append(rows.data**2, 0.0), rows.indptr[:-1]))
        rows.data /= np.repeat(np.maximum(length, 1e-9), np.diff(rows.indptr)).astype(np.float32)
        return rows

    def project(self, texts: Texts, weights: Array) -> Array:
        """Products of weighted texts with columns of weights of shape (N_BUCKETS, t): shape (m, t).

        Texts are counted a block at a time, equal ones once: memory does not grow with their n-grams.
        """
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        known = list(distinct)
        blocks = [known[start : start + _BLOCK_TEXTS] for start in range(0, len(known), _BLOCK_TEXTS)]
        found = [np.empty((0, weights.shape[1]))]
        found += [self.weighted(count_grams(block)) @ weights for block in blocks]
        return np.asarray(np.concatenate(found)[[distinct[text] for text in texts]])


def products(a: Any, b: Any) -> Array:
    """Of every row of `a` with every row of `b`, both as `Grams.weighted` gives them: shape (m, n).

    The few n-grams that most texts have make up most of the work; as dense columns they take a tenth of it.
    """
    common = np.bincount(b.indices, minlength=N_BUCKETS) > _COMMON * b.shape[0]
    columns = np.flatnonzero(common)
    dense = a[:, columns].toarray() @ b[:, columns].toarray().T
    rare = _without(a, common) @ _without(b, common).T
    return np.asarray(dense + rare.toarray(), dtype=np.float64)


def _without(rows: Any, columns: npt.NDArray[np.bool_]) -> Any:
    kept = rows.copy()
    kept.data[columns[kept.indices]] = 0.0
    kept.eliminate_zeros()
    return kept
