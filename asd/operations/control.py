"""Controllers: what the load changes about the policy. Ours prices waiting; the others are compared with it.

An edge that keeps stage k busy for s seconds costs, beside its compute, mu times the seconds that the request
waits and works there and that it makes others wait:

    mu * (W_k + s * (1 + load_k / (1 - load_k) * (1 + W_k / S_k))),

exact for M/M/1, where it is W + S + lambda dW/dlambda. mu is what a second is worth in cost units, S_k a mean
call, W_k the wait in the queue: what the utilisation implies (Sakasegawa's approximation of M/M/c) or, where
it is longer, the backlog. With these prices on the edges the
same backward induction is solved again (`repriced`), so that the option to stop later, skipping a stage
and drafts already paid for are all weighed against the queues of the moment. The state is smoothed, so that
the loop does not swing, and prices are kept on a finite grid: a load seen before is a policy solved before,
and whatever can ever decide is one of a set that can be certified beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from asd.errors import ConfigError
from asd.evidence import Evidence
from asd.operations.population import Decider, Population, Situation
from asd.operations.state import StageState, SystemState
from asd.policies import ClosedForm, Policy
from asd.stopping.graph import Edge, FloatArray, Graph
from asd.types import VERIFY

__all__ = ["Gear", "Gears", "Price", "PricedWait", "Published", "gears_of", "price_of", "repriced", "wait"]

_STEP = 1.5
"""Ratio of neighbouring prices on the grid."""
_LEAST, _MOST = 0.01, 100.0
"""The lowest price that is not 0 and the highest, cost units."""
_FULL = 0.95
"""Load beyond which prices grow with the backlog only."""


def wait(stage: StageState, batch: int) -> float:
    """Seconds that a request which joins the queue now waits for its call to begin.

    Args:
        stage: As it is.
        batch: Most queries in a call.
    """
    if not stage.call_s or not stage.replicas:
        return 0.0
    exponent = math.sqrt(2.0 * (stage.replicas + 1)) - 1.0
    queueing: float = math.pow(stage.utilisation, exponent) / (1.0 - _load(stage, batch))
    backlog = stage.n_waiting / batch
    return stage.call_s * max(queueing, backlog) / stage.replicas


class Price(NamedTuple):
    """What a stage charges for the time of others, cost units.

    Attributes:
        visit: For joining its queue.
        second: For a second of its work.
    """

    visit: float
    second: float


FREE = Price(0.0, 0.0)


def price_of(stage: StageState, batch: int, mu: float) -> Price:
    """What an edge to this stage is charged in its present state; `mu` is what a second is worth."""
    waits, load = wait(stage, batch), _load(stage, batch)
    others = load / (1.0 - load) * (1.0 + waits / stage.call_s) if stage.call_s else 0.0
    return Price(mu * waits, mu * (1.0 + others))


def repriced(
    graph: Graph, seconds: Mapping[tuple[str, str], FloatArray], prices: Mapping[str, Price]
) -> Graph:
    """The stopping problem with waiting on its edges.

    Unlike in `Graph.dearer`, an edge is charged by how long it works, and one that continues from what a
    stage has just read is charged too: its call joins the queue again.

    Args:
        graph: The problem without.
        seconds: What an edge keeps its stage busy, by source and action, shape (B,) of its source.
        prices: By stage.
    """

    def charged(edge: Edge) -> Edge:
        price = prices[edge.action.removeprefix(VERIFY)]
        return replace(edge, cost=edge.cost + price.visit + price.second * seconds[edge.source, edge.action])

    return Graph(graph.nodes, tuple(map(charged, graph.edges)), graph.start)


def _load(stage: StageState, batch: int) -> float:
    """Share of what the replicas could do, were every call full."""
    return min(_FULL, stage.utilisation * (stage.per_call or 0.0) / batch)


@dataclass(slots=True, eq=False)
class PricedWait:
    """Solves a policy again with the price of waiting at every stage.

    Attributes:
        name: As it stands in tables.
        solve: The policy at these prices: by the recursion, or one step ahead to see what that is worth.
        mu: Cost units that a second is worth.
        batch: Most queries in a call, by stage.
        interval_s: Seconds between two looks.
        memory: Weight of the old state in the smoothed one, in [0, 1).
        n_solved: Policies solved so far.

    Raises:
        ConfigError: `mu` or `memory` is out of range.
    """

    name: str
    solve: Callable[[Mapping[str, Price]], Policy]
    mu: float
    batch: Mapping[str, int]
    interval_s: float = 2.0
    memory: float = 0.9
    n_solved: int = 0
    _stages: dict[str, StageState] = field(default_factory=dict)
    _solved: dict[tuple[Price, ...], Policy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (0.0 <= self.mu < math.inf and 0.0 <= self.memory < 1.0):
            raise ConfigError(f"mu is at least 0 and memory in [0, 1), not {self.mu:g} and {self.memory:g}")

    def policy(self, state: SystemState | None) -> Policy:
        """The policy at the prices of this moment, on the grid."""
        if state is not None:
            for name, stage in state.stages.items():
                self._stages[name] = self._smoothed(self._stages.get(name, stage), stage)
        prices = {name: self._price(name) for name in self.batch}
        key = tuple(prices.values())
        if key not in self._solved:
            self._solved[key] = self.solve(prices)
            self.n_solved += 1
        return self._solved[key]

    def _price(self, name: str) -> Price:
        if name not in self._stages:
            return FREE
        return Price(*map(on_grid, price_of(self._stages[name], self.batch[name], self.mu)))

    def _smoothed(self, old: StageState, now: StageState) -> StageState:
        """What prices are made of, smoothed: they rise so steeply that smoothing them would only delay."""

        def mixed(before: float, after: float) -> float:
            return self.memory * before + (1.0 - self.memory) * after

        return replace(
            now,
            utilisation=mixed(old.utilisation, now.utilisation),
            n_waiting=mixed(old.n_waiting, now.n_waiting),
            call_s=mixed(old.call_s or now.call_s or 0.0, now.call_s or old.call_s or 0.0) or None,
            per_call=mixed(old.per_call or now.per_call or 0.0, now.per_call or old.per_call or 0.0) or None,
        )


def on_grid(price: float) -> float:
    """The nearest price of the grid, on a logarithmic scale; 0 below the lowest."""
    if price < _LEAST:
        return 0.0
    return _LEAST * _STEP ** round(math.log(min(price, _MOST) / _LEAST, _STEP))


class Gear(NamedTuple):
    """A policy, and the rate of arrivals up to which it is used, requests a second."""

    most: float
    policy: Policy


@dataclass(slots=True, eq=False)
class Gears:
    """Policies worked out beforehand for levels of load (after CascadeServe, arXiv 2406.14424).

    Attributes:
        name: As it stands in tables.
        gears: The best first, the one for the heaviest load last.
        interval_s: Seconds between two looks.
        memory: Weight of the old rate in the new one.
    """

    name: str
    gears: Sequence[Gear]
    interval_s: float = 5.0
    memory: float = 0.7
    _rate: float = 0.0

    def policy(self, state: SystemState | None) -> Policy:
        """The first gear that is made for the rate of this moment."""
        if state is not None:
            self._rate = self.memory * self._rate + (1.0 - self.memory) * state.request_rate
        return next((gear.policy for gear in self.gears if self._rate <= gear.most), self.gears[-1].policy)


def gears_of(
    population: Population,
    policies: Sequence[Policy],
    servers: Mapping[str, tuple[int, int]],
    target: float = 0.8,
) -> list[Gear]:
    """How much load each policy bears, from recorded queries; those that bear less for no more are left out.

    Args:
        population: Recorded queries.
        policies: To choose among, the best first.
        servers: Replicas and largest call, by stage.
        target: Share of a stage's capacity, at full calls, that may be used.
    """
    gears: list[Gear] = []
    for policy in policies:
        decider, seconds = Decider(population, policy), dict.fromkeys(servers, 0.0)
        for situation in population.queries:
            _add_seconds(decider, situation, servers, seconds)
        n = len(population.queries)
        bears = [target * replicas * n / seconds[s] for s, (replicas, _) in servers.items() if seconds[s]]
        if not gears or min(bears) > gears[-1].most:
            gears.append(Gear(min(bears), policy))
    return gears


def _add_seconds(
    decider: Decider, situation: Situation, servers: Mapping[str, tuple[int, int]], seconds: dict[str, float]
) -> None:
    step = decider.step(situation, frozenset())
    while step is not None and step.after is not None:
        if step.demand:
            seconds[step.stage] += step.demand[servers[step.stage][1] - 1]
        step = decider.step(step.after, frozenset())


@dataclass(slots=True, eq=False)
class Published:
    """The published optimiser as printed: multipliers on the costs of its closed-form thresholds.

    Mean latency above 1.2 x target: the smallest stage x .95, the largest x 1.05; mean utilisation above .85:
    all x 1.05; a queue longer than 10: that stage x 1.1; all within [.5, 3].

    Attributes:
        stages: In ladder order.
        costs: Of each stage alone, any common unit.
        lam: Of its thresholds, within [.1, 10].
        evidence: What is known about the answers in hand.
        target_s: Mean latency that it aims at.
        interval_s: Seconds between two looks.
    """

    stages: tuple[str, ...]
    costs: tuple[float, ...]
    lam: float
    evidence: Evidence
    target_s: float = 0.2
    interval_s: float = 30.0
    _multipliers: dict[str, float] = field(default_factory=dict)
    _made: dict[tuple[float, ...], ClosedForm] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.1 <= self.lam <= 10.0:
            raise ConfigError(f"the published optimiser keeps lam within 0.1 and 10, got {self.lam:g}")
        self._multipliers = dict.fromkeys(self.stages, 1.0)

    @property
    def name(self) -> str:
        """The name with its lam."""
        return f"published(lam={self.lam:g})"

    @property
    def multipliers(self) -> dict[str, float]:
        """As they are, by stage."""
        return dict(self._multipliers)

    def policy(self, state: SystemState | None) -> ClosedForm:
        """Thresholds at the costs of this moment."""
        if state is not None:
            self._adapt(state)
        factors = tuple(round(self._multipliers[stage], 3) for stage in self.stages)
        if factors not in self._made:
            costs = tuple(cost * factor for cost, factor in zip(self.costs, factors, strict=True))
            self._made[factors] = ClosedForm(self.stages, costs, self.lam, self.evidence)
        return self._made[factors]

    def _adapt(self, state: SystemState) -> None:
        if state.latency_s is not None and state.latency_s > 1.2 * self.target_s:
            self._multiply(self.stages[0], 0.95)
            self._multiply(self.stages[-1], 1.05)
        utilisations = [stage.utilisation for stage in state.stages.values()]
        if sum(utilisations) / len(utilisations) > 0.85:
            for stage in self.stages:
                self._multiply(stage, 1.05)
        for name, stage_state in state.stages.items():
            if stage_state.n_waiting > 10:
                self._multiply(name, 1.1)

    def _multiply(self, stage: str, factor: float) -> None:
        self._multipliers[stage] = min(3.0, max(0.5, self._multipliers[stage] * factor))
