"""`asd contest`: policies under load on the same devices at equal quality, with recorded real models."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from asd.cli.examples import examples
from asd.cli.options import FINITE, numbers, split
from asd.errors import ConfigError
from asd.operations.books import Summary
from asd.operations.runs import mean_of
from asd.research.load.contest import LARGEST, SETTINGS, ContestFile, ContestHeader, LoadCell, run_contest
from asd.research.load.recorded import read_timed

OURS = "queue"


@click.command(
    epilog=examples(
        "asd contest mmlu.jsonl.gz gsm8k.jsonl.gz --stages 8b,70b,405b --devices 1,4,8 --total 16",
        "asd contest r.jsonl.gz --stages 8b,405b --devices 1,8 --total 24 --arrivals poisson,clients.csv.gz",
    )
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--stages", required=True, help="Models as the files call them, the largest last.")
@click.option("--devices", required=True, help="That a replica of each stage takes, by commas.")
@click.option("--total", type=click.IntRange(min=1), required=True, help="Devices there are.")
@click.option("--loads", default="0.7,0.85", show_default=True, help="Of the largest stage on all of them.")
@click.option("--arrivals", default="poisson", show_default=True, help="poisson, files of recorded clients.")
@click.option("--days", type=click.IntRange(min=1), default=12, show_default=True, help="Held-out days.")
@click.option("--requests", type=click.IntRange(min=300), default=8000, show_default=True, help="Of a day.")
@click.option("--keep", type=FINITE, default=0.98, show_default=True, help="Of the largest stage's quality.")
@click.option(
    "--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Keep every day; continue from it."
)
def contest(  # noqa: PLR0913, PLR0917  (one argument an option)
    files: tuple[Path, ...],
    stages: str,
    devices: str,
    total: int,
    loads: str,
    arrivals: str,
    days: int,
    requests: int,
    keep: float,
    out: Path | None,
) -> None:
    """Let policies answer the same requests on the same devices, each tuned and placed by itself.

    FILES hold recorded outcomes with seconds and token counts; a call takes its recorded seconds.
    """
    names, sizes = tuple(split(stages)), numbers(devices, "--devices")
    if len(sizes) != len(names) or not all(size >= 1 and size == int(size) for size in sizes):
        raise ConfigError(f"--devices {devices}: give {len(names)} whole numbers, one a stage")
    rhos = tuple(numbers(loads, "--loads"))
    if not all(0.0 < rho < 1.0 for rho in rhos):
        raise ConfigError(f"--loads {loads}: a load lies between 0 and 1, where the largest stage is stable")
    if not 0.0 <= keep <= 1.0:
        raise ConfigError(f"--keep {keep:g}: a share of the largest stage's quality lies between 0 and 1")
    if not split(arrivals):
        raise ConfigError(f"--arrivals {arrivals!r}: give poisson or files of recorded clients")
    traces = read_timed(files, names)
    asked = ContestHeader(
        stages=names,
        devices=tuple(map(int, sizes)),
        total=total,
        loads=rhos,
        arrivals=tuple(split(arrivals)),
        keep=keep,
        n_requests=requests,
        n_queries=len(traces),
    )
    n_steps = days * len(rhos) * len(asked.arrivals) * (1 + len(SETTINGS))
    with tqdm(total=n_steps, disable=None, file=sys.stderr) as bar:
        found = run_contest(asked, traces, range(1, days + 1), out, bar.update)
    for cell in found.cells:
        _show(found, cell)
    click.echo("provenance: simulated, with recorded outcomes and seconds of real models; 95 % intervals")


def _show(found: ContestFile, cell: LoadCell) -> None:
    runs = {name: found.totals(cell, name) for name in (LARGEST, *SETTINGS)}
    click.echo(f"\nload {cell.rho:g} of {found.asked.stages[-1]} alone, arrivals {cell.arrivals}")
    rows = [_row(name, list(days.values()), found.asked.stages) for name, days in runs.items() if days]
    click.echo(tabulate(rows, headers="keys", disable_numparse=True))
    for name in (name for name, days in runs.items() if not days):
        click.echo(f"{name}: no setting reached {found.asked.keep:g} of the largest stage's quality")
    for name in (name for name, days in runs.items() if days and runs[OURS] and name != OURS):
        click.echo(_compared(name, runs[name], runs[OURS]))


def _row(name: str, totals: Sequence[Summary], stages: Sequence[str]) -> dict[str, str]:
    return {
        "policy": name,
        "days": str(len(totals)),
        "quality": str(mean_of([t.quality for t in totals])),
        "mean": str(mean_of([t.latency_s for t in totals])),
        "P95": str(mean_of([_p95(t) for t in totals])),
        "inside at end": f"{np.mean([t.n_inside for t in totals]):.1f}",
        "use": " ".join(f"{np.mean([t.stages[s].utilisation for t in totals]):.0%}" for s in stages),
        "answers of": " ".join(
            f"{np.mean([t.stages[s].share_answered for t in totals]):.0%}" for s in stages
        ),
    }


def _compared(name: str, theirs: dict[int, Summary], ours: dict[int, Summary]) -> str:
    """Ratio of P95 (geometric mean over days that both have) and difference of quality, paired by day."""
    days = [day for day in ours if day in theirs]
    if not days:
        return f"{OURS} and {name} have no day in common"
    logs = mean_of([math.log(_p95(theirs[day]) / _p95(ours[day])) for day in days])
    quality = mean_of([ours[day].quality - theirs[day].quality for day in days])
    low, mid, high = (math.exp(logs.value + step) for step in (-logs.half, 0.0, logs.half))
    ratio = f"{mid:.2f} ({low:.2f} to {high:.2f}), {1.0 - 1.0 / mid:.0%} lower"
    low, high = quality.value - quality.half, quality.value + quality.half
    better = f"quality {quality.value:+.4f} ({low:+.4f} to {high:+.4f})"
    return f"P95 of {name} / P95 of {OURS} = {ratio}, {better}, {len(days)} days"


def _p95(total: Summary) -> float:
    assert total.p95_s is not None  # a day has 300 requests and more
    return total.p95_s
