"""The decode loop over a key-value cache: read pieces of text, then one token per row and step, then harvest.

    prefill   one forward pass over the prompts; leaves each row's next-token logits
    decode    choose a token per row, feed it, repeat until every row has stopped
    read      append a piece of text to every row in one forward pass: prompts, drafts to be verified
    rewind    take back the last tokens of every row, each as many as it likes
    join      rows of several batches as one batch

A `Batch` is the state between steps. Which cache slots hold a real token and where each row stands are data
(`Padding`), not assumptions about one padding side, so whatever leaves holes in a cache continues in the
same loop. Rows that have stopped write nothing that counts and leave the batch once half of it is done.

The border: tensors and token ids only; no text, no queries, no clocks. Everything runs under the caller's
`torch.inference_mode()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from asd.engines.choosing import Choose
from asd.engines.harvesting import Ends, Stretch
from asd.engines.loading import Loaded
from asd.errors import EngineError

__all__ = ["Batch", "PaddingSide", "decode", "feed", "join", "open_batch", "prefill", "read"]

PaddingSide = Literal["left", "right"]

_GROWTH = 64
"""Slots by which the record of real slots grows when it is full."""


@dataclass(slots=True, eq=False)
class Padding:
    """What a batch of unequal rows carries along; absent where every row fills every slot.

    Attributes:
        real: Cache slots that hold a real token, [n, at least n_slots] bool; slots not yet written are True.
        position: Position of the next token fed, [n, 1].
        last_position: The model's last position; rows that have stopped stay within it.
        ready_made: The model takes a finished attention mask and need not build one in every step, which
            is an eighth of the time of a two-layer model.
    """

    real: Tensor
    position: Tensor
    last_position: int
    ready_made: bool

    def append(self, n_slots: int, real: Tensor) -> dict[str, Tensor]:
        """Slots [n, width] follow the first `n_slots`; what they attend to and their tokens' positions."""
        self.real = torch.cat([self.real[:, :n_slots], real], 1)
        offset = (real.cumsum(1) - 1).clamp_(min=0)
        masks = {"attention_mask": self.real, "position_ids": self._within(self.position + offset)}
        self.position = self._within(self.position + real.sum(1, keepdim=True))
        return masks

    def step(self, n_slots: int) -> dict[str, Tensor]:
        """One real slot a row makes it `n_slots`; what it attends to and its position."""
        if self.real.shape[1] < n_slots:
            self.real = pad(self.real, (0, _GROWTH), value=True)
        real = self.real[:, :n_slots]
        mask = real[:, None, None, :] if self.ready_made else real
        masks = {"attention_mask": mask, "position_ids": self.position}
        self.position = self._within(self.position + 1)
        return masks

    def take_back(self, n_slots: int, drop: Tensor) -> None:
        """The last `drop` [n, 1] real slots of each row are real no more."""
        real = self.real[:, :n_slots]
        from_the_end = real.flip(1).cumsum(1).flip(1)
        self.real = real & (from_the_end > drop)
        self.position = self.position - drop

    def _within(self, position: Tensor) -> Tensor:
        return position.clamp(max=self.last_position)


@dataclass(slots=True, eq=False)
class Batch:
    """Rows in flight, each with its cache filled and, after `prefill` or `feed`, its next-token logits known.

    Attributes:
        loaded: The model; callers check that all fits its context.
        cache: Keys and values of every token fed, `n_slots` long.
        n_slots: Cache slots written, padding included.
        logits: Logits of the next token, [n, vocab] float32.
        rows: Which prompt each row answers, [n].
        padding: Which slots are real (None: all of them).
    """

    loaded: Loaded
    cache: DynamicCache
    n_slots: int
    logits: Tensor
    rows: Tensor
    padding: Padding | None = None

    @property
    def model_cache(self) -> dict[str, DynamicCache]:
        """The cache under the name that the model knows it by."""
        return {self.loaded.cache_argument: self.cache}

    @property
    def n_bytes(self) -> int:
        """Memory of the keys and values."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.cache.layers)

    def keep(self, index: Tensor) -> None:
        """Drop every row but those in `index`."""
        self.cache.reorder_cache(index)
        self.logits = self.logits[index]
        self.rows = self.rows[index]
        if self.padding is not None:
            self.padding.real = self.padding.real[index]
            self.padding.position = self.padding.position[index]

    def select(self, index: Tensor) -> Batch:
        """The rows in `index` as a batch of their own; this one stays as it is."""
        cache = copy(self.cache)
        cache.layers = [copy(layer) for layer in self.cache.layers]
        other = replace(self, cache=cache, padding=self.padding and replace(self.padding))
        other.keep(index)
        return other

    def padded(self) -> Padding:
        """The padding, made where there is none yet."""
        if self.padding is None:
            n, device = len(self.rows), self.rows.device
            self.padding = Padding(
                real=torch.ones((n, self.n_slots), dtype=torch.bool, device=device),
                position=torch.full((n, 1), self.n_slots, device=device),
                last_position=(self.loaded.context or 2**31) - 1,
                ready_made=self.loaded.sees_all and _has_rotary_positions(self.loaded.model.config),
            )
        return self.padding

    def rewind(self, drop: Sequence[int]) -> None:
        """Take back the last `drop[i]` tokens of row i; slots at the end that no row needs are freed."""
        least = min(drop)
        if self.padding is None and max(drop) == least:
            self._crop(least)
            return
        padding = self.padded()
        padding.take_back(self.n_slots, torch.tensor(drop, device=self.rows.device).unsqueeze(1))
        last_in_use = int(padding.real.any(0).nonzero()[-1])
        self._crop(self.n_slots - 1 - last_in_use)

    def _crop(self, n: int) -> None:
        if n:
            self.cache.crop(-n)
            self.n_slots -= n
        if self.padding is not None:
            self.padding.real = self.padding.real[:, : self.n_slots]


def open_batch(loaded: Loaded, n_rows: int) -> Batch:
    """Rows that have read nothing yet."""
    model = loaded.model
    # without the configuration all layers see all tokens; reading it takes a twentieth of a token's time
    cache = DynamicCache() if loaded.sees_all else DynamicCache(config=model.config)
    rows, logits = torch.arange(n_rows, device=model.device), torch.empty((n_rows, 0), device=model.device)
    return Batch(loaded, cache, 0, logits, rows)


def read(batch: Batch, pieces: Sequence[Sequence[int]], n_last: Sequence[int], side: PaddingSide) -> Tensor:
    """Append a piece to every row in one forward pass.

    Args:
        batch: Its rows grow by their pieces.
        pieces: Token ids for every row, none empty.
        n_last: After how many of a piece's last tokens the logits are wanted, at least one each.
        side: Where shorter pieces are padded.

    Returns:
        Logits [sum(n_last), vocab] float32, the first row's first.

    Raises:
        EngineError: Right padding in a model with sliding windows or linear attention, which would take
            the padding within the text for text.
    """
    device, width = batch.rows.device, max(map(len, pieces))
    gaps = [width - len(piece) for piece in pieces]
    ids = torch.tensor([_pad(piece, gap, 0, side) for piece, gap in zip(pieces, gaps, strict=True)])
    if any(gaps) and not batch.loaded.sees_all and (side == "right" or batch.n_slots):
        raise EngineError("this model has layers that do not see all tokens; pad its prompts on the left")
    masks = {}
    if any(gaps) or batch.padding is not None:
        real = [_pad([True] * (width - gap), gap, False, side) for gap in gaps]
        masks = batch.padded().append(batch.n_slots, torch.tensor(real, device=device))
    ends = [width if side == "left" else width - gap for gap in gaps]
    wanted = [range(end - n, end) for end, n in zip(ends, n_last, strict=True)]
    columns = sorted(set().union(*wanted))
    logits: Tensor = batch.loaded.model(
        input_ids=ids.to(device),
        use_cache=True,
        logits_to_keep=torch.tensor(columns, device=device),
        **batch.model_cache,
        **masks,
    ).logits
    batch.n_slots += width
    if len(pieces) == 1:
        return logits[0].float()
    index = {column: i for i, column in enumerate(columns)}
    rows = [row for row, n in enumerate(n_last) for _ in range(n)]
    at = [index[column] for of_row in wanted for column in of_row]
    return logits[torch.tensor(rows, device=device), torch.tensor(at, device=device)].float()


def prefill(loaded: Loaded, prompts: Sequence[Sequence[int]], side: PaddingSide) -> Batch:
    """Read all prompts in one forward pass; `EngineError` as in `read`."""
    batch = open_batch(loaded, len(prompts))
    batch.logits = read(batch, prompts, [1] * len(prompts), side)
    return batch


def _has_rotary_positions(config: Any) -> bool:
    """Whether the attention mask is used as a mask only, never to derive positions or biases from it."""
    return bool(getattr(config, "rope_parameters", None)) and not getattr(config, "alibi", False)


def _pad(items: Sequence[int], gap: int, filler: int, side: PaddingSide) -> list[int]:
    return [filler] * gap + list(items) if side == "left" else list(items) + [filler] * gap


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
    for layers in zip(*(batch.cache.layers for batch in batches), strict=True):
        keys, values = [layer.keys for layer in layers], [layer.values for layer in layers]
        layers[0].keys, layers[0].values = _pile(keys, gaps), _pile(values, gaps)
    paddings = [batch.padded() for batch in batches]
    real = [padding.real[:, : batch.n_slots] for padding, batch in zip(paddings, batches, strict=True)]
    first.padding = replace(
        paddings[0],
        real=torch.cat([pad(slots, (gap, 0)) for slots, gap in zip(real, gaps, strict=True)]),
        position=torch.cat([padding.position for padding in paddings]),
    )
    first.n_slots = n_slots
    first.logits = torch.cat([batch.logits for batch in batches])
    return first


def _pile(tensors: Sequence[Tensor], gaps: Sequence[int]) -> Tensor:
    """Keys or values of several batches, [rows, heads, slots, size], with empty slots before the shorter."""
    return torch.cat([pad(tensor, (0, 0, gap, 0)) for tensor, gap in zip(tensors, gaps, strict=True)])


def feed(batch: Batch, tokens: Tensor) -> None:
    """Append one token to every row: one forward pass, after which `batch.logits` are the next token's."""
    batch.n_slots += 1
    masks = {} if batch.padding is None else batch.padding.step(batch.n_slots)
    output = batch.loaded.model(input_ids=tokens.unsqueeze(1), use_cache=True, **batch.model_cache, **masks)
    batch.logits = output.logits[:, -1].float()


def decode(
    batch: Batch, limits: Sequence[int], stop_ids: Sequence[int], choose: Choose, look_every: int
) -> list[Stretch]:
    """Write up to `limits[i]` tokens for prompt i, or to its first stop token; consumes the batch.

    Every token but the last of each row costs one forward pass. Rows that have ended are looked for every
    `look_every` steps, because looking waits for the device.
    """
    ends = Ends(limits, stop_ids)
    stretches = [Stretch(batch.rows)]
    for n_written in range(1, max(limits) + 1):
        token = choose(batch.logits, batch.rows, n_written - 1)
        stretches[-1].tokens.append(token)
        stretches[-1].logprobs.append(batch.logits.log_softmax(-1).gather(1, token.unsqueeze(1)))
        if n_written % look_every == 0:
            ends.look(n_written, torch.cat(stretches[-1].tokens[-look_every:]).tolist())
            if ends.n_open <= len(token) // 2 and ends.n_open:
                going_on = torch.tensor(ends.drop_ended(n_written), device=token.device)
                batch.keep(going_on)
                token = token[going_on]
                stretches.append(Stretch(batch.rows))
        if ends.n_open == 0 or n_written == max(limits):
            break
        feed(batch, token)
    return stretches
