"""What every method of the comparison is: fitted on rows, put before other rows, asked in every state.

    fitted = method.fit(train)          nothing but `train` is looked at
    sight = fitted.on(test)             evidence about other rows; what a state may see of them
    choice = sight.choose(lam, bought, index)

A state is the set of stages bought, as a sorted tuple of positions. `choose` may read of a row only its
prompt and the recorded answers of the stages bought; every test plays the methods against rows whose other
answers were scrambled. Value = lam * quality - cost, one cost unit = a mean call of the dearest stage on
the rows fitted on.

`play` walks many rows at once; the tests let the cascade walk them one by one.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from asd.prices import Prices
from asd.research.recordings.recording import Recording
from asd.types import Draft, Outcome, Query, Trace, Usage

__all__ = [
    "Fitted",
    "Method",
    "ReplayedSetting",
    "RowActions",
    "Sight",
    "as_traces",
    "play",
    "prices_of",
]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Bought = tuple[int, ...]

STOPS = -1
"""The action that returns an answer; every other action is the position of the stage to call."""

_QUANTUM = 1e-12
"""Recorded costs are billed as a count of these."""


class RowActions(NamedTuple):
    """For every row asked about: what to do next, and whose answer is the best so far (shape (m,) each)."""

    action: Index
    answer: Index


class Sight(Protocol):
    """A fitted method before some rows."""

    def choose(self, lam: float, bought: Bought, index: Index) -> RowActions:
        """Choose for the rows at `index`, all in the state `bought`; the answer is not read before a call."""


class Fitted(Protocol):
    """A method after fitting."""

    def on(self, rows: Recording) -> Sight:
        """Look at rows, of the same stages in the same order."""


class Method(Protocol):
    """A way to choose among stages."""

    @property
    def name(self) -> str:
        """Short; stands in tables."""

    def fit(self, train: Recording) -> Fitted:
        """Learn from recorded outcomes of every stage."""


class ReplayedSetting(NamedTuple):
    """One setting of one method on n rows.

    Attributes:
        quality: Score of the answer returned, shape (n,).
        cost: Of all calls made, in the recording's unit, shape (n,).
        answer: Position of the stage whose answer is returned, shape (n,).
        called: Which stages were called, shape (n, K).
    """

    quality: Array
    cost: Array
    answer: Index
    called: npt.NDArray[np.bool_]


def play(sight: Sight, rows: Recording, lam: float) -> ReplayedSetting:
    """Walk every row from nothing bought to an answer returned."""
    n, n_stages = rows.scores.shape
    answer, called = np.zeros(n, dtype=np.intp), np.zeros((n, n_stages), dtype=bool)
    open_at: list[tuple[Bought, Index]] = [((), np.arange(n))]
    while open_at:
        bought, index = open_at.pop()
        choice = sight.choose(lam, bought, index)
        stopped = choice.action == STOPS
        answer[index[stopped]] = choice.answer[stopped]
        for stage in np.unique(choice.action[~stopped]).tolist():
            going = index[choice.action == stage]
            called[going, stage] = True
            open_at.append((tuple(sorted((*bought, stage))), going))
    quality = rows.scores[np.arange(n), answer]
    return ReplayedSetting(quality, np.where(called, rows.costs, 0.0).sum(axis=1), answer, called)


def as_traces(rows: Recording) -> list[Trace]:
    """The recording in the shape that `asd.engines.replay` plays and `asd fit` learns from.

    A draft has no log-probabilities; the recorded confidence and other signals are its signals, its length is
    counted in words.
    """
    return [_as_trace(rows, i) for i in range(len(rows))]


def prices_of(rows: Recording) -> dict[str, Prices]:
    """Prices by which the drafts of `as_traces` cost what was recorded."""
    return {stage: Prices(0.0, _QUANTUM, 0.0) for stage in rows.stages}


def _as_trace(rows: Recording, i: int) -> Trace:
    dataset, name = rows.keys[i]
    drafts = {
        # The recorded price of the call, as a count: the cascade multiplies counts with prices.
        stage: Draft(
            stage,
            rows.texts[i, k],
            (),
            (),
            True,
            Usage(round(rows.costs[i, k] / _QUANTUM), *2 * (_length(rows.words[i, k]),)),
            0.0,
            signals=_signals(rows, i, k),
        )
        for k, stage in enumerate(rows.stages)
    }
    outcomes = {s: Outcome(d, float(rows.scores[i, k])) for k, (s, d) in enumerate(drafts.items())}
    return Trace(Query(id=name, dataset=dataset, prompt=rows.prompts[i]), outcomes)


def _length(words: float) -> int:
    """Tokens decoded and forward passes, neither of which costs anything: at least one each."""
    return 1 if math.isnan(words) else max(1, int(words))


def _signals(rows: Recording, i: int, k: int) -> dict[str, float]:
    """What was recorded of one answer, without columns that its stage has nothing in."""
    columns = {"confidence": rows.confidence, **rows.signals}
    return {name: float(c[i, k]) for name, c in columns.items() if not math.isnan(c[i, k])}
