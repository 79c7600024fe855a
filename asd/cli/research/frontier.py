"""`asd frontier`: every method on the same folds of recorded outcomes."""

from __future__ import annotations

from pathlib import Path

import click
from tabulate import tabulate

from asd.cli.examples import examples
from asd.cli.options import numbers, split
from asd.cli.paths import NEW_FILE
from asd.errors import ConfigError
from asd.measurement.files import write_record
from asd.research.offline.comparison import ComparisonCell, FrontierReport, MethodRow, compare
from asd.research.offline.deployable import COMMAND
from asd.research.recordings.recording import read_recording


@click.command(epilog=examples("asd frontier a.jsonl.gz b.jsonl.gz --stages small,large --stages s,m,l"))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--stages", multiple=True, required=True, help="A ladder, by commas; give the option once a ladder."
)
@click.option(
    "--costs", help="Declared cost of one call of each stage, for one ladder. [default: as recorded]"
)
@click.option(
    "--deployable", is_flag=True, help="Play what `asd fit` makes too; takes seconds a fold and ladder."
)
@click.option("--json", "out", type=NEW_FILE, help="Write the comparison, versioned.")
def frontier(
    files: tuple[Path, ...], stages: tuple[str, ...], costs: str | None, deployable: bool, out: Path | None
) -> None:
    """What quality costs by every method, cross-validated, over files and ladders."""
    if costs is not None and len(stages) > 1:
        raise ConfigError("--costs declares the costs of one ladder; give --stages once")
    declared = None if costs is None else numbers(costs, "--costs")
    cells = [_cell(path, split(ladder), declared) for path in files for ladder in stages]
    comparison = compare(cells, deployable=deployable)
    if out is not None:
        write_record(out, comparison)
    _show(comparison)


def _cell(path: Path, stages: list[str], costs: list[float] | None) -> ComparisonCell:
    return ComparisonCell(
        f"{path.name.split('.')[0]} {stages[0]}..{stages[-1]}", read_recording([path], stages, costs)
    )


def _show(comparison: FrontierReport) -> None:
    click.echo(tabulate([_row(row) for row in comparison.rows], headers="keys"))
    click.echo("\nby cell:")
    click.echo(tabulate([_cells(row) for row in comparison.rows], headers="keys"))
    click.echo("\nasked of the best by cross-validation on the rows fitted on, delivered on held-out rows:")
    asked = [
        {
            "asked loss": f"{a.asked:.0%}",
            "confidence": f"{a.confidence:.0%}",
            "delivered": f"{a.delivered:+.1%}",
            "mean shortfall": f"{a.shortfall:+.1%}",
            "missed": f"{a.missed} of {a.n_cells}",
            "beyond noise": a.missed_surely,
            "cost share": f"{a.cost_share:.0%}",
        }
        for a in comparison.asked
    ]
    click.echo(tabulate(asked, headers="keys"))
    if any(row.method.startswith(COMMAND) for row in comparison.rows):
        click.echo(f"rows {COMMAND!r}: the policy that this command makes, as a cascade runs it")
    click.echo(f"provenance: {comparison.provenance}, five folds; cost over the best single model's")


def _cells(row: MethodRow) -> dict[str, str]:
    shares = {cell: "/".join(f"{s:.0%}" for s in found.values()) for cell, found in row.cells.items()}
    return {"method": row.method} | shares


def _row(row: MethodRow) -> dict[str, str]:
    return {"method": row.method} | {
        f"at -{float(loss):.0%}": f"{row.shares[loss]:.0%} ({interval.low:.0%} to {interval.high:.0%})"
        for loss, interval in row.intervals.items()
    }
