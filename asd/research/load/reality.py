"""The simulator beside a real run: a served cascade, an open-loop client, and a replay of the same requests.

The server is a process of its own, with its engines; the client is this one. Prices are measured before and
after, in a process of their own, of calls of queries as they come (`asd price --mixed`); the simulator runs
on their mean. A price is what a call takes at its fastest, over and over in a process that does nothing else.
What it takes as served is measured before and after too, by requests one after the other with pauses:

    seconds of a request = slowdown * seconds its calls are priced at + delay_s * its calls

by non-negative least squares, scaled so that the mean is right; every simulated call takes that.
The engines of one device take turns (`asd.dispatch`), so the simulated stages share a place; a stage behind a
server has its own. The simulator replays the arrival instants and queries of the real run, and draws other
runs of the same rate and length.

A stage whose server is killed is asked again once it listens and has rested (`asd.resilience`), so the
simulated outage lasts whole rests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Literal

import numpy as np

from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.measurement.files import read_record, write_record
from asd.measurement.records import Record
from asd.operations.arrivals import poisson
from asd.operations.faults import Fault, plan
from asd.operations.population import Decider, Population, Situation
from asd.operations.simulator import Simulator
from asd.operations.stations import Request, StageServer
from asd.operations.traffic import Fixed, Open, RunSettings
from asd.policies import OptimalPolicy
from asd.policy.artifact import PolicyArtifact
from asd.prices import PriceRow
from asd.research.load.client import Sent, ask_all, ask_in_turn
from asd.research.load.processes import Outage, Prices, StageServers, is_server, measured_prices, served
from asd.resilience import COOL_DOWN_S
from asd.schema import msgspec
from asd.types import Trace

__all__ = [
    "AsServed", "Figures", "MeasuredLoad", "Reality", "RealityHeader", "ServedLadder", "as_served", "compare",
    "drift", "run_reality", "served_drift",
]  # fmt: skip

_IDLE = 100
"""Requests, one after the other, that an idle server is asked, before and after."""
_WARM = 5
"""More of them, which come first and are not counted."""
_PLACE = "device"
_FEWEST = 20
"""Expected requests of a run below which it is not made: a 95th percentile of fewer says nothing."""


class RealityHeader(Record, frozen=True, kw_only=True):
    """What a comparison is about; a file is gone on from only if it is equal.

    Attributes:
        ladder: Its fingerprint.
        lam: Of every request.
        batch: Most queries in a call.
        loads: Shares of the time that the device would be at work, were every call of one query.
        minutes: Of each load.
        n_queries: Recorded queries.
        down: A stage that is killed in one more run, at the first load, and started again.
    """

    ladder: str
    lam: float
    batch: int
    loads: tuple[float, ...]
    minutes: float
    n_queries: int
    down: Outage | None = None

    @property
    def runs(self) -> tuple[tuple[float, Outage | None], ...]:
        """Load and outage of each."""
        interrupted = () if self.down is None else ((self.loads[0], self.down),)
        return *((load, None) for load in self.loads), *interrupted


class MeasuredLoad(Record, frozen=True, kw_only=True):
    """One real run; `down` is when its killed stage was away."""

    rho: float
    rate: float
    sent: tuple[Sent, ...]
    down: Outage | None = None


class Reality(Record, frozen=True, kw_only=True):
    """The file; what has been measured is never measured again.

    Attributes:
        before: Prices by batch size, before the runs; empty: not measured yet.
        after: After them.
        idle: Requests to the idle server, before the runs.
        idle_after: The same queries after them.
        loads: Runs so far.
    """

    format: Literal["asd-reality"] = "asd-reality"
    schema_version: Literal[2] = 2
    provenance: Literal["measured"] = "measured"
    asked: RealityHeader
    before: Prices = {}
    after: Prices = {}
    idle: tuple[Sent, ...] = ()
    idle_after: tuple[Sent, ...] = ()
    loads: tuple[MeasuredLoad, ...] = ()


@dataclass(frozen=True, slots=True)
class AsServed:
    """What calls take beyond what they are priced at.

    Attributes:
        slowdown: What the priced seconds are multiplied with.
        delay_s: Added to every call.
    """

    slowdown: float
    delay_s: float

    def seconds(self, calls: Sequence[float]) -> float:
        """Of calls that are priced at so many seconds each."""
        return self.slowdown * sum(calls) + self.delay_s * len(calls)


@dataclass(frozen=True, slots=True)
class Figures:
    """What is compared.

    Attributes:
        mean_s: Latency.
        p95_s: Its 95th percentile.
        first_s: Mean time to the first text.
        shares: Of the answers, by stage.
        cost: Mean priced cost, in the ladder's price unit.
    """

    mean_s: float
    p95_s: float
    first_s: float
    shares: dict[str, float]
    cost: float


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

    def measured(self, limit: int) -> Prices:
        """What calls are priced at now."""
        return measured_prices(self.priced or self.name, limit)

    def servers(self, batch: int) -> dict[str, StageServer]:
        """How the stages are run: those of this machine share it."""
        return {
            stage.name: StageServer(1, batch, None if is_server(self.ladder, stage.name) else _PLACE)
            for stage in self.ladder.stages
        }

    def population(self, prices: Prices, batch: int) -> Population:
        """The queries, whose calls take what was measured."""
        stages = tuple(
            replace(
                stage,
                prices=prices[1][stage.name].opened(),
                batched={size: rows[stage.name].opened() for size, rows in prices.items() if size > 1},
            )
            for stage in self.ladder.stages
        )
        found = Population(self.traces, replace(self.ladder, stages=stages), 1.0, batch)
        found.prices = self.ladder.prices_at(
            1
        )  # what the server books: the ladder's own, whatever calls take
        return found

    def policy_at(self, lam: float) -> OptimalPolicy:
        """What the server decides by."""
        return self.fitted.optimal(lam)


def run_reality(
    place: ServedLadder,
    asked: RealityHeader,
    path: str | Path | None,
    tell: Callable[[str], object],
    limit: int,
) -> Reality:
    """Measure what is not in the file yet.

    Args:
        place: What is served.
        asked: Loads, and how long.
        path: Where every part is kept as soon as it is there; None: nowhere.
        tell: Called before every part.
        limit: Queries that prices are measured on, of each data set.

    Raises:
        ConfigError: The file holds another comparison, or a run would have too few requests.
        EngineError: The server did not start, or refused a request.
    """
    place.policy_at(asked.lam)  # refuses what is no lam, before anything is measured
    found = _begun(path, asked)
    if found.asked != asked:
        raise ConfigError(f"{path} holds another comparison ({found.asked}); choose another file")

    def keep(now: Reality) -> Reality:
        if path is not None:
            write_record(path, now)
        return now

    if not found.before:
        tell("prices before")
        found = keep(msgspec.structs.replace(found, before=place.measured(limit)))
    if len(found.loads) < len(asked.runs) or not found.idle_after:
        with (
            StageServers(place.ladder, place.commands) as stages,
            served(place.name, place.policy, asked.batch) as url,
        ):
            for now in _runs(place, found, url, stages, tell):
                found = keep(now)
    if not found.after:
        tell("prices after")
        found = keep(msgspec.structs.replace(found, after=place.measured(limit)))
    return found


def _begun(path: str | Path | None, asked: RealityHeader) -> Reality:
    """What the file holds; nothing yet where there is none."""
    if path is None or not Path(path).exists():
        return Reality(asked=asked)
    return read_record(path, Reality)


def _runs(
    place: ServedLadder, found: Reality, url: str, stages: StageServers, tell: Callable[[str], object]
) -> Iterator[Reality]:
    queries = [trace.query for trace in place.traces]
    rng = np.random.default_rng(1)
    drawn = rng.integers(len(queries), size=_IDLE + _WARM).tolist()

    def idle() -> tuple[Sent, ...]:
        return tuple(ask_in_turn(url, found.asked.lam, queries, drawn)[_WARM:])

    if not found.idle:
        tell("the idle server")
        found = msgspec.structs.replace(found, idle=idle())
        yield found
    busy_s = _busy_s(place, found)
    for rho, outage in found.asked.runs[len(found.loads) :]:
        tell(f"load {rho:g}" + ("" if outage is None else f", {outage.stage} killed and started again"))
        due = _due(np.random.default_rng([2, round(1000 * rho)]), rho / busy_s, found.asked)
        with ThreadPoolExecutor(1) as aside:
            down = None if outage is None else aside.submit(stages.interrupt, outage)
            sent = tuple(ask_all(url, found.asked.lam, queries, due))
        load = MeasuredLoad(rho=rho, rate=rho / busy_s, sent=sent, down=down and down.result())
        found = msgspec.structs.replace(found, loads=(*found.loads, load))
        yield found
    tell("the idle server again")
    yield msgspec.structs.replace(found, idle_after=idle())


def _due(rng: np.random.Generator, rate: float, asked: RealityHeader) -> list[tuple[float, int]]:
    """Poisson instants of one run, in seconds, each with the position of a query."""
    expected = 60.0 * asked.minutes * rate
    if expected < _FEWEST:
        raise ConfigError(
            f"{asked.minutes:g} minutes of {rate:.3g} requests a second are {expected:.0f} requests; "
            f"ask for minutes enough to expect {_FEWEST}"
        )
    instants = list(takewhile(lambda at: at < 60.0 * asked.minutes, poisson(rate, rng)))
    return [(at, int(rng.integers(asked.n_queries))) for at in instants]


def _busy_s(place: ServedLadder, found: Reality) -> float:
    """Mean seconds of calls of one query that the policy's walks take, as they are served."""
    decider, taken = _decider(place, found), as_served(place, found)
    queries = place.population(found.before, 1).queries
    return float(np.mean([taken.seconds(_calls(decider, situation)) for situation in queries]))


def _decider(place: ServedLadder, found: Reality) -> Decider:
    """Of calls of one query, at the prices measured so far."""
    return Decider(place.population(_prices_of(found), 1), place.policy_at(found.asked.lam))


def _calls(decider: Decider, situation: Situation) -> list[float]:
    """Seconds that the calls of one query are priced at, which the policy's walk takes."""
    return [step.demand[0] for step in decider.walk(situation) if step.demand]


def as_served(place: ServedLadder, found: Reality) -> AsServed:
    """What calls took on the idle server, all of its requests together."""
    from scipy.optimize import nnls  # noqa: PLC0415  (scipy takes a second)

    decider = _decider(place, found)
    situations = place.population(_prices_of(found), 1).queries
    sent = [*found.idle, *found.idle_after]
    calls = [_calls(decider, situations[one.query]) for one in sent]
    explaining = np.array([(sum(priced), len(priced)) for priced in calls])
    took = np.array([one.seconds - one.lag_s for one in sent])
    solution, _ = nnls(explaining, took)
    return AsServed(*(solution * took.sum() / (explaining @ solution).sum()).tolist())


def drift(before: Prices, after: Prices, place: ServedLadder) -> float:
    """The largest relative change of what a mean call of a stage costs, over stages and batch sizes."""
    changes = [0.0]
    population = place.population(before, 1)
    for size, rows in before.items():
        for stage, row in rows.items():
            usage = population.mean_usage(stage)
            old, new = (prices.opened().cost(usage) for prices in (row, after[size][stage]))
            changes.append(abs(new - old) / old)
    return max(changes)


def served_drift(found: Reality) -> float:
    """The relative change of what the same requests took on the idle server, all together."""
    before, after = (sum(s.seconds - s.lag_s for s in sent) for sent in (found.idle, found.idle_after))
    return abs(after - before) / before


def compare(
    place: ServedLadder, found: Reality, load: MeasuredLoad, n_drawn: int
) -> tuple[Figures, Figures, list[Figures]]:
    """The real figures of a load, those of its replay, and those of other runs of that rate and length."""
    population = place.population(_prices_of(found), found.asked.batch)
    taken = as_served(place, found)
    fixed, servers = Fixed(place.policy_at(found.asked.lam)), place.servers(found.asked.batch)
    faults = [] if load.down is None else [_fault(load.down)]

    def simulated(due: Sequence[tuple[float, int]], seed: int) -> Figures:
        return _simulated(population, fixed, servers, taken, due, seed, faults)

    sent = load.sent
    replayed = simulated([(s.due_s + s.lag_s, s.query) for s in sent], 0)
    rngs = [np.random.default_rng([3, seed]) for seed in range(n_drawn)]
    drawn = [simulated(_due(rng, load.rate, found.asked), seed) for seed, rng in enumerate(rngs)]
    return _figures(sent, place.ladder), replayed, drawn


def _fault(down: Outage) -> Fault:
    """The outage as the cascade sees it: a stage that failed rests, and is then asked again."""
    seconds = COOL_DOWN_S * math.ceil(down.seconds / COOL_DOWN_S)
    return Fault("down", down.stage, down.start_s, seconds, math.inf)


def _simulated(
    population: Population,
    fixed: Fixed,
    servers: Mapping[str, StageServer],
    taken: AsServed,
    due: Sequence[tuple[float, int]],
    seed: int,
    faults: Sequence[Fault],
) -> Figures:
    seconds, queries = zip(*sorted(due), strict=True)
    settings = RunSettings(window_s=seconds[-1] + 600.0)
    sim = Simulator(population, servers, fixed, Open(seconds, queries), seed, settings)
    for station in sim.stations.values():
        station.slowdown, station.delay_s = taken.slowdown, taken.delay_s
    plan(sim, faults)
    ended: list[tuple[float, str, float]] = []

    def note(request: Request, now: float) -> None:
        ended.append((now - request.arrived, request.step.answer or "", request.cost))  # type: ignore[union-attr]

    sim.on_end = note
    list(islice(sim.run(settings.window_s), 1))
    latencies, answers, costs = zip(*ended, strict=True)
    return _of(list(latencies), list(latencies), list(answers), list(costs), population.stages)


def _figures(sent: Sequence[Sent], ladder: Ladder) -> Figures:
    return _of(
        [s.seconds - s.lag_s for s in sent],
        [s.first_s - s.lag_s for s in sent],
        [s.stage for s in sent],
        [s.cost for s in sent],
        [stage.name for stage in ladder.stages],
    )


def _of(
    seconds: list[float], first: list[float], answers: list[str], costs: list[float], stages: Sequence[str]
) -> Figures:
    return Figures(
        mean_s=float(np.mean(seconds)),
        p95_s=float(np.quantile(seconds, 0.95)),
        first_s=float(np.mean(first)),
        shares={stage: answers.count(stage) / len(answers) for stage in stages},
        cost=float(np.mean(costs)),
    )


def _prices_of(found: Reality) -> Prices:
    """The mean of what was measured before and after, as far as it was."""
    return _mean(found.before, found.after or found.before)


def _mean(before: Prices, after: Prices) -> Prices:
    """The mean of two price tables, number by number; where one has no price, the other's."""

    def mixed(a: PriceRow, b: PriceRow) -> PriceRow:
        pairs = {name: (getattr(a, name), getattr(b, name)) for name in PriceRow.__struct_fields__}
        known = {name: [price for price in pair if price is not None] for name, pair in pairs.items()}
        return PriceRow(**{name: sum(prices) / len(prices) for name, prices in known.items() if prices})

    return {
        size: {stage: mixed(row, after[size][stage]) for stage, row in rows.items()}
        for size, rows in before.items()
    }
