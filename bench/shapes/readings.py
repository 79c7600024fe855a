"""What the clock said, cell by cell, in a file that grows: an interrupted run continues where it stopped.

Scope: seconds of calls on random weights. There is no field here for what an answer is worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asd.errors import ConfigError
from asd.measurement.files import read_record, write_record
from asd.measurement.records import Record
from asd.schema import msgspec

__all__ = [
    "ALL",
    "FIRST",
    "GENERATE",
    "OURS",
    "STATIC",
    "Asked",
    "Bandwidth",
    "Log",
    "ShapeReading",
    "verifying",
]

FIRST, ALL = "first token", "answer"
"""Two calls whose difference is what decoding takes: a single token, and a whole answer."""

OURS, GENERATE, STATIC = "", "generate(): ", "generate(static): "
"""Who answers: what the names of calls begin with."""


def verifying(width: int) -> str:
    """Name of the call that reads a draft of so many tokens together with its prompt."""
    return f"verify {width}"


class Bandwidth(Record, frozen=True, kw_only=True):
    """Bytes a second: read and written by a copy within the device, and copied to it from the host."""

    copy: float
    from_host: float


class Asked(Record, frozen=True, kw_only=True):
    """What has to agree before cells go into one file.

    Attributes:
        ladder: Whose shapes.
        card: The device's name.
        dtype: Of the weights.
        steps: What was asked of the engine: "auto", "compiled" or "eager".
        n_new: Tokens decoded after the first one.
    """

    ladder: str
    card: str
    dtype: str
    steps: str
    n_new: int


class ShapeReading(Record, frozen=True, kw_only=True):
    """One size at one batch size and prompt length.

    `seconds` are those of a whole call, by its name, median over the passes; `step_mode` is what the engine
    says of itself after them.
    """

    size: str
    batch: int
    length: int
    step_mode: str
    seconds: dict[str, float]

    def decode_s(self, n_new: int, who: str = OURS) -> float | None:
        """Seconds of one decode step of the whole batch; None where it was not timed."""
        if who + ALL not in self.seconds:
            return None
        return (self.seconds[who + ALL] - self.seconds[who + FIRST]) / n_new


class _File(Record, frozen=True, kw_only=True):
    asked: Asked
    date: str
    bandwidth: Bandwidth
    cells: tuple[ShapeReading, ...] = ()


@dataclass(slots=True)
class Log:
    """The file, read when it is opened and written after every cell.

    Raises:
        ConfigError: It holds readings of something else.
        DataError: It cannot be read.
    """

    path: Path
    file: _File

    @classmethod
    def open(cls, path: Path, asked: Asked, date: str, bandwidth: Bandwidth) -> Log:
        """The log at this path, with what it holds already; bandwidth and date are those of this run."""
        if not path.exists():
            return cls(path, _File(asked=asked, date=date, bandwidth=bandwidth))
        stored = read_record(path, _File)
        for name, now in msgspec.structs.asdict(asked).items():
            if (was := getattr(stored.asked, name)) != now:
                raise ConfigError(f"{path} holds readings of {name} {was}, not {now}; choose another --out")
        return cls(path, msgspec.structs.replace(stored, date=date, bandwidth=bandwidth))

    @property
    def cells(self) -> tuple[ShapeReading, ...]:
        """All cells, in the order in which they were measured."""
        return self.file.cells

    def of(self, size: str, batch: int) -> list[ShapeReading]:
        """The cells of one size at one batch size, shortest prompts first."""
        found = [cell for cell in self.cells if (cell.size, cell.batch) == (size, batch)]
        return sorted(found, key=lambda cell: cell.length)

    def has(self, size: str, batch: int, length: int, calls: set[str]) -> bool:
        """Whether all these calls of a cell have been timed."""
        return any(cell.length == length and calls <= cell.seconds.keys() for cell in self.of(size, batch))

    def put(self, cell: ShapeReading) -> None:
        """Keep a cell, in place of an earlier one."""
        others = [
            c for c in self.cells if (c.size, c.batch, c.length) != (cell.size, cell.batch, cell.length)
        ]
        self.file = msgspec.structs.replace(self.file, cells=(*others, cell))
        write_record(self.path, self.file)
