"""The simulator beside a real run: a served cascade, an open-loop client, and a replay of the same requests.

The server is a process of its own, with its engines; the client is this one. Prices are measured before and
after, in a process of their own, of calls of queries as they come (`asd price --mixed`); the simulator runs
on their mean. A price is what a call takes at its fastest, over and over in a process that does nothing else.
What it takes as served is measured by a probe, requests to the idle server one after the other with pauses:

    seconds of a request = slowdown * seconds its calls are priced at + delay_s * its calls + overhead_s

by non-negative least squares, scaled so that the mean is right; every simulated call takes that, and
`overhead_s` is added outside the stages.

Machines that are shared with others are faster in one minute than in the next. So a load is run in short
blocks, all loads in turns, with a probe of the same requests between any two blocks: what the probes before
and after a block took says how fast the machine was in it, and a block whose two probes disagree is void.

The engines of one device take turns (`asd.dispatch`), so the simulated stages share a place; a stage behind a
server has its own. The simulator replays the arrival instants and queries of the real run, and draws other
runs of the same rate and length. A stage whose server is killed is asked again once it listens and has rested
(`asd.resilience`), so the simulated outage lasts whole rests.
"""

from __future__ import annotations

import math
import time
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Literal

import numpy as np

from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.measurement.files import read_record, write_record
from asd.measurement.records import Record
from asd.operations.arrivals import poisson
from asd.operations.population import Decider, Population, Situation
from asd.operations.simulator import Simulator
from asd.operations.stations import Request, StageServer
from asd.operations.traffic import Fixed, Open, RunSettings
from asd.policies import OptimalPolicy
from asd.policy.artifact import PolicyArtifact
from asd.prices import Prices
from asd.research.load.client import Sent, ask_all, ask_in_turn
from asd.research.load.processes import Outage, PriceTables, StageServers, is_server, measured_prices, served
from asd.resilience import COOL_DOWN_S
from asd.schema import msgspec
from asd.types import Trace

__all__ = [
    "AsServed", "Block", "Figures", "Reality", "RealityHeader", "ServedLadder", "as_served", "compare",
    "price_drift", "run_reality",
]  # fmt: skip

MOST_DRIFT = 0.05
"""Relative change between before and after by which a block, or the whole comparison, is void."""
_PROBE = 30
"""Requests of a probe, the same in each."""
_WARM = 5
"""More of them, which come first in the first probe and are not counted."""
_PLACE = "device"
_GAP_S = 600.0
"""Between two simulated blocks, so that nothing is left of one in the next."""
_FEWEST = 20
"""Expected requests of a load below which it is not run: a 95th percentile of fewer says nothing."""


class RealityHeader(Record, frozen=True, kw_only=True):
    """What a comparison is about; a file is gone on from only if it is equal.

    Attributes:
        ladder: Its fingerprint.
        lam: Of every request.
        batch: Most queries in a call.
        loads: Shares of the time that the device would be at work, were every call of one query.
        minutes: Of each load.
        n_queries: Recorded queries.
        block_s: Seconds of a block; a load is run in so many as its minutes hold.
        down: A stage that is killed in one more block, of all minutes at the first load, and started again.
    """

    ladder: str
    lam: float
    batch: int
    loads: tuple[float, ...]
    minutes: float
    n_queries: int
    block_s: float = 30.0
    down: Outage | None = None

    @property
    def blocks(self) -> tuple[tuple[float, float, Outage | None], ...]:
        """Load, seconds and outage of each, in their order."""
        seconds = 60.0 * self.minutes
        n = max(1, round(seconds / self.block_s))
        turns = tuple((load, seconds / n, None) for _ in range(n) for load in self.loads)
        return turns if self.down is None else (*turns, (self.loads[0], seconds, self.down))


class Block(Record, frozen=True, kw_only=True):
    """A stretch of a real run.

    Attributes:
        rho: Its load.
        rate: Requests a second.
        seconds: In which requests arrived.
        sent: All of them.
        after: The probe after it.
        down: When its killed stage was away.
    """

    rho: float
    rate: float
    seconds: float
    sent: tuple[Sent, ...]
    after: tuple[Sent, ...]
    down: Outage | None = None


class Reality(Record, frozen=True, kw_only=True):
    """The file; what has been measured is never measured again.

    Attributes:
        before: Prices by batch size, before the runs; empty: not measured yet.
        after: After them.
        probe: Requests to the idle server, before the first block.
        blocks: So far.
    """

    format: Literal["asd-reality"] = "asd-reality"
    schema_version: Literal[3] = 3
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

    def stands(self, number: int) -> bool:
        """Whether the probes before and after a block agree."""
        before, after = self.probes_s[number : number + 2]
        return abs(after - before) <= MOST_DRIFT * before


@dataclass(frozen=True, slots=True)
class AsServed:
    """What calls take beyond what they are priced at.

    Attributes:
        slowdown: What the priced seconds are multiplied with.
        delay_s: Added to every call.
        overhead_s: Added to every request, whatever its stages do meanwhile.
    """

    slowdown: float
    delay_s: float
    overhead_s: float = 0.0

    def seconds(self, calls: Sequence[float]) -> float:
        """That stages work for calls that are priced at so many seconds each."""
        return self.slowdown * sum(calls) + self.delay_s * len(calls)

    def at(self, pace: float) -> AsServed:
        """On a machine that takes so many times as long."""
        return AsServed(pace * self.slowdown, pace * self.delay_s, pace * self.overhead_s)


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
    if len(found.blocks) < len(asked.blocks):
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
    queries, lam = [trace.query for trace in place.traces], found.asked.lam
    drawn = np.random.default_rng(1).integers(len(queries), size=_PROBE + _WARM).tolist()
    if not found.probe:
        tell("the idle server")
        warmed = tuple(ask_in_turn(url, lam, queries, drawn[-_WARM:] + drawn[:_PROBE]))
        found = msgspec.structs.replace(found, probe=warmed[_WARM:])
        yield found
    busy_s = _busy_s(place, found)
    for number in range(len(found.blocks), len(found.asked.blocks)):
        rho, seconds, outage = found.asked.blocks[number]
        killed = "" if outage is None else f", {outage.stage} killed and started again"
        tell(f"block {number + 1} of {len(found.asked.blocks)}: load {rho:g}{killed}")
        due = _due(np.random.default_rng([2, number]), rho / busy_s, seconds, found.asked)
        with ThreadPoolExecutor(1) as aside:
            gone = None if outage is None else aside.submit(stages.interrupt, outage)
            sent = tuple(ask_all(url, lam, queries, due))
            down = None if gone is None else gone.result()
        if down is not None:  # the probe asks all stages
            time.sleep(max(0.0, down.start_s + _away_s(down) - seconds))
        after = tuple(ask_in_turn(url, lam, queries, drawn[:_PROBE]))
        block = Block(rho=rho, rate=rho / busy_s, seconds=seconds, sent=sent, after=after, down=down)
        found = msgspec.structs.replace(found, blocks=(*found.blocks, block))
        yield found


def _due(
    rng: np.random.Generator, rate: float, seconds: float, asked: RealityHeader
) -> list[tuple[float, int]]:
    """Poisson instants of one block, in seconds, each with the position of a query."""
    expected = 60.0 * asked.minutes * rate
    if expected < _FEWEST:
        raise ConfigError(
            f"{asked.minutes:g} minutes of {rate:.3g} requests a second are {expected:.0f} requests; "
            f"ask for minutes enough to expect {_FEWEST}"
        )
    instants = list(takewhile(lambda at: at < seconds, poisson(rate, rng)))
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
    """What calls took on the idle server, in all probes together."""
    from scipy.optimize import nnls  # noqa: PLC0415  (scipy takes a second)

    decider = _decider(place, found)
    situations = place.population(_prices_of(found), 1).queries
    sent = [*found.probe, *(one for block in found.blocks for one in block.after)]
    calls = [_calls(decider, situations[one.query]) for one in sent]
    explaining = np.array([(sum(priced), len(priced), 1.0) for priced in calls])
    took = np.array([one.seconds - one.lag_s for one in sent])
    weights = 1.0 / np.sqrt(explaining[:, :1] + took.mean() / 10)  # short requests count, though not for all
    solution, _ = nnls(explaining * weights, took * weights[:, 0])
    return AsServed(*(solution * took.sum() / (explaining @ solution).sum()).tolist())


def price_drift(before: PriceTables, after: PriceTables, place: ServedLadder) -> tuple[float, float]:
    """How what a mean call costs moved: all prices alike, and the largest relative change besides.

    The first is the pace of the machine, which the probes follow; calls of every stage and batch size count.
    """
    population = place.population(before, 1)
    ratios = np.array(
        [
            after[size][stage].cost(usage) / row.cost(usage)
            for size, rows in before.items()
            for stage, row in rows.items()
            for usage in [population.mean_usage(stage)]
        ]
    )
    alike = float(np.median(ratios))
    return alike - 1.0, float(np.max(np.abs(ratios / alike - 1.0)))


def compare(
    place: ServedLadder, found: Reality, numbers: Sequence[int], n_drawn: int
) -> tuple[Figures, Figures, list[Figures]]:
    """The real figures of these blocks, those of their replay, and those of other runs of their rates.

    Args:
        place: What was served.
        found: What was measured.
        numbers: Positions of blocks, one at least.
        n_drawn: Other runs.
    """
    population = place.population(_prices_of(found), found.asked.batch)
    fixed, servers = Fixed(place.policy_at(found.asked.lam)), place.servers(found.asked.batch)
    taken, blocks = as_served(place, found), [found.blocks[number] for number in numbers]
    paces = [taken.at(found.pace(number)) for number in numbers]

    def simulated(due: Sequence[Sequence[tuple[float, int]]], seed: int) -> Figures:
        parts = [_Part(came, pace, block.down) for came, pace, block in zip(due, paces, blocks, strict=True)]
        return _simulated(population, fixed, servers, parts, seed)

    replayed = simulated([[(s.due_s + s.lag_s, s.query) for s in block.sent] for block in blocks], 0)
    drawn = []
    for seed in range(n_drawn):
        rng = np.random.default_rng([3, seed])
        drawn.append(simulated([_due(rng, b.rate, b.seconds, found.asked) for b in blocks], seed))
    return _figures([one for block in blocks for one in block.sent], place.ladder), replayed, drawn


@dataclass(frozen=True, slots=True)
class _Part:
    """A block as it is simulated: when which query comes, what calls take, and which stage is away."""

    due: Sequence[tuple[float, int]]
    taken: AsServed
    down: Outage | None


def _simulated(
    population: Population,
    fixed: Fixed,
    servers: Mapping[str, StageServer],
    parts: Sequence[_Part],
    seed: int,
) -> Figures:
    """Of all blocks, one long after the other."""
    lengths = [_GAP_S + max((at for at, _ in part.due), default=0.0) for part in parts]
    starts = np.cumsum([0.0, *lengths]).tolist()
    began = list(zip(starts, parts, strict=False))
    came = sorted((start + at, query) for start, part in began for at, query in part.due)
    seconds, queries = zip(*came, strict=True)
    traffic, settings = Open(seconds, queries), RunSettings(window_s=starts[-1])
    sim = Simulator(population, servers, fixed, traffic, seed, settings)
    for start, part in began:
        _plan(sim, start, part)
    ended: list[tuple[float, str, float]] = []

    def note(request: Request, now: float) -> None:
        outside = parts[bisect(starts, request.arrived) - 1].taken.overhead_s
        answer = request.step.answer or ""  # type: ignore[union-attr]
        ended.append((now - request.arrived + outside, answer, request.cost))

    sim.on_end = note
    list(islice(sim.run(settings.window_s), 1))
    latencies, answers, costs = zip(*ended, strict=True)
    return _of(list(latencies), list(latencies), list(answers), list(costs), population.stages)


def _plan(sim: Simulator, start: float, part: _Part) -> None:
    """Let calls take as long as in this block from its start on, and its stage be away."""

    def set_pace(taken: AsServed) -> None:
        for station in sim.stations.values():
            station.slowdown, station.delay_s = taken.slowdown, taken.delay_s

    sim.agenda.at(start, set_pace, part.taken)
    if (down := part.down) is not None:
        sim.agenda.at(start + down.start_s, partial(sim.resize, down.stage), 0)
        sim.agenda.at(start + down.start_s + _away_s(down), partial(sim.resize, down.stage), 1)


def _away_s(down: Outage) -> float:
    """How long the cascade goes round the stage: one that failed rests, and is then asked again."""
    return COOL_DOWN_S * math.ceil(down.seconds / COOL_DOWN_S)


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


def _prices_of(found: Reality) -> PriceTables:
    """The mean of what was measured before and after, as far as it was."""
    return _mean(found.before, found.after or found.before)


def _mean(before: PriceTables, after: PriceTables) -> PriceTables:
    """The mean of two price tables, number by number; where one has no price, the other's."""

    def mixed(a: Prices, b: Prices) -> Prices:
        pairs = {name: (getattr(a, name), getattr(b, name)) for name in Prices.__struct_fields__}
        known = {name: [price for price in pair if price is not None] for name, pair in pairs.items()}
        return Prices(**{name: sum(prices) / len(prices) for name, prices in known.items() if prices})

    return {
        size: {stage: mixed(row, after[size][stage]) for stage, row in rows.items()}
        for size, rows in before.items()
    }
