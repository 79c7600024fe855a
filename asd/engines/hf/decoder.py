"""The decode loop over a key-value cache: read pieces of text, then one token per row and step, then harvest.

    prefill   one forward pass over the prompts; leaves each row's next-token logits
    decode    choose a token per row, feed it, repeat until every row has stopped
    read      append a piece of text to every row in one forward pass: prompts, drafts to be verified
    rewind    take back the last tokens of every row, each as many as it likes
    join      rows of several batches as one batch

A `Batch` is the state between steps. Its rows end in the same cache slot, shorter ones begin after empty
slots; where rows grow or are taken back unequally, their keys and values are shifted until that holds again.
So the distance of two slots is that of their tokens, which is what sliding windows go by. Rows that have
stopped write nothing that counts and leave the batch once half of it is done.

Scope: tensors and token ids only; no text, no queries, no clocks. Everything runs under the caller's
`torch.inference_mode()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from asd.engines.hf.model import Loaded
from asd.engines.hf.outputs import Ends, Stretch
from asd.engines.hf.sampler import Choose

__all__ = ["Batch", "decode", "feed", "join", "open_batch", "prefill", "read"]


@dataclass(slots=True, eq=False)
class Batch:
    """Rows in flight, each with its cache filled and, after `prefill` or `feed`, its next-token logits known.

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

    @property
    def model_cache(self) -> dict[str, DynamicCache]:
        """The cache under the name that the model knows it by."""
        return {self.loaded.cache_argument: self.cache}

    @property
    def n_bytes(self) -> int:
        """Memory of the keys and values."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in _written(self.cache))

    def keep(self, index: Tensor) -> None:
        """Drop every row but those in `index`."""
        self.cache.reorder_cache(index)
        self.logits = self.logits[index]
        self.rows = self.rows[index]
        self.gaps = None if self.gaps is None else self.gaps[index]

    def select(self, index: Tensor) -> Batch:
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


def _written(cache: DynamicCache) -> list[Any]:
    """The layers that have keys and values; some models share them between layers."""
    return [layer for layer in cache.layers if layer.keys is not None]


def open_batch(loaded: Loaded, n_rows: int, *, rewinds: bool = False) -> Batch:
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
    return Batch(loaded, cache, 0, logits, rows)


def read(batch: Batch, pieces: Sequence[Sequence[int]], n_last: Sequence[int]) -> Tensor:
    """Append a piece to every row in one forward pass.

    Args:
        batch: Its rows grow by their pieces; once they have read something, unequally only if it rewinds.
        pieces: Token ids for every row, none empty.
        n_last: After how many of a piece's last tokens the logits are wanted, at least one each.

    Returns:
        Logits [sum(n_last), vocab] float32, the first row's first.
    """
    device, width, is_first = batch.rows.device, max(map(len, pieces)), batch.n_slots == 0
    lacks = [width - len(piece) for piece in pieces]
    if is_first and any(lacks):
        batch.gaps = torch.tensor(lacks, device=device).unsqueeze(1)
    # empty slots come before a first piece, and after a later one, until they are closed
    ids = [_pad(piece, lack, is_first) for piece, lack in zip(pieces, lacks, strict=True)]
    ends = [width if is_first else len(piece) for piece in pieces]
    wanted = [range(end - n, end) for end, n in zip(ends, n_last, strict=True)]
    columns = sorted(set().union(*wanted))
    logits: Tensor = batch.loaded.model(
        input_ids=torch.tensor(ids, device=device),
        use_cache=True,
        logits_to_keep=torch.tensor(columns, device=device),
        **batch.model_cache,
        **batch.masks(width),
    ).logits
    batch.n_slots += width
    if not is_first:
        batch.rewind(lacks)
    if len(pieces) == 1:
        return logits[0].float()
    index = {column: i for i, column in enumerate(columns)}
    rows = [row for row, n in enumerate(n_last) for _ in range(n)]
    at = [index[column] for of_row in wanted for column in of_row]
    return logits[torch.tensor(rows, device=device), torch.tensor(at, device=device)].float()


def _pad(piece: Sequence[int], lack: int, before: bool) -> list[int]:
    return [0] * lack + list(piece) if before else list(piece) + [0] * lack


def prefill(loaded: Loaded, prompts: Sequence[Sequence[int]], *, rewinds: bool = False) -> Batch:
    """Read all prompts in one forward pass; `rewinds` as in `open_batch`."""
    batch = open_batch(loaded, len(prompts), rewinds=rewinds)
    batch.logits = read(batch, prompts, [1] * len(prompts))
    return batch


def join(batches: Sequence[Batch], places: Sequence[int]) -> Batch:
    """All rows of these batches of one model as one batch; consumes them.

    Args:
        batches: At least one.
        places: Where each row goes, those of the first batch first; a permutation.
    """
    joined = batches[0] if len(batches) == 1 else _stack(batches)
    joined.rows = torch.tensor(places, device=joined.rows.device)
    order = sorted(range(len(places)), key=places.__getitem__)
    if order != list(range(len(places))):
        joined.keep(torch.tensor(order, device=joined.rows.device))
    return joined


def _stack(batches: Sequence[Batch]) -> Batch:
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


def feed(batch: Batch, tokens: Tensor) -> None:
    """Append one token to every row: one forward pass, after which `batch.logits` are the next token's."""
    output = batch.loaded.model(
        input_ids=tokens.unsqueeze(1), use_cache=True, **batch.model_cache, **batch.masks(1)
    )
    batch.n_slots += 1
    batch.logits = output.logits[:, -1].float()


def decode(batch: Batch, ends: Ends, choose: Choose) -> list[Stretch]:
    """Write for every row until it ends, at its limit at the latest; consumes the batch.

    Every token but the last of each row costs one forward pass. Looking for rows that have ended waits for
    the device in every step: microseconds, where a pass that nobody needs takes milliseconds.
    """
    longest = max(ends.lengths)
    stretches = [Stretch(batch.rows)]
    for n_written in range(1, longest + 1):
        token = choose(batch.logits, batch.rows, n_written - 1)
        stretches[-1].tokens.append(token)
        stretches[-1].logprobs.append(batch.logits.log_softmax(-1).gather(1, token.unsqueeze(1)))
        ends.look(n_written, token.tolist())
        if ends.n_open <= len(token) // 2 and ends.n_open:
            going_on = torch.tensor(ends.drop_ended(n_written), device=token.device)
            batch.keep(going_on)
            token = token[going_on]
            stretches.append(Stretch(batch.rows))
        if ends.n_open == 0 or n_written == longest:
            break
        feed(batch, token)
    return stretches
