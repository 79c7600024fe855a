"""The decode loop over a key-value cache: read pieces of text, then one token per row and step, then harvest.

    prefill   one forward pass over the prompts; leaves each row's next-token logits
    decode    choose a token per row, feed it, repeat until every row has stopped
    read      append a piece of text to every row in one forward pass: prompts, drafts to be verified
    rewind    take back the last tokens of every row, each as many as it likes
    join      rows of several batches as one batch

A `Batch` is the state between steps; how it keeps keys and values is its own business
(`asd.engines.hf.caches`). Rows that have stopped write nothing that counts and leave the batch once half of
it is done.

Scope: tensors and token ids only; no text, no queries, no clocks. Everything runs under the caller's
`torch.inference_mode()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

from torch import Tensor

from asd.engines.hf.model import Loaded
from asd.engines.hf.outputs import Ends, Stretch
from asd.engines.hf.sampler import TokenSampler

__all__ = ["Batch", "decode", "prefill"]


class Batch(Protocol):
    """Rows in flight over a key-value cache of one model.

    Attributes:
        loaded: The model; callers check that all fits its context.
        logits: Logits of the next token, [n, vocab] float32; whoever reads sets them.
        rows: Which prompt each row answers, [n].
    """

    loaded: Loaded
    logits: Tensor
    rows: Tensor

    @property
    def runs_ahead(self) -> bool:
        """Steps are queued on the device, so that asking for a token before the next is queued idles it."""

    def read(self, pieces: Sequence[Sequence[int]], n_last: Sequence[int]) -> Tensor:
        """Append a piece to every row in one forward pass.

        Args:
            pieces: Token ids for every row, none empty.
            n_last: After how many of a piece's last tokens the logits are wanted, at least one each.

        Returns:
            Logits [sum(n_last), vocab] float32, the first row's first.
        """

    def write(self, choose: TokenSampler, step: int, *, scored: bool = True) -> None:
        """Choose a token for every row; the tokens chosen before are fed first, the last ones never.

        Args:
            choose: How.
            step: How many tokens have been written before.
            scored: Log-probabilities will be asked for.
        """

    def look(self, choose: TokenSampler, *, more: bool) -> list[int]:
        """The tokens chosen last; where `more` are to come, the next step may begin before the wait."""

    def collect(self) -> Stretch:
        """What the rows have written since they were last collected."""

    def keep(self, index: Sequence[int]) -> None:
        """Drop every row but those in `index`."""

    def select(self, index: Sequence[int]) -> Self:
        """The rows in `index` as a batch of their own; these rows of this one are not to be used again."""

    def rewind(self, drop: Sequence[int]) -> None:
        """Take back the last `drop[i]` tokens that row i has read."""

    def opened_like(self, spans: Sequence[int]) -> Self:
        """Rows that have read nothing yet and can be joined to these; `spans` are the most tokens of each."""

    def join(self, others: Sequence[Self], places: Sequence[int]) -> Self:
        """All rows of this and of other batches of the model as one batch; consumes them.

        Args:
            others: Of the same kind.
            places: Where each row goes, those of this batch first; a permutation.
        """

    def bytes_for(self, n_rows: int) -> int:
        """Memory that keeping so many rows takes."""


def prefill(batch: Batch, prompts: Sequence[Sequence[int]]) -> Batch:
    """Read all prompts in one forward pass."""
    batch.logits = batch.read(prompts, [1] * len(prompts))
    return batch


def decode(batch: Batch, ends: Ends, choose: TokenSampler) -> list[Stretch]:
    """Write for every row until it ends, at its limit at the latest; consumes the batch.

    Every token but the last of each row costs one forward pass. Looking for rows that have ended waits for
    the device in every step: microseconds, where a pass that nobody needs takes milliseconds. A batch that
    runs ahead has begun the next step by then, which is the one pass that may be made in vain.
    """
    longest = max(ends.lengths)
    stretches: list[Stretch] = []
    for n_written in range(1, longest + 1):
        batch.write(choose, n_written - 1)
        ends.look(n_written, batch.look(choose, more=n_written < longest))
        if ends.n_open == 0:
            break
        if ends.n_open <= len(batch.rows) // 2:
            stretches.append(batch.collect())
            batch.keep(ends.drop_ended(n_written))
    return [*stretches, batch.collect()]
