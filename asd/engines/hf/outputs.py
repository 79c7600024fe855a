"""When the rows of a batch end, and what each of them wrote: from stretches of steps to plain Python values.

A row ends at its first stop token, with its first stop string or once it was cancelled, else at its limit. A
batch runs on for its slower rows; what a row writes after its end is cut here. Scope: token ids and numbers;
no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from asd.cancellation import CancelToken
from asd.engines.stops import Watch

__all__ = ["Answer", "Ends", "Stretch", "harvest"]


@dataclass(frozen=True, slots=True)
class Stretch:
    """What the same rows wrote over consecutive steps; what a row writes after its end is meaningless.

    Attributes:
        rows: Which prompt each row answers, [n].
        tokens: What they wrote, [n, steps].
        logprobs: Its log-probabilities, [n, steps]; None: they were not asked for.
    """

    rows: Tensor
    tokens: Tensor
    logprobs: Tensor | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One row cut to what it wrote; `finished`: a stop token or stop string ended it."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool

    def __add__(self, more: Answer) -> Answer:
        return Answer(self.tokens + more.tokens, self.logprobs + more.logprobs, more.finished)


class Ends:
    """Which rows of a batch have ended, kept on the host; costs next to nothing while none ends.

    Args:
        limits: Most tokens of every answer.
        stop_ids: Tokens that end an answer.
        watches: Of every answer, what else ends it; None: nothing else.
        cancels: Of every answer, whether somebody still waits for it.

    Attributes:
        lengths: Tokens of every answer; its limit until it ends.
        finished: Whether it ended before.
        n_open: Rows that have not ended.
    """

    def __init__(
        self,
        limits: Sequence[int],
        stop_ids: Sequence[int],
        watches: Sequence[Watch | None],
        cancels: Sequence[CancelToken],
    ) -> None:
        self._stops = frozenset(stop_ids)
        self._watches = watches
        self._is_watched = any(watch is not None for watch in watches)
        self._cancels = cancels
        self._rows = list(range(len(limits)))
        self._next_end = min(limits)
        self.lengths = list(limits)
        self.finished = [False] * len(limits)
        self.n_open = len(limits)

    def look(self, n_written: int, tokens: list[int]) -> None:
        """Take note of the token that each row has just written."""
        cancelled = any(cancel.cancelled for cancel in self._cancels)
        goes_on = n_written < self._next_end and self._stops.isdisjoint(tokens)
        if goes_on and not self._is_watched and not cancelled:
            return
        for row, token in zip(self._rows, tokens, strict=True):
            if self.lengths[row] >= n_written:
                self.finished[row] = self._is_end(row, token)
                if self.finished[row] or self._cancels[row].cancelled:
                    self.lengths[row] = n_written
        still_open = [self.lengths[row] for row in self._rows if self.lengths[row] > n_written]
        self.n_open = len(still_open)
        self._next_end = min(still_open, default=n_written)

    def _is_end(self, row: int, token: int) -> bool:
        watch = self._watches[row]
        return token in self._stops or (watch is not None and watch.ends(token))

    def drop_ended(self, n_written: int) -> list[int]:
        """Forget the rows that have ended; returns the indices of the others."""
        going_on = [i for i, row in enumerate(self._rows) if self.lengths[row] > n_written]
        self._rows = [self._rows[i] for i in going_on]
        return going_on


def harvest(stretches: Sequence[Stretch], ends: Ends) -> list[Answer]:
    """Put every prompt's tokens together and cut them where its answer ended."""
    tokens: list[list[int]] = [[] for _ in ends.lengths]
    logprobs: list[list[float]] = [[] for _ in ends.lengths]
    for stretch in stretches:
        assert stretch.logprobs is not None
        ids, values = stretch.tokens.tolist(), stretch.logprobs.tolist()
        for row, more_ids, more_values in zip(stretch.rows.tolist(), ids, values, strict=True):
            tokens[row] += more_ids
            logprobs[row] += more_values
    return [
        Answer(tuple(ids[:n]), tuple(values[:n]), finished)
        for ids, values, n, finished in zip(tokens, logprobs, ends.lengths, ends.finished, strict=True)
    ]
