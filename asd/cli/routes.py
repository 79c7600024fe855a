"""`asd routes`: what rules for the first stage change on held-out outcomes."""

from __future__ import annotations

from pathlib import Path

import click
from tabulate import tabulate

from asd.api import policy_of
from asd.cli.examples import examples
from asd.cli.options import ladder_option, numbers, policy_option, split
from asd.collection import read_collected
from asd.errors import DataError
from asd.evaluation.replay import Outcomes
from asd.evaluation.routes import Effect, effects
from asd.ladder import Ladder
from asd.traces import answered

__all__ = ["routes"]


@click.command(
    epilog=examples(
        "asd routes test.jsonl --lam 2,5",
        "asd routes test.jsonl --routes predictor.json",
        "asd collect --split test --out test.jsonl     makes the file",
    )
)
@click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path))
@ladder_option
@policy_option
@click.option(
    "--routes",
    "rules",
    default="complexity,taxonomy",
    show_default=True,
    help="By commas; also files of predictors (`asd evidence fit`).",
)
@click.option("--lam", default="2,5,10", show_default=True, help="Of the policy, by commas.")
def routes(traces: tuple[Path, ...], ladder: str, policy: Path | None, rules: str, lam: str) -> None:
    """What `--route` changes on TRACES of split "test", against the same policy without it (replayed)."""
    steps = Ladder.load(ladder)
    fitted = policy_of(steps, policy)
    usable = [
        trace
        for trace in answered(read_collected(traces, steps, "test"))
        if all(outcome.score is not None for outcome in trace.outcomes.values())
    ]
    if not usable:
        raise DataError(f"{', '.join(map(str, traces))}: no query is answered and scored by every stage")
    outcomes = Outcomes("all", steps, tuple(usable), fitted.ladder.unit())
    found = effects(outcomes, fitted, split(rules), numbers(lam, "--lam"))
    click.echo(tabulate([_row(effect) for effect in found], headers="keys", floatfmt=".3f"))
    click.echo(
        f"{len(usable)} queries; cost in runs of {steps.stages[-1].name} alone; value lost: of "
        "lam * quality - cost, 95 % interval over queries, negative where it gains; provenance: replayed"
    )


def _row(effect: Effect) -> dict[str, object]:
    lost = effect.lost
    return {
        "lam": effect.lam,
        "first stage by": effect.rule or "the policy",
        "moved": f"{effect.moved:.0%}",
        "quality": effect.quality,
        "cost": effect.cost,
        "value lost": f"{lost.estimate:+.3f} ({lost.low:+.3f} to {lost.high:+.3f})" if effect.rule else "",
    }
