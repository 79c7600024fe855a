"""Rows over an arena, whose steps can be replayed from CUDA graphs.

Which rows of the arena are in use, how long they are and what is taken back is arithmetic on the host:
nothing is copied when rows leave or tokens are taken back, and nothing is read from the device to continue.
Only rows of several arenas that are to be one batch are copied, and rows that outgrow theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from asd.engines.hf.caches.arena import Arena, Way
from asd.engines.hf.caches.pool import Lease, Pool
from asd.engines.hf.model import Loaded
from asd.engines.hf.outputs import Stretch
from asd.engines.hf.sampler import TokenSampler

__all__ = ["FixedBatch", "open_fixed"]


@dataclass(slots=True, eq=False)
class FixedBatch:
    """Rows in flight; implements `asd.engines.hf.decoder.Batch`.

    Attributes:
        loaded: The model.
        lease: The arena; rows of it that are not in `at` are others' or nobody's.
        at: Which row of the arena each row is.
        lengths: Tokens that each row has read, or will have by the steps that are under way.
        rows: Which prompt each row answers, [n].
    """

    loaded: Loaded
    lease: Lease
    at: list[int]
    lengths: list[int]
    rows: Tensor
    _logits: Tensor | None = None
    _n_chosen: int = 0  # tokens written since `begin`, those under way included
    _n_written: int = 0
    _n_collected: int = 0

    @property
    def runs_ahead(self) -> bool:
        """Steps are queued."""
        return True

    @property
    def logits(self) -> Tensor:
        """Logits of the next token, or those that the last one was chosen from."""
        if self._logits is None:
            self._logits = self._arena.logits[self._index()]
        return self._logits

    @logits.setter
    def logits(self, logits: Tensor) -> None:
        self._logits = logits

    @property
    def _arena(self) -> Arena:
        return self.lease.arena

    def _index(self) -> Tensor:
        return self._upload(self.at)

    def _upload(self, numbers: Sequence[int]) -> Tensor:
        return self.lease.pool.launcher.upload(torch.tensor(numbers))

    def bytes_for(self, n_rows: int) -> int:  # noqa: ARG002 - one signature for all batches
        """Memory of the whole arena, however few of its rows are kept."""
        return self.lease.n_bytes

    def keep(self, index: Sequence[int]) -> None:
        """Drop every row but those in `index`."""
        at = self._upload(index)
        self._logits = None if self._logits is None else self._logits[at]
        self.rows = self.rows[at]
        self.at = [self.at[i] for i in index]
        self.lengths = [self.lengths[i] for i in index]

    def select(self, index: Sequence[int]) -> FixedBatch:
        """The rows in `index` as a batch of their own, over the same arena."""
        other = replace(self)
        other.keep(index)
        return other

    def rewind(self, drop: Sequence[int]) -> None:
        """Take back the last `drop[i]` tokens of row i: what is read next is written over them."""
        self.lengths = [length - n for length, n in zip(self.lengths, drop, strict=True)]

    def read(self, pieces: Sequence[Sequence[int]], n_last: Sequence[int]) -> Tensor:
        """Append a piece to every row in one forward pass."""
        grown = [length + len(piece) for length, piece in zip(self.lengths, pieces, strict=True)]
        if max(grown) >= self.lease.shape.slots:
            self._move([self], max(grown))
        logits = self._arena.read(self.at, self.lengths, pieces, max(n_last))
        self.lengths = grown
        n_columns = logits.shape[1]
        rows = [at for at, n in zip(self.at, n_last, strict=True) for _ in range(n)]
        columns = [column for n in n_last for column in range(n_columns - n, n_columns)]
        flat = [row * n_columns + column for row, column in zip(rows, columns, strict=True)]
        return logits.flatten(0, 1)[self._upload(flat)].float()

    def write(self, choose: TokenSampler, step: int, *, scored: bool = True) -> None:  # noqa: ARG002 - always scored
        """Choose a token for every row, unless that is under way."""
        if step == 0:
            logits = self.logits
            chosen = choose(logits, self.rows, 0)
            self._arena.begin(self.at, self.lengths, chosen, logits)
            self._arena.draw_by(self.at, self.rows, choose)
            self._n_chosen, self._n_written, self._n_collected = 1, 0, 0
        elif self._n_chosen == self._n_written:
            self._step(choose)
        self._n_written += 1

    def _step(self, choose: TokenSampler) -> None:
        self._arena.decode(Way.of(choose))
        self._logits = None
        self._n_chosen += 1
        self.lengths = [length + 1 for length in self.lengths]

    def look(self, choose: TokenSampler, *, more: bool) -> list[int]:
        """The tokens written last; the next step is queued before the device is waited for."""
        tokens = self._arena.fetch(self._n_written - 1)
        if more and self._n_chosen == self._n_written:
            self._step(choose)
        written = tokens()
        return [written[row] for row in self.at]

    def collect(self) -> Stretch:
        """What the rows have written since they were last collected."""
        index, since = self._index(), slice(self._n_collected, self._n_written)
        self._n_collected = self._n_written
        return Stretch(self.rows, self._arena.tokens[index, since], self._arena.logprobs[index, since])

    def opened_like(self, spans: Sequence[int]) -> FixedBatch:
        """Rows that have read nothing yet; raises `NoRoomError`."""
        return open_fixed(self.lease.pool, self.loaded, spans)

    def join(self, others: Sequence[FixedBatch], places: Sequence[int]) -> FixedBatch:
        """The rows of this and other batches of the model as one, in the order of `places`; consumes them."""
        if others:
            self._move([self, *others], max(each.lease.shape.slots for each in [self, *others]) - 1)
        self.rows = self._upload(places)
        self.keep(sorted(range(len(places)), key=places.__getitem__))
        return self

    def _move(self, batches: Sequence[FixedBatch], n_tokens: int) -> None:
        """Be all rows of these batches, in an arena of its own for so many tokens a row."""
        n_rows = [len(batch.at) for batch in batches]
        lease = self.lease.pool.lease(sum(n_rows), n_tokens)
        for batch, to in zip(batches, accumulate(n_rows, initial=0), strict=False):
            lease.cache.copy_rows(to, batch.lease.cache, batch._index())
        self._logits = torch.cat([batch.logits for batch in batches])
        self.lengths = [length for batch in batches for length in batch.lengths]
        self.at = list(range(sum(n_rows)))
        self.lease = lease


def open_fixed(pool: Pool, loaded: Loaded, spans: Sequence[int]) -> FixedBatch:
    """Rows that have read nothing yet.

    Args:
        pool: Of arenas of the model.
        loaded: The model.
        spans: Most tokens that each row will hold.

    Raises:
        NoRoomError: They do not fit the budget.
    """
    n = len(spans)
    rows = torch.arange(n, device=loaded.model.device)
    return FixedBatch(loaded, pool.lease(n, max(spans)), list(range(n)), [0] * n, rows)
