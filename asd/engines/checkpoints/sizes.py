"""Memory of a stage, read off its files: weights as they lie on the device, and the cache of one query.

    weights = parameters x bytes of the dtype it runs in
    cache   = 2 (key and value) x layers x key-value heads x head size x tokens x bytes

Quantised weights take what they take in their files. Activations, and what a runtime keeps for itself, are
not in it; caches of another shape (sliding windows, latent attention, recurrent layers) are not known here.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from asd.engines.revisions import local_directory
from asd.errors import DataError
from asd.ladder import Stage
from asd.schema import msgspec

__all__ = ["MIB", "cache_mib", "weights_mib"]

MIB = 1 << 20

_BYTES = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "F64": 8,
    "F32": 4,
    "BF16": 2,
    "F16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}


class _CacheConfig(msgspec.Struct, frozen=True):
    """The part of a model's config.json that says how large its cache is."""

    num_hidden_layers: int
    num_attention_heads: int
    hidden_size: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    kv_lora_rank: int | None = None
    layer_types: tuple[str, ...] = ()
    sliding_window: int | None = None
    use_sliding_window: bool = True
    quantization_config: object = None

    @property
    def is_plain(self) -> bool:
        """Keys and values of all tokens in every layer, in the dtype of the weights."""
        is_sliding = self.sliding_window is not None and self.use_sliding_window
        is_full = set(self.layer_types) <= {"full_attention"}
        return is_full and not is_sliding and self.kv_lora_rank is None and self.quantization_config is None


def weights_mib(stage: Stage, device: str) -> float | None:
    """MiB that a stage's weights take while it can answer; None where neither files nor ladder tell.

    Args:
        stage: Whose weights; its `memory_gib` counts where it is given.
        device: In torch's words; on "cpu" a dtype of "auto" is float32.

    Raises:
        DataError: The weights are cut off, or of a dtype that no model has.
    """
    if stage.memory_gib is not None:
        return stage.memory_gib * 1024
    folder = local_directory(stage)
    if folder is None:
        return None
    stored = [tensor for path in sorted(folder.glob("*.safetensors")) for tensor in _tensors(path)]
    if _is_quantised(folder):
        return sum(n * _known(stage, dtype) for n, dtype in stored) / MIB
    return sum(n * _bytes(stage, device, dtype) for n, dtype in stored) / MIB


def cache_mib(stage: Stage, device: str, n_tokens: int) -> float | None:
    """MiB that the cache of one query of so many tokens takes; None where that cannot be known here."""
    folder = local_directory(stage)
    if folder is None:
        return None
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes(), type=_CacheConfig)
    except msgspec.ValidationError:  # of another kind of model
        return None
    if not config.is_plain:
        return None
    heads = config.num_key_value_heads or config.num_attention_heads
    size = config.head_dim or config.hidden_size // config.num_attention_heads
    dtype = _tensors(min(folder.glob("*.safetensors")))[0][1]
    per_token = 2 * config.num_hidden_layers * heads * size * _bytes(stage, device, dtype)
    return per_token * n_tokens / MIB


def _tensors(path: Path) -> list[tuple[int, str]]:
    """Number of elements and dtype of every tensor of a safetensors file: its header, the rest unread."""
    with path.open("rb") as file:
        try:
            header = json.loads(file.read(*struct.unpack("<Q", file.read(8))))
        except (struct.error, ValueError) as error:
            raise DataError(f"{path} is no safetensors file: {error}") from error
    return [(math.prod(t["shape"]), t["dtype"]) for name, t in header.items() if name != "__metadata__"]


def _bytes(stage: Stage, device: str, stored: str) -> int:
    """Bytes of one number as the stage runs."""
    runs_in = stage.dtype if stage.dtype != "auto" else "float32" if device == "cpu" else stored
    return _known(stage, runs_in)


def _known(stage: Stage, dtype: str) -> int:
    if dtype not in _BYTES:
        raise DataError(f"stage {stage.name!r} has weights of dtype {dtype!r}; known are {sorted(_BYTES)}")
    return _BYTES[dtype]


def _is_quantised(folder: Path) -> bool:
    config = folder / "config.json"
    return config.exists() and "quantization_config" in json.loads(config.read_bytes())
