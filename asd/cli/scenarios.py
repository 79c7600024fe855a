"""What a command that simulates begins with: recorded queries on a ladder, its policy, and its servers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from asd.api import policy_of
from asd.cli.options import FiniteRange
from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.operations.population import Population
from asd.operations.runs import RunsHeader, Scenario
from asd.policy.artifact import PolicyArtifact
from asd.traces import answered, read_traces

__all__ = ["Opened", "open_scenario", "servers_options", "traffic_option", "worth_option"]

T = TypeVar("T", bound=Callable[..., Any])

worth_option = click.option(
    "--mu", type=FiniteRange(min=0), default=1.0, show_default=True, help="Worth of a second."
)
traffic_option = click.option(
    "--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the traffic."
)


def servers_options(command: T) -> T:
    """How stages are run."""
    many = click.option("--replicas", default="", help="Of stages that have several, as M=2,L=4.")
    size = click.option(
        "--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Queries a call."
    )
    return many(size(command))


class Opened(NamedTuple):
    """A scenario, what was fitted for its ladder, and the devices that a replica of each stage takes."""

    scenario: Scenario
    fitted: PolicyArtifact
    devices: dict[str, int]


def open_scenario(
    traces: Sequence[Path], ladder: str, policy: Path | None, replicas: str, batch: int, **asked: Any
) -> Opened:
    """Read traces, ladder and policy.

    Args:
        traces: Files of `asd collect`.
        ladder: As of `--ladder`.
        policy: As of `--policy`.
        replicas: Of stages that have several, as M=2,L=4.
        batch: Most queries in a call.
        asked: The other fields of `RunsHeader`.

    Raises:
        ConfigError, DataError: What is given makes up no scenario.
    """
    if not math.isfinite(asked["seconds"]):
        raise ConfigError(f"a run has an end: give a number of hours, not {asked['seconds'] / 3600.0:g}")
    steps = Ladder.load(ladder)
    fitted = policy_of(steps, policy)
    rows = answered([trace for path in traces for trace in read_traces(path)])
    population = Population(rows, steps, fitted.ladder.unit(1), batch)
    given = _replicas(replicas, steps)
    what = RunsHeader(
        ladder=steps.fingerprint,
        sources={"policy": fitted.digest, "traces": _hash(*traces)},
        n_queries=len(rows),
        servers={stage: (given.get(stage, 1), batch) for stage in population.stages},
        **asked,
    )
    devices = {stage.name: stage.tensor_parallel for stage in steps.stages}
    return Opened(Scenario(population, what), fitted, devices)


def _replicas(text: str, ladder: Ladder) -> dict[str, int]:
    names, found = {stage.name for stage in ladder.stages}, {}
    for part in filter(None, text.split(",")):
        stage, _, number = part.strip().partition("=")
        if stage not in names or not number.isdigit() or int(number) < 1:
            raise ConfigError(
                f"--replicas {part!r}: write STAGE=N with a stage of {', '.join(sorted(names))}"
            )
        found[stage] = int(number)
    return found


def _hash(*sources: Path) -> str:
    found = hashlib.sha256()
    for source in sources:
        found.update(source.read_bytes())
    return found.hexdigest()[:16]
