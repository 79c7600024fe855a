"""The record of one run of the harness: a header that says what was run where, and one cell a measurement.

A run is JSON, one cell a line, so that a diff of two baselines reads as a list of changed cells. Unknown
fields, another schema version and numbers that are not finite are refused in both directions (msgspec would
write NaN as null without a word). Per-item values are aligned with the items of the cell's dataset, which
are stored once.

Scope: records hold what was measured, never what it is worth; verdicts are not part of a run.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import Literal

from asd.errors import DataError
from asd.schema import msgspec
from asd.types import Provenance, Query

__all__ = [
    "SCHEMA_VERSION",
    "Cell",
    "DatasetRecord",
    "Direction",
    "Environment",
    "HardwareKey",
    "Kind",
    "LadderRecord",
    "Metric",
    "Record",
    "Run",
    "RunHeader",
]

SCHEMA_VERSION = 2

Kind = Literal["quality", "cost", "count", "time", "summary"]
"""What a metric is, which decides the machines on which it may block a build: quality and priced cost
anywhere, counts where device kind, dtype and engine agree, time (seconds and their ratios) where the whole
hardware key does. A summary is held to targets only: what it is made of is compared in its place."""

Passes = tuple[tuple[float, ...], ...]
"""Seconds by pass and unit of work."""

Direction = Literal["higher", "lower", "same"]
"""Which way is better; "same" for what should not move either way, such as the mix of stages."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every value in a record file: immutable, and strict about unknown fields."""


class HardwareKey(Record, frozen=True, kw_only=True):
    """What has to agree before seconds are compared. Versions and clocks are in `Environment` instead."""

    device: str
    count: int
    dtype: str
    batch: int
    engine: str

    @property
    def slug(self) -> str:
        """Name of the folder that holds the baselines of this key."""
        return f"{self.device}-x{self.count}-{self.dtype}-b{self.batch}-{self.engine}"

    def computes_like(self, other: HardwareKey) -> bool:
        """Same device kind, dtype and engine: greedy decoding is expected to give the same tokens."""
        return (self.device, self.dtype, self.engine) == (other.device, other.dtype, other.engine)


class Environment(Record, frozen=True, kw_only=True):
    """What the run happened on; differences from a baseline are warned about, never judged.

    `gauges` are readings taken at the time, with the unit in the name ("gpu0_temperature_c").
    """

    python: str
    platform: str
    packages: dict[str, str]
    cpu: str
    cores: int
    threads: int
    devices: tuple[str, ...] = ()
    driver: str | None = None
    gauges: dict[str, float] = {}


class LadderRecord(Record, frozen=True, kw_only=True):
    """The ladder: its name, a digest of stages, prices and weights, and the revision of every model."""

    name: str
    fingerprint: str
    models: dict[str, str]


class RunHeader(Record, frozen=True, kw_only=True):
    """What was run, where, when and from which state of the code.

    `step_modes` says by stage how it made its decode steps (`asd.engines.StepMode`), `asked_eager` which
    stages the ladder forbids to be captured.
    """

    schema_version: int
    created: str
    git_commit: str
    git_dirty: bool
    ladder: LadderRecord
    hardware: HardwareKey
    environment: Environment
    seeds: dict[str, int] = {}
    step_modes: dict[str, str] = {}
    asked_eager: tuple[str, ...] = ()

    def step_mode(self, stage: str) -> str:
        """How a stage made its decode steps; records of versions that knew one way only do not say."""
        return self.step_modes.get(stage, "eager")

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise DataError(
                f"record has schema version {self.schema_version}, not {SCHEMA_VERSION}; record it again"
            )


class DatasetRecord(Record, frozen=True, kw_only=True):
    """The items of one dataset, in the order of every cell's per-item values.

    `digests` tell whether an item of the same id still asks the same question, `version` where the rows came
    from ("sha256:...", "openai/gsm8k@commit"; empty for rows that are generated).
    """

    name: str
    items: tuple[str, ...]
    digests: tuple[str, ...]
    version: str = ""

    def __post_init__(self) -> None:
        if len(self.items) != len(self.digests) or len(set(self.items)) != len(self.items):
            raise DataError(f"dataset {self.name}: items must be unique and carry one digest each")

    @classmethod
    def of(cls, name: str, queries: list[Query], version: str = "") -> DatasetRecord:
        """Ids and digests (prompt or messages, reference and room for the answer) of the queries of a run."""
        items, digests = tuple(q.id for q in queries), tuple(_digest(q) for q in queries)
        return cls(name=name, items=items, digests=digests, version=version)

    @property
    def fingerprint(self) -> str:
        """Digest of ids and contents together."""
        return hashlib.sha256("\n".join((*self.items, *self.digests)).encode()).hexdigest()[:16]


class Metric(Record, frozen=True, kw_only=True):
    """One number of a cell, with what is needed to compare it.

    Attributes:
        name: Unique within its cell.
        value: The number shown.
        tolerance: Largest loss that is still no regression: absolute for quality and for direction "same",
            else relative (0.05 = five per cent).
        interval: Where the value lies with 95 % confidence over the draw of the items; None: it is exact.
        items: Per-item values, aligned with the dataset's items.
        samples: Of times, the seconds of every timed unit of work (usually an item) in every pass, by pass.
        reference: Of ratios of times, what the largest stage took for the same units in the same passes.
        needs: Items without which the metric is not shown (tail percentiles), 0 where it always is.
    """

    name: str
    unit: str
    kind: Kind
    direction: Direction
    provenance: Provenance
    value: float
    tolerance: float
    interval: tuple[float, float] | None = None
    items: tuple[float, ...] | None = None
    samples: Passes | None = None
    reference: Passes | None = None
    needs: int = 0

    def __post_init__(self) -> None:
        times = [s for of_pass in (*(self.samples or ()), *(self.reference or ())) for s in of_pass]
        for number in (self.value, self.tolerance, *(self.interval or ()), *(self.items or ()), *times):
            if not math.isfinite(number):
                raise DataError(f"metric {self.name}: {number} is not a finite number and cannot be recorded")
        if self.tolerance < 0:
            raise DataError(f"metric {self.name}: tolerance {self.tolerance} is negative")
        if min(times, default=1.0) <= 0 or (self.kind == "time" and self.value <= 0):
            raise DataError(f"metric {self.name}: seconds and their ratios are positive")
        if self.reference is not None and _shape(self.reference) != _shape(self.samples or ()):
            raise DataError(f"metric {self.name}: seconds and reference are not of the same passes and units")
        if self.samples is not None and (len(set(_shape(self.samples))) != 1 or not self.samples[0]):
            raise DataError(f"metric {self.name}: the passes are not over the same units")


class Cell(Record, frozen=True, kw_only=True):
    """One measurement: a suite's look at one policy (at one lambda) on one dataset (None: on all of them)."""

    suite: str
    policy: str
    dataset: str | None = None
    lam: float | None = None
    metrics: tuple[Metric, ...]

    def __post_init__(self) -> None:
        if len({metric.name for metric in self.metrics}) != len(self.metrics):
            raise DataError(f"cell {self.id}: two metrics share a name")

    @property
    def id(self) -> str:
        """Stable over runs: `quality[tiny-arithmetic-optimal-lam=0.5]`."""
        lam = None if self.lam is None else f"lam={self.lam:g}"
        return f"{self.suite}[{'-'.join(part for part in (self.dataset, self.policy, lam) if part)}]"

    def metric(self, name: str) -> Metric | None:
        """The metric of that name, if the cell has it."""
        return next((metric for metric in self.metrics if metric.name == name), None)


class Run(Record, frozen=True, kw_only=True):
    """One run: header, the items of its datasets, and its cells."""

    header: RunHeader
    datasets: tuple[DatasetRecord, ...]
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        repeated = [cell_id for cell_id, n in Counter(cell.id for cell in self.cells).items() if n > 1]
        if repeated:
            raise DataError(f"cell {repeated[0]} was recorded twice in one run")
        for cell in self.cells:
            _check_items(cell, {dataset.name: len(dataset.items) for dataset in self.datasets})

    @property
    def n_passes(self) -> int:
        """Most passes that any of its times was measured in; 0 where it holds no times."""
        return max((len(m.samples) for cell in self.cells for m in cell.metrics if m.samples), default=0)

    def dataset(self, name: str) -> DatasetRecord | None:
        """The dataset of that name, if the run has it."""
        return next((dataset for dataset in self.datasets if dataset.name == name), None)


def _shape(passes: Passes) -> list[int]:
    """Units of every pass."""
    return [len(units) for units in passes]


def _digest(query: Query) -> str:
    content = "\0".join((query.prompt, query.reference or "", str(query.max_new_tokens))).encode()
    if query.messages or query.stop:
        content += b"\0" + msgspec.json.encode((query.messages, query.stop))
    return hashlib.sha256(content).hexdigest()[:8]


def _check_items(cell: Cell, sizes: dict[str, int]) -> None:
    if cell.dataset is not None and cell.dataset not in sizes:
        raise DataError(f"cell {cell.id} names dataset {cell.dataset}, which the run does not list")
    for metric in cell.metrics:
        if metric.items is not None and len(metric.items) != sizes.get(cell.dataset or ""):
            raise DataError(f"cell {cell.id}: {metric.name} has {len(metric.items)} values, not one an item")
