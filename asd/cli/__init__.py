"""The command line: arguments in, text out. What it does is done elsewhere.

An `AsdError` ends a command with exit code 2 and one line; Ctrl-C with 130. Modules that need torch or
scikit-learn are imported by the command that needs them, so that `asd --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Unpack, cast

import click

from asd import __version__
from asd.cli.examples import examples
from asd.cli.guarantee import GuaranteeOptions, guarantee_options, what_is_asked
from asd.cli.opening import closed_at_the_end
from asd.cli.options import (
    FINITE,
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
from asd.collection import read_collected
from asd.engines.registry import open_drafted
from asd.errors import AsdError, ConfigError
from asd.ladder import Ladder
from asd.measurement.environment import read_environment
from asd.policy.artifact import PolicyArtifact
from asd.policy.record import Method
from asd.prices import write_prices
from asd.traces import answered
from asd.types import StagePair, Trace, pair_name

EXIT_INTERRUPTED = 130
_SHARE = 0.95
"""Of the largest stage's quality, that the named settings of a fit keep."""
_RESEARCH = (
    "agreement", "assess", "certify", "contest", "control", "day", "evidence", "frontier", "plan", "reality",
    "replay", "study",
)  # fmt: skip
_COMMANDS = ("collect", "convert", "forecast", "generate", "routes", "serve", "simulate", "tiny")
_GROUPS = {name: f"asd.cli.{name}" for name in _COMMANDS} | {
    name: f"asd.cli.research.{name}" for name in _RESEARCH
}
"""Commands and groups of commands, each in a module that has a command of the same name."""


class _CommandFailed(click.ClickException):
    exit_code = 2


class _Commands(click.Group):
    """Turns our errors and Ctrl-C into exit codes; imports a group when it is asked for."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AsdError as error:
            raise _CommandFailed(str(error)) from error
        except BrokenPipeError:
            raise  # whoever reads has enough; click ends quietly
        except OSError as error:  # a folder where a file should be, a full disk under standard output
            _drop_what_cannot_be_printed()
            raise _CommandFailed(f"{error}; choose another path, or free space") from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_GROUPS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _GROUPS:
            return cast(click.Command, getattr(import_module(_GROUPS[cmd_name]), cmd_name))
        return super().get_command(ctx, cmd_name)


def _drop_what_cannot_be_printed() -> None:
    # else Python tries once more when it ends, and its exit code and message take the place of ours
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        'asd generate "add 12+30"                   answer with the embedded ladder',
        'asd generate "add 12+30" --explain         and show every decision',
        "asd collect --out traces.jsonl          let every stage answer every question",
        "asd fit traces.jsonl --out policy.json  learn from that when to stop",
    ),
)
@click.version_option(__version__, prog_name="asd", message="%(prog)s %(version)s")
def main() -> None:
    """A cascade of language models that stops at the smallest answer worth returning."""


def _batches(_ctx: click.Context, _param: click.Parameter, text: str) -> list[int]:
    sizes = text.split(",")
    if not all(size.isdigit() and int(size) > 0 for size in sizes) or len(set(sizes)) < len(sizes):
        raise click.BadParameter(f"{text}: give different sizes separated by commas, as in 1,4,16")
    if "1" not in sizes:
        raise click.BadParameter(f"{text}: batch 1 is needed too, as in 1,{text}")
    return [int(size) for size in sizes]


@main.command(epilog=examples("asd price --ladder mine.toml --batch 1,4,16 --out mine-prices.json"))
@ladder_option
@click.option("--out", type=NEW_FILE, required=True, help="The ladder's price file.")
@datasets_option
@data_option
@unsafe_code_option
@click.option("--batch", default="1", show_default=True, callback=_batches, help="Queries a call.")
@click.option("--limit", type=int, default=24, show_default=True, help="Timed queries of a dataset.")
@click.option(
    "--mixed", is_flag=True, help="Calls of queries as they come, as a server's, not of like prompts."
)
@device_option
@engine_option
@threads_option
def price(  # noqa: PLR0913, PLR0917  (one argument an option)
    ladder: str,
    out: Path,
    datasets: str | None,
    data: str | None,
    unsafe_code: bool,
    batch: list[int],
    limit: int,
    mixed: bool,
    device: str | None,
    engine: str,
) -> None:
    """Measure what a call of every stage costs in milliseconds, and freeze it in a file.

    In calls of several queries it is the share of one; larger batches are given as many times more queries.
    The ladder needs some prices to be loaded with; name the file in its `prices` afterwards.
    """
    from asd.evaluation.pricing import measure_batches  # noqa: PLC0415  (scipy takes a second)

    steps = Ladder.load(ladder)
    workloads = workloads_of(datasets, data, unsafe_code)
    engines = closed_at_the_end(open_drafted(steps, device, engine))
    queries = {
        size: [query for workload in workloads for query in workload.queries("fit", limit * size)]
        for size in batch
    }
    prices = measure_batches(engines, queries, mixed=mixed, tell=partial(click.echo, err=True))
    for size, of_size in prices.items():
        for name, of_stage in of_size.items():
            click.echo(f"batch {size}  {name}  {of_stage}")
    machine = read_environment()
    where = f"{', '.join(machine.devices) or machine.cpu}, {machine.threads} thread(s)"
    calls = "mixed calls" if mixed else "calls of like prompts"
    asked = f"{limit * len(workloads)} queries a batch size, times the size, in {calls}"
    write_prices(out, prices, "ms", f"{datetime.now(UTC).date()} on {where}; {asked}")


@main.command(
    epilog=examples(
        "asd fit traces.jsonl --out policy.json",
        "asd fit traces.jsonl --calibrate more.jsonl --keep 0.95 --delta 0.1 --out policy.json",
        'asd generate "add 12+30" --policy policy.json',
    )
)
@click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path))
@ladder_option
@click.option("--out", type=NEW_FILE, required=True, help="Where the policy goes.")
@click.option(
    "--method",
    type=click.Choice(["dp", "lists", "auto"]),
    default="dp",
    show_default=True,
    help="Backward induction, a vote of short lists, or the one that is surely cheaper on held-out rows.",
)
@click.option(
    "--quality",
    type=FINITE,
    help="Share of the largest stage's quality at which auto compares. [default: --keep, else 0.95]",
)
@guarantee_options
def fit(
    traces: tuple[Path, ...],
    ladder: str,
    out: Path,
    method: Method | Literal["auto"],
    quality: float | None,
    **options: Unpack[GuaranteeOptions],
) -> None:
    """Learn when to stop from TRACES of split "fit"; with --keep or --cap-cost, promise what comes of it."""
    from asd.policy.fit import fit as fit_policy  # noqa: PLC0415  (scikit-learn takes seconds)
    from asd.policy.fit import rejected_pairs  # noqa: PLC0415

    steps = Ladder.load(ladder)
    asked = what_is_asked(steps, **options)
    collected = read_collected(traces, steps, "fit")
    usable = answered(collected)
    fitted = fit_policy(
        collected,
        steps,
        fitted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        method=method,
        quality=_share(method, quality, options["keep"]),
    )
    if asked is not None:
        fitted = asked.promised(fitted, usable, steps)
    fitted.save(out)
    click.echo(f"{out}: fitted on {len(usable)} queries; replayed on rows that the fit had not seen:")
    if n_refused := len(collected) - len(usable):
        click.echo(f"left out: {n_refused} queries that a stage refused", err=True)
    for line in _replayed(fitted):
        click.echo(line)
    for stage in fitted.model.silent:
        click.echo(
            f"stage {stage} gives no log-probabilities: its answers go by agreement, length and prompt"
        )
    for pair, (n_accepted, n_read) in rejected_pairs(usable).items():
        drafter, verifier = StagePair.parse(pair)
        click.echo(
            f"{verifier} accepts {n_accepted:,} of {n_read:,} tokens of {drafter}'s drafts: "
            "verification is left out"
        )
    for line in _blocks(steps, usable):
        click.echo(line)
    if fitted.guarantee is not None:
        click.echo(fitted.guarantee)


def _share(method: str, share: float | None, keep: float | None) -> float:
    """Where methods are compared: as said, else where the guarantee is to hold, else at `_SHARE`."""
    if share is not None and method == "dp":
        raise ConfigError(
            "--quality says where --method auto compares; backward induction alone has no use for it"
        )
    return next((given for given in (share, keep) if given is not None), _SHARE)


def _replayed(fitted: PolicyArtifact) -> Iterator[str]:
    """Every lam with its 95 % intervals, and what is chosen where a share of quality is to be kept."""
    largest = fitted.model.stages[-1]
    for row in fitted.fit.replayed:
        yield f"lam {row.lam:6g}  {row}" + (f"  dearer than {largest} alone" if fitted.is_dearer(row) else "")
    for share in (_SHARE, 0.99):
        yield fitted.keeping(share).why
    if fitted.fit.contest is not None:
        yield str(fitted.fit.contest)


def _blocks(ladder: Ladder, traces: Sequence[Trace]) -> Iterator[str]:
    """Of every stage with a drafter: how many tokens it should draft, by prices and acceptance."""
    from asd.evaluation.pricing import plan_block  # noqa: PLC0415  (scipy takes a second)

    prices = {stage.name: stage.prices for stage in ladder.stages}
    for stage in ladder.stages:
        if stage.drafter is None:
            continue
        drafter, pair = stage.drafter, pair_name(stage.drafter.stage, stage.name)
        read = [trace.verifications[pair] for trace in traces if pair in trace.verifications]
        if read:
            best = plan_block(prices[drafter.stage], prices[stage.name], read)
            told = f"{drafter.stage} drafts {drafter.block} tokens a block; by price block = {best} pays most"
            yield f"stage {stage.name}: {told}"
