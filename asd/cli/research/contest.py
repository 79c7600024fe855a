"""`asd contest`: policies under load on the same devices at equal quality, with recorded real models."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
from tabulate import tabulate
from tqdm import tqdm

from asd.cli.examples import examples
from asd.cli.options import FINITE, numbers, split
from asd.errors import ConfigError
from asd.operations.books import StageWindow, Summary
from asd.operations.runs import Mean
from asd.research.load.contest import (
    FORESIGHT,
    LARGEST,
    OURS,
    RIVALS,
    SETTINGS,
    ContestFile,
    ContestHeader,
    LoadCell,
    over_quarters,
    quarters_in,
    run_contest,
)
from asd.research.load.recorded import read_timed

_NOTE = f"""\
of largest's: quality as a share of what the largest stage scores on the same queries
hindsight: ours, set for that very day; oracle: asks the stage that is right at once; no policy knows these
best of five: each day whichever of {", ".join(RIVALS)} had the least P95
provenance: simulated, with recorded outcomes and seconds of real models
95 % intervals: Student's over the means of quarters of the queries; days of a quarter are not independent"""


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
    n_steps = days * len(rhos) * len(asked.arrivals) * (1 + len(SETTINGS) + len(FORESIGHT))
    with tqdm(total=n_steps, disable=None, file=sys.stderr) as bar:
        found = run_contest(asked, traces, range(1, days + 1), out, bar.update)
    for cell in found.cells:
        _show(found, cell)
    click.echo(f"\n{_NOTE}")


def _show(found: ContestFile, cell: LoadCell) -> None:
    runs = {name: found.totals(cell, name) for name in (LARGEST, *SETTINGS, *FORESIGHT)}
    click.echo(f"\nload {cell.rho:g} of {found.asked.stages[-1]} alone, arrivals {cell.arrivals}")
    rows = [_row(name, days, found.asked.stages) for name, days in runs.items() if days]
    click.echo(tabulate(rows, headers="keys", disable_numparse=True))
    for name in (name for name, days in runs.items() if not days):
        click.echo(f"{name}: no setting reached {found.asked.keep:g} of the largest stage's quality")
    for name, days in (runs | {"best of five": found.best_rival(cell)}).items():
        if days and runs[OURS] and name != OURS:
            click.echo(_compared(name, days, runs[OURS]))


def _row(name: str, days: Mapping[int, Summary], stages: Sequence[str]) -> dict[str, str]:
    def mean(value: Callable[[Summary], float]) -> Mean:
        return over_quarters({day: value(total) for day, total in days.items()})

    def by_stage(value: Callable[[StageWindow], float]) -> str:
        return " ".join(f"{mean(lambda t, s=s: value(t.stages[s])).value:.0%}" for s in stages)  # type: ignore[misc]

    return {
        "policy": name,
        "days": str(len(days)),
        "quality": str(mean(lambda t: t.quality)),
        "of largest's": f"{mean(_share).value:.1%}",
        "mean": str(mean(lambda t: t.latency_s)),
        "P95": str(mean(_p95)),
        "inside at end": f"{mean(lambda t: t.n_inside).value:.1f}",
        "use": by_stage(lambda stage: stage.utilisation),
        "answers of": by_stage(lambda stage: stage.share_answered),
    }


def _compared(name: str, theirs: Mapping[int, Summary], ours: Mapping[int, Summary]) -> str:
    """Ratio of P95 (geometric mean over days that both have) and difference of quality, paired by day."""
    days = [day for day in ours if day in theirs]
    if not days:
        return f"{OURS} and {name} have no day in common"
    logs = over_quarters({day: math.log(_p95(theirs[day]) / _p95(ours[day])) for day in days})
    quality = over_quarters({day: ours[day].quality - theirs[day].quality for day in days})
    ratio = f"{math.exp(logs.value):.2f}{_reach(logs, math.exp, '.2f')}"
    change = math.exp(-logs.value) - 1.0
    lower = f"{abs(change):.0%} {'lower' if change <= 0.0 else 'higher'}"
    better = f"quality {quality.value:+.4f}{_reach(quality, float, '+.4f')}"
    n = f"{len(days)} days, {quarters_in(days)} quarters"
    return f"P95 of {name} / P95 of {OURS} = {ratio}, {lower}, {better}, {n}"


def _reach(mean: Mean, shown: Callable[[float], float], form: str) -> str:
    """Its interval; none of one quarter."""
    low, high = shown(mean.value - mean.half), shown(mean.value + mean.half)
    return f" ({low:{form}} to {high:{form}})" if mean.half else ""


def _share(total: Summary) -> float:
    """Quality as a share of what the largest stage scores on the same queries."""
    assert total.reference  # the largest stage answers something rightly
    return total.quality / total.reference


def _p95(total: Summary) -> float:
    assert total.p95_s is not None  # a day has 300 requests and more
    return total.p95_s
