"""What the suites of one session measured: cells, and what took turns to get them.

A cell of times is recorded as a function of the passes made so far, so that it can be made again when some of
its comparisons need more of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from asd.measurement.records import Cell
from asd.measurement.timing import Turns

__all__ = ["Measurements", "Record"]

Timing = Turns[Any, Any]

Record = Callable[..., Cell]
"""`Measurements.add`, as the suites get it."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One cell, how it is made, and the passes it is made of; none where it is no matter of time."""

    cell: Cell
    make: Callable[[], Cell] | None
    turns: tuple[Timing, ...]


class Measurements:
    """The record of a session while it grows."""

    def __init__(self) -> None:
        self._all: list[Measurement] = []

    def add(self, cell: Cell | Callable[[], Cell], *turns: Timing) -> Cell:
        """Record a cell, or what makes one out of the passes of `turns`; returns it as it is now."""
        made = cell if isinstance(cell, Cell) else cell()
        self._all.append(Measurement(made, None if isinstance(cell, Cell) else cell, turns))
        return made

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, in the order in which they were recorded."""
        return tuple(measurement.cell for measurement in self._all)

    def walk_on(self, ids: Collection[str], n_passes: int, at_most: int) -> bool:
        """Make further passes for these cells, and every cell of the same passes again.

        Args:
            ids: Of the cells.
            n_passes: Further passes.
            at_most: Passes in all, beyond which none is made.

        Returns:
            Whether there was anything to be done.
        """
        asked = [turns for m in self._all if m.cell.id in ids for turns in m.turns]
        walked: list[Timing] = []
        for turns in asked:
            more = min(n_passes, at_most - turns.n_passes)
            if more > 0 and not any(turns is other for other in walked):
                turns.walk(more)
                walked.append(turns)
        self._all = [_remade(m) if any(t is w for t in m.turns for w in walked) else m for m in self._all]
        return bool(walked)


def _remade(measurement: Measurement) -> Measurement:
    return measurement if measurement.make is None else replace(measurement, cell=measurement.make())
