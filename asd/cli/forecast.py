"""`asd forecast`: what load predictors are worth on recorded series."""

from __future__ import annotations

import warnings
from pathlib import Path

import click
from tabulate import tabulate

from asd.cli.examples import examples
from asd.operations.forecast import PREDICTORS, Array, errors, read_hourly


@click.command(epilog=examples("asd forecast loads.csv.gz requests.csv"))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def forecast(files: tuple[Path, ...]) -> None:
    """Forecast every next hour of recorded loads from the hours before, and compare predictors.

    FILES hold one request a row (t_s), rates by pool (pool, t_s, rate_rps), or columns that end in _mid by
    minute. Series of four days or fewer are left out: the first three only teach.
    """
    series = {name: loads for path in files for name, loads in read_hourly(path).items()}
    short = [name for name, loads in series.items() if len(loads) <= 4 * 24]
    if short:
        click.echo(f"left out, shorter than four days: {', '.join(short)}", err=True)
    rows = [_row(name, loads) for name, loads in series.items() if name not in short]
    click.echo(tabulate(rows, headers="keys", floatfmt=".3f"))
    click.echo(
        "weighted error one hour ahead, rolling origin: of the first predictor as it is, of others over its"
    )
    click.echo("provenance: replayed")


def _row(name: str, loads: Array) -> dict[str, object]:
    row: dict[str, object] = {"series": name, "hours": len(loads)}
    base = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # statsmodels tells of every fit that has not converged
        for make in PREDICTORS:
            predictor = make()
            error = errors(loads, predictor)
            row[predictor.name] = error if base is None else error / base
            base = base or error
    return row
