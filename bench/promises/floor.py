"""How often a stream of requests at a promised quality falls below its floor.

    python -m bench.promises.floor --streams 500

Everything is **replayed**: questions of the embedded ladder that its policy was not fitted on are answered
and scored once by every stage; these outcomes are the population. For every stream, calibration rows are
drawn from it, `asd.guarantee.certificate` (the code of `asd fit --keep`) says what they allow, a server's
settings (`asd.serving.endpoint.settings`, with `--certified`) say which policy a request with this `quality`
gets, and the cascade plays that policy on as many requests, drawn again.

A stream has missed its floor where the mean score of its answers is below `quality` times that of the
reference stage on the same requests: chance in the requests counts, not only in the calibration rows. A
promise is broken where that holds for the whole population. The saving is that of all streams, those whose
rows allow nothing, and which the reference answers, included.

Exit code 1 if, at one of the qualities, more than a share delta of the streams missed their floor.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import msgspec
import numpy as np
import numpy.typing as npt
from tabulate import tabulate
from tqdm import tqdm

import asd
from asd.guarantee.certificate import Played, Promise, Sweep, play, promised, sweep
from asd.guarantee.record import EVERYTHING
from asd.ladder import TINY_POLICY, Ladder
from asd.policies import Policy
from asd.policy.artifact import PolicyArtifact
from asd.serving.endpoint.controls import Controls
from asd.serving.endpoint.settings import SettingCache
from asd.types import Trace
from asd.workloads import Split

__all__ = ["FloorPopulation", "Streamed", "floor", "stream"]

Rows = npt.NDArray[np.intp]


class FloorPopulation:
    """Recorded outcomes, and what every policy does on them.

    Args:
        fitted: The policy's file.
        ladder: What it steers.
        fitting: Rows of the fit, which name the reference stage.
        rows: Others, scored on every stage.
    """

    def __init__(
        self, fitted: PolicyArtifact, ladder: Ladder, fitting: list[Trace], rows: list[Trace]
    ) -> None:
        self._fitted = fitted
        self._ladder = ladder
        self._rows = rows
        self._played: dict[str, Played] = {}
        anything = Promise(delta=0.5, keep=1.0)  # no level enters what is played
        self.everyone: Sweep = sweep(fitted, fitting, rows, ladder, anything)[EVERYTHING]

    def drawn(self, n: int, rng: np.random.Generator) -> Rows:
        """So many rows, with replacement: those of other users are like these, not the same."""
        return rng.choice(len(self._rows), n)

    def served(self, calibration: Rows, promise: Promise) -> Policy:
        """The policy of a request that asks for the promised quality, of a server with this calibration."""
        guarantee = promised({EVERYTHING: self.everyone.at(calibration)}, promise)
        artifact = msgspec.structs.replace(self._fitted, guarantee=guarantee)
        settings = SettingCache(artifact, self._ladder, certified="refuse")
        return asyncio.run(settings.of(Controls(quality=promise.keep))).policy

    def played(self, policy: Policy) -> Played:
        """What the cascade does by a policy on all rows."""
        if policy.name not in self._played:
            self._played[policy.name] = play(policy, self._rows, self._ladder, self._fitted.ladder.unit(1))
        return self._played[policy.name]


@dataclass(frozen=True, slots=True)
class Streamed:
    """What became of one stream.

    Attributes:
        missed: Its answers were worth less than the floor.
        broken: So are those to the whole population.
        saving: Share of the reference's cost on these requests that was not paid.
    """

    missed: bool
    broken: bool
    saving: float


def stream(
    population: FloorPopulation,
    promise: Promise,
    n_calibration: int,
    n_requests: int,
    rng: np.random.Generator,
) -> Streamed:
    """One server, calibrated on rows of its own, and one stream of requests at its quality."""
    policy = population.served(population.drawn(n_calibration, rng), promise)
    played, reference = population.played(policy), population.everyone
    asked = population.drawn(n_requests, rng)
    margin = played.quality - (promise.keep or 0.0) * reference.stage_quality
    saving = 1.0 - played.cost[asked].sum() / reference.stage_cost[asked].sum()
    return Streamed(bool(margin[asked].mean() < 0.0), bool(margin.mean() < 0.0), float(saving))


@click.command()
@click.option("--quality", "qualities", type=click.FloatRange(0, 1, min_open=True), multiple=True,
              default=(0.9, 0.95, 0.98), show_default=True)  # fmt: skip
@click.option("--delta", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.1,
              show_default=True, help="Share of streams that may miss their floor.")  # fmt: skip
@click.option("--streams", type=click.IntRange(1), default=500, show_default=True, help="At every quality.")
@click.option("--calibration", type=click.IntRange(2), default=1000, show_default=True, help="Rows of each.")
@click.option(
    "--requests", type=click.IntRange(1), default=1000, show_default=True, help="Of each, after them."
)
@click.option("--questions", type=click.IntRange(1), default=500, show_default=True,
              help="Of every workload, that every stage answers once: the population.")  # fmt: skip
@click.option("--seed", default=0, show_default=True)
def floor(
    qualities: tuple[float, ...],
    delta: float,
    streams: int,
    calibration: int,
    requests: int,
    questions: int,
    seed: int,
) -> None:
    """Count the streams whose answers are worth less than their requests asked for."""
    ladder, fitted = Ladder.load("tiny"), asd.load_policy(TINY_POLICY)
    population = FloorPopulation(
        fitted, ladder, _collected("fit", min(questions, 60)), _collected("test", questions)
    )
    click.echo(
        f"replayed: {population.everyone.stage_quality.size} recorded questions; {streams} streams of "
        f"{requests} requests, {calibration} calibration rows each, delta {delta:g}"
    )
    rows, most = [], 0.0
    for quality, rng in zip(qualities, np.random.default_rng(seed).spawn(len(qualities)), strict=True):
        promise = Promise(delta=delta, keep=quality)
        found = [
            stream(population, promise, calibration, requests, rng)
            for _ in tqdm(range(streams), f"quality {quality:g}", disable=None)
        ]
        missed, broken, saving = (
            float(np.mean([getattr(one, name) for one in found])) for name in ("missed", "broken", "saving")
        )
        rows.append([f"{quality:g}", f"{missed:.1%}", f"{broken:.1%}", f"{saving:.1%}"])
        most = max(most, missed)
    click.echo(tabulate(rows, ["quality", "missed the floor", "promise broken", "saved"]))
    sys.exit(most > delta)


def _collected(split: Split, questions: int) -> list[Trace]:
    with TemporaryDirectory() as folder:
        return asd.collect("tiny", out=Path(folder) / "traces.jsonl", split=split, limit=questions)


if __name__ == "__main__":
    floor()
