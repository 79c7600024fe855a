"""`asd plan`: what recorded outcomes would cost and take at measured prices."""

from __future__ import annotations

from pathlib import Path

import click
from tabulate import tabulate

from asd.cli.examples import examples
from asd.cli.options import split
from asd.cli.paths import NEW_FILE
from asd.errors import ConfigError
from asd.measurement.files import write_record
from asd.prices import PriceFile, Prices, read_prices
from asd.research.planning import Planned
from asd.research.planning import plan as make_plan
from asd.research.recordings.calls import read_priced


@click.command(
    epilog=examples("asd plan outcomes.jsonl.gz --prices llama3-h100.json --stages llama-8b=8B,llama-70b=70B")
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--prices",
    "table",
    required=True,
    type=click.Path(path_type=Path),
    help="Price table (python -m bench.shapes, asd price).",
)
@click.option("--stages", required=True, help="MODEL=SIZE of files and table, by commas, smallest first.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Queries a call.")
@click.option("--json", "out", type=NEW_FILE, help="Write the plan (asd/research/planning.py).")
def plan(files: tuple[Path, ...], table: Path, stages: str, batch: int, out: Path | None) -> None:
    """Cost and seconds of the largest stage alone, lossless, and at 99 and 95 % of its quality."""
    sizes, priced = _sizes(stages), read_prices(table)
    priced_calls = read_priced(files, _prices(priced, table, sizes, batch))
    found = make_plan(priced_calls, list(sizes.values()), priced.prices_measured, priced.timing, batch)
    if out is not None:
        write_record(out, found)
    _show(found)


def _sizes(text: str) -> dict[str, str]:
    """Size by model; a name alone is both."""
    pairs = [(model, size or model) for model, _, size in (part.partition("=") for part in split(text))]
    sizes = dict(pairs)
    if len(sizes) < 2 or len(sizes) < len(pairs) or "" in sizes:
        raise ConfigError(f"--stages {text}: name two or more different models, as in small=7B,large=72B")
    return sizes


def _prices(table: PriceFile, path: Path, sizes: dict[str, str], batch: int) -> dict[str, Prices]:
    """By model; seconds follow from milliseconds only."""
    if table.price_unit != "ms":
        raise ConfigError(f"{path} has prices in {table.price_unit}, not ms, so no seconds follow from them")
    rows = table.at(batch)
    if rows is None:
        known = ", ".join(map(str, [1, *table.batched]))
        raise ConfigError(f"{path} has no prices at batch {batch}; there are those at batch {known}")
    if missing := [size for size in sizes.values() if size not in rows]:
        raise ConfigError(f"{path} has no prices of {', '.join(missing)}; there are {', '.join(rows)}")
    return {model: rows[size] for model, size in sizes.items()}


def _show(found: Planned) -> None:
    stages = [
        {
            "stage": stage.model,
            "size": stage.size,
            "priced": stage.priced,
            "quality": f"{stage.quality:.3f}",
            "tokens": f"{stage.prompt_tokens:.0f} + {stage.decoded_tokens:.0f}",
            "s a query": f"{stage.seconds:.4g}",
        }
        for stage in found.stages
    ]
    click.echo(tabulate(stages, headers="keys", disable_numparse=True) + "\n")
    rows = [
        {
            "setting": s.name,
            "quality": f"{s.quality:.3f} ({s.quality_interval.low:.3f} to {s.quality_interval.high:.3f})",
            "of largest": f"{s.relative_quality:.1%}",
            "cost": f"{s.cost:.1%} ({s.cost_interval.low:.1%} to {s.cost_interval.high:.1%})",
            "s a query": f"{s.seconds:.4g}",
            "P95 s": f"{s.p95_s:.4g}",
            "answered by": " ".join(f"{k}:{v:.0%}" for k, v in s.answered.items() if v),
        }
        for s in found.settings
    ]
    click.echo(tabulate(rows, headers="keys", disable_numparse=True))
    click.echo(
        f"\n{found.n_queries} queries; cost of the largest stage alone is 100 %; asked: on held-out folds"
    )
    click.echo(f"provenance: {found.provenance}; prices at batch {found.batch}: {found.prices}")
