"""How a command on recorded outcomes grows with queries and models: seconds, memory, exponents.

    python -m bench.scale --queries 1000,10000,100000 --models 5
    python -m bench.scale --command frontier --queries 1000,10000 --models 2,4,8 --traces real.jsonl.gz

Every run is a process of its own, on half of the queries to fit and half to play (other commands than
`replay`: all of them in one file). Rows are made up, or resampled from recorded ones; either way they say how
long a command takes and how much memory it needs, and nothing about quality (`timing-only`). An exponent is
that of a power law through a row and the one above: 1 is linear growth. The first run of all, not shown,
warms the disk cache.
"""

from __future__ import annotations

import gzip
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
from tabulate import tabulate

from asd.schema import msgspec

__all__ = ["Taken", "growth", "made_up", "resampled", "scale"]

_BYTES = 1 if sys.platform == "darwin" else 1024
"""Unit of the peak memory that the system reports."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one run took.

    Attributes:
        queries: Rows in the files.
        models: Stages of the ladder.
        seconds: By the clock.
        cpu_seconds: Of the processor, user and system.
        peak_mb: Largest resident memory, 10^6 bytes.
    """

    queries: int
    models: int
    seconds: float
    cpu_seconds: float
    peak_mb: float


def _numbers(_ctx: click.Context, _param: click.Parameter, text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{text}: give numbers separated by commas, as in 1000,10000")
    return sorted({int(part) for part in parts})


@click.command()
@click.option("--command", type=click.Choice(["replay", "frontier", "certify"]), default="replay")
@click.option("--queries", default="1000,10000,100000", show_default=True, callback=_numbers)
@click.option("--models", default="5", show_default=True, callback=_numbers, help="Stages of the ladder.")
@click.option("--traces", type=click.Path(path_type=Path), help="Recorded rows to draw from. [default: none]")
@click.option("--seed", type=int, default=0, show_default=True)
def scale(command: str, queries: list[int], models: list[int], traces: Path | None, seed: int) -> None:
    """Time a command on more and more queries, and on more and more models."""
    taken: list[Taken] = []
    for n_models, n in product(models, queries):
        rng = np.random.default_rng(seed)
        with tempfile.TemporaryDirectory() as folder:
            arguments = _arguments(command, Path(folder), n, n_models, traces, rng)
            if not taken:
                _run(arguments)
            taken.append(Taken(n, n_models, *_run(arguments)))
    rows = "made up" if traces is None else f"resampled from {traces.name}"
    click.echo(tabulate(growth(taken), headers="keys", floatfmt=".4g", missingval="-"))
    click.echo(f"asd {command}; rows {rows}; provenance: timing-only")


def growth(taken: Sequence[Taken]) -> list[dict[str, object]]:
    """One row a run; exponents from the next smaller one with as many models, and with as many queries."""
    return [
        {
            "queries": run.queries,
            "models": run.models,
            "seconds": run.seconds,
            "CPU seconds": run.cpu_seconds,
            "peak MB": run.peak_mb,
            "exponent, queries": _exponent(taken, run, "queries", "models"),
            "exponent, models": _exponent(taken, run, "models", "queries"),
        }
        for run in taken
    ]


def _exponent(taken: Sequence[Taken], run: Taken, grown: str, same: str) -> float | None:
    size = getattr(run, grown)
    smaller = [r for r in taken if getattr(r, same) == getattr(run, same) and getattr(r, grown) < size]
    if not smaller:
        return None
    before = max(smaller, key=lambda r: int(getattr(r, grown)))
    return math.log(run.seconds / before.seconds) / math.log(size / getattr(before, grown))


def _run(arguments: Sequence[str]) -> tuple[float, float, float]:
    """Seconds, seconds of the processor and peak memory of `asd ARGUMENTS`."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603 - this package, on files of our own
            [sys.executable, "-m", "asd", *arguments], stdout=said, stderr=said
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise click.ClickException(f"asd {' '.join(arguments)}:\n{said.read().decode()[-2000:]}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _BYTES / 1e6


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
