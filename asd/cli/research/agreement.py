"""`asd agreement`: our scores of recorded answers against the recorded ones, and answers among each other."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import click
from tabulate import tabulate

from asd.cli.examples import examples
from asd.quality.sandbox import Sandbox
from asd.research.recordings.agreement import agreements
from asd.research.recordings.consensus import consensus
from asd.workloads.sources import Folder

__all__ = ["agreement"]

_HEADERS = ("answers", "against", "n", "agree", "only ours right", "only theirs right")
_BETWEEN = (
    *("answers", "models", "questions", "none stated", "same text", "same answer"),
    *("AUROC by text", "AUROC by answer"),
)


@click.command(
    epilog=examples(
        "asd agreement --data DIR",
        "asd agreement --data DIR --code 1000",
        "asd agreement --data DIR --between-models",
    )
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    envvar="ASD_DATA",
    required=True,
    help="Folder of the task files and traces. [default: $ASD_DATA]",
)
@click.option(
    "--code",
    "n_code",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Most programs run in each comparison.",
)
@click.option("--unsafe-code", is_flag=True, help="Run them without a sandbox.")
@click.option(
    "--between-models",
    is_flag=True,
    help="How well the same text, or answer, of another model separates right from wrong.",
)
def agreement(data: Path, n_code: int, unsafe_code: bool, between_models: bool) -> None:
    """Score recorded answers again and compare with the scores recorded beside them."""
    if between_models:
        click.echo(tabulate(map(astuple, consensus(Folder(data))), headers=_BETWEEN, floatfmt=".4f"))
        click.echo("\nmeans over ordered pairs of models; provenance: replayed")
        return
    found = agreements(Folder(data), Sandbox.open(unsafe=unsafe_code), n_code)
    rows = [(a.name, a.against, len(a.answers), a.share, a.n_only_ours, a.n_only_recorded) for a in found]
    click.echo(tabulate(rows, headers=_HEADERS, floatfmt=".4f"))
