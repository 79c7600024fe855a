"""Keys and values in tensors of a fixed size: a token at position p of its text lies in slot p of its row.

Where tokens are written and what they see is data, [n, width] slot indices, and never a shape or a Python
number: a step that was captured once serves rows of any lengths. Tokens are taken back by writing over them,
for a token sees the slots up to its own. The last slot is nobody's: padding is written there.

Scope: the library's cache protocol, and which models can be served so.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

__all__ = ["SlotCache", "Visibility", "bucket", "obstacle"]


def bucket(n: int, least: int = 1) -> int:
    """The smallest size of at least n among 1, 2, 3, 4, 6, 8, 12, 16, ... that is not below `least`."""
    n = max(n, least)
    power = 1 << (n - 1).bit_length()
    return power * 3 // 4 if power >= 4 and n <= power * 3 // 4 else power


class _Slots:
    """Where the next tokens of every row are written, [n, width]; shared by all layers."""

    index: Tensor


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # the library is untyped
    """Keys and values of one layer, [rows, heads, slots, size]."""

    is_compileable = True
    is_sliding = False

    def __init__(self, n_rows: int, n_slots: int, where: _Slots) -> None:
        super().__init__()
        self._shape = n_rows, n_slots
        self._where = where

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for keys and values of these heads and sizes."""
        n_rows, n_slots = self._shape
        self.keys, self.values = (
            states.new_zeros((n_rows, states.shape[1], n_slots, states.shape[3]))
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def allocate_like(self, other: SlotLayer) -> None:
        """Allocate for keys and values as another layer has them, unless that is done."""
        if not self.is_initialized:
            self.lazy_initialization(other.keys, other.values)

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *_: object,
        **__: object,
    ) -> tuple[Tensor, Tensor]:
        """Write the first n rows' new tokens into their slots; returns all slots of these rows."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        at = self._where.index[:, None, :, None]
        n = len(key_states)
        keys, values = self.keys[:n], self.values[:n]
        keys.scatter_(2, at.expand(key_states.shape), key_states)
        values.scatter_(2, at.expand(value_states.shape), value_states)
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002 - the library's signature
        """All slots, from the first."""
        return self._shape[1], 0

    def get_seq_length(self) -> int:
        """Nothing: positions are given with every call."""
        return 0

    def get_max_length(self) -> int:
        """Slots of a row."""
        return self._shape[1]

    get_max_cache_shape = get_max_length  # its name before transformers 5.20


class SlotCache(Cache):  # type: ignore[misc]
    """One `SlotLayer` for every layer of a model."""

    def __init__(self, config: Any, n_rows: int, n_slots: int) -> None:
        self._where = _Slots()
        n_layers = len(DynamicCache(config=config).layers)
        super().__init__(layers=[SlotLayer(n_rows, n_slots, self._where) for _ in range(n_layers)])

    def copied(self) -> SlotCache:
        """A copy, to be copied back."""
        other = copy(self)
        other.layers = [copy(layer) for layer in self.layers]
        for layer in other.layers:
            if layer.is_initialized:
                layer.keys, layer.values = layer.keys.clone(), layer.values.clone()
        return other

    def copy_from(self, other: SlotCache) -> None:
        """Be as another cache of this shape."""
        for own, given in zip(self.layers, other.layers, strict=True):
            if given.is_initialized:
                own.allocate_like(given)
                own.keys.copy_(given.keys)
                own.values.copy_(given.values)

    def write_at(self, index: Tensor) -> None:
        """Where the tokens of the next forward pass are written, [n, width]."""
        self._where.index = index

    def copy_rows(self, to: int, source: SlotCache, rows: Tensor) -> None:
        """Copy these rows of a cache that is not longer into the rows from `to` on."""
        for own, other in zip(self.layers, source.layers, strict=True):
            if other.is_initialized:
                own.allocate_like(other)
                n_slots = other.keys.shape[2] - 1
                own.keys[to : to + len(rows), :, :n_slots] = other.keys[rows, :, :n_slots]
                own.values[to : to + len(rows), :, :n_slots] = other.values[rows, :, :n_slots]


@dataclass(frozen=True, slots=True)
class Visibility:
    """What tokens see of their row, as the attention of a model takes it.

    Attributes:
        windows: Tokens that a layer sees, by the library's name of its kind; None: all.
        dtype: Of a mask that is added to the scores; None: the model takes booleans.
    """

    windows: dict[str, int | None]
    dtype: torch.dtype | None

    @classmethod
    def of(cls, model: Any) -> Visibility:
        """That of a model without an `obstacle`."""
        windows = {_kind(layer): _window(layer) for layer in DynamicCache(config=model.config).layers}
        is_added = model.config._attn_implementation == "eager"
        return cls(windows, model.dtype if is_added else None)

    def masks(self, index: Tensor, n_slots: int) -> Tensor | dict[str, Tensor]:
        """Masks [n, 1, width, n_slots] of tokens in slots `index` [n, width]; by kind if there are two."""
        slots, own = torch.arange(n_slots, device=index.device), index.unsqueeze(-1)
        found = {kind: self._mask(slots, own, window) for kind, window in self.windows.items()}
        return found if len(found) > 1 else next(iter(found.values()))

    def _mask(self, slots: Tensor, own: Tensor, window: int | None) -> Tensor:
        seen = slots <= own if window is None else (slots <= own) & (slots > own - window)
        if self.dtype is not None:
            lowest = torch.finfo(self.dtype).min
            seen = torch.zeros(seen.shape, dtype=self.dtype, device=seen.device).masked_fill(~seen, lowest)
        return seen.unsqueeze(1)


def _window(layer: CacheLayerMixin) -> int | None:
    return getattr(layer, "sliding_window", None)


def _kind(layer: CacheLayerMixin) -> str:
    return "full_attention" if _window(layer) is None else "sliding_attention"


def obstacle(model: Any) -> str:
    """Why a model cannot be served from slots; empty where it can."""
    config = model.config.get_text_config()
    layers, ropes = DynamicCache(config=model.config).layers, _rope_types(config)
    has_state = any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    has_chunks = getattr(config, "attention_chunk_size", None) is not None
    is_other = has_chunks or not kinds <= {"full_attention", "sliding_attention"}
    attention = config._attn_implementation
    obstacles = {
        "some of its layers keep a state instead of keys and values": has_state,
        "some of its layers attend neither to all tokens before nor to a sliding window": is_other,
        "its sliding windows differ": len({_window(layer) for layer in layers} - {None}) > 1,
        "its positions are not rotary": not ropes or bool(getattr(config, "alibi", False)),
        "its rotary frequencies change with the length of the text": bool(ropes & {"dynamic", "longrope"}),
        f"its attention, {attention}, takes no mask for every row": attention not in ("sdpa", "eager"),
    }
    return next((why for why, holds in obstacles.items() if holds), "")


def _rope_types(config: Any) -> set[str]:
    """Kinds of rotary positions, those of layers of one kind or of all of them."""
    found = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in found.values() if isinstance(value, dict)]
    return {str(each.get("rope_type", "default")) for each in nested or [found] if each}
