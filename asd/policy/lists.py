"""What a vote of lists is counted on, as the policy artifact keeps it: outcomes of the rows fitted on.

The signal of an answer is its calibrated success probability where it is the only one so far, out of fold.
A second stage may read the first one's draft and continue from it; where that takes less than its own run,
in the mean over the rows, the lists do so. Scope: rows in, counts out; the vote is `asd.stopping.lists`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from asd.measurement.records import Record
from asd.policy.estimate import EstimationTable
from asd.stopping.lists import ListTable, RecordedRows, count
from asd.stopping.states import Move, State
from asd.types import StagePair

__all__ = ["MOST_ROWS", "N_DRAWS", "ListRows"]

Array = npt.NDArray[np.float64]

MOST_ROWS = 5000
"""Of more rows, so many evenly spaced are kept: on these a difference is as sure as it matters."""
N_DRAWS = 40
"""Resamples that vote."""
_DIGITS = 7

Column = tuple[float, ...]


class ListRows(Record, frozen=True, kw_only=True):
    """Columns over the rows fitted on; costs in cost units, by batch size.

    Attributes:
        p: Calibrated success probability of every stage's answer alone, out of fold, by stage.
        score: Quality of every stage's answer, by stage.
        alone: Cost of every stage's run from the prompt, by stage.
        read: Cost of reading a draft and going on from it, by pair ("S>L").
    """

    p: dict[str, Column]
    score: dict[str, Column]
    alone: dict[int, dict[str, Column]]
    read: dict[int, dict[str, Column]]

    @classmethod
    def of(cls, tables: Mapping[int, EstimationTable], stages: Sequence[str], pairs: Sequence[str]) -> Self:
        """From what the stopping problem is estimated on, by batch size."""
        nodes = {stage: tables[1].rows[State((stage,)).name] for stage in stages}
        return cls(
            p={stage: _column(node.p) for stage, node in nodes.items()},
            score={stage: _column(node.score) for stage, node in nodes.items()},
            alone={
                batch: {s: _column(table.costs[Move(State(()), State((s,)))]) for s in stages}
                for batch, table in tables.items()
            },
            read={
                batch: {pair: _column(_going_on(table, pair)) for pair in pairs}
                for batch, table in tables.items()
            },
        )

    def thinned(self) -> Self:
        """Itself, or where it has more rows than `MOST_ROWS`, so many evenly spaced."""

        def of_stages(columns: Mapping[str, Column]) -> dict[str, Column]:
            return {name: _evenly(column) for name, column in columns.items()}

        return type(self)(
            p=of_stages(self.p),
            score=of_stages(self.score),
            alone={batch: of_stages(columns) for batch, columns in self.alone.items()},
            read={batch: of_stages(columns) for batch, columns in self.read.items()},
        )

    def rows(self, batch: int = 1, *, verify: bool = True) -> tuple[RecordedRows, frozenset[str]]:
        """The rows at the prices of a batch size, and the pairs that read before they answer."""
        stages, alone = list(self.p), _matrix(self.alone[batch])
        after = np.repeat(alone[:, None], len(stages), axis=1)
        reads = set()
        for pair, costs in self.read[batch].items() if verify else ():
            i, j = map(stages.index, StagePair.parse(pair))
            if np.mean(costs) < alone[:, j].mean():
                after[:, i, j] = costs
                reads.add(pair)
        return RecordedRows(_matrix(self.p), _matrix(self.score), alone, after), frozenset(reads)

    def counted(self, batch: int = 1, *, verify: bool = True) -> tuple[ListTable, frozenset[str]]:
        """Every list, counted, and the pairs that read before they answer."""
        rows, reads = self.rows(batch, verify=verify)
        return count(rows, N_DRAWS), reads


def _going_on(table: EstimationTable, pair: str) -> Array:
    """Of every row, what the second stage takes to read the first one's draft and to continue from it."""
    small, large = StagePair.parse(pair)
    read = State((small,), large)
    reading, going_on = Move(State((small,)), read), Move(read, State((small, large)))
    return table.costs[reading] + table.costs[going_on]


def _column(values: Array) -> Column:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values.tolist())


def _evenly(column: Column) -> Column:
    if len(column) <= MOST_ROWS:
        return column
    return tuple(column[i] for i in np.linspace(0, len(column) - 1, MOST_ROWS).astype(np.intp).tolist())


def _matrix(columns: Mapping[str, Column]) -> Array:
    return np.array(list(columns.values()), dtype=np.float64).T
