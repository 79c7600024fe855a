"""What a command that simulates begins with: recorded queries on a ladder, its policy, and its servers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
import numpy as np

from asd.api import policy_of
from asd.cli.options import FiniteRange, split
from asd.errors import ConfigError, DataError
from asd.ladder import Ladder
from asd.operations.population import Population
from asd.operations.runs import RunsHeader, Scenario
from asd.policy.artifact import PolicyArtifact
from asd.policy.fit import fit
from asd.research.load.recorded import priced_ladder, read_timed
from asd.traces import answered, read_traces
from asd.types import Trace

__all__ = ["Opened", "open_scenario", "recorded_option", "servers_options", "traffic_option", "worth_option"]

T = TypeVar("T", bound=Callable[..., Any])

worth_option = click.option(
    "--mu", type=FiniteRange(min=0), default=1.0, show_default=True, help="Worth of a second."
)
traffic_option = click.option(
    "--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the traffic."
)
recorded_option = click.option(
    "--recorded",
    metavar="MODEL[=DEVICES],...",
    help="TRACES are recordings of these models, the largest last, as `asd contest` reads them; half of the "
    "queries fit the policy. With --batch 1, without --ladder and --policy.",
)


def servers_options(command: T) -> T:
    """How stages are run."""
    many = click.option("--replicas", default="", help="Of stages that have several, as M=2,L=4.")
    size = click.option(
        "--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Queries a call."
    )
    return many(size(command))


class _ScenarioSource(NamedTuple):
    """Queries to draw from, their ladder, and the policy for it."""

    rows: list[Trace]
    ladder: Ladder
    fitted: PolicyArtifact


class Opened(NamedTuple):
    """A scenario, what was fitted for its ladder, and the devices that a replica of each stage takes."""

    scenario: Scenario
    fitted: PolicyArtifact
    devices: dict[str, int]


def open_scenario(
    traces: Sequence[Path],
    ladder: str,
    policy: Path | None,
    replicas: str,
    batch: int,
    recorded: str | None = None,
    **asked: Any,
) -> Opened:
    """Read traces, ladder and policy.

    Args:
        traces: Files of `asd collect`; with `recorded`, recordings.
        ladder: As of `--ladder`.
        policy: As of `--policy`.
        replicas: Of stages that have several, as M=2,L=4.
        batch: Most queries in a call.
        recorded: As of `--recorded`.
        asked: The other fields of `RunsHeader`.

    Raises:
        ConfigError, DataError: What is given makes up no scenario.
    """
    if not math.isfinite(asked["seconds"]):
        raise ConfigError(f"a run has an end: give a number of hours, not {asked['seconds'] / 3600.0:g}")
    if recorded is None:
        rows, steps, fitted = _collected(traces, ladder, policy)
    else:
        rows, steps, fitted = _recorded(traces, recorded, ladder, policy)
    population = Population(rows, steps, fitted.ladder.unit(1), batch, clocked=recorded is not None)
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


def _collected(traces: Sequence[Path], ladder: str, policy: Path | None) -> _ScenarioSource:
    steps = Ladder.load(ladder)
    rows = answered([trace for path in traces for trace in read_traces(path)])
    return _ScenarioSource(rows, steps, policy_of(steps, policy))


def _recorded(traces: Sequence[Path], models: str, ladder: str, policy: Path | None) -> _ScenarioSource:
    """The half of the queries on which the policy was not fitted."""
    if policy is not None or ladder != "tiny":
        raise ConfigError(
            "--recorded makes ladder and policy of the recordings; leave --ladder and --policy out"
        )
    devices = _devices(models)
    rows = read_timed(traces, list(devices))
    if len(rows) < 2:
        raise DataError("one query cannot be split; give recordings of more")
    order = np.random.default_rng(0).permutation(len(rows))
    fitting, judged = ([rows[i] for i in half] for half in (order[::2], order[1::2]))
    steps = priced_ladder(fitting, list(devices), list(devices.values()))
    return _ScenarioSource(judged, steps, fit(fitting, steps, fitted_at="for a scenario"))


def _devices(models: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in split(models):
        name, equals, number = part.partition("=")
        if name in found or (equals and not (number.isdigit() and int(number))):
            raise ConfigError(f"--recorded {part!r}: write MODEL or MODEL=DEVICES, each model once")
        found[name] = int(number or 1)
    if not found:
        raise ConfigError(f"--recorded {models!r}: name the models of the recordings, the largest last")
    return found


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
