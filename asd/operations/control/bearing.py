"""The rate of arrivals at which a table still holds a P95, from recorded queries and what their calls take.

While the backlogs stay at one combination of `LEVELS`, a table does the same with every query: a request
takes d seconds of a stage's replicas, in full calls, and v visits. At r requests a second a device with n
replicas and calls of c seconds is used rho = r d / n, and waited for

    W = c rho^e / (n (1 - rho)),      e = sqrt(2 (n + 1)) - 1

(Sakasegawa, as in `asd.operations.control.backlog`). Waits are taken as exponential, so that 5 % of the
requests wait longer than W ln(20 v) where a share v of them does; P95 is reckoned as that of the calls alone,
beside nobody, and these waits. What is borne is a share of the largest r, over all combinations, whose P95
stays below its target. An approximation, made to say in time what a simulation would say exactly. Seconds are
priced; where calls take longer than that, all that depends on them is scaled alike (`Bearing.slowed`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np

from asd.evidence import Evidence
from asd.operations.control.backlog import LEVELS, BacklogPolicy, BacklogTable, Solved
from asd.operations.control.deciders import decider_of
from asd.operations.demand import Array
from asd.operations.population import Population, Situation, Step
from asd.operations.state import StageState
from asd.operations.traffic import Gauge

__all__ = ["BEARABLE", "Bearing", "Demand", "bearing_of", "demand_of", "gauge_at"]

BEARABLE = 0.8
"""Share that may be used: of a device's time at full calls, and of the rate at which P95 is at its target."""
_TAIL = math.log(20.0)
_STEPS = 50
"""Halvings of the interval in which a rate is looked for."""


class Demand(NamedTuple):
    """What a request takes, mean over recorded queries.

    Attributes:
        seconds: Of a replica, by stage, in full calls.
        singles: The same in calls of one query.
        visits: Calls that it is in, by stage.
        alone_s: 95th percentile over the queries of what their calls take one after the other, beside nobody.
    """

    seconds: tuple[float, ...]
    singles: tuple[float, ...]
    visits: tuple[float, ...]
    alone_s: float


@dataclass(frozen=True, slots=True)
class Bearing:
    """What requests take of the stages under one table.

    Attributes:
        stages: Names, in ladder order.
        sizes: Queries in a full call, by stage.
        call_s: What it takes, by stage.
        demands: At every combination of backlogs with all stages in reach, the last stage's level changing
            fastest.
        share: Of the rate at which P95 is expected to be at its target.
    """

    stages: Sequence[str]
    sizes: Sequence[int]
    call_s: Sequence[float]
    demands: Sequence[Demand]
    share: float = BEARABLE

    def slowdown(self, name: str, stage: StageState) -> float | None:
        """How many times as long as priced the calls took that ended; None: none did, or none is priced.

        A call of n queries is priced between one query and a full call, of the longest of the mixes of calls
        that backlogs lead to: which of them it was is not known, and none of them is a slowdown.
        """
        at = self.stages.index(name)
        if not (stage.call_s and stage.per_call):
            return None
        size = self.sizes[at]
        more = (stage.per_call - 1.0) / (size - 1.0) if size > 1 else 0.0
        priced = max(
            ((1.0 - more) * demand.singles[at] + more * size * demand.seconds[at]) / demand.visits[at]
            if demand.visits[at]
            else 0.0
            for demand in self.demands
        )
        return stage.call_s / priced if priced else None

    def slowed(self, factors: Mapping[str, float]) -> Bearing:
        """The same where calls of these stages take so many times as long."""
        by = np.array([factors[stage] for stage in self.stages])
        demands = []
        for demand in self.demands:
            alone = sum(demand.singles)
            longer = float(by @ np.array(demand.singles)) / alone if alone else 1.0
            seconds, singles = (tuple((by * np.array(s)).tolist()) for s in (demand.seconds, demand.singles))
            demands.append(Demand(seconds, singles, demand.visits, demand.alone_s * longer))
        return replace(self, call_s=tuple((by * np.array(self.call_s)).tolist()), demands=demands)

    def rate(
        self, replicas: Mapping[str, int], devices: Iterable[Sequence[str]], p95_s: float = math.inf
    ) -> float:
        """Requests a second that are borne at most; infinite where nothing is ever asked.

        Args:
            replicas: That are up, by stage.
            devices: Stages that take turns, together; every other one by itself.
            p95_s: Target, seconds; infinite: the queues stay finite.
        """
        parts = [self._device(device, replicas[device[0]]) for device in devices]
        possible = np.logical_and.reduce([part.possible for part in parts])
        use = np.max([part.use for part in parts], axis=0)[possible]
        if not use.size or not use.min():
            return math.inf if use.size else 0.0
        low, high = 0.0, 1.0 / float(use.min())
        alone = np.array([demand.alone_s for demand in self.demands])
        for _ in range(_STEPS):
            rate = (low + high) / 2.0
            p95 = alone + np.sum([part.wait(rate) for part in parts], axis=0)
            low, high = (rate, high) if (p95[possible] <= p95_s).any() else (low, rate)
        return self.share * low

    def _device(self, stages: Sequence[str], n: int) -> _DeviceUse:
        at = [self.stages.index(stage) for stage in stages]
        levels = np.array(_combinations(len(self.stages)))[:, at]
        seconds = np.array([demand.seconds for demand in self.demands])[:, at]
        visits = np.array([demand.visits for demand in self.demands])[:, at].sum(axis=1)
        taken = seconds.sum(axis=1)
        possible = (levels == levels[:, :1]).all(axis=1)  # stages that take turns wait for the same calls
        if not n:
            return _DeviceUse(
                np.zeros(len(taken)), np.zeros(len(taken)), visits, 1, possible & (taken == 0.0)
            )
        call_s = seconds @ np.array(self.call_s)[at] / np.maximum(taken, 1e-300)
        return _DeviceUse(taken / n, call_s, visits, n, possible)


class _DeviceUse(NamedTuple):
    """One device at every combination: use by a request a second, calls, visits, whether it can be so."""

    use: Array
    call_s: Array
    visits: Array
    n: int
    possible: Array

    def wait(self, rate: float) -> Array:
        """95th percentile of the waits of a request; infinite where more arrives than can be worked on."""
        rho = rate * self.use
        full = rho >= 1.0
        mean = self.call_s * rho ** (math.sqrt(2.0 * (self.n + 1)) - 1.0)
        mean /= self.n * np.where(full, 1.0, 1.0 - rho)
        few = np.maximum(0.0, np.log(20.0 * np.maximum(self.visits, 0.05)))
        return np.where(full, math.inf, mean * np.where(self.visits > 1.0, _TAIL * self.visits, few))


def bearing_of(
    population: Population, evidence: Evidence, solved: Solved, servers: Mapping[str, tuple[int, int]]
) -> Bearing:
    """What recorded queries take under a table.

    Args:
        population: Recorded queries.
        evidence: Judges them.
        solved: The table.
        servers: Replicas and largest call, by stage.
    """
    table, stages = BacklogTable(solved), solved.problem.stages
    decider = decider_of(population, BacklogPolicy("bearing", evidence, table))
    demands = []
    for levels in _combinations(len(stages)):
        table.gauges = [gauge_at(level) for level in levels]
        demands.append(demand_of(population, decider.walk, servers))
    sizes = tuple(servers[stage][1] for stage in stages)
    call_s = [size * population.mean_call_s(stage, size) for stage, size in zip(stages, sizes, strict=True)]
    return Bearing(stages, sizes, tuple(call_s), tuple(demands))


def demand_of(
    population: Population,
    walk: Callable[[Situation], Iterable[Step]],
    servers: Mapping[str, tuple[int, int]],
) -> Demand:
    """What a policy's requests take.

    Args:
        population: Recorded queries.
        walk: The steps of a policy from there to the answer.
        servers: Replicas and largest call, by stage.
    """
    n, alone = len(population.queries), []
    seconds, singles = (dict.fromkeys(population.stages, 0.0) for _ in range(2))
    visits = dict.fromkeys(population.stages, 0)
    for situation in population.queries:
        demands = [(step.stage, step.demand) for step in walk(situation) if step.demand]
        for stage, demand in demands:
            seconds[stage] += demand.share[servers[stage][1] - 1]
            singles[stage] += demand.share[0]
            visits[stage] += 1
        alone.append(math.fsum(demand.share[0] for _, demand in demands))
    return Demand(
        tuple(total / n for total in seconds.values()),
        tuple(total / n for total in singles.values()),
        tuple(total / n for total in visits.values()),
        float(np.quantile(alone, 0.95)),
    )


class _FixedBacklog(NamedTuple):
    n_waiting: int
    n_calls: int
    replicas: int = 1
    batch: int = 2
    place: None = None
    is_resident: bool = True


def gauge_at(level: int) -> Gauge:
    """A stage whose backlog is at a position in `LEVELS`, and stays there."""
    return _FixedBacklog(round(2.0 * (LEVELS[level] - 1.0)), 1) if level else _FixedBacklog(0, 0)


def _combinations(n: int) -> list[tuple[int, ...]]:
    """Levels of so many stages, all in reach."""
    return list(product(range(len(LEVELS) - 1), repeat=n))
