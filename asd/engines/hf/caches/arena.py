"""The tensors of a fixed number of rows and slots, and the steps over them: decode one token, read a piece.

    decode   feed every row's token, choose the next one, note it and its log-probability, advance by one slot
    read     feed every row a piece, padded in front to a width; leaves the logits after its last tokens

Every tensor that a step reads or writes is allocated here and stays where it is, so that a step may be
captured once and replayed (`asd.engines.hf.caches.launching`). Rows that are not in use write padding into
the last slot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from asd.engines.hf.caches.launching import Launcher, Step
from asd.engines.hf.caches.slots import SlotCache, Visibility, bucket
from asd.engines.hf.model import Loaded
from asd.engines.hf.sampler import TokenSampler, draw, nucleus

__all__ = ["Arena", "Shape"]

CAPTURED_TOKENS = 1024
"""Most tokens of a pass that is captured: larger ones keep the device busy while kernels are launched."""

LEAST_WIDTH = 2
"""Pieces of one token are read as two: decode steps are what reads one."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Rows, and slots of each, padding included."""

    rows: int
    slots: int

    @classmethod
    def holding(cls, n_rows: int, n_tokens: int) -> Shape:
        """The smallest one for so many rows of so many tokens."""
        return cls(bucket(n_rows), bucket(n_tokens + 1, 64))


@dataclass(frozen=True, slots=True)
class Way:
    """What distinguishes decode steps beside numbers: do they draw, from a nucleus, from which tokens."""

    draws: bool
    has_nucleus: bool
    n_vocab: int | None

    @classmethod
    def of(cls, choice: TokenSampler) -> Way:
        """That of a choice."""
        draws = choice.uniforms is not None
        return cls(draws, draws and nucleus(choice.sampling) is not None, choice.n_vocab)


class Arena:
    """Rows of one model; see the module.

    Args:
        loaded: The model, without an obstacle to be served from slots.
        shape: How many rows and slots.
        launcher: Runs the steps.

    Attributes:
        token: What is fed next, [rows].
        slot: Where to, [rows].
        step: How many tokens have been written, [1].
        tokens: What has been written, [rows, slots].
        logprobs: Its log-probabilities, [rows, slots] float32.
        logits: What the last token was chosen from, [rows, vocab] float32.
        uniforms: What draws go by, [rows, slots] float32.
        temperature: Of draws, [].
        top_p: Of their nucleus, [].
        cache: Keys and values.
    """

    def __init__(self, loaded: Loaded, shape: Shape, launcher: Launcher) -> None:
        self.shape = shape
        self._loaded = loaded
        self._launcher = launcher
        self._visibility = Visibility.of(loaded.model)
        self._last_position = min(loaded.context or shape.slots, shape.slots) - 1
        self._name = f"{shape.rows} x {shape.slots} slots"
        make = partial(torch.zeros, device=loaded.model.device)
        self.cache = SlotCache(loaded.model.config, shape.rows, shape.slots)
        self.token = make(shape.rows, dtype=torch.long)
        self.slot = make(shape.rows, dtype=torch.long)
        self.step = make(1, dtype=torch.long)
        self.tokens = make((shape.rows, shape.slots), dtype=torch.long)
        self.logprobs = make((shape.rows, shape.slots))
        self.logits = make((shape.rows, loaded.n_vocab))
        self.uniforms = make((shape.rows, shape.slots))
        self.temperature, self.top_p = make(()), make(())
        self._decodes: dict[Way, Step] = {}
        self._reads: dict[tuple[int, int], tuple[Step, Tensor, list[Tensor]]] = {}
        self._n_reads: Counter[tuple[int, int]] = Counter()

    @property
    def scratch(self) -> int:
        """The slot of padding."""
        return self.shape.slots - 1

    def close(self) -> None:
        """Let go of the steps, which hold the tensors."""
        self._decodes.clear()
        self._reads.clear()

    def fetch(self, column: int) -> Callable[[], list[int]]:
        """Begin to copy what was written as the token of this number; the result waits for it."""
        return self._launcher.fetch(self.tokens[:, column])

    def begin(self, at: Sequence[int], slots: Sequence[int], chosen: Tensor, logits: Tensor) -> None:
        """Take up writing: these rows have chosen their first tokens, which go into these slots next."""
        rows, where = self._rows(at), [self.scratch] * self.shape.rows
        for row, slot in zip(at, slots, strict=True):
            where[row] = slot
        self.slot.copy_(self._launcher.upload(torch.tensor(where)))
        self.token[rows] = chosen
        self.tokens[rows, 0] = chosen
        self.logprobs[rows, 0] = logits.log_softmax(-1).gather(1, chosen.unsqueeze(1)).squeeze(1)
        self.step.fill_(1)

    def draw_by(self, at: Sequence[int], rows: Tensor, choice: TokenSampler) -> None:
        """Take over what the draws of a choice go by, for the prompts `rows` in the rows `at`."""
        if choice.uniforms is None:
            return
        n = min(choice.uniforms.shape[1], self.shape.slots)
        self.uniforms[self._rows(at), :n] = choice.uniforms[rows, :n]
        self.temperature.fill_(choice.sampling.temperature)
        self.top_p.fill_(choice.sampling.top_p)

    def decode(self, way: Way) -> None:
        """One step for all rows."""
        if way not in self._decodes:
            kept = self._hold()
            name = f"the decode step over {self._name}"
            self._decodes[way] = self._launcher.prepare(partial(self._decode, way), name, often=True)
            self._restore(kept)
        self._decodes[way]()

    def read(
        self, at: Sequence[int], slots: Sequence[int], pieces: Sequence[Sequence[int]], n: int
    ) -> Tensor:
        """Feed pieces to rows in one pass.

        Args:
            at: The rows.
            slots: Where each of the pieces begins.
            pieces: Token ids, none empty.
            n: After how many of the last tokens logits are wanted, at most.

        Returns:
            Logits [rows, at least n, vocab]; the last are those after the last token of every piece.
        """
        width = max(map(len, pieces))
        wide = bucket(width, LEAST_WIDTH)
        # a prompt's logits but for the last would take more memory than its keys and values, for good
        sizes = wide, 1 if n == 1 else wide
        if self.shape.rows * wide > CAPTURED_TOKENS or not self._comes_again(sizes):
            tokens, where = self._upload(at, slots, pieces, max(at) + 1, width)
            return self._forward(tokens, where, n)
        if sizes not in self._reads:
            self._reads[sizes] = self._prepared_read(*sizes)
        run, given, left = self._reads[sizes]
        given.copy_(self._upload(at, slots, pieces, self.shape.rows, wide))
        run()
        return left[0]

    def _comes_again(self, sizes: tuple[int, int]) -> bool:
        """Whether it is at least the second piece of these sizes; the first may be the only one."""
        self._n_reads[sizes] += 1
        return self._n_reads[sizes] > 1

    def _rows(self, at: Sequence[int]) -> Tensor:
        return self._launcher.upload(torch.tensor(at))

    def _upload(
        self,
        at: Sequence[int],
        slots: Sequence[int],
        pieces: Sequence[Sequence[int]],
        n_rows: int,
        width: int,
    ) -> Tensor:
        """Tokens and their slots, [2, rows, width], each piece at the end of its row, padding before it."""
        tokens, where = ([[filler] * width for _ in range(n_rows)] for filler in (0, self.scratch))
        for row, slot, piece in zip(at, slots, pieces, strict=True):
            tokens[row][width - len(piece) :] = piece
            where[row][width - len(piece) :] = range(slot, slot + len(piece))
        return self._launcher.upload(torch.tensor([tokens, where]))

    def _prepared_read(self, width: int, n_last: int) -> tuple[Step, Tensor, list[Tensor]]:
        """A step that reads what it is given, [2, rows, width], and where it leaves the last logits."""
        given = torch.zeros((2, self.shape.rows, width), dtype=torch.long, device=self.token.device)
        given[1] = self.scratch
        left: list[Tensor] = []

        def step() -> None:
            left[:] = [self._forward(given[0], given[1], n_last)]

        name = f"reading {width} tokens for {n_last} logits over {self._name}"
        return self._launcher.prepare(step, name, often=False), given, left

    def _forward(self, tokens: Tensor, slots: Tensor, n_last: int) -> Tensor:
        self.cache.write_at(slots)
        arguments: dict[str, Any] = {self._loaded.cache_argument: self.cache}
        logits: Tensor = self._loaded.model(
            input_ids=tokens,
            position_ids=slots.clamp(max=self._last_position),
            attention_mask=self._visibility.masks(slots, self.shape.slots),
            use_cache=True,
            logits_to_keep=n_last,
            **arguments,
        ).logits
        return logits

    def _decode(self, way: Way) -> None:
        logits = self._forward(self.token.unsqueeze(1), self.slot.unsqueeze(1), 1)[:, -1].float()
        token = self._chosen(logits[:, : way.n_vocab], way)
        logprob = logits.log_softmax(-1).gather(1, token.unsqueeze(1))
        self.logits.copy_(logits)
        self.token.copy_(token)
        self.tokens.index_copy_(1, self.step, token.unsqueeze(1))
        self.logprobs.index_copy_(1, self.step, logprob)
        self.slot.add_(1).clamp_(max=self.scratch)
        self.step.add_(1)

    def _chosen(self, logits: Tensor, way: Way) -> Tensor:
        if not way.draws:
            return logits.argmax(-1)
        uniforms = self.uniforms.index_select(1, self.step).squeeze(1)
        return draw(logits, uniforms, self.temperature, self.top_p if way.has_nucleus else None)

    def _hold(self) -> tuple[Tensor, ...]:
        """What decoding changes, while a step is prepared with all rows in the slot of padding."""
        changing = (self.token, self.slot, self.step, self.tokens, self.logprobs, self.logits)
        kept = tuple(values.clone() for values in changing)
        self.slot.fill_(self.scratch)
        self.step.fill_(0)
        return kept

    def _restore(self, kept: tuple[Tensor, ...]) -> None:
        changing = (self.token, self.slot, self.step, self.tokens, self.logprobs, self.logits)
        for values, before in zip(changing, kept, strict=True):
            values.copy_(before)
