"""A comparison with a real run as a file: what is served, what was asked, and what was measured.

What has been measured is never measured again; a file of another comparison is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.measurement.records import Record
from asd.operations.arrivals import POISSON, Client, bursts, poisson, read_clients
from asd.operations.population import Population
from asd.operations.stations import StageServer
from asd.policies import FixedStage, Policy
from asd.policy.artifact import PolicyArtifact
from asd.research.load.client import Sent
from asd.research.load.processes import Outage, PriceTables, is_server, measured_prices
from asd.types import Trace

__all__ = ["MOST_DRIFT", "Block", "Reality", "RealityHeader", "ServedLadder"]

MOST_DRIFT = 0.05
"""Relative change by which the machine was not steady in a block, by the probes around it, and by which the
whole comparison is void, by the prices before and after."""
CASCADE = "asd"
"""The model that is the cascade itself."""
_PLACE = "device"
_FEWEST = 20
"""Expected requests of a load below which it is not run: a 95th percentile of fewer says nothing."""


class BlockPlan(NamedTuple):
    """A block to be run.

    Attributes:
        load: Its load.
        seconds: In which requests arrive.
        model: That is asked.
        outage: A stage that is killed in it.
    """

    load: float
    seconds: float
    model: str
    outage: Outage | None = None


class RealityHeader(Record, frozen=True, kw_only=True):
    """What a comparison is about; a file is gone on from only if it is equal.

    Attributes:
        ladder: Its fingerprint.
        lam: Of every request to the cascade.
        batch: Most queries in a call.
        loads: Shares of the time that the device would be at work, were every call of one query.
        minutes: Of each load.
        n_queries: Recorded queries.
        block_s: Seconds of a block; a load is run in so many as its minutes hold.
        down: A stage that is killed in one more block, of all minutes at the first load, and started again.
        models: That are asked, one a block, all of them for the same queries at the same instants.
        arrivals: `POISSON`, or a file of recorded clients.
    """

    ladder: str
    lam: float
    batch: int
    loads: tuple[float, ...]
    minutes: float
    n_queries: int
    block_s: float = 30.0
    down: Outage | None = None
    models: tuple[str, ...] = (CASCADE,)
    arrivals: str = POISSON

    @property
    def blocks(self) -> tuple[BlockPlan, ...]:
        """In their order."""
        seconds = 60.0 * self.minutes
        n = max(1, round(seconds / self.block_s))
        turns = tuple(
            BlockPlan(at, seconds / n, m) for _ in range(n) for at in self.loads for m in self.models
        )
        if self.down is None:
            return turns
        return (*turns, BlockPlan(self.loads[0], seconds, self.models[0], self.down))

    def fields_of(self, model: str) -> dict[str, object]:
        """What a request to it says besides its query."""
        return {"model": model} | ({"lam": self.lam} if model == CASCADE else {})

    def due(self, rng: np.random.Generator, rate: float, seconds: float) -> list[tuple[float, int]]:
        """Instants of one block, in seconds, each with the position of a query.

        Raises:
            ConfigError: All minutes of such a load have too few requests.
            DataError: So many are not recorded.
        """
        expected = 60.0 * self.minutes * rate
        if expected < _FEWEST:
            raise ConfigError(
                f"{self.minutes:g} minutes of {rate:.3g} requests a second are {expected:.0f} requests; "
                f"ask for minutes enough to expect {_FEWEST}"
            )
        if self.arrivals == POISSON:
            instants = list(takewhile(lambda at: at < seconds, poisson(rate, rng)))
        else:
            instants = bursts(_recorded(self.arrivals), rate, max(2, round(rate * seconds)), rng)
        return [(at, int(rng.integers(self.n_queries))) for at in instants]


@cache
def _recorded(path: str) -> list[Client]:
    return read_clients(path)


class Block(Record, frozen=True, kw_only=True):
    """A stretch of a real run.

    Attributes:
        rho: Its load.
        rate: Requests a second.
        seconds: In which requests arrived.
        sent: All of them.
        after: The probe after it.
        down: When its killed stage was away.
        model: That was asked.
    """

    rho: float
    rate: float
    seconds: float
    sent: tuple[Sent, ...]
    after: tuple[Sent, ...]
    down: Outage | None = None
    model: str = CASCADE


class Reality(Record, frozen=True, kw_only=True):
    """The file; what has been measured is never measured again.

    Attributes:
        before: Prices by batch size, before the runs; empty: not measured yet.
        after: After them.
        probe: Requests to the idle server, before the first block.
        blocks: So far.
    """

    format: Literal["asd-reality"] = "asd-reality"
    schema_version: Literal[4] = 4
    provenance: Literal["measured"] = "measured"
    asked: RealityHeader
    before: PriceTables = {}
    after: PriceTables = {}
    probe: tuple[Sent, ...] = ()
    blocks: tuple[Block, ...] = ()

    @property
    def probes_s(self) -> tuple[float, ...]:
        """What the requests of each probe took all together: before the first block, and after each."""
        probes = (self.probe, *(block.after for block in self.blocks))
        return tuple(sum(s.seconds - s.lag_s for s in probe) for probe in probes)

    def pace(self, number: int) -> float:
        """How much slower than in the mean of all probes the machine was in a block."""
        probes_s = self.probes_s
        return float((probes_s[number] + probes_s[number + 1]) / 2 / np.mean(probes_s))

    def is_steady(self, number: int) -> bool:
        """Whether the probes before and after a block agree."""
        before, after = self.probes_s[number : number + 2]
        return abs(after - before) <= MOST_DRIFT * before


@dataclass(frozen=True, slots=True)
class ServedLadder:
    """What is served, and how its figures are simulated.

    Attributes:
        name: Of the ladder, as `asd serve --ladder` takes it.
        ladder: Itself.
        policy: A file, as `asd serve --policy` takes it; None: the ladder's own.
        fitted: What is in it.
        traces: Recorded queries.
        priced: The ladder whose calls are timed, where stages answer behind servers; None: the served one.
        commands: What starts the server of a stage, by stage.
    """

    name: str
    ladder: Ladder
    policy: Path | None
    fitted: PolicyArtifact
    traces: Sequence[Trace]
    priced: str | None = None
    commands: Mapping[str, str] = field(default_factory=dict)

    def measured(self, limit: int) -> PriceTables:
        """What calls are priced at now."""
        return measured_prices(self.priced or self.name, limit)

    def servers(self, batch: int) -> dict[str, StageServer]:
        """How the stages are run: those of this machine share it."""
        return {
            stage.name: StageServer(1, batch, None if is_server(self.ladder, stage.name) else _PLACE)
            for stage in self.ladder.stages
        }

    def population(self, prices: PriceTables, batch: int) -> Population:
        """The queries, whose calls take what was measured."""
        stages = tuple(
            replace(
                stage,
                prices=prices[1][stage.name],
                batched={size: rows[stage.name] for size, rows in prices.items() if size > 1},
            )
            for stage in self.ladder.stages
        )
        found = Population(self.traces, replace(self.ladder, stages=stages), 1.0, batch)
        found.prices = self.ladder.prices_at(
            1
        )  # what the server books: the ladder's own, whatever calls take
        return found

    def policy_of(self, model: str, lam: float) -> Policy:
        """What the server decides by: `asd` at that lam, `asd/lam-X`, or `asd/always-STAGE`.

        Raises:
            ConfigError: It is none of these.
        """
        stages = [stage.name for stage in self.ladder.stages]
        cascade, _, control = model.partition("/")
        kind, _, value = control.partition("-")
        if cascade == CASCADE and not control:
            return self.fitted.optimal(lam)
        if cascade == CASCADE and kind == "lam":
            return self.fitted.optimal(_number(value))
        if cascade == CASCADE and kind == "always" and value in stages:
            return FixedStage(value)
        raise ConfigError(
            f"{model!r} is not asked here; write {CASCADE}, {CASCADE}/lam-NUMBER or {CASCADE}/always-STAGE "
            f"(stages: {', '.join(stages)})"
        )


def _number(text: str) -> float:
    """NaN where it is none, which no policy takes."""
    try:
        return float(text)
    except ValueError:
        return math.nan
