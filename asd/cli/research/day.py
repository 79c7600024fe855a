"""`asd day`: every table of a day of operations, as one study with a page."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from tqdm import tqdm

from asd.cli.examples import examples
from asd.cli.options import FiniteRange, ladder_option, policy_option
from asd.cli.scenarios import open_scenario, servers_options, traffic_option, worth_option
from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.measurement.files import read_record, write_atomically, write_record
from asd.research.load.devices import memories
from asd.research.load.production import METRICS, targets_of
from asd.research.load.shop import Shop
from asd.research.load.tables import MAKERS, TablesFile, claims, hours_simulated
from asd.research.study.record import write_study
from asd.schema import msgspec
from asd.traces import read_header


@click.command(
    epilog=examples(
        "asd day traces.jsonl --out day                      24 h and some 40 runs of an hour",
        "asd day traces.jsonl --out day --hours 0.1 --lam 8 --mu 2",
    )
)
@click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of tables and page.")
@ladder_option
@policy_option
@click.option("--hours", type=FiniteRange(min=0, min_open=True), default=24.0, show_default=True)
@click.option("--lam", type=FiniteRange(min=0.1, max=10.0), default=5.0, show_default=True)
@click.option(
    "--target", "aims", multiple=True, metavar="NAME=NUMBER", help=f"Of the day; names: {', '.join(METRICS)}."
)
@worth_option
@servers_options
@traffic_option
def day(  # noqa: PLR0913, PLR0917  (one argument an option)
    traces: tuple[Path, ...],
    out: Path,
    ladder: str,
    policy: Path | None,
    hours: float,
    lam: float,
    aims: tuple[str, ...],
    mu: float,
    replicas: str,
    batch: int,
    seed: int,
) -> None:
    """Simulate a day of a cascade that answers from recorded TRACES, and lay out every table of it.

    What is in the folder is not made again; `page.html`, `results.json` and `tables/` come at the end.
    """
    targets = targets_of(aims)
    opened = open_scenario(
        traces,
        ladder,
        policy,
        replicas,
        batch,
        arrivals="day",
        users=None,
        seconds=3600.0 * hours,
        window_s=min(600.0, 3600.0 * hours / 24),
    )
    ours, blind = f"queue:{lam:g}:{mu:g}", f"optimal:{lam:g}"
    file, asked = out / "made.json", opened.scenario.asked
    kept = _found(file, TablesFile(asked=asked, policy=ours, seed=seed, targets=targets))
    with tqdm(total=hours_simulated(asked.seconds), unit="h", disable=None, file=sys.stderr) as bar:
        shop = Shop(
            opened.scenario,
            opened.fitted,
            ours,
            blind,
            seed,
            lambda w: bar.update(w.seconds / 3600.0),
            memories(Ladder.load(ladder), [read_header(path) for path in traces]),
            targets,
        )
        for name, make in MAKERS.items():
            if name not in {table.name for table in kept.tables}:
                kept = msgspec.structs.replace(kept, tables=(*kept.tables, *make(shop)))
                write_record(file, kept)
    _write(kept, ladder, out)


def _found(file: Path, asked: TablesFile) -> TablesFile:
    """What the file holds already, if it is there."""
    if not file.exists():
        return asked
    found = read_record(file, TablesFile)
    if msgspec.structs.replace(found, tables=()) != asked:
        told = f"{found.policy}, seed {found.seed}, targets {found.targets}"
        raise ConfigError(f"{file.parent} holds another day ({told}); choose another")
    return found


def _write(kept: TablesFile, ladder: str, out: Path) -> None:
    try:
        from asd.research.load.page import drawn, simulated_study  # noqa: PLC0415  (matplotlib)
        from asd.research.report.page import render_page  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"{error}: pip install 'asd[report]'") from error
    tables = (*kept.tables, claims({table.name: table for table in kept.tables}))
    study = simulated_study(ladder, kept.seed, tables)
    write_study(study, out)
    write_atomically(out / "page.html", render_page(study, [drawn(study)], missing=()))
    for table in study.tables:
        click.echo(table.markdown())
    click.echo(f"{out / 'page.html'}: {len(study.tables)} tables and a figure")
