"""The decode loop over a key-value cache: prefill once, then one token per row and step, then harvest.

    prefill   one forward pass over the padded prompts; leaves each row's next-token logits
    decode    choose a token per row, feed it, repeat until every row has stopped
    harvest   cut each row at its first stop token or at its limit; back to plain Python values

A `Batch` is the state between steps. Which cache slots hold a real token and where each row stands are data
(`Padding`), not assumptions about one padding side, so whatever leaves holes in a cache continues in the
same loop. Rows that have stopped write nothing that counts and leave the batch once half of it is done.

The border: tensors and token ids only; no text, no queries, no clocks. Everything runs under the caller's
`torch.inference_mode()`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from asd.errors import EngineError

__all__ = [
    "Answer",
    "Batch",
    "Choose",
    "PaddingSide",
    "Stretch",
    "decode",
    "greedy",
    "harvest",
    "prefill",
    "sampler",
]

PaddingSide = Literal["left", "right"]

Choose = Callable[[Tensor, Tensor, int], Tensor]
"""(logits [n, vocab], rows [n], step) -> token ids [n]; `rows` are the prompts' indices of the rows left."""


@dataclass(slots=True)
class Padding:
    """What a batch of unequal prompts carries along; absent where all prompts are equally long.

    Attributes:
        real: Cache slots that hold a real token, [n, width + room] bool; slots not yet written are True.
        position: Position of the next token fed, [n, 1].
        last_position: The model's last position; rows that have stopped stay within it.
        ready_made: The model takes a finished attention mask and need not build one in every step, which
            is an eighth of the time of a two-layer model.
    """

    real: Tensor
    position: Tensor
    last_position: int
    ready_made: bool

    def prompt_masks(self, width: int) -> dict[str, Tensor]:
        """What the prompts attend to, and the positions of their tokens."""
        real = self.real[:, :width]
        return {"attention_mask": real, "position_ids": (real.cumsum(1) - 1).clamp_(min=0)}

    def masks(self, n_slots: int) -> dict[str, Tensor]:
        """What one more token per row attends to, and its position."""
        real = self.real[:, :n_slots]
        mask = real[:, None, None, :] if self.ready_made else real
        return {"attention_mask": mask, "position_ids": self.position}


@dataclass(slots=True)
class Batch:
    """Rows in flight, each with its cache filled and its next-token logits known.

    Attributes:
        cache: Keys and values of every token fed, `n_slots` long.
        n_slots: Cache slots written, padding included.
        logits: Logits of the next token, [n, vocab] float32.
        rows: Which prompt each row answers, [n].
        padding: Which slots are real (None: all of them).
    """

    cache: DynamicCache
    n_slots: int
    logits: Tensor
    rows: Tensor
    padding: Padding | None

    def keep(self, index: Tensor) -> None:
        """Drop every row but those in `index`."""
        self.cache.reorder_cache(index)
        self.logits = self.logits[index]
        self.rows = self.rows[index]
        if self.padding is not None:
            self.padding.real = self.padding.real[index]
            self.padding.position = self.padding.position[index]


@dataclass(frozen=True, slots=True)
class Stretch:
    """What the same rows wrote over consecutive steps; what a row writes after its end is meaningless.

    Attributes:
        rows: Which prompt each row answers, [n].
        tokens: Per step the tokens written, [n].
        logprobs: Per step their log-probabilities, [n, 1].
    """

    rows: Tensor
    tokens: list[Tensor] = field(default_factory=list)
    logprobs: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """One row cut to what it wrote; `finished`: its last token is a stop token."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool


def greedy(logits: Tensor, rows: Tensor, step: int) -> Tensor:  # noqa: ARG001 - one signature for all choosers
    """The most probable token of every row."""
    return logits.argmax(-1)


def sampler(uniforms: Tensor, temperature: float) -> Choose:
    """Draws by inverting the distribution function at `uniforms[row, step]`.

    One uniform number per prompt and step, drawn beforehand: a row's answer depends on neither the order
    in which other rows stop nor the device's own generator. Exact up to float32 rounding of the sum.

    Args:
        uniforms: [prompts, steps] in [0, 1).
        temperature: Positive; the distribution is softmax(logits / temperature).
    """

    def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
        cumulative = (logits / temperature).softmax(-1).cumsum(-1)
        target = uniforms[rows, step].unsqueeze(1) * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, target, right=True).squeeze(1)
        return token.clamp_(max=logits.shape[-1] - 1)  # the product may round up to the total

    return choose


def prefill(
    model: Any, prompts: Sequence[Sequence[int]], room: int, side: PaddingSide, context: int | None
) -> Batch:
    """Read all prompts in one forward pass.

    Args:
        model: A causal language model of `transformers`.
        prompts: Token ids, none empty.
        room: Tokens that may be written after the prompts.
        side: Where shorter prompts are padded.
        context: The model's number of positions (None: unbounded); the caller has checked that all fits.

    Raises:
        EngineError: Right padding in a model with sliding windows or linear attention, which would take
            the padding between prompt and answer for text.
    """
    device, width = model.device, max(map(len, prompts))
    gaps = [width - len(prompt) for prompt in prompts]
    ids = torch.tensor([_pad(prompt, gap, 0, side) for prompt, gap in zip(prompts, gaps, strict=True)])
    ends = [width - 1 if side == "left" else width - 1 - gap for gap in gaps]
    wanted = sorted(set(ends))
    cache = DynamicCache(config=model.config)
    padding = _padding(model, cache, gaps, width, room, side, context) if any(gaps) else None
    output = model(
        input_ids=ids.to(device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=torch.tensor(wanted, device=device),
        **({} if padding is None else padding.prompt_masks(width)),
    )
    rows = torch.arange(len(prompts), device=device)
    at = torch.tensor([wanted.index(end) for end in ends], device=device)
    return Batch(cache, width, output.logits[rows, at].float(), rows, padding)


def _padding(
    model: Any,
    cache: DynamicCache,
    gaps: Sequence[int],
    width: int,
    room: int,
    side: PaddingSide,
    context: int | None,
) -> Padding:
    sees_all = all(type(layer) is DynamicLayer for layer in cache.layers)
    if side == "right" and not sees_all:
        raise EngineError("this model has layers that do not see all tokens; pad its prompts on the left")
    real = torch.ones(len(gaps), width + room, dtype=torch.bool)
    real[:, :width] = torch.tensor([_pad([True] * (width - gap), gap, False, side) for gap in gaps])
    return Padding(
        real=real.to(model.device),
        position=torch.tensor([[width - gap] for gap in gaps], device=model.device),
        last_position=(context or width + room) - 1,
        ready_made=sees_all and _has_rotary_positions(model.config),
    )


def _has_rotary_positions(config: Any) -> bool:
    """Whether the attention mask is used as a mask only, never to derive positions or biases from it."""
    return bool(getattr(config, "rope_parameters", None)) and not getattr(config, "alibi", False)


def _pad(items: Sequence[int], gap: int, filler: int, side: PaddingSide) -> list[int]:
    return [filler] * gap + list(items) if side == "left" else list(items) + [filler] * gap


def feed(model: Any, batch: Batch, tokens: Tensor) -> None:
    """Append one token to every row: one forward pass, after which `batch.logits` are the next token's."""
    batch.n_slots += 1
    padding = batch.padding
    masks = {} if padding is None else padding.masks(batch.n_slots)
    output = model(input_ids=tokens.unsqueeze(1), past_key_values=batch.cache, use_cache=True, **masks)
    batch.logits = output.logits[:, -1].float()
    if padding is not None:
        padding.position = (padding.position + 1).clamp_(max=padding.last_position)


def decode(
    model: Any,
    batch: Batch,
    limits: Sequence[int],
    stop_ids: Sequence[int],
    choose: Choose,
    look_every: int,
) -> list[Stretch]:
    """Write up to `limits[i]` tokens for prompt i, or to its first stop token; consumes the batch.

    Every token but the last of each row costs one forward pass. Rows that have ended are looked for every
    `look_every` steps, because looking waits for the device.
    """
    ends = _Ends(limits, stop_ids)
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
        feed(model, batch, token)
    return stretches


class _Ends:
    """Which rows of a batch have ended, kept on the host; costs next to nothing while none ends."""

    def __init__(self, limits: Sequence[int], stop_ids: Sequence[int]) -> None:
        self._stops = frozenset(stop_ids)
        self._ends = list(limits)  # per row: the number of tokens it may write, 0 once it has stopped
        self._next_end = min(limits)
        self.n_open = len(limits)

    def look(self, n_written: int, recent: list[int]) -> None:
        """Take note of the tokens written since the last look, step after step, each over all rows."""
        if n_written < self._next_end and self._stops.isdisjoint(recent):
            return
        n = len(self._ends)
        self._ends = [
            0 if self._stops.intersection(recent[i::n]) else end for i, end in enumerate(self._ends)
        ]
        still_open = [end for end in self._ends if end > n_written]
        self.n_open = len(still_open)
        self._next_end = min(still_open, default=n_written)

    def drop_ended(self, n_written: int) -> list[int]:
        """Forget the rows that have ended; returns the indices of the others."""
        going_on = [i for i, end in enumerate(self._ends) if end > n_written]
        self._ends = [self._ends[i] for i in going_on]
        return going_on


def harvest(stretches: Sequence[Stretch], limits: Sequence[int], stop_ids: Sequence[int]) -> list[Answer]:
    """Put every prompt's tokens together and cut them after the first stop token, else at the limit."""
    tokens: list[list[int]] = [[] for _ in limits]
    logprobs: list[list[float]] = [[] for _ in limits]
    for stretch in stretches:
        if not stretch.tokens:
            continue
        ids, values = torch.stack(stretch.tokens, 1).tolist(), torch.cat(stretch.logprobs, 1).tolist()
        for row, more_ids, more_values in zip(stretch.rows.tolist(), ids, values, strict=True):
            tokens[row] += more_ids
            logprobs[row] += more_values
    stops = frozenset(stop_ids)
    return [_cut(*row, stops) for row in zip(tokens, logprobs, limits, strict=True)]


def _cut(tokens: list[int], logprobs: list[float], limit: int, stops: frozenset[int]) -> Answer:
    end = next((i for i, token in enumerate(tokens[:limit]) if token in stops), None)
    length = limit if end is None else end + 1
    return Answer(tuple(tokens[:length]), tuple(logprobs[:length]), finished=end is not None)
