"""Recorded queries as the simulator sees them: what every action leads to, and how long it takes.

A query is drawn whole: the outcomes of all stages and what their calls take stay together, so that hard
queries are slow *and* escalate. Actions are carried out by `asd.cascade.Cascade` over the recording, once for
each state of a query, and remembered. Who decides about them is `asd.operations.control.deciders`', how long
calls last `asd.operations.demand`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.cascade import Cascade
from asd.engines.replay import ReplayEngine
from asd.errors import DataError
from asd.journey import Journey
from asd.ladder import Ladder
from asd.operations.demand import ServiceDemand, check_alone, ladder_rates
from asd.policies import FixedStage
from asd.policy.seconds import recorded_seconds
from asd.prices import SECONDS
from asd.types import NO_CALL, STOP, Action, Decision, Draft, Query, Trace, Usage, Verification

__all__ = ["Population", "Situation", "Step", "row_name"]


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


class Population:
    """Recorded queries on a ladder.

    Args:
        traces: Scored outcomes of every stage.
        ladder: Supplies the prices; in milliseconds or seconds, these are the service times.
        unit: One cost unit in the ladder's price unit.
        largest_batch: Most queries in a call.
        clocked: A call takes the seconds that were recorded of it, not what its counts are priced at; they
            are those of a call of one query. Where prices are no times it always does.

    Raises:
        DataError: A query has no score of some stage, or there is none.
        ConfigError: Prices are no times and no seconds were recorded, or seconds of calls of several queries
            are asked for.
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
        if not traces:
            raise DataError("there are no queries to draw from; collect some (asd collect)")
        for trace in traces:
            _check_scored(trace, ladder)
        self.stages = tuple(stage.name for stage in ladder.stages)
        is_timed = ladder.price_unit in SECONDS
        if clocked:
            check_alone(largest_batch)
        seconds = {} if is_timed else recorded_seconds(traces, self.stages)
        self._calls = ladder_rates(ladder, largest_batch, seconds)
        self.rates = {stage: rates.share for stage, rates in self._calls.items()}
        self.largest_batch = largest_batch
        self.prices = ladder.prices_at(1)
        self.only = ladder.only
        self._clocked, self._unit_s = clocked or not is_timed, SECONDS.get(ladder.price_unit)
        self.unit = unit
        self.engines = {name: ReplayEngine(name, traces) for name in self.stages}
        self._cascade = Cascade(self.engines, FixedStage(self.stages[0]), self.prices)
        self.queries = [Situation(trace, Journey(trace.query)) for trace in traces]

    def without(self, rows: Collection[str]) -> Population:
        """The same without these queries (`row_name`); `DataError` where none is left."""
        left_out = set(rows)
        kept = [i for i, query in enumerate(self.queries) if row_name(query.trace.query) not in left_out]
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
        return None if price is None or self._unit_s is None else self._unit_s * price

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
        demand = self._demand(stage, result.usage, self._recorded_s(situation.trace, result))
        cost = self.prices[stage].cost(result.usage) / self.unit
        after = Situation(situation.trace, journey)
        return Step(stage, decision.action, after, demand, cost, decision.answer, score)

    def _recorded_s(self, trace: Trace, result: Draft | Verification) -> float:
        """Seconds of a call as recorded, or by its counts where none were.

        Of one that continues a draft, the part of the whole answer's seconds that its counts take.
        """
        rates = self.rates[result.stage][0]
        by_count = float(rates @ result.usage.counts)
        if isinstance(result, Verification):
            return result.seconds or by_count
        own = trace.outcomes[result.stage].draft
        recorded, whole = 0.0 if own.cached else own.seconds, float(rates @ own.usage.alone.counts)
        return recorded * (by_count / whole) if recorded and whole else by_count

    def _demand(self, stage: str, usage: Usage, seconds: float) -> ServiceDemand | None:
        if usage == NO_CALL:
            return None
        if self._clocked:
            return ServiceDemand((seconds,))
        return self._calls[stage].demand(usage)


def row_name(query: Query) -> str:
    """What a recorded query is called, whatever file it is in."""
    return f"{query.dataset}/{query.id}"


def _check_scored(trace: Trace, ladder: Ladder) -> None:
    for stage in ladder.stages:
        outcome = trace.outcomes.get(stage.name)
        if outcome is None or outcome.score is None:
            raise DataError(
                f"query {trace.query.id!r} of {trace.query.dataset!r} has no score of stage {stage.name!r}; "
                "give queries that every stage has answered"
            )
