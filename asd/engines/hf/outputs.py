"""When the rows of a batch end, and what each of them wrote: from stretches of steps to plain Python values.

A row ends at its first stop token, else at its limit. A batch runs on for its slower rows; what a row writes
after its end is cut here. The border: token ids and numbers; no model, no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Answer", "Ends", "Stretch", "harvest"]


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


class Ends:
    """Which rows of a batch have ended, kept on the host; costs next to nothing while none ends."""

    def __init__(self, limits: Sequence[int], stop_ids: Sequence[int]) -> None:
        self._stops = frozenset(stop_ids)
        self._ends = list(limits)  # per row: the number of tokens it may write, 0 once it has stopped
        self._next_end = min(limits)
        self.n_open = len(limits)

    def look(self, n_written: int, tokens: list[int]) -> None:
        """Take note of the token that each row has just written."""
        if n_written < self._next_end and self._stops.isdisjoint(tokens):
            return
        self._ends = [
            0 if token in self._stops else end for token, end in zip(tokens, self._ends, strict=True)
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
