"""Baselines on disk: one recorded run per hardware key and ladder, its reason, and absolute targets.

    baselines/<hardware key>/<ladder>.json

Written by one command that wants a reason. Targets are written by hand into the file and survive a new
recording. The border: this module finds, reads and writes; `gate` judges.
"""

from __future__ import annotations

import math
from pathlib import Path

from asd.errors import ConfigError, DataError
from asd.measurement.files import read_record, write_record
from asd.measurement.records import SCHEMA_VERSION, HardwareKey, Record, Run

__all__ = ["Baseline", "Target", "baseline_path", "find_baseline", "pinned_by", "record_baseline"]


class Target(Record, frozen=True, kw_only=True):
    """An absolute limit on one metric of one cell: at least `least`, at most `most`.

    `hardware` is the slug of the key it holds on; None: anywhere, which suits ratios, cost and quality but
    never seconds.
    """

    cell: str
    metric: str
    least: float | None = None
    most: float | None = None
    hardware: str | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.least, self.most) if bound is not None]
        if not bounds or not all(math.isfinite(bound) for bound in bounds):
            raise DataError(f"target {self.metric} of {self.cell}: give least or most, a finite number")

    def is_met_by(self, value: float) -> bool:
        """The value lies within the limits, bounds included."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


class Baseline(Record, frozen=True, kw_only=True):
    """A run that later ones are compared with, why it was recorded, and targets that hold beside it."""

    schema_version: int
    reason: str
    targets: tuple[Target, ...] = ()
    run: Run

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise DataError(f"baseline has schema version {self.schema_version}, not {SCHEMA_VERSION}")


def baseline_path(directory: Path, key: HardwareKey, ladder: str) -> Path:
    """Where the baseline of a ladder on a machine is kept."""
    return directory / key.slug / f"{ladder}.json"


def find_baseline(directory: Path, key: HardwareKey, ladder: str) -> Baseline | None:
    """The baseline to judge by: of this very key, else of one that computes alike, else the newest one.

    Away from its own key a baseline still judges quality and priced cost, but not at another batch size: the
    policy is solved for other prices there, so nothing that it does need be the same. None if there is none.

    Raises:
        DataError: A baseline file of this ladder cannot be read.
    """
    exact = baseline_path(directory, key, ladder)
    if exact.exists():
        return read_record(exact, Baseline)
    others = [read_record(path, Baseline) for path in sorted(directory.glob(f"*/{ladder}.json"))]
    return max(
        (other for other in others if other.run.header.hardware.batch == key.batch),
        key=lambda other: (other.run.header.hardware.computes_like(key), other.run.header.created),
        default=None,
    )


def record_baseline(directory: Path, run: Run, reason: str) -> Path:
    """Make a run the baseline of its key and ladder; targets of the one it replaces are kept.

    Raises:
        ConfigError: The reason is empty.
        DataError: The baseline to be replaced cannot be read, or a number is not finite.
        StorageError: The file could not be written; the old one is intact.
    """
    if not reason.strip():
        raise ConfigError("a baseline is recorded with a reason: --record-baseline --reason 'why'")
    path = baseline_path(directory, run.header.hardware, run.header.ladder.name)
    targets = read_record(path, Baseline).targets if path.exists() else ()
    write_record(
        path, Baseline(schema_version=SCHEMA_VERSION, reason=reason, targets=targets, run=run), expand=3
    )
    return path


def pinned_by(baseline: Baseline | None) -> dict[str, str]:
    """Commits of the data sets that a baseline was recorded on, by repository."""
    versions = [dataset.version for dataset in baseline.run.datasets] if baseline else []
    parts = (part.rpartition("@") for version in versions for part in version.split())
    return {repo: commit for repo, at, commit in parts if at}
