"""`asd replay`: fit on recorded outcomes, play held-out ones, print and write the frontier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
from tabulate import tabulate

from asd.cli.examples import examples
from asd.cli.options import numbers, split
from asd.cli.paths import NEW_FILE
from asd.measurement.files import write_record
from asd.research.offline.replay import Point, ReplayReport
from asd.research.offline.replay import replay as run_replay
from asd.research.recordings.recording import Counts, read_recording

Command = TypeVar("Command", bound=Callable[..., object])

LAMS = "0.1,0.5,1,2,5,10,20,50,100"


class _Files(click.Command):
    """Lets `--train a b c` stand for `--train a --train b --train c`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        option = None
        for arg in args:
            if arg in ("--train", "--test"):
                option = arg
            elif arg.startswith("-"):
                option = None
                spread.append(arg)
            elif option is not None:
                spread += [option, arg]
            else:
                spread.append(arg)
        if option is not None and args and args[-1] == option:
            spread.append(option)
        return super().parse_args(ctx, spread)


def _files(option: str, text: str) -> Callable[[Command], Command]:
    return click.option(option, multiple=True, required=True, type=click.Path(path_type=Path), help=text)


@click.command(
    cls=_Files,
    epilog=examples("asd replay --train train.jsonl.gz --test test.jsonl.gz --stages a,b --json out.json"),
)
@_files("--train", "Outcome files to fit on, one or more.")
@_files("--test", "Outcome files to play, one or more; nothing in them is fitted on.")
@click.option("--stages", required=True, help="Models as the files call them, by commas; two or more.")
@click.option(
    "--lam", default=LAMS, show_default=True, help="Worth of a right answer in calls of the dearest."
)
@click.option("--costs", help="Declared cost of one call of each stage, by commas. [default: as recorded]")
@click.option("--json", "out", type=NEW_FILE, help="Write the report (asd/research/offline/replay.py).")
def replay(
    train: tuple[Path, ...],
    test: tuple[Path, ...],
    stages: str,
    lam: str,
    costs: str | None,
    out: Path | None,
) -> None:
    """Fit on recorded outcomes, play other ones, and print what quality costs."""
    names, lams = split(stages), numbers(lam, "--lam")
    declared = None if costs is None else numbers(costs, "--costs")
    fit_on, played = (read_recording(paths, names, declared) for paths in (train, test))
    report = run_replay(fit_on, played, lams, progress=lambda line: click.echo(line, err=True))
    if out is not None:
        write_record(out, report)
    _show(report)


def _show(report: ReplayReport) -> None:
    click.echo(f"train: {_counts(report.train)}")
    click.echo(f"test:  {_counts(report.test)}")
    for name, method in report.fitted_for.items():
        click.echo(f"chosen for {name} by cross-validation: {method}")
    rows = [_row(point) for point in (*report.singles, *report.points, *report.oracle)]
    click.echo("\n" + tabulate(rows, headers="keys", floatfmt=("", ".3f", "", ".3g", ".1%", "")))
    click.echo("\nasked and delivered against the best single model of the train rows:")
    asked = [
        {
            "asked loss": f"{a.asked:.1%}",
            "delivered": f"{a.delivered:+.1%}",
            "95 % interval": f"{a.delivered_interval.low:+.1%} to {a.delivered_interval.high:+.1%}",
            "cost share": _percent(a.cost_share),
        }
        for a in report.asked
    ]
    click.echo(tabulate(asked, headers="keys"))
    for loss, share in report.cost_share_at.items():
        oracle = _percent(report.oracle_cost_share_at[loss])
        click.echo(
            f"cost share at {float(loss):.0%} below {report.best_single}: {_percent(share)} (oracle {oracle})"
        )
    click.echo(f"AIQ {_number(report.aiq)}, of single models alone {_number(report.aiq_singles)}")
    if report.routellm is not None:
        r = report.routellm
        cpt = f"CPT(50 %) {_percent(r.cpt_50)}, CPT(80 %) {_percent(r.cpt_80)}"
        click.echo(f"RouteLLM, calls to {r.strong}: APGR {_number(r.apgr)}, {cpt}")
    click.echo(f"provenance: {report.provenance}; cost shares are of {report.best_single}")


def _counts(counts: Counts) -> str:
    parts = [f"{counts.n_used} of {counts.n_queries} queries used, cost {counts.cost_source}"]
    for what in ("no_score", "no_cost", "no_confidence"):
        missing = {stage: n for stage, n in getattr(counts, what).items() if n}
        if missing:
            parts.append(f"{what.replace('_', ' ')}: " + ", ".join(f"{s} {n}" for s, n in missing.items()))
    return "; ".join(parts)


def _row(point: Point) -> dict[str, object]:
    low, high = point.quality_interval.low, point.quality_interval.high
    mix = " ".join(f"{stage}:{share:.0%}" for stage, share in point.answered.items() if share)
    return {
        "setting": point.name,
        "quality": point.quality,
        "95 % interval": f"{low:.3f} to {high:.3f}",
        "cost": point.cost,
        "share": _percent(point.cost_share),
        "answered by": mix,
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
