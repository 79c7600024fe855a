"""How often the gate cries wolf, and what it notices: whole runs resampled from the passes of a baseline.

    python -m bench.alarms --runs 1000

A rerun of the same build has the same answers, and other seconds. Both sides of every comparison are drawn
again from what the baseline recorded: whole passes with replacement, and units of work, the same on both
sides. What differs between two runs and is not in the passes of one, the state of the machine, is drawn as
well: all ratios of a data set move together, by a normal factor with the standard deviation `--state` on the
logarithm. The pair then goes through the gate as any run does, under --strict: what is undecided gets further
passes.

Printed: false alarms (REGRESSED, BELOW_TARGET or MISSING anywhere in the run) with the upper 95 % limit of
Clopper and Pearson, runs that stayed INCONCLUSIVE, and the same of runs in which everything but the largest
stage alone is slower. Exit code 1 if the limit is above `TARGET` (so it is with fewer than 300 runs).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats
from tqdm import tqdm

from asd.errors import DataError
from asd.evaluation.statistics import Bootstrap, ratio_interval
from asd.measurement.records import Cell, Metric, Passes, Run
from bench.gate.family import ErrorRates
from bench.gate.judge import RunOptions, judge
from bench.gate.store import Baseline, read_baseline
from bench.gate.verdicts import Report
from bench.run.matrix import MOST_PASSES, N_PASSES
from bench.run.tables import table

__all__ = ["AlarmCounts", "Reruns", "alarms", "outcomes", "power", "upper_limit"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

TARGET = 0.01
ALARMS = (10, 11)
"""Exit codes that an unchanged build must not end with."""

SLOWDOWNS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
STATE = 0.1
"""Between two recordings on one machine a data set's ratios moved by 2 to 13 per cent."""

BOOTSTRAP = Bootstrap()
"""Drawn once for all runs."""

STORED = Path(__file__).parent.parent / "baselines/cpu-x86-64-x1-float32-b1-transformers/tiny.json"


@dataclass(frozen=True, slots=True)
class AlarmCounts:
    """How many of the runs ended in what."""

    n_runs: int
    n_alarms: int
    n_inconclusive: int


@click.command()
@click.argument("baseline", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=STORED)
@click.option("--runs", type=click.IntRange(min=1), default=1000, show_default=True, help="Unchanged reruns.")
@click.option(
    "--slow-runs", type=click.IntRange(min=0), default=50, show_default=True, help="Of each slowdown."
)
@click.option(
    "--state", type=click.FloatRange(min=0), default=STATE, show_default=True, help="Of the machine."
)
@click.option(
    "--passes",
    type=click.IntRange(1, MOST_PASSES),
    default=N_PASSES,
    show_default=True,
    help="That a rerun makes at first.",
)
@click.option("--seed", default=0, show_default=True)
def alarms(baseline: Path, runs: int, slow_runs: int, state: float, passes: int, seed: int) -> None:
    """Resample whole runs from the passes of a baseline, and count the gate's alarms."""
    try:
        reruns = Reruns(read_baseline(baseline), np.random.default_rng(seed), state, passes)
    except DataError as error:
        raise click.ClickException(str(error)) from error
    same = outcomes(reruns, runs)
    limit = upper_limit(same.n_alarms, runs)
    click.echo(
        f"{runs} reruns of the same build: {same.n_alarms} false alarms, a rate of at most {limit:.2%} with "
        f"95 % confidence; {same.n_inconclusive} inconclusive ({same.n_inconclusive / runs:.1%})"
    )
    if slow_runs:
        click.echo(power(reruns, slow_runs))
    sys.exit(1 if limit > TARGET else 0)


def outcomes(reruns: Reruns, n_runs: int, slowdown: float = 0.0) -> AlarmCounts:
    """What so many reruns ended in."""
    codes = [reruns.judge(slowdown).exit_code for _ in tqdm(range(n_runs), desc=f"{slowdown:.0%} slower")]
    return AlarmCounts(n_runs, sum(code in ALARMS for code in codes), codes.count(13))


def power(reruns: Reruns, n_runs: int) -> str:
    """A table: what share of the runs that are slower the gate notices."""
    rows = []
    for slowdown in SLOWDOWNS:
        found = outcomes(reruns, n_runs, slowdown)
        rows.append(
            (f"{slowdown:.0%}", f"{found.n_alarms / n_runs:.0%}", f"{found.n_inconclusive / n_runs:.0%}")
        )
    return table(("slower by", "noticed", "inconclusive"), rows)


def upper_limit(n_events: int, n_runs: int, confidence: float = 0.95) -> float:
    """Of the rate of what happened so often in so many runs (Clopper and Pearson, one-sided)."""
    return 1.0 if n_events == n_runs else float(stats.beta.ppf(confidence, n_events + 1, n_runs - n_events))


class Reruns:
    """Reruns of the build that a baseline was recorded from, each with luck of its own.

    Args:
        baseline: With the passes of its times.
        rng: Of the luck.
        state: Standard deviation of what the machine's state does to a data set's ratios, on the logarithm.
        n_passes: That a rerun makes before anything of it is undecided.

    Raises:
        DataError: The baseline holds no passes.
    """

    def __init__(
        self,
        baseline: Baseline,
        rng: np.random.Generator,
        state: float = STATE,
        n_passes: int = N_PASSES,
    ) -> None:
        if not baseline.run.n_passes:
            raise DataError("the baseline holds no passes of its times: record it again")
        self._baseline, self._rng, self._state, self._n_passes = baseline, rng, state, n_passes
        cells = baseline.run.cells
        lams = sorted({cell.lam for cell in cells if cell.lam is not None})
        names = tuple(dataset.name for dataset in baseline.run.datasets)
        limits = ErrorRates(bootstrap=BOOTSTRAP)
        self._options = RunOptions(lams=tuple(lams), datasets=names, strict=True, limits=limits)

    def judge(self, slowdown: float = 0.0) -> Report:
        """The verdict on one rerun, in which everything but the largest stage alone takes so much longer."""
        luck = _Luck(self._rng, self._baseline.run, self._state, self._n_passes)
        stored = msgspec.structs.replace(self._baseline, run=luck.stored())
        passes: dict[str, int] = {}
        while True:
            report = judge(luck.rerun(1 + slowdown, passes), stored, self._options)
            made = {i: passes.get(i, self._n_passes) for i in report.undecided}
            undecided = {i for i, n in made.items() if n < MOST_PASSES}
            if not undecided & luck.timed:
                return report
            passes |= {i: made[i] + N_PASSES for i in undecided}


class _Luck:
    """Which passes and units a rerun and its baseline are made of, and what state the machine is in."""

    def __init__(self, rng: np.random.Generator, run: Run, state: float, n_passes: int) -> None:
        self._run, self._rng, self._n_passes = run, rng, n_passes
        self._old = rng.integers(run.n_passes, size=MOST_PASSES)
        self._new = rng.integers(run.n_passes, size=MOST_PASSES)
        self._units: dict[int, Indices] = {}
        self._of_dataset = {d.name: float(np.exp(rng.normal(0, state))) for d in run.datasets}
        self._of_all = float(np.exp(rng.normal(0, state / np.sqrt(len(run.datasets)))))
        self.timed = {cell.id for cell in run.cells if any(m.samples for m in cell.metrics)}

    def stored(self) -> Run:
        """What the rerun is compared with."""
        return self._redrawn({}, self._old, None)

    def rerun(self, factor: float, passes: Mapping[str, int]) -> Run:
        """The rerun, so many times slower; passes by cell where they are more than a rerun makes at first."""
        return self._redrawn(passes, self._new, factor)

    def _redrawn(self, passes: Mapping[str, int], order: Indices, factor: float | None) -> Run:
        """The recorded run of other passes and units; a factor of None leaves out the machine's state."""
        cells = []
        for cell in self._run.cells:
            n = MOST_PASSES if factor is None else passes.get(cell.id, self._n_passes)
            slower = 1.0 if factor is None else factor * self._state_of(cell)
            metrics = tuple(self._metric(metric, order[:n], slower) for metric in cell.metrics)
            cells.append(msgspec.structs.replace(cell, metrics=metrics))
        return msgspec.structs.replace(self._run, cells=tuple(cells))

    def _state_of(self, cell: Cell) -> float:
        return self._of_all if cell.dataset is None else self._of_dataset[cell.dataset]

    def _metric(self, metric: Metric, order: Indices, factor: float) -> Metric:
        if metric.samples is None:
            return metric
        recorded = np.asarray(metric.samples)
        n_passes, n_units = recorded.shape
        if n_units not in self._units:
            self._units[n_units] = np.asarray(self._rng.integers(n_units, size=n_units))
        of = np.ix_(order % n_passes, self._units[n_units])
        if metric.reference is None:
            return _of_seconds(metric, recorded[of] * factor, recorded)
        reference = np.asarray(metric.reference)
        alone = np.array_equal(recorded, reference)  # the largest stage beside itself
        return _of_ratio(metric, recorded[of] * (1.0 if alone else factor), reference[of])


def _of_ratio(metric: Metric, seconds: Array, reference: Array) -> Metric:
    value = float(np.median(reference.sum(axis=1) / seconds.sum(axis=1)))
    interval = ratio_interval(reference, seconds, BOOTSTRAP)
    return msgspec.structs.replace(
        metric, value=value, interval=interval, samples=_passes(seconds), reference=_passes(reference)
    )


def _of_seconds(metric: Metric, seconds: Array, recorded: Array) -> Metric:
    """Value and interval move as the totals do."""
    moved = float(np.median(seconds.sum(axis=1)) / np.median(recorded.sum(axis=1)))
    low, high = metric.interval or (metric.value, metric.value)
    return msgspec.structs.replace(
        metric, value=metric.value * moved, interval=(low * moved, high * moved), samples=_passes(seconds)
    )


def _passes(seconds: Array) -> Passes:
    return tuple(map(tuple, seconds.tolist()))


if __name__ == "__main__":
    alarms()
