"""Controllers that see the queues, made for a fitted policy and its stages as they are run.

queue:LAM:MU[:AHEAD] backward induction with the queues of the moment; AHEAD 0 looks one step ahead
target:LAM:P95       the same, MU learned so that P95 is held
price:LAM:MU         routes once, from the prompt, at the same prices of waiting (after RouteBalance)
paced:LAM:MU         as queue, LAM scaled down so that a day's budget lasts; simulated, paced:LAM:MU:BUDGET
floored:LAM:P95      P95 held among settings that were certified for a quality floor, and kept in a file
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from asd.errors import ConfigError
from asd.evidence import Evidence
from asd.ladder import ROOT, Ladder
from asd.operations.control.backlog import BacklogProblem, QueueAware, Solved, surcharge
from asd.operations.control.bearing import Bearing
from asd.operations.control.budget import DayBudget, Paced
from asd.operations.control.floor import Certificate, Floored
from asd.operations.control.floor_record import CertifiedTable, FloorRecord
from asd.operations.control.target import P95Target
from asd.operations.demand import Array, ladder_rates
from asd.operations.population import Population, row_name
from asd.operations.state import StageState
from asd.operations.traffic import Controller
from asd.policy.artifact import PolicyArtifact
from asd.prices import SECONDS
from asd.stopping.graph import Graph

__all__ = ["STEERED", "Steering", "named", "steering_of"]

STEERED = "queue:LAM:MU, queue:LAM:MU:AHEAD, target:LAM:P95, price:LAM:MU, floored:LAM:P95 or paced:LAM:MU"
Servers = Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Steering:
    """Makes them.

    Attributes:
        fitted: What `asd fit` made.
        rates: Seconds that a count adds to a call, by stage (`asd.operations.demand.CallRates.share`).
        call_s: What a call of one query is expected to take, by stage, until calls were seen.
        servers: Replicas and largest call, by stage.
        batch: Queries a call that policies are priced for.
        evidence: Judges the answers so far.
        day: What may be spent a day, where that is known; None: `paced` says it.
        floor: Settings that were certified; None: there are none, and `floored` is refused.
        load_s: Seconds of a load, by stage, where stages take turns in memory; empty: all stay there.
    """

    fitted: PolicyArtifact
    rates: Mapping[str, Array]
    call_s: Mapping[str, float]
    servers: Servers
    batch: int
    evidence: Evidence
    day: DayBudget | None = None
    floor: FloorRecord | None = None
    load_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def makers(self) -> dict[str, Callable[..., Controller]]:
        """By name, what takes its settings as texts."""
        return {
            "queue": lambda lam, mu, ahead="1": self.queue_aware(float(lam), float(mu), float(ahead)),
            "target": lambda lam, p95: self._target(float(lam), float(p95)),
            "price": lambda lam, mu: self._price(float(lam), float(mu)),
            "floored": lambda lam, p95: self._floored(float(lam), float(p95)),
            "paced": lambda lam, mu, *budget: self._paced(float(lam), float(mu), *map(float, budget)),
        }

    def queue_aware(self, lam: float, mu: float, ahead: float) -> QueueAware:
        """The recursion, with the queues of the moment."""
        name = f"queue-aware(lam={lam:g},mu={mu:g},ahead={ahead:g})"
        return self._steered(name, self.fitted.graph(batch=self.batch), lam, mu, ahead)

    def _target(self, lam: float, p95_s: float) -> P95Target:
        name = f"p95-target(lam={lam:g},p95={p95_s:g})"
        return P95Target(self._steered(name, self.fitted.graph(batch=self.batch), lam, 0.0, 1.0), p95_s)

    def _paced(self, lam: float, mu: float, budget: float | None = None) -> Paced:
        if (budget is None) == (self.day is None):
            raise ConfigError(
                f"paced:{lam:g}:{mu:g} spreads a day's budget: served, give it with --cap-day and --ledger "
                "(paced:LAM:MU); simulated, at its end (paced:LAM:MU:BUDGET)"
            )
        day = self.day or DayBudget(budget or 0.0)
        name = f"paced(lam={lam:g},mu={mu:g},budget={day.amount:g})"
        return Paced(self._steered(name, self.fitted.graph(batch=self.batch), lam, mu, 1.0), day)

    def _floored(self, lam: float, p95_s: float) -> Floored:
        floor = self.floor
        if floor is None:
            raise ConfigError(
                f"floored:{lam:g}:{p95_s:g} keeps to settings that were certified: name their file with "
                "--certified-floor (asd control --tables floor --out FILE makes it)"
            )
        if self.load_s:
            raise ConfigError(
                "a floor is certified for stages that stay in memory; give them memory, or queue:"
            )
        floor.check(self.fitted, self.servers, lam)
        as_certified = replace(self, batch=floor.batch, call_s=floor.call_s)
        settings = floor.settings(as_certified.tables(lam, floor.load))
        name = f"floored(lam={lam:g},p95={p95_s:g})"
        return Floored(name, settings, self.evidence, lam, p95_s, floor.bearing)

    def floor_of(
        self, found: Certificate, rows: Population, bearing: Bearing, lam: float, load: float
    ) -> FloorRecord:
        """What was certified on these rows, with the tables of this lam and load, to be kept in a file."""
        tables = [
            CertifiedTable(mu=s.mu, worst=s.worst, p_value=s.p_value, digest=s.solved.digest)
            for s in found.certified
        ]
        return FloorRecord(
            ladder=self.fitted.ladder.fingerprint,
            policy=self.fitted.digest,
            keep=found.keep,
            delta=found.delta,
            lam=lam,
            load=load,
            mus=tuple(setting.mu for setting in found.settings),
            tables=tuple(tables),
            floor=found.floor,
            servers={stage: self.servers[stage] for stage in bearing.stages},
            batch=self.batch,
            call_s=dict(self.call_s),
            full_call_s=tuple(bearing.call_s),
            demands=tuple(bearing.demands),
            rows=tuple(row_name(query.trace.query) for query in rows.queries),
        )

    def tables(self, lam: float, load: float) -> Callable[[float], Solved]:
        """Makes the table of a mu for stages of which such a share is in use, whatever comes of them."""
        problem = self._problem(self.fitted.graph(batch=self.batch), loads=False)
        states = {
            stage: (StageState(replicas, 0, 0, load, None, self.call_s[stage], 1.0), size)
            for stage, (replicas, size) in self.servers.items()
        }
        return lambda mu: problem.solve(
            lam, {stage: surcharge(state, size, mu) for stage, (state, size) in states.items()}
        )

    def _problem(self, graph: Graph, *, loads: bool) -> BacklogProblem:
        usage = {(e.source, e.parsed_action): np.array(e.usage) for e in self.fitted.problem.edges}
        return BacklogProblem(graph, usage, self.rates, scaled=self.fitted.fit.scaled, loads=loads)

    def _price(self, lam: float, mu: float) -> QueueAware:
        graph = self.fitted.graph(batch=self.batch)
        routes = Graph(graph.nodes, graph.outgoing(graph.root.name), graph.start)
        return self._steered(f"latency-price(lam={lam:g},mu={mu:g})", routes, lam, mu, 0.0)

    def _steered(self, name: str, graph: Graph, lam: float, mu: float, ahead: float) -> QueueAware:
        expected = {
            stage: StageState(replicas, 0, 0, 0.0, None, self.call_s[stage], 1.0)
            for stage, (replicas, _) in self.servers.items()
        }
        sizes = {stage: size for stage, (_, size) in self.servers.items()}
        problem = self._problem(graph, loads=bool(self.load_s))
        return QueueAware(name, problem, self.evidence, lam, mu, sizes, expected, ahead, load_s=self.load_s)


def steering_of(
    fitted: PolicyArtifact,
    ladder: Ladder,
    servers: Servers,
    day: DayBudget | None = None,
    floor: FloorRecord | None = None,
) -> Steering:
    """For stages that answer live: calls are expected to take what those of the fitting rows took.

    Raises:
        ConfigError: The ladder's prices are no times, and the policy knows no seconds of calls; or stages
            take turns in memory, and no price says how long their loads take.
    """
    largest = max(size for _, size in servers.values())
    rates = {stage: own.share for stage, own in ladder_rates(ladder, largest, fitted.ladder.seconds).items()}
    start = np.array(fitted.problem.start)
    usage = {
        e.parsed_action.stage: start @ np.array(e.usage) for e in fitted.problem.edges if e.source == ROOT
    }
    call_s = {stage: float(rates[stage][0] @ usage[stage]) for stage in rates}
    evidence, load_s = fitted.evidence(), _load_seconds(ladder)
    return Steering(fitted, rates, call_s, servers, 1, evidence, day, floor, load_s)


def _load_seconds(ladder: Ladder) -> dict[str, float]:
    """Seconds of a load, by stage, as priced; empty where all stages stay in memory."""
    room, taken = ladder.deployment.memory_gib, [stage.memory_gib or math.inf for stage in ladder.stages]
    if room is None or sum(taken) <= room:
        return {}
    unit_s, found = SECONDS.get(ladder.price_unit), {}
    for stage in ladder.stages:
        if unit_s is None or stage.prices.per_load is None:
            raise ConfigError(
                f"stages take turns in memory, and no price says how long a load of stage {stage.name!r} "
                "takes: give its prices per_load, in ms or s, or more memory_gib to the deployment"
            )
        found[stage.name] = unit_s * stage.prices.per_load
    return found


def named(text: str, makers: Mapping[str, Callable[..., Controller]], known: str) -> Controller:
    """The controller that a text names, in a fresh state; `ConfigError` where it names none of the known."""
    name, *settings = text.strip().split(":")
    try:
        return makers[name](*settings)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{text!r} is no policy; write {known}") from error
