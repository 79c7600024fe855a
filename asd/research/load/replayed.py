"""A real run simulated: what its calls took, the same requests again, and other runs like it.

A price is what a call takes at its fastest, over and over in a process that does nothing else. What it takes
as served is told by probes, requests to the idle server one after the other with pauses:

    seconds of a request = slowdown * seconds its calls are priced at + delay_s * its calls + overhead_s

by non-negative least squares, scaled so that the mean is right; every simulated call takes that, at the pace
of its block, and `overhead_s` is added outside the stages. The engines of one device take turns
(`asd.dispatch`), so the simulated stages share a place; a stage behind a server has its own. Nothing is shown
before the cascade has stopped (`show` is hold), so the simulated first text comes with the end of the answer.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from asd.ladder import Ladder
from asd.operations.control.deciders import Decider
from asd.operations.population import Population, Situation
from asd.operations.simulator import Simulator
from asd.operations.stations import Request, StageServer
from asd.operations.traffic import Fixed, Open, RunSettings
from asd.prices import Prices
from asd.research.load.client import Sent
from asd.research.load.measured import CASCADE, Reality, ServedLadder
from asd.research.load.processes import Outage, PriceTables

__all__ = ["AsServed", "Figures", "as_served", "busy_s", "compare", "price_drift"]

_GAP_S = 600.0
"""Between two simulated blocks, so that nothing is left of one in the next."""


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


def busy_s(place: ServedLadder, found: Reality) -> float:
    """Mean seconds of calls of one query that the policy's walks take, as they are served."""
    decider, taken = _decider(place, found), as_served(place, found)
    queries = place.population(found.before, 1).queries
    return float(np.mean([taken.seconds(_calls(decider, situation)) for situation in queries]))


def _decider(place: ServedLadder, found: Reality) -> Decider:
    """Of calls of one query, at the prices measured so far."""
    return Decider(place.population(_prices_of(found), 1), place.policy_of(CASCADE, found.asked.lam))


def _calls(decider: Decider, situation: Situation) -> list[float]:
    """Seconds that the calls of one query are priced at, which the policy's walk takes."""
    return [step.demand.share[0] for step in decider.walk(situation) if step.demand]


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
        numbers: Positions of blocks of one model, one at least.
        n_drawn: Other runs.
    """
    population = place.population(_prices_of(found), found.asked.batch)
    taken, blocks = as_served(place, found), [found.blocks[number] for number in numbers]
    policy = place.policy_of(blocks[0].model, found.asked.lam)
    fixed, servers = Fixed(policy), place.servers(found.asked.batch)
    paces = [taken.at(found.pace(number)) for number in numbers]

    def simulated(due: Sequence[Sequence[tuple[float, int]]], seed: int) -> Figures:
        parts = [_Part(came, pace, block.down) for came, pace, block in zip(due, paces, blocks, strict=True)]
        return _simulated(population, fixed, servers, parts, seed)

    replayed = simulated([[(s.due_s + s.lag_s, s.query) for s in block.sent] for block in blocks], 0)
    drawn = []
    for seed in range(n_drawn):
        rng = np.random.default_rng([3, seed])
        drawn.append(simulated([found.asked.due(rng, b.rate, b.seconds) for b in blocks], seed))
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
        sim.agenda.at(start + down.start_s + down.away_s, partial(sim.resize, down.stage), 1)


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
