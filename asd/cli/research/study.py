"""`asd study --out DIR`: every table on one page; `validity` and `shift`: the guarantee tested, watched."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
import numpy as np
from tabulate import tabulate

from asd.cli.examples import examples
from asd.cli.opening import open_quietly
from asd.cli.options import FINITE, numbers, split
from asd.engines.revisions import revisions
from asd.engines.runtimes import runtimes
from asd.errors import ConfigError
from asd.guarantee.certificate import Promise, play
from asd.guarantee.monitor import ShiftMonitor
from asd.guarantee.record import EVERYTHING
from asd.ladder import TINY_POLICY, Ladder
from asd.measurement.files import read_record, write_atomically
from asd.policy import artifact
from asd.policy.artifact import PolicyArtifact
from asd.traces import answered, read_traces
from asd.workloads.catalogue import default_names, find_workloads

if TYPE_CHECKING:
    from asd.research.recordings.recording import Recording
    from asd.research.study.material import Material
    from asd.research.study.record import Study
    from asd.research.study.validity import RowPopulation, Validity

_RECORDED = {
    "mmlu_pro": {
        "Phi-3-mini-4k-instruct": 3.8,
        "Meta-Llama-3_1-8B-Instruct": 8.0,
        "Meta-Llama-3_1-70B-Instruct": 70.0,
    },
    "zeroeval_gsm": {
        "Meta-Llama-3.1-8B-Instruct": 8.0,
        "Meta-Llama-3.1-70B-Instruct": 70.0,
        "Llama-3.1-405B-Instruct-Turbo": 405.0,
    },
}
"""Public files with many rows, the models made into a ladder, and what each is declared to cost: billions of
parameters."""


LIMIT = 200


@click.group(
    invoke_without_command=True, epilog=examples("asd study --out study   then open study/report.html")
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the study; continued if it exists.")
@click.option("--ladder", default="tiny", show_default=True, help="Preset or TOML file.")
@click.option("--datasets", help="Names or FILE.py, separated by commas. [default: all embedded ones]")
@click.option("--data", help="Folder of the public task sets, or hub. [default: $ASD_DATA]")
@click.option(
    "--policy",
    type=click.Path(path_type=Path),
    help="Made by `asd fit`. [default: tiny's own; of other ladders one is fitted here]",
)
@click.option(
    "--limit", type=click.IntRange(min=2), default=LIMIT, show_default=True, help="Questions of a dataset."
)
@click.option("--traces", help="Files of recorded real models, by commas: tables of their own (replayed).")
@click.option("--stages", help="Models of TRACES, largest last, by commas. [default: all of the first line]")
@click.option("--costs", help="Declared cost of one call of each of these, by commas. [default: as recorded]")
@click.option(
    "--day",
    type=click.Path(path_type=Path),
    help="Folder of `asd day`: claims about load (simulated).",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", help="Such as cpu or cuda:1. [default: a GPU if there is one]")
@click.option("--engine", default="transformers", show_default=True, help="What runs the stages.")
@click.pass_context
def study(  # noqa: PLR0913, PLR0917  (one argument an option)
    ctx: click.Context,
    out: Path | None,
    ladder: str,
    datasets: str | None,
    data: str | None,
    policy: Path | None,
    limit: int,
    traces: str | None,
    stages: str | None,
    costs: str | None,
    day: Path | None,
    seed: int,
    device: str | None,
    engine: str,
) -> None:
    """Measure every method, sweep and statistic on a ladder, and write tables, figures and one page.

    A study that was stopped continues when the same command is given again.
    """
    if ctx.invoked_subcommand is not None:
        return
    if out is None:
        raise ConfigError("give --out DIR, where the study goes")
    # one thread is fastest for small models; torch reads the variable when it is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _check_installed()
    from asd.research.study.material import gather  # noqa: PLC0415

    recorded, steps = _recorded(traces, stages, costs), Ladder.load(ladder)
    operated = None if day is None else _day(day)
    names = default_names() if datasets is None else datasets.split(",")
    material = gather(
        steps,
        find_workloads(names, data),
        open_quietly(steps, device, engine),
        revisions(steps, engine),
        runtimes(steps, engine, device),
        out / "traces",
        policy=_policy(policy, steps),
        limit=limit,
        seed=seed,
        runs_on=f"{engine}, device {device or 'by default'}",
        recorded=recorded,
        day=operated,
    )
    _write_report(material, out)


def _check_installed() -> None:
    """The report's libraries, which take seconds to import."""
    try:
        for module in ("report.figures", "report.page", "study.material", "study.run"):
            import_module(f"asd.research.{module}")
    except ModuleNotFoundError as error:
        raise ConfigError(f"a study needs {error.name}: pip install 'asd[report]'") from error


def _write_report(material: Material, out: Path) -> None:
    """Make the tables of a study, its figures and its page."""
    from asd.research.load.page import drawn  # noqa: PLC0415
    from asd.research.report.figures import draw, write_figures  # noqa: PLC0415
    from asd.research.report.page import render_page  # noqa: PLC0415
    from asd.research.study.run import conduct  # noqa: PLC0415

    found = conduct(material, out)
    figures = [*draw(found), *([] if material.day is None else [drawn(found)])]
    write_figures(figures, out / "figures")
    write_atomically(out / "report.html", render_page(found, figures))
    click.echo(f"{out / 'report.html'}: {len(found.tables)} tables on {material.n} questions")


def _recorded(traces: str | None, stages: str | None, costs: str | None) -> Recording | None:
    """As `asd replay` reads them."""
    if traces is None:
        if stages is not None or costs is not None:
            raise ConfigError("--stages and --costs say what to read of --traces; give that too")
        return None
    from asd.research.recordings.recording import models_in, read_recording  # noqa: PLC0415

    paths = [Path(path) for path in split(traces)]
    if not paths:
        raise ConfigError("--traces names no file")
    models = models_in(paths[0]) if stages is None else split(stages)
    return read_recording(paths, models, None if costs is None else numbers(costs, "--costs"))


def _day(folder: Path) -> Study:
    """What `asd day` wrote there last."""
    from asd.research.study.record import Study  # noqa: PLC0415

    found = read_record(folder / "results.json", Study)
    if "production" not in {table.name for table in found.tables}:
        raise ConfigError(f"--day {folder} is no folder of asd day; make one: asd day TRACES --out {folder}")
    return found


def _policy(path: Path | None, ladder: Ladder) -> PolicyArtifact | None:
    """The one given, else the one that ships with the embedded ladder."""
    if path is None and ladder.name == "tiny":
        path = TINY_POLICY
    return None if path is None else artifact.load(path)


@study.command(
    epilog=examples("asd study validity --data DIR --json validity.json", "asd study validity traces.jsonl")
)
@click.argument("traces", nargs=-1, type=click.Path(path_type=Path))
@click.option("--ladder", default="tiny", show_default=True, help="What TRACES were collected on.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="ASD_DATA",
    show_envvar=True,
    help=f"Folder whose traces/ holds {', '.join(_RECORDED)} (.jsonl.gz).",
)
@click.option("--keep", type=FINITE, default=0.95, show_default=True, help="Share of quality promised.")
@click.option("--delta", type=FINITE, default=0.1, show_default=True, help="Probability of a wrong promise.")
@click.option("--rows", default="300,1000", show_default=True, help="Sizes of the calibration sets.")
@click.option("--draws", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--fit-rows", type=click.IntRange(min=1), default=300, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the table there too.")
def validity(  # noqa: PLR0913, PLR0917  (one argument an option)
    traces: tuple[Path, ...],
    ladder: str,
    data: Path | None,
    keep: float,
    delta: float,
    rows: str,
    draws: int,
    fit_rows: int,
    seed: int,
    out: Path | None,
) -> None:
    """How often is a guarantee wrong? Calibration sets drawn from whole traces, many times (replayed).

    TRACES are files of `asd collect`, of any split; with --data public models' outcomes are added.
    """
    from asd.research.study.validity import check_validity  # noqa: PLC0415  (scikit-learn takes seconds)

    promise = Promise(delta, keep)
    sizes = _sizes(rows)
    rng = np.random.default_rng(seed)
    checked = [
        check_validity(population, promise, n, draws, rng, replaced=replaced)
        for population in _populations(traces, ladder, data, fit_rows, rng)
        for n in sizes
        for replaced in (True, False)
        if replaced or n < population.everyone.cost.shape[1]
    ]
    click.echo(_table(checked))
    if out is not None:
        write_atomically(out, msgspec.json.format(msgspec.json.encode(checked), indent=2).decode() + "\n")


@study.command(epilog=examples("asd study shift live.jsonl --policy policy.json"))
@click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--policy", type=click.Path(path_type=Path), required=True, help="Made by `asd fit --keep`.")
@click.option("--ladder", default="tiny", show_default=True, help="What TRACES were collected on.")
@click.option("--dataset", default=EVERYTHING, help="Whose guarantee, where every dataset has its own.")
@click.option("--alpha", type=FINITE, default=0.01, show_default=True, help="Probability of a false alarm.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order and of ties.")
def shift(traces: tuple[Path, ...], policy: Path, ladder: str, dataset: str, alpha: float, seed: int) -> None:
    """Do TRACES look like the rows a guarantee was made from? Played in random order past the monitor."""
    steps, fitted, rng = Ladder.load(ladder), artifact.load(policy), np.random.default_rng(seed)
    batch = 1 if fitted.guarantee is None else fitted.guarantee.batch
    chosen = fitted.guaranteed_policy(dataset, ladder=steps, batch=batch)
    monitor = ShiftMonitor(fitted.grant(dataset).watched, alpha=alpha, rng=rng)
    rows = answered(trace for path in traces for trace in read_traces(path))
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    played = play(chosen, shuffled, steps, fitted.ladder.unit(batch), batch)
    readings = [monitor.watch(done) for done in played.completions]
    rang = next((reading for reading in readings if reading.alarm), None)
    click.echo(
        f"no alarm in {len(readings)} queries; evidence {readings[-1].evidence:.3g} of {1 / alpha:g}"
        if rang is None
        else f"alarm after {rang.n} of {len(readings)} queries ({rang.signal}): they are not like the "
        "calibration rows, and the guarantee does not cover them; calibrate again"
    )


def _sizes(rows: str) -> list[int]:
    sizes = [int(part) if part.isdecimal() else 0 for part in rows.split(",")]
    if min(sizes) < 1:
        raise ConfigError(f"--rows {rows}: give numbers of rows separated by commas, as in 300,1000")
    return sizes


def _populations(
    traces: tuple[Path, ...], ladder: str, data: Path | None, n_fit: int, rng: np.random.Generator
) -> list[RowPopulation]:
    from asd.research.recordings.outcomes import from_recording  # noqa: PLC0415
    from asd.research.recordings.recording import read_recording  # noqa: PLC0415
    from asd.research.study.validity import from_outcomes, from_traces  # noqa: PLC0415

    found = []
    if traces:
        steps = Ladder.load(ladder)
        collected = answered(trace for path in traces for trace in read_traces(path))
        found.append(from_traces(steps.name, collected, steps, n_fit, rng))
    if data is not None:
        for name, costs in _RECORDED.items():
            path = data / "traces" / f"{name}.jsonl.gz"
            recording = read_recording([path], tuple(costs), tuple(costs.values()))
            found.append(from_outcomes(name, from_recording(recording), n_fit, rng))
    if not found:
        raise ConfigError("give traces of `asd collect`, or --data with recorded outcomes")
    return found


def _table(checked: list[Validity]) -> str:
    rows = [
        {
            "population": f"{row.population} ({row.n_population})",
            "rows": row.n,
            "drawn": "independently" if row.replaced else "without replacement",
            "wrong": f"{row.violations:.1%} [{row.low:.1%}, {row.high:.1%}]",
            "allowed": f"{row.delta:.0%}",
            "granted": f"{row.granted:.0%}",
            "saving": f"{row.saving:.1%}",
            "wrong without": f"{row.unguarded_violations:.1%}",
            "saving without": f"{row.unguarded_saving:.1%}",
            "best true saving": f"{row.best_saving:.1%}",
        }
        for row in checked
    ]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
