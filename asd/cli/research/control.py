"""`asd control`: what control holds under load, on recorded outcomes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from tqdm import tqdm

from asd.cli.examples import examples
from asd.cli.options import FINITE, FiniteRange, ladder_option, policy_option, split
from asd.cli.paths import NEW_FILE
from asd.cli.scenarios import open_scenario, recorded_option, servers_options, traffic_option, worth_option
from asd.errors import ConfigError
from asd.guarantee.certificate import Promise
from asd.measurement.files import write_record
from asd.operations.control.floor_record import FloorRecord
from asd.research.load.control import CONTROL
from asd.research.load.shop import Shop


@click.command(
    epilog=examples(
        "asd control traces.jsonl                                  all tables; ten days of a budget, thrice",
        "asd control traces.jsonl --tables loss,regret --hours 0.5",
        "asd control traces.jsonl --tables floor --out floor.json  for asd serve --certified-floor",
    )
)
@click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path))
@ladder_option
@policy_option
@recorded_option
@click.option("--tables", default=",".join(CONTROL), show_default=True, help="Which, by commas.")
@click.option("--arrivals", default="bursts:0.1", show_default=True, help="Of the budget's days.")
@click.option(
    "--hours",
    type=FiniteRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Of the others.",
)
@click.option("--lam", type=FiniteRange(min=0.1, max=1000.0), default=5.0, show_default=True)
@worth_option
@servers_options
@traffic_option
@click.option("--keep", type=FINITE, default=0.95, show_default=True, help="Of a floor: share of quality.")
@click.option("--delta", type=FINITE, default=0.1, show_default=True, help="Probability that it is wrong.")
@click.option(
    "--out",
    type=NEW_FILE,
    help="Keep the settings that the floor certified, for --certified-floor of asd serve and asd simulate.",
)
def control(  # noqa: PLR0913, PLR0917  (one argument an option)
    traces: tuple[Path, ...],
    ladder: str,
    policy: Path | None,
    recorded: str | None,
    tables: str,
    arrivals: str,
    hours: float,
    lam: float,
    mu: float,
    replicas: str,
    batch: int,
    seed: int,
    keep: float,
    delta: float,
    out: Path | None,
) -> None:
    """Simulate what control holds for a cascade that answers from recorded TRACES: money, floor, a loss.

    Half of the queries certify the floor: give traces that the policy was not fitted on.
    """
    names = split(tables)
    if not names or any(name not in CONTROL for name in names):
        raise ConfigError(f"--tables {tables!r}: name some of {', '.join(CONTROL)}")
    if out is not None and "floor" not in names:
        raise ConfigError(f"--out keeps what the floor certified; name floor in --tables, not {tables}")
    promise = Promise(delta=delta, keep=keep)
    opened = open_scenario(
        traces, ladder, policy, replicas, batch, recorded,
        arrivals=arrivals, users=None, seconds=3600.0 * hours, window_s=600.0,
    )  # fmt: skip
    found: list[FloorRecord] = []
    with tqdm(unit="h", disable=None, file=sys.stderr) as bar:
        shop = Shop(
            opened.scenario, opened.fitted, f"queue:{lam:g}:{mu:g}", f"optimal:{lam:g}", seed,
            lambda window: bar.update(window.seconds / 3600.0), promise=promise, certified=found.append,
        )  # fmt: skip
        for name in names:
            for table in CONTROL[name](shop):
                click.echo(table.markdown())
    if out is not None:
        _keep(out, found)


def _keep(out: Path, found: Sequence[FloorRecord]) -> None:
    """Write what was certified, where something was."""
    if not found:
        raise ConfigError(
            f"no setting was certified, {out} was not written; raise --lam, lower --keep, or give more traces"
        )
    write_record(out, found[0])
    click.echo(f"{len(found[0].tables)} certified settings of lam {found[0].lam:g} are in {out}")
