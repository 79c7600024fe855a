"""`asd certify`: is this ladder worth having?"""

from __future__ import annotations

from pathlib import Path

import click
from tabulate import tabulate

from asd.cli.examples import examples
from asd.cli.options import numbers, split
from asd.cli.paths import NEW_FILE
from asd.measurement.files import write_record
from asd.research.offline.certificate import CertificateReport
from asd.research.offline.certificate import certify as look
from asd.research.recordings.recording import models_in, read_recording


@click.command(epilog=examples("asd certify outcomes.jsonl.gz --stages small,medium,large"))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--stages", help="Models, separated by commas. [default: all on the first line]")
@click.option("--costs", help="Declared cost of one call of each stage, by commas. [default: as recorded]")
@click.option("--json", "out", type=NEW_FILE, help="Write the certificate, versioned.")
def certify(files: tuple[Path, ...], stages: str | None, costs: str | None, out: Path | None) -> None:
    """What recorded outcomes say of a ladder before anything is fitted."""
    names = models_in(files[0]) if stages is None else split(stages)
    certificate = look(read_recording(files, names, None if costs is None else numbers(costs, "--costs")))
    if out is not None:
        write_record(out, certificate)
    _show(certificate)


def _show(certificate: CertificateReport) -> None:
    rows = [
        {
            "stage": rung.stage,
            "quality": rung.quality,
            "cost": rung.cost,
            "confidence AUROC": "-" if rung.auroc is None else f"{rung.auroc:.3f}",
            "dominated by": ", ".join(rung.dominated_by) or "-",
        }
        for rung in certificate.rungs
    ]
    counts, fail = certificate.counts, certificate.all_fail_interval
    click.echo(f"{counts.n_used} of {counts.n_queries} queries used, cost {counts.cost_source}\n")
    click.echo(tabulate(rows, headers="keys", floatfmt=("", ".3f", ".3g")))
    click.echo(f"\nbest single stage: {certificate.best_single}; oracle ceiling {certificate.ceiling:.3f}")
    click.echo(f"every stage fails on {certificate.all_fail:.1%} ({fail.low:.1%} to {fail.high:.1%}, exact)")
    costs = {rung.stage: rung.cost for rung in certificate.rungs}
    if not costs[certificate.best_single] > 0.0:
        click.echo("the best single stage costs nothing, so that nothing can be saved")
    elif certificate.best_pair is None:
        click.echo("no pair reaches the best single stage with foresight")
    else:
        pair = " and ".join(certificate.best_pair)
        click.echo(
            f"best pair with foresight: {pair}, at {certificate.best_pair_share:.1%} of the best's cost"
        )
    for saving in certificate.savings:
        low, high = saving.interval.low, saving.interval.high
        click.echo(
            f"saving at {saving.loss:.0%} loss: {saving.saving:.0%} ({low:.0%} to {high:.0%}, held out)"
        )
    click.echo(f"provenance: {certificate.provenance}")
