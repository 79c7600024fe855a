"""Rows over a cache that grows by what is read, of any model: the library's own `DynamicCache`.

Rows end in the same cache slot, shorter ones begin after empty slots; where rows grow or are taken back
unequally, their keys and values are shifted until that holds again. So the distance of two slots is that of
their tokens, which is what sliding windows go by.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from asd.engines.hf.model import Loaded
from asd.engines.hf.outputs import Stretch
from asd.engines.hf.sampler import TokenSampler

__all__ = ["GrowingBatch", "open_growing"]


@dataclass(slots=True, eq=False)
class GrowingBatch:
    """Rows in flight; implements `asd.engines.hf.decoder.Batch`.

    Attributes:
        loaded: The model; callers check that all fits its context.
        cache: Keys and values of every token fed, `n_slots` long.
        n_slots: Cache slots written, empty ones included.
        logits: Logits of the next token, [n, vocab] float32.
        rows: Which prompt each row answers, [n].
        gaps: Empty slots before each row's first token, [n, 1] (None: there are none).
    """

    loaded: Loaded
    cache: DynamicCache
    n_slots: int
    logits: Tensor
    rows: Tensor
    gaps: Tensor | None = None
    _chosen: Tensor | None = None
    _tokens: list[Tensor] = field(default_factory=list)
    _logprobs: list[Tensor] = field(default_factory=list)

    @property
    def runs_ahead(self) -> bool:
        """Every step is made when it is asked for."""
        return False

    @property
    def model_cache(self) -> dict[str, DynamicCache]:
        """The cache under the name that the model knows it by."""
        return {self.loaded.cache_argument: self.cache}

    def bytes_for(self, n_rows: int) -> int:
        """Memory of the keys and values of so many rows."""
        n_bytes: int = sum(layer.keys.nbytes + layer.values.nbytes for layer in _written(self.cache))
        return n_bytes * n_rows // len(self.rows)

    def keep(self, index: Sequence[int]) -> None:
        """Drop every row but those in `index`."""
        at = torch.tensor(index, device=self.rows.device)
        self.cache.reorder_cache(at)
        self.logits = self.logits[at]
        self.rows = self.rows[at]
        self.gaps = None if self.gaps is None else self.gaps[at]
        self._chosen = None if self._chosen is None else self._chosen[at]

    def select(self, index: Sequence[int]) -> GrowingBatch:
        """The rows in `index` as a batch of their own; this one stays as it is."""
        cache = copy(self.cache)
        cache.layers = [copy(layer) for layer in self.cache.layers]
        other = replace(self, cache=cache)
        other.keep(index)
        return other

    def all_gaps(self) -> Tensor:
        """The empty slots before each row, zeros where there are none."""
        if self.gaps is None:
            return torch.zeros((len(self.rows), 1), dtype=torch.long, device=self.rows.device)
        return self.gaps

    def masks(self, width: int) -> dict[str, Tensor]:
        """Attention mask and positions of the next `width` slots, where the model cannot tell them."""
        kind = self.loaded.step_mask
        if self.gaps is None and self.loaded.sees_all:
            return {}
        slots = torch.arange(self.n_slots + width, device=self.rows.device)
        # rows that have stopped run on with their batch; within the context they do no harm
        last = (self.loaded.context or 2**31) - 1
        positions = (slots[-width:] - self.all_gaps()).clamp(0, last)
        if self.gaps is None or (width == 1 and kind == "none"):
            return {"position_ids": positions}
        filled = slots >= self.gaps
        is_ready = width == 1 and kind == "ready"
        return {"attention_mask": filled[:, None, None] if is_ready else filled, "position_ids": positions}

    def read(self, pieces: Sequence[Sequence[int]], n_last: Sequence[int]) -> Tensor:
        """Append a piece to every row in one forward pass.

        Once rows have read something they grow unequally only if the batch rewinds.
        """
        device, width, is_first = self.rows.device, max(map(len, pieces)), self.n_slots == 0
        lacks = [width - len(piece) for piece in pieces]
        if is_first and any(lacks):
            self.gaps = torch.tensor(lacks, device=device).unsqueeze(1)
        # empty slots come before a first piece, and after a later one, until they are closed
        ids = [_pad(piece, lack, is_first) for piece, lack in zip(pieces, lacks, strict=True)]
        ends = [width if is_first else len(piece) for piece in pieces]
        wanted = [range(end - n, end) for end, n in zip(ends, n_last, strict=True)]
        columns = sorted(set().union(*wanted))
        logits: Tensor = self.loaded.model(
            input_ids=torch.tensor(ids, device=device),
            use_cache=True,
            logits_to_keep=torch.tensor(columns, device=device),
            **self.model_cache,
            **self.masks(width),
        ).logits
        self._chosen = None
        self.n_slots += width
        if not is_first:
            self.rewind(lacks)
        if len(pieces) == 1:
            return logits[0].float()
        index = {column: i for i, column in enumerate(columns)}
        rows = [row for row, n in enumerate(n_last) for _ in range(n)]
        at = [index[column] for of_row in wanted for column in of_row]
        return logits[torch.tensor(rows, device=device), torch.tensor(at, device=device)].float()

    def write(self, choose: TokenSampler, step: int, *, scored: bool = True) -> None:
        """Choose a token for every row, after feeding the one chosen before: one forward pass, or none."""
        if self._chosen is not None:
            self._feed(self._chosen)
        self._chosen = choose(self.logits, self.rows, step)
        self._tokens.append(self._chosen)
        if scored:
            at = self._chosen.unsqueeze(1)
            self._logprobs.append(self.logits.log_softmax(-1).gather(1, at))

    def _feed(self, tokens: Tensor) -> None:
        output = self.loaded.model(
            input_ids=tokens.unsqueeze(1), use_cache=True, **self.model_cache, **self.masks(1)
        )
        self.n_slots += 1
        self.logits = output.logits[:, -1].float()

    def look(self, choose: TokenSampler, *, more: bool) -> list[int]:  # noqa: ARG002 - one signature for all batches
        """The tokens chosen last."""
        return self._tokens[-1].tolist()

    def collect(self) -> Stretch:
        """What the rows have written since they were last collected."""
        logprobs = torch.cat(self._logprobs, 1) if self._logprobs else None
        stretch = Stretch(self.rows, torch.stack(self._tokens, 1), logprobs)
        self._tokens, self._logprobs = [], []
        return stretch

    def rewind(self, drop: Sequence[int]) -> None:
        """Take back the last `drop[i]` tokens of row i, of a batch opened with `rewinds`."""
        least = min(drop)
        if least:
            self.cache.crop(-least)
            self.n_slots -= least
        if max(drop) > least:
            self._shift(torch.tensor([n - least for n in drop], device=self.rows.device).unsqueeze(1))

    def _shift(self, by: Tensor) -> None:
        """Move row i to the right by `by[i]` slots, over as many at its end; free slots that no row needs."""
        gaps = self.all_gaps() + by
        spare = int(gaps.min())
        source = (torch.arange(spare, self.n_slots, device=by.device) - by) % self.n_slots
        for layer in _written(self.cache):
            layer.keys = layer.keys.take_along_dim(source[:, None, :, None], 2)
            layer.values = layer.values.take_along_dim(source[:, None, :, None], 2)
        self.gaps = gaps - spare
        self.n_slots -= spare

    def opened_like(self, spans: Sequence[int]) -> GrowingBatch:
        """Rows that have read nothing yet."""
        return open_growing(self.loaded, len(spans), rewinds=self.loaded.rewinds)

    def join(self, others: Sequence[GrowingBatch], places: Sequence[int]) -> GrowingBatch:
        """The rows of this and other batches of the model as one, in the order of `places`; consumes them."""
        joined = _stack([self, *others]) if others else self
        joined.rows = torch.tensor(places, device=joined.rows.device)
        order = sorted(range(len(places)), key=places.__getitem__)
        if order != list(range(len(places))):
            joined.keep(order)
        return joined


def _written(cache: DynamicCache) -> list[Any]:
    """The layers that have keys and values; some models share them between layers."""
    return [layer for layer in cache.layers if layer.keys is not None]


def _pad(piece: Sequence[int], lack: int, before: bool) -> list[int]:
    return [0] * lack + list(piece) if before else list(piece) + [0] * lack


def open_growing(loaded: Loaded, n_rows: int, *, rewinds: bool = False) -> GrowingBatch:
    """Rows that have read nothing yet.

    Args:
        loaded: The model.
        n_rows: How many.
        rewinds: Tokens will be taken back, so layers with a sliding window keep what has left it, too. Only
            for a model that can (`Loaded.rewinds`).
    """
    model = loaded.model
    # without the configuration all layers keep all tokens; reading it takes a twentieth of a token's time
    cache = DynamicCache() if rewinds or loaded.sees_all else DynamicCache(config=model.config)
    rows, logits = torch.arange(n_rows, device=model.device), torch.empty((n_rows, 0), device=model.device)
    return GrowingBatch(loaded, cache, 0, logits, rows)


def _stack(batches: Sequence[GrowingBatch]) -> GrowingBatch:
    first = batches[0]
    n_slots = max(batch.n_slots for batch in batches)
    gaps = [n_slots - batch.n_slots for batch in batches]
    for layers in zip(*(_written(batch.cache) for batch in batches), strict=True):
        keys, values = [layer.keys for layer in layers], [layer.values for layer in layers]
        layers[0].keys, layers[0].values = _pile(keys, gaps), _pile(values, gaps)
    first.gaps = torch.cat([batch.all_gaps() + gap for batch, gap in zip(batches, gaps, strict=True)])
    first.n_slots = n_slots
    first.logits = torch.cat([batch.logits for batch in batches])
    return first


def _pile(tensors: Sequence[Tensor], gaps: Sequence[int]) -> Tensor:
    """Keys or values of several batches, [rows, heads, slots, size], with empty slots before the shorter."""
    return torch.cat([pad(tensor, (0, 0, gap, 0)) for tensor, gap in zip(tensors, gaps, strict=True)])
