"""Tables as figures need them: columns of numbers and how far intervals reach, rows of one kind."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from asd.research.study.record import Study, StudyTable, Value

__all__ = [
    "Array", "around", "basis", "columns_like", "has", "kinds", "milliseconds_around", "numbers",
    "rows_where",
]  # fmt: skip

Array = npt.NDArray[np.float64]


def has(study: Study, names: Iterable[str]) -> bool:
    """Whether the study holds all these tables."""
    return set(names) <= {table.name for table in study.tables}


def numbers(table: StudyTable, column: str) -> Array:
    """A column as floats; NaN, which is drawn as a gap, where it is not defined."""
    return np.array([np.nan if value is None else float(value) for value in table.column(column)])


def around(table: StudyTable, column: str) -> Array:
    """How far the interval of a column reaches below and above, shape (2, rows)."""
    ends = numbers(table, f"{column}_low"), numbers(table, f"{column}_high")
    return np.abs(np.stack(ends) - numbers(table, column))


def milliseconds_around(table: StudyTable) -> Array:
    """The same of "mean_ms": the interval of the speed-up, the largest stage's seconds taken as given."""
    mean, speed_up = numbers(table, "mean_ms"), numbers(table, "speed_up")
    ends = [mean * speed_up / numbers(table, f"speed_up_{end}") for end in ("high", "low")]
    return np.abs(np.stack(ends) - mean)


def kinds(table: StudyTable, column: str) -> list[str]:
    """The different words of a column, in order of appearance."""
    return list(dict.fromkeys(map(str, table.column(column))))


def rows_where(table: StudyTable, column: str, wanted: Value) -> StudyTable:
    """The rows that say so in a column; there must be some."""
    index = table.columns.index(column)
    return StudyTable(
        name=table.name,
        title=table.title,
        provenance=table.provenance,
        measured_on=table.measured_on,
        n=table.n,
        columns=table.columns,
        rows=tuple(row for row in table.rows if str(row[index]) == str(wanted)),
    )


def columns_like(table: StudyTable, prefix: str) -> list[str]:
    """What follows the prefix in the columns that have it: the stages of "share_S", "share_M"."""
    return [name.removeprefix(prefix) for name in table.columns if name.startswith(prefix)]


def basis(table: StudyTable) -> str:
    """What every caption ends with."""
    return f"{table.provenance.capitalize()}, {table.measured_on}, n = {table.n}."
