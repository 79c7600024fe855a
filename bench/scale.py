"""How a command on recorded outcomes grows with queries and models: seconds, memory, exponents.

    python -m bench.scale --queries 1000,10000,100000 --models 5
    python -m bench.scale --command frontier --queries 1000,10000 --models 2,4,8 --traces real.jsonl.gz
    python -m bench.scale --command simulate --queries 265000,530000,1060000 --models 2,3,4 --replicas 1,4,16

Every run is a process of its own, on half of the queries to fit and half to play (other commands than
`replay`: all of them in one file). Rows are made up, or resampled from recorded ones; either way they say how
long a command takes and how much memory it needs, and nothing about quality (`timing-only`). An exponent is
that of a power law through a row and the one above: 1 is linear growth. The first run of all, not shown,
warms the disk cache.

Of `simulate`, queries are requests to a queue-aware cascade of so many stages, each with so many replicas
and as much load a replica; one number grows at a time, from the least of each. It fails where a decision
takes more than 10 microseconds, a solution for up to three stages more than 7 ms, or memory grows with the
requests.
"""

from __future__ import annotations

import gzip
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
from tabulate import tabulate

from asd.schema import msgspec
from bench.cascades import effort_of, write_cascade

__all__ = ["Taken", "growth", "made_up", "one_at_a_time", "resampled", "scale", "too_much"]

_BYTES = 1 if sys.platform == "darwin" else 1024
"""Unit of the peak memory that the system reports."""
MOST_DECISION_US, MOST_SOLVE_MS, MOST_STAGES, MOST_MEMORY = 10.0, 7.0, 3, 1.1
"""Of `simulate`: a decision, a solution for so many stages, memory over that of fewer requests."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one run took.

    Attributes:
        queries: Rows in the files, or requests simulated.
        models: Stages of the ladder.
        seconds: By the clock.
        cpu_seconds: Of the processor, user and system.
        peak_mb: Largest resident memory, 10^6 bytes.
        replicas: Of every stage simulated.
        decision_us: Microseconds of a decision, of `simulate`.
        solve_ms: Milliseconds of a solution, of `simulate`.
    """

    queries: int
    models: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    replicas: int = 1
    decision_us: float | None = None
    solve_ms: float | None = None


def _numbers(_ctx: click.Context, _param: click.Parameter, text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{text}: give numbers separated by commas, as in 1000,10000")
    return sorted({int(part) for part in parts})


@click.command()
@click.option("--command", type=click.Choice(["replay", "frontier", "certify", "simulate"]), default="replay")
@click.option("--queries", default="1000,10000,100000", show_default=True, callback=_numbers)
@click.option("--models", default="5", show_default=True, callback=_numbers, help="Stages of the ladder.")
@click.option("--replicas", default="1", show_default=True, callback=_numbers, help="Of stages simulated.")
@click.option("--traces", type=click.Path(path_type=Path), help="Recorded rows to draw from. [default: none]")
@click.option("--seed", type=int, default=0, show_default=True)
def scale(
    command: str, queries: list[int], models: list[int], replicas: list[int], traces: Path | None, seed: int
) -> None:
    """Time a command on more and more queries, and on more and more models."""
    if command == "simulate":
        if traces is not None:
            raise click.UsageError("simulate makes its rows up: leave --traces out")
        _simulate(queries, models, replicas, seed)
        return
    taken: list[Taken] = []
    for n_models, n in product(models, queries):
        rng = np.random.default_rng(seed)
        with tempfile.TemporaryDirectory() as folder:
            arguments = _arguments(command, Path(folder), n, n_models, traces, rng)
            if not taken:
                _run(arguments)
            seconds, cpu_seconds, peak_mb, _ = _run(arguments)
        taken.append(Taken(n, n_models, seconds, cpu_seconds, peak_mb))
    rows = "made up" if traces is None else f"resampled from {traces.name}"
    _show(growth(taken), f"asd {command}; rows {rows}")


def _simulate(queries: Sequence[int], models: Sequence[int], replicas: Sequence[int], seed: int) -> None:
    taken: list[Taken] = []
    for n, n_models, n_replicas in one_at_a_time(queries, models, replicas):
        with tempfile.TemporaryDirectory() as folder:
            arguments = write_cascade(Path(folder), n, n_models, n_replicas, np.random.default_rng(seed))
            if not taken:
                _run(arguments)
            seconds, cpu_seconds, peak_mb, said = _run(arguments)
        taken.append(Taken(n, n_models, seconds, cpu_seconds, peak_mb, n_replicas, *effort_of(said)))
    rows = growth(taken, ("queries", "models", "replicas"))
    for row, run in zip(rows, taken, strict=True):
        row |= {"decision, microseconds": run.decision_us, "solution, ms": run.solve_ms}
    _show(rows, "asd simulate --policies queue:5:1; rows made up")
    if broken := too_much(taken):
        raise click.ClickException("; ".join(broken))


def _show(rows: Sequence[dict[str, object]], what: str) -> None:
    click.echo(tabulate(rows, headers="keys", floatfmt=".4g", missingval="-"))
    click.echo(f"{what}; provenance: timing-only")


def one_at_a_time(*axes: Sequence[int]) -> list[tuple[int, ...]]:
    """The first of every axis, and what comes of it by changing one of them."""
    first = tuple(axis[0] for axis in axes)
    grown = [(*first[:i], size, *first[i + 1 :]) for i, axis in enumerate(axes) for size in axis[1:]]
    return [first, *grown]


def too_much(taken: Sequence[Taken]) -> list[str]:
    """What runs of `simulate` took that they may not take, in words."""
    found = []
    for run in taken:
        where = f"{run.queries} requests, {run.models} stages, {run.replicas} replicas"
        before = _before(taken, run, "queries", ("models", "replicas"))
        if run.decision_us is not None and run.decision_us > MOST_DECISION_US:
            found.append(
                f"{where}: a decision takes {run.decision_us:g} of {MOST_DECISION_US:g} microseconds"
            )
        if run.solve_ms is not None and run.models <= MOST_STAGES and run.solve_ms > MOST_SOLVE_MS:
            found.append(f"{where}: a solution takes {run.solve_ms:g} of {MOST_SOLVE_MS:g} ms")
        if before is not None and run.peak_mb > MOST_MEMORY * before.peak_mb:
            found.append(f"{where}: {run.peak_mb:.4g} MB, with {before.queries} {before.peak_mb:.4g} MB")
    return found


def growth(taken: Sequence[Taken], axes: Sequence[str] = ("queries", "models")) -> list[dict[str, object]]:
    """One row a run; exponents by what has grown, from the next smaller run that is equal in all else."""
    return [
        {
            **{axis: getattr(run, axis) for axis in axes},
            "seconds": run.seconds,
            "CPU seconds": run.cpu_seconds,
            "peak MB": run.peak_mb,
            **{f"exponent, {axis}": _exponent(taken, run, axis, set(axes) - {axis}) for axis in axes},
        }
        for run in taken
    ]


def _exponent(taken: Sequence[Taken], run: Taken, grown: str, same: Collection[str]) -> float | None:
    before = _before(taken, run, grown, same)
    if before is None:
        return None
    return math.log(run.seconds / before.seconds) / math.log(getattr(run, grown) / getattr(before, grown))


def _before(taken: Sequence[Taken], run: Taken, grown: str, same: Collection[str]) -> Taken | None:
    """The next smaller run; None: it is the smallest."""
    smaller = [
        other
        for other in taken
        if getattr(other, grown) < getattr(run, grown)
        and all(getattr(other, axis) == getattr(run, axis) for axis in same)
    ]
    return max(smaller, key=lambda other: int(getattr(other, grown)), default=None)


def _run(arguments: Sequence[str]) -> tuple[float, float, float, str]:
    """Seconds, seconds of the processor, peak memory and output of `asd ARGUMENTS`."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603 - this package, on files of our own
            [sys.executable, "-m", "asd", *arguments], stdout=said, stderr=said
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode()
    if process.returncode:
        raise click.ClickException(f"asd {' '.join(arguments)}:\n{text[-2000:]}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _BYTES / 1e6, text


def _arguments(
    command: str, folder: Path, n: int, n_models: int, traces: Path | None, rng: np.random.Generator
) -> list[str]:
    """Write the files, and what to call on them."""
    rows = made_up(n_models, rng) if traces is None else resampled(traces, n_models, rng)
    stages = ["--stages", ",".join(_models(traces, n_models))]
    if command != "replay":
        return [command, str(_write(folder / "rows.jsonl", rows, n)), *stages]
    train, test = (_write(folder / f"{name}.jsonl", rows, n // 2) for name in ("train", "test"))
    return [command, "--train", str(train), "--test", str(test), *stages]


def _write(path: Path, rows: Iterator[dict[str, Any]], n: int) -> Path:
    with path.open("wb") as file:
        file.writelines(msgspec.json.encode(next(rows)) + b"\n" for _ in range(n))
    return path


def made_up(n_models: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Queries without end: prompts of 10 to 99 random words, answers of 1 to 39; dearer models are better."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, size)) for size in rng.integers(2, 9, 5000)]
    number = 0
    while True:
        number += 1
        prompt, difficulty = _said(words, int(rng.integers(10, 100)), rng), rng.normal()
        outputs = {}
        for k, model in enumerate(_models(None, n_models)):
            right = bool(difficulty + rng.normal() < 3.0 * k / n_models)
            outputs[model] = {
                "score": int(right),
                "response": _said(words, int(rng.integers(1, 40)), rng),
                "confidence": -float(rng.exponential(0.5 if right else 1.5)),
                "cost": 3.0**k * len(prompt),
            }
        yield {"id": str(number), "dataset": "made-up", "prompt": prompt, "outputs": outputs}


def _said(words: Sequence[str], n: int, rng: np.random.Generator) -> str:
    return " ".join(words[i] for i in rng.integers(0, len(words), n))


def resampled(path: Path, n_models: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Recorded rows without end, drawn with replacement; a number before the prompt keeps them apart."""
    models = _models(path, n_models)
    rows = [row for row in _rows(path) if all(_is_scored(row, model) for model in models)]
    if not rows:
        raise click.ClickException(f"{path} has no row with a score of all of {', '.join(models)}")
    number = 0
    while True:
        number += 1
        row = rows[rng.integers(len(rows))]
        said = row.get("prompt") or row.get("question") or ""
        outputs = {model: row["outputs"][model] for model in models}
        yield {"id": str(number), "dataset": "resampled", "prompt": f"{number} {said}", "outputs": outputs}


def _is_scored(row: dict[str, Any], model: str) -> bool:
    return (row["outputs"].get(model) or {}).get("score") is not None


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        yield from (msgspec.json.decode(line) for line in file if line.strip())


def _models(path: Path | None, n_models: int) -> list[str]:
    """Names of the first models on the file's first line, or made-up ones."""
    if path is None:
        return [f"m{k}" for k in range(n_models)]
    known = list(next(_rows(path))["outputs"])
    if len(known) < n_models:
        raise click.ClickException(f"{path} has {len(known)} models, not {n_models}: {', '.join(known)}")
    return known[:n_models]


if __name__ == "__main__":
    scale()
