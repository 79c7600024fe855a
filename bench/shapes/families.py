"""The table of shapes, and the arithmetic of bytes that follows from a shape.

Scope: numbers out of `families.toml`; no torch, no model.
"""

from __future__ import annotations

from pathlib import Path

from asd.errors import ConfigError
from asd.measurement.records import Record
from asd.schema import msgspec

__all__ = ["DTYPE_BYTES", "DecoderShape", "Family", "family_of"]

TABLE = Path(__file__).with_name("families.toml")

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class DecoderShape(Record, frozen=True, kw_only=True):
    """What decides how fast a decoder of the Llama kind is; names as in `families.toml`."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    tied: bool = False

    @property
    def head_size(self) -> int:
        """Dimensions of one attention head."""
        return self.width // self.heads

    def n_parameters(self, *, biases: bool) -> int:
        """Weights of the whole model; `biases`: queries, keys and values have them."""
        kv_width = self.kv_heads * self.head_size
        attention = 2 * self.width * self.width + 2 * self.width * kv_width
        per_layer = attention + 3 * self.width * self.inner + 2 * self.width
        per_layer += (self.width + 2 * kv_width) if biases else 0
        embeddings = (1 if self.tied else 2) * self.vocabulary * self.width
        return embeddings + self.layers * per_layer + self.width

    @property
    def cache_numbers(self) -> int:
        """Numbers that one token leaves in the key-value cache."""
        return 2 * self.layers * self.kv_heads * self.head_size


class Family(Record, frozen=True, kw_only=True):
    """Models of one architecture in several sizes.

    Attributes:
        models: Repositories whose config.json the shapes are from.
        type: `model_type` of transformers.
        context: Positions.
        sizes: By the name that ladders give them.
        ladders: Presets made of these sizes.
    """

    models: str
    type: str
    context: int
    sizes: dict[str, DecoderShape]
    ladders: tuple[str, ...] = ()

    def shape(self, size: str) -> DecoderShape:
        """The shape of one size.

        Raises:
            ConfigError: It is not in the table.
        """
        if size not in self.sizes:
            raise ConfigError(f"no shape of size {size!r}; there are {', '.join(self.sizes)}")
        return self.sizes[size]

    def weight_bytes(self, size: str, dtype: str) -> int:
        """Bytes of the weights of one size."""
        return self.shape(size).n_parameters(biases=self.type == "qwen2") * DTYPE_BYTES[dtype]

    def cache_bytes(self, size: str, dtype: str, n_tokens: int) -> int:
        """Bytes that so many tokens take in the key-value cache."""
        return n_tokens * self.shape(size).cache_numbers * DTYPE_BYTES[dtype]

    def decode_bytes(self, size: str, dtype: str, batch: int, length: int) -> int:
        """Bytes that a step has to read: all weights, and the cache of `batch` rows of `length` tokens."""
        return self.weight_bytes(size, dtype) + self.cache_bytes(size, dtype, batch * length)


def family_of(ladder: str) -> Family:
    """The family that a preset's stages are of, or the family of that name.

    Raises:
        ConfigError: There is none.
    """
    families = msgspec.toml.decode(TABLE.read_bytes(), type=dict[str, Family])
    found = next((f for name, f in families.items() if ladder == name or ladder in f.ladders), None)
    if found is None:
        known = dict.fromkeys(name for key, f in families.items() for name in (key, *f.ladders))
        raise ConfigError(f"no shapes of ladder {ladder!r}; there are those of {', '.join(known)}")
    return found
