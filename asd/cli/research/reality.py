"""`asd reality`: the simulator beside a real run of the served cascade."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import click
import numpy as np
from tabulate import tabulate

from asd.api import policy_of
from asd.cli.examples import examples
from asd.cli.options import FINITE, FiniteRange, ladder_option, numbers, policy_option
from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.operations.arrivals import POISSON, read_clients
from asd.policy.choice import DEFAULT_LAM
from asd.research.load.measured import CASCADE, MOST_DRIFT, Block, Reality, RealityHeader, ServedLadder
from asd.research.load.processes import Outage
from asd.research.load.ranking import ranked_pairs
from asd.research.load.reality import run_reality
from asd.research.load.replayed import Figures, as_served, compare, price_drift
from asd.traces import answered, read_traces

_BAND = (0.025, 0.975)
_NAMES = {"mean_s": "mean, s", "p95_s": "P95, s", "cost": "cost"}
_FIRST = "first text, s"
_AIMS = {_NAMES["mean_s"]: 0.10, _NAMES["p95_s"]: 0.10, _FIRST: 0.15, _NAMES["cost"]: 0.03}
"""Largest relative error of a replay that counts as right; of shares it is `_SHARE_AIM`, absolute."""
_SHARE_AIM = 0.02


@click.command(
    epilog=examples(
        "asd reality traces.jsonl --json reality.json                  three runs of 7 minutes",
        "asd reality traces.jsonl --loads 0.3 --minutes 1 --drawn 20   a quick look",
        "asd reality traces.jsonl --models asd,asd/always-L --arrivals clients.csv.gz   beside L",
    )
)
@click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path))
@ladder_option
@policy_option
@click.option("--lam", type=FINITE, default=DEFAULT_LAM, show_default=True, help="Of every request.")
@click.option("--models", default=CASCADE, show_default=True,
              help="Asked in turns, with commas: asd, asd/lam-NUMBER, asd/always-STAGE.")  # fmt: skip
@click.option("--arrivals", default=POISSON, show_default=True,
              help="Or a file of recorded clients, thinned to the rate.")  # fmt: skip
@click.option("--loads", default="0.3,0.6,0.85", show_default=True, help="Shares of time at work, unbatched.")
@click.option("--minutes", type=FiniteRange(0, min_open=True), default=7.0, show_default=True, help="A load.")
@click.option("--block", type=FiniteRange(1), default=30.0, show_default=True,
              help="Seconds of a stretch; the machine's pace is probed between any two.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Most queries a call.")
@click.option("--limit", type=click.IntRange(3), default=6, show_default=True, help="As of asd price.")
@click.option("--serve-stage", "commands", multiple=True, metavar="STAGE=COMMAND",
              help="What starts the server of a stage (engine = \"openai\"); ended at the end.")  # fmt: skip
@click.option("--price-ladder", "priced", help="Whose calls are timed, where stages answer behind servers.")
@click.option("--down", metavar="STAGE:START:SECONDS", help="One more run at the first load; as in L:60:30, "
              "the server is killed after a minute and started again half a minute later.")  # fmt: skip
@click.option("--drawn", type=click.IntRange(2), default=200, show_default=True, help="Runs of the band.")
@click.option(
    "--json",
    "out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep every part; continue from it.",
)
def reality(  # noqa: PLR0913, PLR0917  (one argument an option)
    traces: tuple[Path, ...],
    ladder: str,
    policy: Path | None,
    lam: float,
    models: str,
    arrivals: str,
    loads: str,
    minutes: float,
    block: float,
    batch: int,
    limit: int,
    commands: tuple[str, ...],
    priced: str | None,
    down: str | None,
    drawn: int,
    out: Path | None,
) -> None:
    """Serve the ladder, ask it in an open loop, and let the simulator replay the same requests.

    TRACES hold the outcomes of the queries that are asked (asd collect). Give it a quiet machine: what else
    runs there moves the prices, which are measured before and after.
    """
    steps, rhos = Ladder.load(ladder), _loads(loads, minutes)
    outage, started = Outage.parse(down) if down else None, dict(map(_command, commands))
    if outage and outage.stage not in started:
        raise ConfigError(f"--down {down}: what starts the server of that stage? give its --serve-stage")
    rows = answered([trace for path in traces for trace in read_traces(path)])
    place = ServedLadder(ladder, steps, policy, policy_of(steps, policy), rows, priced, started)
    asked = RealityHeader(
        ladder=steps.fingerprint,
        lam=lam,
        batch=batch,
        loads=rhos,
        minutes=minutes,
        n_queries=len(rows),
        block_s=block,
        down=outage,
        models=tuple(dict.fromkeys(models.split(","))),
        arrivals=_readable(arrivals),
    )
    found = run_reality(place, asked, out, lambda what: click.echo(what, err=True), limit)
    _report(place, found, drawn)
    _rank(place, found)
    _conclude(place, found)


def _report(place: ServedLadder, found: Reality, drawn: int) -> None:
    """A table of every load and model, and of the run in which a stage was killed."""
    loads, models, outage = found.asked.loads, found.asked.models, found.asked.down
    for load, model in product(loads, models):
        numbered = [
            n for n, b in enumerate(found.blocks) if (b.rho, b.model) == (load, model) and b.down is None
        ]
        _show(f"load {load:g}, {model}", place, found, numbered, drawn)
    if outage:
        _show(f"load {loads[0]:g}, stage {outage.stage} killed", place, found, [len(found.blocks) - 1], drawn)


def _rank(place: ServedLadder, found: Reality) -> None:
    """Models beside each other, where several were asked."""
    rows = [
        (
            f"{pair.load:g}",
            f"{' - '.join(reversed(pair.models))}",
            _NAMES[pair.figure],
            f"{pair.real:+.4g} ({pair.low:+.4g} to {pair.high:+.4g})",
            f"{pair.simulated:+.4g}",
            ("yes" if pair.agrees else "NO") if pair.is_separated else "not separated",
        )
        for pair in ranked_pairs(place, found)
    ]
    if rows:
        click.echo("\nthe same requests to each model, round by round")
        click.echo(tabulate(rows, ["load", "models", "", "real (95 %)", "replayed", "same order"]))


def _conclude(place: ServedLadder, found: Reality) -> None:
    """What voids the comparison, and how far calls as served are from their prices."""
    alike, besides = price_drift(found.before, found.after, place)
    paces = [found.pace(number) for number in range(len(found.blocks))]
    click.echo(
        f"\nprices moved by {alike:+.1%} all alike and by {besides:.1%} at most besides; the machine's pace "
        f"in the blocks was {min(paces):.2f} to {max(paces):.2f} of its mean"
    )
    if besides > MOST_DRIFT:
        click.echo(f"more than {MOST_DRIFT:.0%}: the comparison is void; run it on a quieter machine")
    taken = as_served(place, found)
    click.echo(
        f"served, a call took {taken.slowdown:.2f} times its price and {1e3 * taken.delay_s:.2f} ms, and a "
        f"request {1e3 * taken.overhead_s:.2f} ms more, on the idle server"
    )
    click.echo("provenance: real measured, replay and band simulated; checked at these loads only")


def _loads(text: str, minutes: float) -> tuple[float, ...]:
    """Of so many minutes each; `ConfigError` if one is none, or has no end."""
    rhos = tuple(numbers(text, "--loads"))
    if not all(0.0 < rho < 1.0 for rho in rhos):
        raise ConfigError(f"--loads {text}: a load lies between 0 and 1")
    if not minutes < math.inf:
        raise ConfigError(f"--minutes {minutes:g}: a run has an end; give a number of minutes")
    return rhos


def _readable(arrivals: str) -> str:
    """The same; `DataError` where it is a file that holds no clients, before anything is measured."""
    if arrivals != POISSON:
        read_clients(arrivals)
    return arrivals


def _command(text: str) -> tuple[str, str]:
    stage, equals, command = text.partition("=")
    if not (stage and equals and command.strip()):
        raise ConfigError(f"--serve-stage {text!r}: write STAGE=COMMAND")
    return stage, command


def _show(title: str, place: ServedLadder, found: Reality, numbers: Sequence[int], drawn: int) -> None:
    """The table of the blocks in which the machine was steady; of all of them where fewer than half were."""
    steady = [number for number in numbers if found.is_steady(number)]
    few = 2 * len(steady) < len(numbers)
    click.echo(
        f"\n{title}: the machine was steady in {len(steady)} of {len(numbers)} blocks (probes before and "
        f"after differ by at most {MOST_DRIFT:.0%}); {'all' if few else 'these'} are shown"
    )
    shown = list(numbers) if few else steady
    blocks = [found.blocks[number] for number in shown]
    sent = [one for block in blocks for one in block.sent]
    lags = [one.lag_s for one in sent]
    for down in [block.down for block in blocks if block.down]:
        click.echo(f"stage {down.stage} was away {down.seconds:.1f} s, from {down.start_s:.1f} s on")
    late = f"{1e3 * float(np.mean(lags)):.1f} ms, at most {1e3 * max(lags):.0f} ms"
    click.echo(
        f"{len(sent)} requests in {sum(block.seconds for block in blocks):.0f} s, {blocks[0].rate:.2f} a "
        f"second; {answered_per_s(blocks):.2f} answers a second until the last; the client was late by {late}"
    )
    real, replayed, others = compare(place, found, shown, drawn)
    bands = [_flat(other) for other in others]
    rows = []
    for name, value in _flat(real).items():
        low, high = np.quantile([band[name] for band in bands], _BAND)
        again = _flat(replayed)[name]
        within = "yes" if low <= value <= high else "no"
        error = error_and_aim(name, value, again)
        rows.append((name, f"{value:.4g}", f"{again:.4g}", *error, f"{low:.4g} to {high:.4g}", within))
    headers = ["", "real", "replayed", "error", "aim", f"{drawn} other runs, 95 %", "within"]
    click.echo(tabulate(rows, headers))


def error_and_aim(name: str, real: float, replayed: float) -> tuple[str, str]:
    """How far off the replay is, and the aim with whether it is met."""
    aim = _AIMS.get(name)
    if aim is None:
        error, aimed = f"{100 * (replayed - real):+.1f} points", f"{100 * _SHARE_AIM:.0f} points"
        return error, f"{aimed}: {_verdict(replayed - real, _SHARE_AIM)}"
    error_share = replayed / real - 1
    return f"{error_share:+.1%}", f"{aim:.0%}: {_verdict(error_share, aim)}"


def _verdict(error: float, aim: float) -> str:
    return "met" if abs(error) <= aim else "MISSED"


def answered_per_s(blocks: Sequence[Block]) -> float:
    """Answers a second of the time in which somebody was inside, from the first request of a block on."""
    ends = [max((one.due_s + one.seconds for one in block.sent), default=0.0) for block in blocks]
    return sum(len(block.sent) for block in blocks) / max(sum(ends), 1e-9)


def _flat(figures: Figures) -> dict[str, float]:
    """By name, in the order of the table."""
    return {
        _NAMES["mean_s"]: figures.mean_s,
        _NAMES["p95_s"]: figures.p95_s,
        _FIRST: figures.first_s,
        **{f"share of {stage}": share for stage, share in figures.shares.items()},
        _NAMES["cost"]: figures.cost,
    }
