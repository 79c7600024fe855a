"""`asd collect`: let every stage answer every query, and say what was answered and what was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import click

from asd.cli.examples import examples
from asd.cli.opening import open_quietly
from asd.cli.options import (
    data_option,
    datasets_option,
    device_option,
    engine_option,
    ladder_option,
    threads_option,
    unsafe_code_option,
    workloads_of,
)
from asd.cli.paths import NEW_FILE
from asd.collection import collect as collect_traces
from asd.collection import header_for
from asd.engines.revisions import revisions
from asd.engines.runtimes import runtimes
from asd.ladder import Ladder
from asd.traces import answered
from asd.traces.log import TraceLog
from asd.types import Trace
from asd.workloads import Split

EXIT_REFUSED = 3
"""Everything was asked, and a stage refused a query for good."""

N_SHOWN = 5
"""Refusals that are printed in the stage's own words; all of them are in the file."""


@click.command(
    epilog=examples(
        "asd collect --out traces.jsonl",
        "asd collect --datasets tiny-text,tiny-lookup --split test --limit 200 --out test.jsonl",
    )
)
@click.option("--out", type=NEW_FILE, required=True, help="JSON lines; continued if it exists.")
@ladder_option
@datasets_option
@data_option
@unsafe_code_option
@click.option("--split", type=click.Choice(get_args(Split)), default="fit", show_default=True)
@click.option("--limit", type=int, default=1000, show_default=True, help="Most queries of a dataset.")
@click.option("--batch", type=int, default=16, show_default=True, help="Most queries in one call.")
@click.option("--retry-refused", is_flag=True, help="Ask again what a stage refused in an earlier run.")
@device_option
@engine_option
@threads_option
@click.pass_context
def collect(  # noqa: PLR0913, PLR0917  (one argument an option)
    ctx: click.Context,
    out: Path,
    ladder: str,
    datasets: str | None,
    data: str | None,
    unsafe_code: bool,
    split: Split,
    limit: int,
    batch: int,
    retry_refused: bool,
    device: str | None,
    engine: str,
) -> None:
    """Let every stage answer every query, once, and record the outcomes.

    A run that was stopped continues where it was when the same command is given again. A query that a stage
    refuses for good (too long, filtered by its server) is recorded as refused; the exit code is then 3.
    """
    steps = Ladder.load(ladder)
    workloads = workloads_of(datasets, data, unsafe_code)
    engines = open_quietly(steps, device, engine)
    try:
        header = header_for(
            steps, revisions(steps, engine), workloads, split, runtimes(steps, engine, device)
        )
        with TraceLog(out, header) as log:
            if log.n_bytes_dropped:
                click.echo(f"{out}: dropped a line that was cut off, {log.n_bytes_dropped} bytes", err=True)
            traces = collect_traces(
                workloads, engines, log, limit=limit, batch_size=batch, retry_refused=retry_refused
            )
    except KeyboardInterrupt:
        click.echo(f"{out} is intact; give the same command again to continue", err=True)
        raise
    click.echo(f"{out}: {_summary(traces, list(engines))}")
    if any(trace.refusals for trace in traces):
        _show_refusals(traces)
        ctx.exit(EXIT_REFUSED)


def _summary(traces: Sequence[Trace], stages: Sequence[str]) -> str:
    whole, n = len(answered(traces)), len(traces)
    if whole == n:
        return f"{n} queries answered by {', '.join(stages)}"
    refused = Counter(action for trace in traces for action in trace.refusals)
    counts = ", ".join(f"{action} {count}" for action, count in refused.items())
    return f"{whole} of {n} queries answered by {', '.join(stages)}; refused: {counts}"


def _show_refusals(traces: Sequence[Trace]) -> None:
    lines = [
        f"query {trace.query.id!r} of {trace.query.dataset!r}, refused by {action}: {why.message}"
        for trace in traces
        for action, why in trace.refusals.items()
    ]
    for line in lines[:N_SHOWN]:
        click.echo(line, err=True)
    if len(lines) > N_SHOWN:
        click.echo(f"and {len(lines) - N_SHOWN} more, all in the file", err=True)
    click.echo("they are left out of every fit and not asked again, unless with --retry-refused", err=True)
