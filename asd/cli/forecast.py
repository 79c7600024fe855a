"""`asd forecast`: what load predictors are worth on recorded series."""

from __future__ import annotations

import warnings
from pathlib import Path

import click
from tabulate import tabulate

from asd.cli.examples import examples
from asd.errors import ConfigError, DataError
from asd.operations.forecast import PREDICTORS, Array, errors, read_hourly


@click.command(epilog=examples("asd forecast loads.csv.gz requests.csv"))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def forecast(files: tuple[Path, ...]) -> None:
    """Forecast every next hour of recorded loads from the hours before, and compare predictors.

    FILES hold one request a row (t_s or t_ms), clients (client, t_s, rate_rps, family, shape), rates (t_s,
    rate_rps, and pool where there are several), or columns that end in _mid by minute. Series of four days or
    fewer are left out: the first three only teach.
    """
    series = [found for path in files for found in read_hourly(path).items()]
    short = [name for name, loads in series if len(loads) <= 4 * 24]
    if short:
        click.echo(f"left out, four days or shorter: {', '.join(short)}", err=True)
    try:
        rows = [_row(name, loads) for name, loads in series if len(loads) > 4 * 24]
    except ImportError as error:
        raise ConfigError(f"{error}: pip install 'asd[report]'") from error
    if not rows:
        raise DataError(
            f"no series of {', '.join(map(str, files))} is longer than four days; give longer ones"
        )
    click.echo(tabulate(rows, headers="keys", floatfmt=".3f"))
    click.echo(
        "weighted error one hour ahead, rolling origin: of the first predictor as it is, of others over its"
    )
    click.echo("provenance: replayed")


def _row(name: str, loads: Array) -> dict[str, object]:
    """Errors beside that of the first predictor; none beside one that is never wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # statsmodels warns of every fit that has not converged
        found = {predictor.name: errors(loads, predictor) for predictor in (make() for make in PREDICTORS)}
    first, *others = found
    base = found[first]
    ratios = {other: found[other] / base if base else None for other in others}
    return {"series": name, "hours": len(loads), first: base, **ratios}
