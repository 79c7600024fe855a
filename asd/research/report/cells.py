"""A table as a page shows it: numbers rounded, an estimate and its interval in one cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from asd.research.study.record import StudyTable, Value

__all__ = ["Column", "Sheet", "sheet", "spread", "worded"]

DASH = "–"  # noqa: RUF001 - an en dash is what stands for an empty cell


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the page: what it is headed, and how its cells are set ("number", "prose", "word")."""

    heading: str
    kind: str


@dataclass(frozen=True, slots=True)
class Sheet:
    """Columns, and rows of as many texts."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def sheet(table: StudyTable) -> Sheet:
    """Every row of the table; a column followed by its low and its high end becomes one."""
    groups = list(_groups(table.columns))
    columns = tuple(Column(_heading(table.columns, group), _kind(table, group[0])) for group in groups)
    rows = tuple(tuple(spread(*(row[i] for i in group)) for group in groups) for row in table.rows)
    return Sheet(columns, rows)


def worded(value: Value) -> str:
    """Three significant digits, hundreds whole; a dash for what is not defined."""
    if value is None or value == "":
        return DASH
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def spread(value: Value, low: Value = None, high: Value = None) -> str:
    """A number, with its interval where it has one."""
    if low is None or high is None:
        return worded(value)
    return f"{worded(value)} [{worded(low)}, {worded(high)}]"


def _groups(columns: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """Indices of the columns that share a cell: an estimate, its low and its high end."""
    i = 0
    while i < len(columns):
        width = 3 if [_end(name) for name in columns[i + 1 : i + 3]] == ["low", "high"] else 1
        yield tuple(range(i, i + width))
        i += width


def _end(column: str) -> str:
    return next((end for end in ("low", "high") if end in column.split("_")), "")


def _heading(columns: Sequence[str], group: tuple[int, ...]) -> str:
    name = columns[group[0]].replace("_", " ")
    return f"{name} [95 %]" if len(group) > 1 else name


def _kind(table: StudyTable, index: int) -> str:
    values = [row[index] for row in table.rows]
    if any(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return "number"
    return "prose" if max(len(worded(value)) for value in values) > 28 else "word"
