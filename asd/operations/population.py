"""Recorded queries as the simulator sees them: what every action leads to, and how long it takes.

A query is drawn whole: the outcomes of all stages and what their calls take stay together, so that hard
queries are slow *and* escalate. Actions are carried out by `asd.cascade.Cascade` over the recording, once for
each state of a query, and remembered; so are a policy's decisions. Service times come from the ladder's price
table: prices at a batch size are a query's share of a call of that size, so that a call of n queries lasts

    sum over its queries of  usage . prices(n),    n prices(n) linear between the batch sizes measured.

Where prices tell what a step takes with fewer rows open (`Prices.ragged`), decode steps are no shares: the
k-th longest answer of a call adds what its steps take with k rows open beyond what they take with k - 1.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from asd.cascade import Cascade
from asd.engines.replay import ReplayEngine
from asd.errors import ConfigError, DataError
from asd.evidence import Evidence, Judgement
from asd.evidence.prompt.taxonomy import left_out
from asd.journey import Journey
from asd.ladder import Ladder
from asd.policies import FixedStage, Policy
from asd.prices import Prices
from asd.types import (
    NO_CALL,
    STOP,
    Action,
    Decision,
    Drafts,
    Query,
    Trace,
    Usage,
    Verification,
    pair_name,
)

__all__ = [
    "Decider", "Lookup", "Population", "Remembered", "ServiceDemand", "Situation", "Step", "TablePosition",
    "Tabled", "call_rates", "call_seconds", "decider_of", "ladder_rates",
    "row_name",
]  # fmt: skip

Array = npt.NDArray[np.float64]

_DECODING = 3
"""Where the counts of decode steps begin in `Usage.counts`."""
_SECONDS = {"ms": 1e-3, "s": 1.0}
"""What a price unit is in seconds."""


class ServiceDemand(NamedTuple):
    """Seconds that a query adds to a call of its stage.

    Attributes:
        share: To a call of 1, 2, ... queries, in the mean over those that it may be with.
        besides: The same without its decode steps; empty: prices do not tell what these take.
        ranked: Of its decode steps, where its answer is the longest, second longest, ... of the call.
    """

    share: tuple[float, ...]
    besides: tuple[float, ...] = ()
    ranked: tuple[float, ...] = ()


def call_seconds(demands: Sequence[ServiceDemand]) -> float:
    """How long a call of these lasts."""
    last = len(demands) - 1
    if not last or not demands[0].ranked:
        return sum([demand.share[last] for demand in demands])
    longest_first = sorted([demand.ranked for demand in demands], reverse=True)
    steps = sum([ranked[rank] for rank, ranked in enumerate(longest_first)])
    return steps + sum([demand.besides[last] for demand in demands])


class Step(NamedTuple):
    """What a policy does in one state of a query.

    Attributes:
        stage: The stage that works; "" where the answer is returned.
        action: As in `asd.types.Decision`.
        after: The state it leads to; None where the answer is returned.
        demand: What the query adds to a call; None where no call is needed.
        cost: Priced, cost units.
        answer: Stage whose answer is the best so far.
        score: Of that answer, in [0, 1]; 0 before there is one.
    """

    stage: str
    action: Action
    after: Situation | None
    demand: ServiceDemand | None
    cost: float
    answer: str | None
    score: float


@dataclass(slots=True, eq=False)
class Situation:
    """One state of one recorded query: what has been bought for it."""

    trace: Trace
    journey: Journey
    after: dict[tuple[Action, str | None], Step] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Remembered:
    """Evidence that judges every state of a query once; the queries of a recording come again and again."""

    evidence: Evidence
    _known: dict[tuple[str, str, tuple[str, ...], str], Judgement] = field(default_factory=dict)

    def judge(self, query: Query, drafts: Drafts, verification: Verification | None = None) -> Judgement:
        """As the evidence does."""
        read = "" if verification is None else pair_name(verification.drafter, verification.stage)
        key = (query.dataset, query.id, tuple(drafts), read)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self.evidence.judge(query, drafts, verification)
        return known


class Population:
    """Recorded queries on a ladder.

    Args:
        traces: Scored outcomes of every stage.
        ladder: Supplies the prices; in milliseconds or seconds, which are the service times.
        unit: One cost unit in the ladder's price unit.
        largest_batch: Most queries in a call.
        clocked: A call takes the seconds that were recorded of it, not what its counts are priced at; they
            are those of a call of one query.

    Raises:
        DataError: A query has no score of some stage, or there is none.
        ConfigError: Prices are no times, or seconds of calls of several queries are asked for.
    """

    def __init__(
        self,
        traces: Sequence[Trace],
        ladder: Ladder,
        unit: float,
        largest_batch: int = 16,
        *,
        clocked: bool = False,
    ) -> None:
        if clocked and largest_batch > 1:
            raise ConfigError(
                f"recorded seconds are those of calls of one query, not of {largest_batch}: give batch 1"
            )
        self.rates = ladder_rates(ladder, largest_batch)
        self._steps = {} if clocked else _step_rates(ladder, largest_batch)
        if not traces:
            raise DataError("there are no queries to draw from; collect some (asd collect)")
        for trace in traces:
            _check_scored(trace, ladder)
        self.stages = tuple(stage.name for stage in ladder.stages)
        self.largest_batch = largest_batch
        self.prices = ladder.prices_at(1)
        self.only = ladder.only
        self._clocked, self._unit_s = clocked, _SECONDS[ladder.price_unit]
        self.unit = unit
        self.engines = {name: ReplayEngine(name, traces) for name in self.stages}
        self._cascade = Cascade(self.engines, FixedStage(self.stages[0]), self.prices)
        self.queries = [Situation(trace, Journey(trace.query)) for trace in traces]

    def without(self, rows: Collection[str]) -> Population:
        """The same without these queries (`row_name`); `DataError` where none is left."""
        kept = [i for i, query in enumerate(self.queries) if row_name(query.trace.query) not in rows]
        if not kept:
            raise DataError("no query is left; give traces of other queries too (asd collect)")
        return self._of(np.array(kept))

    def halves(self, seed: int = 0) -> tuple[Population, Population]:
        """The same with half of the queries each, drawn by chance; `DataError` where there is only one."""
        if len(self.queries) < 2:
            raise DataError("one query cannot be split; collect more (asd collect)")
        order = np.random.default_rng(seed).permutation(len(self.queries))
        return self._of(order[::2]), self._of(order[1::2])

    def _of(self, positions: npt.NDArray[np.intp]) -> Population:
        part = copy(self)
        part.queries = [self.queries[i] for i in positions]
        return part

    def mean_usage(self, stage: str) -> Usage:
        """What a call of a stage alone does, mean over the queries, in whole counts."""
        total = sum((s.trace.outcomes[stage].draft.usage.alone for s in self.queries), start=NO_CALL)
        n = len(self.queries)
        return Usage(*(round(count / n) for count in (total.n_prompt, total.n_decoded, total.n_passes)))

    def mean_call_s(self, stage: str, size: int = 1) -> float:
        """Mean seconds that a query adds to a call of so many, from the prompt alone, as it was recorded."""
        counts = [query.trace.outcomes[stage].draft.usage.counts for query in self.queries]
        return float(self.rates[stage][size - 1] @ np.mean(counts, axis=0))

    def load_s(self, stage: str) -> float | None:
        """Seconds to load a stage, as priced; None: its prices do not say."""
        price = self.prices[stage].per_load
        return None if price is None else self._unit_s * price

    def dearest_cost(self) -> float:
        """Most cost units of a request: every stage writes, reads what it can, and writes again."""
        return max(self._dearest(situation.trace) for situation in self.queries)

    def _dearest(self, trace: Trace) -> float:
        written = [(stage, trace.outcomes[stage].draft.usage.alone) for stage in self.stages]
        read = [(reading.stage, reading.usage) for reading in trace.verifications.values()]
        return sum(self.prices[stage].cost(usage) for stage, usage in (*written, *written, *read)) / self.unit

    def step(self, situation: Situation, decision: Decision) -> Step:
        """What a decision leads to; carried out once."""
        key = decision.action, decision.answer
        known = situation.after.get(key)
        if known is None:
            known = situation.after[key] = self._carry_out(situation, decision)
        return known

    def _carry_out(self, situation: Situation, decision: Decision) -> Step:
        score = 0.0 if decision.answer is None else situation.trace.outcomes[decision.answer].score
        assert score is not None
        if decision.action == STOP:
            return Step("", STOP, None, None, 0.0, decision.answer, score)
        journey = situation.journey.copy()
        journey.follow(decision)
        self._cascade.carry_out(decision.action, [journey], 1)
        stage = decision.action.stage
        result = journey.verifications[-1] if decision.action.kind == "verify" else journey.drafts[stage]
        demand = self._demand(stage, result.usage, result.seconds)
        cost = self.prices[stage].cost(result.usage) / self.unit
        after = Situation(situation.trace, journey)
        return Step(stage, decision.action, after, demand, cost, decision.answer, score)

    def _demand(self, stage: str, usage: Usage, seconds: float) -> ServiceDemand | None:
        if usage == NO_CALL:
            return None
        if self._clocked:
            return ServiceDemand((seconds,))
        rates, steps, counts = self.rates[stage], self._steps.get(stage), np.array(usage.counts)
        share = tuple((rates @ counts).tolist())
        if steps is None:
            return ServiceDemand(share)
        besides = rates[:, :_DECODING] @ counts[:_DECODING]
        ranked = np.maximum(np.diff(steps @ counts, prepend=0.0), 0.0)
        return ServiceDemand(share, tuple(besides.tolist()), tuple(ranked.tolist()))


class Decider:
    """A policy before a population: every state of a query is decided once.

    Only for policies that decide on query, drafts and verification alone; one that follows the load is
    another policy at another load (`asd.operations.control`).

    Args:
        population: Recorded queries.
        policy: The policy, of the class that decides live.
    """

    def __init__(self, population: Population, policy: Policy) -> None:
        self.policy = policy
        self._population = population
        self._cascade = Cascade(population.engines, policy, population.prices, only=population.only)
        self._known: dict[Situation, Step] = {}
        self._without: dict[tuple[Situation, frozenset[str]], Step | None] = {}

    def step(self, situation: Situation, out_of_reach: frozenset[str]) -> Step | None:
        """What to do next; None where no stage is left and nothing has answered."""
        if out_of_reach:
            return self._around(situation, out_of_reach)
        known = self._known.get(situation)
        if known is None:
            step = self._decide(situation, out_of_reach)
            assert step is not None
            known = self._known[situation] = step
        return known

    def walk(self, situation: Situation) -> Iterator[Step]:
        """All steps from there to the answer, with every stage in reach; the returning one is left out."""
        return _walk(self, situation)

    def _around(self, situation: Situation, out_of_reach: frozenset[str]) -> Step | None:
        key = situation, out_of_reach
        if key not in self._without:
            self._without[key] = self._decide(situation, out_of_reach)
        return self._without[key]

    def _decide(self, situation: Situation, out_of_reach: frozenset[str]) -> Step | None:
        journey = situation.journey.copy()
        journey.lost |= out_of_reach
        self._cascade.decide(journey)
        return None if journey.decision is None else self._population.step(situation, journey.decision)


@runtime_checkable
class Tabled(Protocol):
    """A policy whose decisions are look-ups at the moment: a query's place in its tables is found once."""

    evidence: Evidence

    def place(self, state: Judgement) -> TablePosition:
        """Where a judged state is found."""

    def action(self, place: TablePosition, out: Collection[str]) -> Action | None:
        """What to do there now, without the stages that are out; None: nothing is left."""


class TablePosition(Protocol):
    """Where in a policy's tables a query stands."""

    @property
    def answer(self) -> str | None:
        """Stage whose answer is the best so far."""


class Lookup:
    """A policy of tables before a population: every state of a query is judged once, and decided each time.

    Args:
        population: Recorded queries.
        policy: The policy, of the class that decides live.
    """

    def __init__(self, population: Population, policy: Tabled) -> None:
        self.policy = policy
        self._population = population
        self._places: dict[Situation, tuple[TablePosition, frozenset[str]]] = {}

    def step(self, situation: Situation, out_of_reach: frozenset[str]) -> Step | None:
        """What to do next; None where no stage is left and nothing has answered."""
        known = self._places.get(situation)
        if known is None:
            known = self._places[situation] = self._found(situation.journey)
        place, elsewhere = known
        action = self.policy.action(place, out_of_reach | elsewhere)
        if action is None:
            return None
        step = situation.after.get((action, place.answer))
        return step or self._population.step(situation, Decision(action, place.answer))

    def walk(self, situation: Situation) -> Iterator[Step]:
        """As `Decider.walk`, the tables staying as they are."""
        return _walk(self, situation)

    def _found(self, journey: Journey) -> tuple[TablePosition, frozenset[str]]:
        """Where the query stands, and the stages that are for other domains than its own."""
        state = self.policy.evidence.judge(journey.query, journey.drafts, journey.verification)
        return self.policy.place(state), left_out(self._population.only, journey.query.prompt)

    def seconds_per_step(self, n: int = 20_000) -> float:
        """Processor seconds of one decision: states of queries seen before, over and over."""
        known, nothing_out = [*self._places], frozenset[str]()
        began = time.process_time()
        for i in range(n):
            self.step(known[i % len(known)], nothing_out)
        return (time.process_time() - began) / n


def _walk(decider: Decider | Lookup, situation: Situation) -> Iterator[Step]:
    step = decider.step(situation, frozenset())
    while step is not None and step.after is not None:
        yield step
        step = decider.step(step.after, frozenset())


def decider_of(population: Population, policy: Policy) -> Decider | Lookup:
    """Whatever decides fastest as the policy does."""
    return Lookup(population, policy) if isinstance(policy, Tabled) else Decider(population, policy)


def row_name(query: Query) -> str:
    """What a recorded query is called, whatever file it is in."""
    return f"{query.dataset}/{query.id}"


def call_rates(prices: Mapping[int, Prices], largest: int) -> Array:
    """What a query's counts (`Usage.counts`) add to a call of 1, 2, ... queries, shape (largest, 6).

    Args:
        prices: A query's share of a call, by batch size, 1 among them.
        largest: Most queries in a call; beyond the largest size measured, a share stays what it is there.
    """
    sizes = sorted(prices)
    of_call = np.array([size * np.array(prices[size].rates) for size in sizes])
    n = np.arange(1, largest + 1)
    within = np.column_stack([np.interp(n, sizes, column) for column in of_call.T])
    shares = within / np.minimum(n, sizes[-1])[:, None]
    return np.asarray(shares)


def ladder_rates(ladder: Ladder, largest: int) -> dict[str, Array]:
    """Seconds that a count adds to a call of 1, 2, ... queries, by stage, shape (largest, 6).

    Raises:
        ConfigError: Prices are no times.
    """
    if ladder.price_unit not in _SECONDS:
        raise ConfigError(
            f"prices in {ladder.price_unit!r} are no service times; measure them in milliseconds "
            "(asd price), or declare them in s"
        )
    return {
        stage.name: _SECONDS[ladder.price_unit] * call_rates(_by_batch(ladder, stage.name), largest)
        for stage in ladder.stages
    }


def _step_rates(ladder: Ladder, largest: int) -> dict[str, Array]:
    """Seconds that a count adds to steps with 1, 2, ... open rows, by stage whose prices tell."""
    scale, rows = _SECONDS[ladder.price_unit], np.arange(1, largest + 1)[:, None]
    found = {}
    for stage in ladder.stages:
        prices = _by_batch(ladder, stage.name)
        if len(prices) > 1 and all(row.ragged for size, row in prices.items() if size > 1):
            steps = call_rates({size: row.of_full_steps for size, row in prices.items()}, largest)
            steps[:, :_DECODING] = 0.0
            found[stage.name] = scale * rows * steps
    return found


def _by_batch(ladder: Ladder, stage: str) -> dict[int, Prices]:
    return {batch: ladder.prices_at(batch)[stage] for batch in ladder.batches}


def _check_scored(trace: Trace, ladder: Ladder) -> None:
    for stage in ladder.stages:
        outcome = trace.outcomes.get(stage.name)
        if outcome is None or outcome.score is None:
            raise DataError(
                f"query {trace.query.id!r} of {trace.query.dataset!r} has no score of stage {stage.name!r}; "
                "give queries that every stage has answered"
            )
