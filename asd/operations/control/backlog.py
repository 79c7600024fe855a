"""Stopping that sees the queues of the moment: one table for every backlog, looked up at every decision.

A stage's backlog is how many calls have to end before one that joins now begins: 0 where a replica is free,
else 1 + waiting / batch, on a grid of `LEVELS`. Its wait is W = backlog * call / replicas, and an edge that
adds s seconds of work to a call of n queries is charged, beside its compute,

    mu * (W + s * n + s * (load^e + load * W / call) / (1 - load)),      e = sqrt(2 (replicas + 1)) - 1:

own wait, own call, and the delay of those who come before the queue has emptied. On average over the states
of M/M/1 the charge is exactly mu * d(lambda (W + S)) / d lambda. The same backward induction as
`asd.stopping.recursion` is solved for all combinations of backlogs at once, in arrays with an axis a stage,
whenever loads and lengths of calls have been read again; between two solutions a decision is a look-up. What
a state is worth depends on the backlogs of those stages alone that can still be asked from there: the axes
of the others have length 1.
"""

from __future__ import annotations

import hashlib
import math
import time
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError, NoStageLeftError
from asd.evidence import Evidence, Judgement
from asd.operations.state import StageState, SystemState
from asd.operations.traffic import Gauge
from asd.stopping.graph import FloatArray, Graph
from asd.types import STOP, Action, Decision, Drafts, Query, Verification

__all__ = [
    "LEVELS", "Adaptive", "BacklogPolicy", "BacklogProblem", "BacklogTable", "QueueAware", "Solved",
    "Surcharge",
]  # fmt: skip

LEVELS = (0.0, 1.0, 2.5, 6.0, 15.0, math.inf)
"""Backlogs that policies are solved for, in calls; infinite: the stage is out of reach."""
_BORDERS = (0.5, 1.6, 3.9, 9.5)
_OUT = len(LEVELS) - 1
_TO_LOAD = len(LEVELS)
"""Level of a stage that is not in memory, where a problem reckons with loads."""
_SCALES = tuple(2.0**k for k in range(-3, 4))
"""Lengths of queries, relative to the mean, that policies are solved for."""
_FULL = 0.95
"""Load from which on a stage is reckoned as this full."""


def level_of(gauge: Gauge) -> int:
    """Position in `LEVELS` of the nearest backlog."""
    if gauge.n_calls < gauge.replicas:
        return 0
    if not gauge.replicas:
        return _OUT
    return bisect_right(_BORDERS, 1.0 + gauge.n_waiting / gauge.batch)


class Surcharge(NamedTuple):
    """What an edge to a stage is charged at every level of its backlog, cost units, shape (levels,).

    Attributes:
        visit: For joining its queue.
        second: For a second that the query adds to a call.
        size: Queries in a call, by which these seconds are read.
    """

    visit: FloatArray
    second: FloatArray
    size: int


def surcharge(stage: StageState, batch: int, mu: float) -> Surcharge:
    """The charges of a stage in its smoothed state; of one that has never worked, its calls alone."""
    levels = np.array(LEVELS[:_OUT])
    if not stage.call_s or not stage.per_call or not stage.replicas:
        return Surcharge(_with_out(np.zeros(_OUT), math.inf), np.full(len(LEVELS), mu), 1)
    load = min(_FULL, stage.utilisation * stage.per_call / batch)
    ahead = levels / stage.replicas
    exponent = math.sqrt(2.0 * (stage.replicas + 1)) - 1.0
    others = (load**exponent + load * ahead) / (1.0 - load)
    visit, second = mu * ahead * stage.call_s, mu * (stage.per_call + others)
    return Surcharge(_with_out(visit, math.inf), _with_out(second, mu), max(1, round(stage.per_call)))


def _with_out(charges: FloatArray, out: float) -> FloatArray:
    return np.append(charges, out)


def with_load(charges: Surcharge, mu: float, load_s: float, rate: float) -> Surcharge:
    """The same with one level more: of a stage that has to be loaded, while its device does nothing else.

    Args:
        charges: At every backlog; until it is loaded, one call is before.
        mu: Cost units that a second is worth.
        load_s: Seconds of its load: who asks waits for all of them, whoever comes meanwhile on average for
            half.
        rate: Requests a second that come to the stages of its device.
    """
    visit = charges.visit[1] + mu * load_s * (1.0 + rate * load_s / 2.0)
    return Surcharge(
        np.append(charges.visit, visit), np.append(charges.second, charges.second[1]), charges.size
    )


class _PricedMove(NamedTuple):
    action: Action
    stage: int
    target: str
    cost: FloatArray
    kernel_t: FloatArray
    usage: FloatArray


class BacklogProblem:
    """A stopping problem whose edge costs are replaced at every solution.

    Args:
        graph: The problem, costs in cost units.
        usage: What every edge takes, by source and action, shape (B, 6) of its source (`Usage.counts`).
        rates: Seconds that a count adds to a call of 1, 2, ... queries, by stage, shape (largest, 6).
        scaled: Whether queries differ in length.
        loads: Whether stages may have to be loaded: their charges have one level more (`with_load`).

    Attributes:
        graph, loads: As given.
        stages: Names, in ladder order.
        n_levels: Of a stage.
    """

    def __init__(
        self,
        graph: Graph,
        usage: Mapping[tuple[str, Action], FloatArray],
        rates: Mapping[str, FloatArray],
        *,
        scaled: bool,
        loads: bool = False,
    ) -> None:
        self.graph, self.loads = graph, loads
        self.n_levels = len(LEVELS) + loads
        self.stages = tuple(rates)
        self.scales = _SCALES if scaled else (1.0,)
        self._rates = rates
        at = {stage: i for i, stage in enumerate(self.stages)}
        self._edges = {
            node.name: [
                _PricedMove(
                    edge.action,
                    at[edge.action.stage],
                    edge.target,
                    edge.cost,
                    np.ascontiguousarray(edge.kernel.T),
                    usage[edge.source, edge.action],
                )
                for edge in graph.outgoing(node.name)
            ]
            for node in graph.nodes
        }
        self._actions = {name: (STOP, *(e.action for e in edges)) for name, edges in self._edges.items()}
        self._remaining: dict[str, tuple[int, ...]] = {}
        for node in reversed(graph.nodes):
            own = self._edges[node.name]
            later = {stage for edge in own for stage in self._remaining[edge.target]}
            self._remaining[node.name] = tuple(sorted(later | {edge.stage for edge in own}))

    def solve(self, lam: float, charges: Mapping[str, Surcharge], ahead: float = 1.0) -> Solved:
        """The best action in every state at every combination of backlogs.

        Args:
            lam: Cost units that one fully right answer is worth.
            charges: By stage.
            ahead: Share of the worth of later choices that is counted, in [0, 1]: 1 is the recursion, 0 looks
                one step ahead, as if every next answer were returned. Kernels estimated from few rows
                promise too much, because the best of several noisy options is taken.
        """
        visits = [self._along(i, charges[stage].visit) for i, stage in enumerate(self.stages)]
        seconds = [self._along(i, charges[stage].second) for i, stage in enumerate(self.stages)]
        rates = [self._rates[stage][charges[stage].size - 1] for stage in self.stages]
        scale = np.array(self.scales)[:, None]
        worth: dict[str, FloatArray] = {}
        actions: dict[str, bytes] = {}
        for node in reversed(self.graph.nodes):
            stop = self._everywhere(lam * node.p if node.may_stop else np.full(node.n_bins, -math.inf))
            values = [stop]
            for edge in self._edges[node.name]:
                work = edge.cost + seconds[edge.stage] * (edge.usage @ rates[edge.stage])
                after = _expected(worth[edge.target], edge.kernel_t)
                values.append(after - scale * work - visits[edge.stage])
            best, first = _first_best(values)
            worth[node.name] = stop + ahead * (best - stop) if node.may_stop else best
            actions[node.name] = first.tobytes()
        return Solved(self, actions)

    def level(self, gauge: Gauge) -> int:
        """Level of a stage now."""
        if self.loads and gauge.replicas and not gauge.is_resident:
            return _TO_LOAD
        return level_of(gauge)

    def _along(self, stage: int, charge: FloatArray) -> FloatArray:
        """A number for every level of one stage, to be added to worths."""
        shape = [1] * len(self.stages)
        shape[stage] = self.n_levels
        return charge.reshape(*shape, 1, 1)

    def _everywhere(self, by_bin: FloatArray) -> FloatArray:
        """A number for every bin, the same at every length and at any backlogs."""
        return np.broadcast_to(by_bin, (*[1] * len(self.stages), len(self.scales), len(by_bin)))

    def actions(self, node: str) -> tuple[Action, ...]:
        """What the numbers of a solution mean at a node."""
        return self._actions[node]

    def place(self, state: Judgement) -> BacklogState:
        """Where a judged state is found in every solution."""
        node, n_bins, scales = state.node, self.graph.node(state.node).n_bins, self.scales
        nearest = min(range(len(scales)), key=lambda i: abs(math.log(scales[i] / state.scale)))
        offset, stride = nearest * n_bins + state.bin, len(scales) * n_bins
        return BacklogState(node, self._remaining[node], offset, stride, self._actions[node], state.answer)


def _expected(worth: FloatArray, kernel_t: FloatArray) -> FloatArray:
    """Mean worth after an edge, by bin of its source."""
    n_after, n_bins = kernel_t.shape
    return (worth.reshape(-1, n_after) @ kernel_t).reshape(*worth.shape[:-1], n_bins)


def _first_best(values: Sequence[FloatArray]) -> tuple[FloatArray, npt.NDArray[np.int8]]:
    """The largest of these values everywhere, and the first that reaches it.

    From the last one on, because stages that are asked later depend on the backlogs of fewer.
    """
    last = len(values) - 1
    best, first = values[last], np.full(values[last].shape, last, dtype=np.int8)
    for i in reversed(range(last)):
        reaches = values[i] >= best
        best, first = np.where(reaches, values[i], best), np.where(reaches, np.int8(i), first)
    return best, first


@dataclass(frozen=True, slots=True, eq=False)
class BacklogState:
    """Where a query stands, found once: which numbers of a solution are about it.

    Attributes:
        node: Of the stopping problem.
        stages: Positions of those that can still be asked from there, ascending.
        offset: Of its length and bin within the numbers of one combination of backlogs.
        stride: Numbers of one combination.
        actions: What the numbers mean.
        answer: Stage whose answer is the best so far.
    """

    node: str
    stages: tuple[int, ...]
    offset: int
    stride: int
    actions: tuple[Action, ...]
    answer: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """One solution: by node, a number for every combination of backlogs that matter, length and bin."""

    problem: BacklogProblem
    actions: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """Of all actions: two tables that decide alike have the same one."""
        found = hashlib.sha256()
        for node, numbers in sorted(self.actions.items()):
            found.update(f"{node}\0{self.problem.actions(node)}\0".encode() + numbers)
        return found.hexdigest()[:16]

    def choices(self, place: BacklogState, out: Collection[str] = ()) -> set[Action]:
        """The actions at a place over all backlogs, every stage but those that are out in reach."""
        numbers = np.frombuffer(self.actions[place.node], dtype=np.int8)
        grid = numbers.reshape(*[self.problem.n_levels] * len(place.stages), place.stride)
        names, reach = self.problem.stages, [i for i in range(self.problem.n_levels) if i != _OUT]
        levels = ([_OUT] if names[i] in out else reach for i in place.stages)
        return {place.actions[i] for i in np.unique(grid[np.ix_(*levels, [place.offset])])}


@dataclass(slots=True, eq=False)
class BacklogTable:
    """What changes under a policy, and under those that were made of it (`BacklogPolicy.without`).

    Attributes:
        solved: The latest solution; whoever steers puts a new one here.
        gauges: By stage, in ladder order; none: every queue is empty.
        n_decisions: Look-ups so far.
    """

    solved: Solved
    gauges: Sequence[Gauge] = ()
    n_decisions: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class BacklogPolicy:
    """Looks at the queues, then up the action solved for them.

    Attributes:
        name: As it stands in tables.
        evidence: What is known about the answers so far.
        table: Where it looks.
        out: Stages that cannot be asked.
    """

    name: str
    evidence: Evidence
    table: BacklogTable
    out: frozenset[str] = frozenset()

    def decide(self, query: Query, drafts: Drafts, verification: Verification | None = None) -> Decision:
        """The action at this moment's backlogs; `NoStageLeftError` where there is none and no answer."""
        state = self.evidence.judge(query, drafts, verification)
        action = self.action(self.place(state), self.out)
        if action is None:
            out = ", ".join(sorted(self.out))
            raise NoStageLeftError(f"no stage is left for query {query.id!r} without {out}", [], [])
        return Decision(action, state.answer, state.p_good)

    def place(self, state: Judgement) -> BacklogState:
        """Where a judged state is found; the same in every solution."""
        return self.table.solved.problem.place(state)

    def action(self, place: BacklogState, out: Collection[str] = ()) -> Action | None:
        """What to do at a place; None where every stage is out and nothing has answered."""
        table = self.table
        table.n_decisions += 1
        gauges, problem = table.gauges, table.solved.problem
        names, n_levels = problem.stages, problem.n_levels
        combination = 0
        for i in place.stages:
            level = _OUT if names[i] in out else problem.level(gauges[i]) if gauges else 0
            combination = combination * n_levels + level
        number = table.solved.actions[place.node][combination * place.stride + place.offset]
        return place.actions[number] if number or place.answer is not None else None

    def without(self, stages: Collection[str]) -> BacklogPolicy:
        """The same without these stages."""
        return replace(self, out=self.out | frozenset(stages))


@dataclass(slots=True, eq=False)
class QueueAware:
    """Solves the table again at the loads and calls of the moment.

    Attributes:
        name: As it stands in tables.
        problem: The stopping problem.
        evidence: What is known about the answers so far.
        lam: Cost units that one fully right answer is worth.
        mu: Cost units that a second is worth.
        batch: Most queries in a call, by stage.
        stages: What is known of every stage; at first, what its calls are expected to take.
        ahead: As of `BacklogProblem.solve`.
        interval_s: Seconds between two solutions.
        memory: Weight of the old state in the smoothed one, in [0, 1).
        load_s: Seconds of a load, by stage, where stages take turns in memory; empty: all stay there.
        n_solved: Solutions so far.
        solving_s: Processor seconds that they took.

    Raises:
        ConfigError: A weight is out of range.
    """

    name: str
    problem: BacklogProblem
    evidence: Evidence
    lam: float
    mu: float
    batch: Mapping[str, int]
    stages: dict[str, StageState]
    ahead: float = 1.0
    interval_s: float = 30.0
    memory: float = 0.5
    load_s: Mapping[str, float] = field(default_factory=dict)
    n_solved: int = 0
    solving_s: float = 0.0
    _policy: BacklogPolicy = field(init=False)

    def __post_init__(self) -> None:
        if not (0.0 <= self.mu < math.inf and 0.0 <= self.memory < 1.0):
            raise ConfigError(f"mu is at least 0 and memory in [0, 1), not {self.mu:g} and {self.memory:g}")
        if not (0.0 <= self.ahead <= 1.0 and 0.0 <= self.lam < math.inf):
            raise ConfigError(f"lam is at least 0 and ahead in [0, 1], not {self.lam:g} and {self.ahead:g}")
        self._policy = BacklogPolicy(self.name, self.evidence, BacklogTable(self._solve()))

    def watch(self, gauges: Mapping[str, Gauge]) -> None:
        """Read the queues here from now on."""
        self._policy.table.gauges = [gauges[stage] for stage in self.problem.stages]

    def policy(self, state: SystemState | None) -> BacklogPolicy:
        """The one policy there is, solved again for the state."""
        if state is not None:
            for name, stage in state.stages.items():
                self.stages[name] = self._smoothed(self.stages[name], stage)
            self._policy.table.solved = self._solve()
        return self._policy

    def _solve(self) -> Solved:
        began = time.process_time()
        solved = self.problem.solve(self.lam, self._charges(), self.ahead)
        self.n_solved += 1
        self.solving_s += time.process_time() - began
        return solved

    def _charges(self) -> dict[str, Surcharge]:
        charges = {name: surcharge(self.stages[name], size, self.mu) for name, size in self.batch.items()}
        rate = sum(self.stages[name].rate for name in self.load_s)
        return charges | {
            name: with_load(charges[name], self.mu, load_s, rate) for name, load_s in self.load_s.items()
        }

    def _smoothed(self, old: StageState, now: StageState) -> StageState:
        """What charges are made of, smoothed: they rise so steeply that smoothing them would only delay."""

        def mixed(before: float, after: float) -> float:
            return self.memory * before + (1.0 - self.memory) * after

        return replace(
            now,
            utilisation=mixed(old.utilisation, now.utilisation),
            call_s=mixed(old.call_s or now.call_s or 0.0, now.call_s or old.call_s or 0.0) or None,
            per_call=mixed(old.per_call or now.per_call or 0.0, now.per_call or old.per_call or 0.0) or None,
        )


@dataclass(slots=True, eq=False)
class Adaptive:
    """A controller that adapts one number of a queue-aware policy, which solves and decides.

    Attributes:
        inner: The queue-aware policy.
    """

    inner: QueueAware

    @property
    def name(self) -> str:
        """That of what it steers."""
        return self.inner.name

    @property
    def lam(self) -> float:
        """Cost units that one fully right answer is worth now."""
        return self.inner.lam

    @property
    def mu(self) -> float:
        """Cost units that a second is worth now."""
        return self.inner.mu

    @property
    def interval_s(self) -> float:
        """Seconds between two looks."""
        return self.inner.interval_s

    def watch(self, gauges: Mapping[str, Gauge]) -> None:
        """Read the queues here from now on."""
        self.inner.watch(gauges)
