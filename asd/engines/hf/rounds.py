"""The rounds of block speculation over two key-value caches.

A round: the drafter writes a block for every open row, one token a pass; the verifier reads all blocks in one
pass, takes a prefix of each and adds one token; both caches take back the rest. What a model has not read yet
(`unread`: the prompt at first, later the tokens the other one wrote last) it reads with its next pass.

Scope: tokens and logits of two loaded models; no text, no queries, no clocks. Runs under the caller's
`torch.inference_mode()`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from asd.cancellation import CancelToken
from asd.engines import Acceptance, Sampling
from asd.engines.hf.decoder import Batch
from asd.engines.hf.retokenizer import Carried
from asd.engines.hf.sampler import chooser, probabilities
from asd.engines.hf.verifier import Judged, first_tokens, read_drafts
from asd.engines.sampling import check_sampling
from asd.engines.stops import Watch
from asd.types import Usage

__all__ = ["DecodingRow", "Rounds"]

Array = npt.NDArray[np.float64]


@dataclass(slots=True)
class DecodingRow:
    """One answer in the making.

    Attributes:
        unread_small: What the drafter has not read yet.
        unread_big: What the verifier has not read yet.
        limit: Most tokens of the answer.
        usage: What has been done for it.
        tokens: The answer so far.
        logprobs: Of its tokens under the verifier, at temperature 1.
        accepted: Length of the accepted prefix of every block.
        finished: A stop token or stop string ends the answer.
        watch: Knows its stop strings; None: it has none.
        cancel: Whether somebody still waits for it.
    """

    unread_small: list[int]
    unread_big: list[int]
    limit: int
    usage: Usage
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    finished: bool = False
    watch: Watch | None = None
    cancel: CancelToken = field(default_factory=CancelToken)

    def write(self, tokens: Sequence[int], logprobs: Sequence[float], stop_ids: Collection[int]) -> int:
        """Append tokens as far as the answer's end; returns how many."""
        for n, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True), start=1):
            self.tokens.append(token)
            self.logprobs.append(logprob)
            if token in stop_ids or (self.watch is not None and self.watch.ends(token)):
                self.finished = True
                return n
        return len(tokens)

    @property
    def room(self) -> int:
        """Tokens that may still be written."""
        return self.limit - len(self.tokens)

    @property
    def ended(self) -> bool:
        """Nothing more is to be written; what is counted as read must have been read before."""
        return self.finished or self.room == 0 or (self.cancel.cancelled and bool(self.tokens))


@dataclass(frozen=True, slots=True)
class _Blocks:
    """What the drafter wrote in a round: a block a row, how many of a block's tokens it has read, and q.

    `q[step][row]` is what a token was drawn from; empty where nothing is drawn.
    """

    drafts: list[Carried]
    n_read: int
    q: list[Array]

    def drawn_with(self) -> Array | None:
        """The q of every drafted token, all rows in one."""
        if not self.q:
            return None
        drawn = [
            self.q[i][row][t] for row, draft in enumerate(self.drafts) for i, t in enumerate(draft.tokens)
        ]
        return np.array(drawn)

    def rejected_from(self, row: int, n_accepted: int) -> Array | None:
        """The q of the first token rejected in a row; None where none was."""
        return self.q[n_accepted][row] if n_accepted < len(self.drafts[row].tokens) else None


class Rounds:
    """Two models writing the same answers.

    Args:
        small: What the drafter has read, row by row.
        big: What the verifier has read.
        rows: What is to be written; filled by `run`.
        block: Most tokens drafted in a round, at least 1.
        sampling: How the verifier chooses tokens, and the drafter too.
    """

    def __init__(
        self, small: Batch, big: Batch, rows: Sequence[DecodingRow], block: int, sampling: Sampling
    ) -> None:
        self._rows = list(rows)
        self._block = block
        self._sampling = sampling
        self._rng = check_sampling(sampling)
        self._stops = frozenset(big.loaded.stop_ids)
        self._small = small
        self._big = big
        self._n_vocab = big.loaded.n_vocab
        self._n_shared = self._n_vocab if small.loaded.n_vocab > self._n_vocab else None

    def run(self) -> None:
        """Write all rows to their ends."""
        self._leave()
        while self._rows:
            blocks = self._draft()
            judged = read_drafts(
                self._big,
                [row.unread_big for row in self._rows],
                blocks.drafts,
                Acceptance(self._sampling),
                blocks.drawn_with(),
            )
            self._take(blocks, judged)
            self._rewind(blocks, judged)

    def _draft(self) -> _Blocks:
        """A block for every row, as long as there is room for the verifier's own token after it."""
        lengths = [min(self._block, row.room - 1) for row in self._rows]
        if max(lengths) == 0:  # the verifier's own tokens end every row
            return _Blocks([Carried([], closed=False) for _ in self._rows], 0, [])
        written, q = self._write_ahead(max(lengths))
        drafts = [self._up_to_stop(tokens[:n]) for tokens, n in zip(written, lengths, strict=True)]
        return _Blocks(drafts, len(written[0]) - 1, q)

    def _write_ahead(self, n_steps: int) -> tuple[list[list[int]], list[Array]]:
        """The drafter's next tokens and what they were drawn from; fewer where a stop ends every row."""
        n, device = len(self._rows), self._small.rows.device
        choose = replace(chooser(self._sampling, n, n_steps, device), n_vocab=self._n_shared)
        # what the verifier alone knows, the drafter reads as some other token: it drafts worse, nothing more
        n_known = self._small.loaded.n_vocab
        unread = [[min(token, n_known - 1) for token in row.unread_small] for row in self._rows]
        self._small.logits = self._small.read(unread, [1] * n)
        q: list[Tensor] = []
        going_on = set(range(n))
        for step in range(n_steps):
            self._small.write(choose, step, scored=False)
            if self._rng is not None:
                q.append(self._probabilities(self._small.logits))
            if not self._small.runs_ahead:
                written = self._small.look(choose, more=False)
                going_on -= {i for i, token in enumerate(written) if token in self._stops}
            if not going_on:
                break
        drawn_from = [np.asarray(p.cpu().numpy()) for p in q]
        return self._small.collect().tokens.tolist(), drawn_from

    def _probabilities(self, logits: Tensor) -> Tensor:
        p = probabilities(logits[:, : self._n_vocab], self._sampling, torch.float64)
        return pad(p, (0, self._n_vocab - p.shape[1]))

    def _up_to_stop(self, tokens: list[int]) -> Carried:
        end = next((i + 1 for i, token in enumerate(tokens) if token in self._stops), None)
        return Carried(tokens[:end], closed=end is not None)

    def _take(self, blocks: _Blocks, judged: Judged) -> None:
        """Add what was accepted to every row, and the verifier's own token after it."""
        own = self._own_tokens(blocks, judged)
        logprobs = judged.after.log_softmax(-1).gather(1, own.unsqueeze(1)).squeeze(1).tolist()
        for i, (row, draft, token) in enumerate(zip(self._rows, blocks.drafts, own.tolist(), strict=True)):
            n = judged.n_accepted[i]
            adds = not (draft.closed and n == len(draft.tokens))
            new = draft.tokens[:n] + [token] * adds
            n_new = row.write(new, judged.logprobs[i][:n] + (logprobs[i],) * adds, self._stops)
            row.accepted.append(n)
            row.usage += Usage(0, n_new, n_passes=1, n_drafted=len(draft.tokens), n_saved=n_new - 1)
            row.unread_small = [*draft.tokens[min(n, blocks.n_read) : n], token]
            row.unread_big = [token]

    def _own_tokens(self, blocks: _Blocks, judged: Judged) -> Tensor:
        if self._rng is None:
            return judged.after.argmax(-1)
        q = [blocks.rejected_from(row, n) for row, n in enumerate(judged.n_accepted)]
        return first_tokens(judged.after, q, self._sampling, self._rng)

    def _rewind(self, blocks: _Blocks, judged: Judged) -> None:
        """Take back what was not accepted; rows that have ended leave."""
        going_on = self._leave()
        if going_on:
            self._small.rewind([max(blocks.n_read - judged.n_accepted[i], 0) for i in going_on])
            self._big.rewind([judged.drop[i] for i in going_on])

    def _leave(self) -> list[int]:
        """Forget the rows that have ended; returns where the others stood."""
        going_on = [i for i, row in enumerate(self._rows) if not row.ended]
        if 0 < len(going_on) < len(self._rows):
            self._small.keep(going_on)
            self._big.keep(going_on)
            self._small.rows = torch.arange(len(going_on), device=self._small.rows.device)
        self._rows = [self._rows[i] for i in going_on]
        return going_on
