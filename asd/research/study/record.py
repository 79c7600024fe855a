"""What a study found: named tables, each with what it was measured on, in one versioned file.

    results.json            everything
    tables/<name>.csv .md   every table by itself

A table says how its numbers came about, on what, and over how many questions; no table mixes provenances. The
border: values and files; nothing is computed here, and what a table looks like on a page is
`asd.research.report`'s.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from tabulate import tabulate

from asd.errors import DataError
from asd.measurement.files import write_atomically, write_record
from asd.measurement.records import Environment, Record
from asd.types import Provenance

__all__ = ["SCHEMA_VERSION", "Study", "StudyTable", "Value", "write_study"]

SCHEMA_VERSION = 1

Value = str | int | float | bool | None
"""One entry of a table; None: not defined here."""


class StudyTable(Record, frozen=True, kw_only=True):
    """One table of a study.

    Attributes:
        name: File name, unique in a study.
        title: What it shows, one line.
        provenance: How its numbers came about.
        measured_on: Ladder and questions, in words.
        n: Questions behind a number, at most.
        columns: Names, units included.
        rows: One value a column.
        note: What a reader has to know.
    """

    name: str
    title: str
    provenance: Provenance
    measured_on: str
    n: int
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        if not self.rows:
            raise DataError(f"table {self.name!r} has no rows")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise DataError(f"table {self.name!r} has {len(self.columns)} columns, a row has {len(row)}")

    def column(self, name: str) -> tuple[Value, ...]:
        """All values of a column.

        Raises:
            DataError: There is no such column.
        """
        if name not in self.columns:
            raise DataError(f"table {self.name!r} has no column {name!r}, it has {list(self.columns)}")
        index = self.columns.index(name)
        return tuple(row[index] for row in self.rows)

    def markdown(self) -> str:
        """Title, table and what it was measured on."""
        body = tabulate(  # which rounds no number beside a text
            [[f"{value:.4g}" if isinstance(value, float) else value for value in row] for row in self.rows],
            headers=self.columns,
            tablefmt="github",
            floatfmt=".4g",
            missingval="-",
            numalign="right",
        )
        notes = f"\n{self.note}\n" if self.note else ""
        return f"## {self.title}\n\n{body}\n{notes}\n{self.provenance}, {self.measured_on}, n = {self.n}\n"

    def csv(self) -> str:
        """Columns and rows at full precision; None is an empty field."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue()


class Study(Record, frozen=True, kw_only=True):
    """Everything one run of the study found; tables in the order they are shown."""

    schema_version: int = SCHEMA_VERSION
    created: str
    git_commit: str
    environment: Environment
    seed: int
    ladder: str
    tables: tuple[StudyTable, ...]

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise DataError(f"study has schema version {self.schema_version}, not {SCHEMA_VERSION}")
        names = [table.name for table in self.tables]
        if len(set(names)) < len(names):
            raise DataError(f"two tables of a study have one name: {names}")

    def table(self, name: str) -> StudyTable:
        """The table of that name.

        Raises:
            DataError: There is none.
        """
        for table in self.tables:
            if table.name == name:
                return table
        raise DataError(f"the study has no table {name!r}, it has {[table.name for table in self.tables]}")


def write_study(study: Study, out: str | Path) -> None:
    """Write `results.json` and every table as CSV and Markdown.

    Raises:
        DataError: A number is not finite.
        StorageError: A file could not be written.
    """
    out = Path(out)
    write_record(out / "results.json", study, expand=4)
    for table in study.tables:
        write_atomically(out / "tables" / f"{table.name}.csv", table.csv())
        write_atomically(out / "tables" / f"{table.name}.md", table.markdown())
