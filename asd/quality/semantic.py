"""Similarity of meaning, from the token vectors of a local encoder: BERTScore and coherence.

BERTScore (Zhang et al., arXiv 1904.09675) matches every token of one text with the most similar one of the
other, x_i and y_j of unit length:

    P = mean_i max_j x_i . y_j,   R = mean_j max_i x_i . y_j,   F1 = 2 P R / (P + R)

Special tokens may be matched with and do not count; no idf weights, no rescaling. Of several references the
one with the largest F1 counts. Coherence is the cosine of the mean token vectors of prompt and answer.

Scope: an encoder is a directory that the caller names; nothing is downloaded. Numbers of different
encoders are not comparable, so the record names the encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError, DataError

__all__ = ["BertScore", "Encoder", "TokenVectors", "bert_score", "cosine"]

Array = npt.NDArray[np.float64]


class BertScore(NamedTuple):
    """Precision, recall and their harmonic mean."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True, eq=False)
class TokenVectors:
    """A text as an encoder sees it.

    Attributes:
        vectors: Last hidden state, special tokens included, shape (tokens, width).
        is_word: Which tokens are not special, shape (tokens,).
    """

    vectors: Array
    is_word: npt.NDArray[np.bool_]

    @property
    def directions(self) -> Array:
        """The vectors at unit length."""
        return np.asarray(self.vectors / np.linalg.norm(self.vectors, axis=1, keepdims=True))


@dataclass(frozen=True, eq=False)
class Encoder:
    """A Hugging Face encoder with its tokenizer.

    Attributes:
        name: Last part of its directory and a checksum of its weights; goes into records.
        tokenizer: Of transformers.
        model: Of transformers, in evaluation mode.
    """

    name: str
    tokenizer: Any
    model: Any

    @classmethod
    def load(cls, directory: str | Path, device: str = "cpu") -> Self:
        """Read an encoder from a directory.

        Raises:
            ConfigError: The directory holds none.
        """
        try:
            from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ConfigError("an encoder needs transformers: pip install 'asd[transformers]'") from error
        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            model = AutoModel.from_pretrained(directory, local_files_only=True)
        except (OSError, ValueError) as error:
            why = str(error).partition("\n")[0]
            raise ConfigError(f"{directory} holds no encoder ({why}); name the directory of one") from error
        directory = Path(directory)
        return cls(f"{directory.name}|{_checksum(directory)}", tokenizer, model.eval().to(device))

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> list[TokenVectors]:
        """Every text, cut at the encoder's longest input, in the order given.

        Raises:
            DataError: A text is empty.
        """
        if not all(text.strip() for text in texts):
            raise DataError("an empty text has no meaning to compare")
        starts = range(0, len(texts), batch_size)
        return [seen for start in starts for seen in self._encode(texts[start : start + batch_size])]

    def _encode(self, texts: Sequence[str]) -> list[TokenVectors]:
        import torch  # noqa: PLC0415 - an extra

        batch = self.tokenizer(
            [text.strip() for text in texts],
            padding=True,
            truncation=True,
            max_length=min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings),
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        special = batch.pop("special_tokens_mask").numpy().astype(bool)
        real = batch["attention_mask"].numpy().astype(bool)
        with torch.inference_mode():
            hidden = self.model(**batch.to(self.model.device)).last_hidden_state.double().cpu().numpy()
        return [
            TokenVectors(vectors[here], ~marks[here])
            for vectors, here, marks in zip(hidden, real, special, strict=True)
        ]


def _checksum(directory: Path) -> str:
    """Of the weights: directories are called alike."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted((*directory.glob("*.safetensors"), *directory.glob("*.bin"))):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def bert_score(answer: TokenVectors, references: Sequence[TokenVectors]) -> BertScore:
    """BERTScore of the reference with the largest F1, negative values cut at 0.

    Raises:
        DataError: There is no reference, or a text has no token but special ones.
    """
    if not references or not all(text.is_word.any() for text in (answer, *references)):
        raise DataError("BERTScore needs an answer and a reference with at least one token each")
    return max((_match(answer, reference) for reference in references), key=lambda score: score.f1)


def _match(answer: TokenVectors, reference: TokenVectors) -> BertScore:
    similarity = answer.directions @ reference.directions.T
    precision = max(0.0, float(similarity.max(axis=1)[answer.is_word].mean()))
    recall = max(0.0, float(similarity.max(axis=0)[reference.is_word].mean()))
    both = precision + recall
    return BertScore(precision, recall, 2 * precision * recall / both if both > 0.0 else 0.0)


def cosine(a: TokenVectors, b: TokenVectors) -> float:
    """Cosine of the mean token vectors, special tokens included as sentence encoders do, cut at 0."""
    x, y = a.vectors.mean(axis=0), b.vectors.mean(axis=0)
    return max(0.0, float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y))))
