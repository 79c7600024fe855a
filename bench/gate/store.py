"""Baselines on disk: one recorded run per hardware key and ladder, its reason, and absolute targets.

    baselines/<hardware key>/<ladder>.json

Written by one command that wants a reason. Targets are written by hand into the file and survive a new
recording; one that the recorded value does not stand clear of is moved away from it, and says so. This module
finds, reads and writes; `gate` judges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from asd.errors import ConfigError, DataError
from asd.measurement.files import read_record, write_record
from asd.measurement.records import SCHEMA_VERSION, HardwareKey, Metric, Record, Run
from asd.schema import msgspec
from bench.gate.retired import is_retired
from bench.gate.steps import other_steps
from bench.gate.verdicts import Verdict

__all__ = [
    "Baseline",
    "Target",
    "WrittenBaseline",
    "baseline_path",
    "find_baseline",
    "pinned_by",
    "read_baseline",
    "record_baseline",
]

DRIFT = 0.1
"""How far a ratio of times may be apart between two runs of one build, beyond the interval of either.

As `bench.alarms` lets the state of the machine vary.
"""

CLEAR = 2.0
"""Half-widths of its interval that a value must stand clear of its targets by when it is recorded."""


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

    def verdict(self, metric: Metric) -> Verdict:
        """PASS: the whole interval lies within the limits, bounds included. BELOW_TARGET: none of it does.

        Of times not even where it is longer by `DRIFT`: what a state of the machine explains is no miss.
        """
        low, high = metric.interval or (metric.value, metric.value)
        drift = 1.0 + DRIFT if metric.kind == "time" else 1.0
        above = self.most is not None and low / drift > self.most
        if above or (self.least is not None and high * drift < self.least):
            return Verdict.BELOW_TARGET
        met = (self.least is None or low >= self.least) and (self.most is None or high <= self.most)
        return Verdict.PASS if met else Verdict.INCONCLUSIVE

    def clear_of(self, metric: Metric) -> Self:
        """The target as strict as a value allows: `CLEAR` half-widths of its interval away from it.

        A line nearer than that would be crossed by the luck of a rerun.
        """
        low, high = metric.interval or (metric.value, metric.value)
        margin = CLEAR * (high - low) / 2
        least = None if self.least is None else min(self.least, _rounded(metric.value - margin, math.floor))
        most = None if self.most is None else max(self.most, _rounded(metric.value + margin, math.ceil))
        if (least, most) == (self.least, self.most):
            return self
        reason = f"{self.reason}; " if self.reason else ""
        reason += f"moved from {_bounds(self)} to stand clear of {metric.value:.4g} when that was recorded"
        return msgspec.structs.replace(self, least=least, most=most, reason=reason)

    def __str__(self) -> str:
        return f"target: {_bounds(self)}" + (f" ({self.reason})" if self.reason else "")


def _bounds(target: Target) -> str:
    bounds = {"at least": target.least, "at most": target.most}
    return " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)


def _rounded(bound: float, towards: Callable[[float], int]) -> float:
    """To three digits, away from the value."""
    if bound == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(bound))) - 2)
    return float(f"{towards(bound / unit) * unit:.3g}")


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
        return read_baseline(exact)
    others = [read_baseline(path) for path in sorted(directory.glob(f"*/{ladder}.json"))]
    return max(
        (other for other in others if other.run.header.hardware.batch == key.batch),
        key=lambda other: (other.run.header.hardware.computes_like(key), other.run.header.created),
        default=None,
    )


def read_baseline(path: Path) -> Baseline:
    """Read a baseline file, of this version or an earlier one.

    Raises:
        DataError: The file is missing, unreadable, cut off, from another schema or has unknown fields.
    """
    return read_record(path, Baseline, upgrade=_from_version_1)


@dataclass(frozen=True, slots=True)
class WrittenBaseline:
    """Where a baseline was written, and what moved in it, in words: targets, the mode of decode steps."""

    path: Path
    moved: tuple[str, ...]


def record_baseline(directory: Path, run: Run, reason: str) -> WrittenBaseline:
    """Make a run the baseline of its key and ladder; targets of the one it replaces are kept.

    Targets on what is not measured any more go. One that the value now stands less than `CLEAR` half-widths
    clear of is moved to that distance, which its reason then states: it would be missed by luck.

    Raises:
        ConfigError: The reason is empty.
        DataError: The baseline to be replaced cannot be read, or a number is not finite.
        StorageError: The file could not be written; the old one is intact.
    """
    if not reason.strip():
        raise ConfigError("a baseline is recorded with a reason: --record-baseline --reason 'why'")
    path = baseline_path(directory, run.header.hardware, run.header.ladder.name)
    replaced = read_baseline(path) if path.exists() else None
    stored = () if replaced is None else replaced.targets
    measured = {(cell.id, metric.name): metric for cell in run.cells for metric in cell.metrics}
    kept = [target for target in stored if not is_retired(target.cell, target.metric)]
    targets = [
        target.clear_of(measured[target.cell, target.metric])
        if (target.cell, target.metric) in measured
        else target
        for target in kept
    ]
    baseline = Baseline(schema_version=SCHEMA_VERSION, reason=reason, targets=tuple(targets), run=run)
    write_record(path, baseline, expand=3)
    moved = [f"{new.cell} {new.metric}: {new}" for old, new in zip(kept, targets, strict=True) if old != new]
    if replaced is not None and (steps := other_steps(run.header, replaced.run.header)):
        moved.append(f"note: {steps}, than in the baseline that is replaced")
    return WrittenBaseline(path, tuple(moved))


def _from_version_1(content: Any) -> Any:
    """The first version kept the fastest pass alone of times; what else it held is as it was."""
    try:
        if content["schema_version"] == 1:
            content["schema_version"] = content["run"]["header"]["schema_version"] = SCHEMA_VERSION
            for metric in (metric for cell in content["run"]["cells"] for metric in cell["metrics"]):
                for name in ("seconds", "yardstick", "passes"):
                    metric.pop(name, None)
    except (AttributeError, LookupError, TypeError):  # no baseline at all: the decoder says what is wrong
        pass
    return content


def pinned_by(baseline: Baseline | None) -> dict[str, str]:
    """Commits of the data sets that a baseline was recorded on, by repository."""
    versions = [dataset.version for dataset in baseline.run.datasets] if baseline else []
    parts = (part.rpartition("@") for version in versions for part in version.split())
    return {repo: commit for repo, at, commit in parts if at}
