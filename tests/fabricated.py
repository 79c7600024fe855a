"""Fabricated runs of realistic size for the gate's own tests: 4 datasets x 150 items, 8 lambdas, 3 passes.

Answers come from three stages of growing skill; the policy stops where a noisy confidence is high for its
lambda. Times carry what a shared two-core machine does: a mood per run and dataset that interleaving does not
remove, jitter of every call, and now and then a neighbour who takes the core away for a tenth of a second.
"""

from collections.abc import Callable

import msgspec
import numpy as np

from asd.measurement.records import (
    SCHEMA_VERSION,
    Cell,
    DatasetRecord,
    Environment,
    HardwareKey,
    LadderRecord,
    Metric,
    Passes,
    Run,
    RunHeader,
)  # fmt: skip
from bench.gate.judge import RunOptions
from bench.gate.store import Baseline, Target

DATASETS = ("tiny-arithmetic", "tiny-lookup", "tiny-reasoning", "tiny-text")
LAMS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
N_ITEMS, N_TIMED, N_PASSES = 150, 20, 3
KEY = HardwareKey(device="amd-epyc", count=2, dtype="float32", batch=1, engine="transformers")
OPTIONS = RunOptions(lams=LAMS, datasets=DATASETS)
COSTS = np.array([0.1, 0.35, 1.0])


def header(hardware: HardwareKey = KEY) -> RunHeader:
    return RunHeader(
        schema_version=SCHEMA_VERSION,
        created="2026-11-22T03:00:00+00:00",
        git_commit="0" * 40,
        git_dirty=False,
        ladder=LadderRecord(name="tiny", fingerprint="f00d", models={"S": "1", "M": "1", "L": "1"}),
        hardware=hardware,
        environment=Environment(
            python="3.11", platform="linux", packages={"torch": "2.13.0"}, cpu="AMD EPYC", cores=2, threads=1
        ),
    )


def fabricate(
    timing: np.random.Generator, hardware: HardwareKey = KEY, flip: np.random.Generator | None = None
) -> Run:
    """One run; answers are always the same unless `flip` redraws each of them with probability 1 %."""
    cells: list[Cell] = []
    for index, dataset in enumerate(DATASETS):
        cells += _dataset_cells(dataset, np.random.default_rng(index), timing, flip)
    cells.append(Cell(suite="overhead", policy="optimal", metrics=(_overhead(timing),)))
    items = tuple(f"q{i}" for i in range(N_ITEMS))
    records = tuple(DatasetRecord(name=name, items=items, digests=("d",) * N_ITEMS) for name in DATASETS)
    return Run(header=header(hardware), datasets=records, cells=tuple(cells))


def baseline_of(run: Run, *targets: Target) -> Baseline:
    return Baseline(schema_version=SCHEMA_VERSION, reason="first", targets=targets, run=run)


def change(run: Run, suite: str, metric: str, edit: Callable[[Cell, Metric], Metric]) -> Run:
    """The run with one metric of one suite edited in every cell."""

    def edited(cell: Cell) -> Cell:
        metrics = tuple(edit(cell, m) if m.name == metric else m for m in cell.metrics)
        return msgspec.structs.replace(cell, metrics=metrics)

    cells = tuple(edited(cell) if cell.suite == suite else cell for cell in run.cells)
    return msgspec.structs.replace(run, cells=cells)


def with_items(metric: Metric, items: np.ndarray) -> Metric:
    return msgspec.structs.replace(metric, items=tuple(items.tolist()), value=float(items.mean()))


def slower(metric: Metric, factor: float) -> Metric:
    """All its seconds `factor` times as long, and the speed-up that follows."""
    samples = tuple(tuple(s * factor for s in of_pass) for of_pass in metric.samples or ())
    value = metric.value / factor if metric.direction == "higher" else metric.value * factor
    return msgspec.structs.replace(metric, samples=samples, value=value)


def passes(seconds: np.ndarray) -> Passes:
    """As a record holds them, from shape (passes, units)."""
    return tuple(tuple(of_pass) for of_pass in seconds.tolist())


def quality_metric(items: np.ndarray) -> Metric:
    return Metric(
        name="quality", unit="share", kind="quality", direction="higher", provenance="replayed",
        value=float(items.mean()), tolerance=0.01, items=tuple(items.tolist()),
    )  # fmt: skip


def cost_metric(items: np.ndarray) -> Metric:
    return Metric(
        name="cost", unit="runs of L", kind="cost", direction="lower", provenance="replayed",
        value=float(items.mean()), tolerance=0.02, items=tuple(items.tolist()),
    )  # fmt: skip


def speedup_metric(seconds: np.ndarray, largest: np.ndarray) -> Metric:
    """From seconds of shape (passes, items)."""
    return Metric(
        name="speedup", unit="x", kind="time", direction="higher", provenance="measured",
        value=float(np.median(largest.sum(axis=1) / seconds.sum(axis=1))), tolerance=0.2,
        samples=passes(seconds), reference=passes(largest),
    )  # fmt: skip


def _dataset_cells(
    dataset: str, world: np.random.Generator, timing: np.random.Generator, flip: np.random.Generator | None
) -> list[Cell]:
    hardness = world.uniform(size=N_ITEMS)
    right = np.stack([(hardness < skill) for skill in (0.68, 0.82, 0.95)]).astype(float)
    confidence = np.clip(right + world.normal(0, 0.35, right.shape), 0, 1)
    lengths = world.gamma(4, 0.25, N_ITEMS)
    mood = timing.normal(0, 0.03)
    largest = _clocked(0.2 * lengths[:N_TIMED], timing)
    cells = []
    for policy, lam in [*(("optimal", lam) for lam in LAMS), ("S", None), ("M", None), ("L", None)]:
        stage = _returned(policy, lam, confidence)
        items = right[stage, np.arange(N_ITEMS)]
        if flip is not None:
            items = np.where(flip.uniform(size=N_ITEMS) < 0.01, 1 - items, items)
        paid = np.cumsum(COSTS)[stage] if lam is not None else COSTS[stage]
        cost = paid * lengths
        where = {"dataset": dataset, "policy": policy, "lam": lam}
        cells.append(Cell(suite="quality", metrics=(quality_metric(items),), **where))
        cells.append(Cell(suite="cost", metrics=(cost_metric(cost),), **where))
        if policy == "optimal":
            seconds = _clocked(0.2 * cost[:N_TIMED] * np.exp(mood), timing)
            speedup = speedup_metric(seconds, largest)
            cells.append(Cell(suite="latency", metrics=(speedup,), **where))
    return cells


def _returned(policy: str, lam: float | None, confidence: np.ndarray) -> np.ndarray:
    if lam is None:
        return np.full(confidence.shape[1], "SML".index(policy))
    bar = np.clip(0.2 + 0.15 * np.log2(lam * 10), 0, 0.95)
    return np.where(confidence[0] >= bar, 0, np.where(confidence[1] >= bar, 1, 2))


def _clocked(seconds: np.ndarray, timing: np.random.Generator) -> np.ndarray:
    """What a clock says in every pass: jitter of each call, and a neighbour in every thirtieth one."""
    shape = (N_PASSES, len(seconds))
    neighbour = timing.exponential(0.1, shape) * (timing.uniform(size=shape) < 0.03)
    return seconds * np.exp(timing.normal(0, 0.06, shape)) + neighbour


def _overhead(timing: np.random.Generator) -> Metric:
    samples = 1e-5 * np.exp(timing.normal(0, 0.1, (N_PASSES, 20)))
    return Metric(
        name="decision_s", unit="s", kind="time", direction="lower", provenance="measured",
        value=float(np.median(samples)), tolerance=0.5, samples=passes(samples),
    )  # fmt: skip
