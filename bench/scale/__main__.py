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
takes more than 10 microseconds, a solution for up to four stages more than 7 ms, or memory grows with the
requests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import click
import numpy as np
from tabulate import tabulate

from bench.scale.cascades import effort_of, write_cascade
from bench.scale.growth import Taken, growth, one_at_a_time, too_much
from bench.scale.rows import made_up, models_of, resampled, write_rows

__all__ = ["scale"]

_BYTES = 1 if sys.platform == "darwin" else 1024
"""Unit of the peak memory that the system reports."""


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
            rng = np.random.default_rng(seed)
            fitting, arguments = write_cascade(Path(folder), n, n_models, n_replicas, rng)
            _run(fitting)
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
    stages = ["--stages", ",".join(models_of(traces, n_models))]
    if command != "replay":
        return [command, str(write_rows(folder / "rows.jsonl", rows, n)), *stages]
    train, test = (write_rows(folder / f"{name}.jsonl", rows, n // 2) for name in ("train", "test"))
    return [command, "--train", str(train), "--test", str(test), *stages]


if __name__ == "__main__":
    scale()
