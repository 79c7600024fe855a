"""Policies before recorded queries: the live policy decides, and what can be remembered of it is.

A query of a recording comes again and again, so every state of it is judged once; a policy that follows no
load decides about it once (`Decider`), one that looks its decisions up at the moment does so each time
(`Lookup`).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from asd.cascade import Cascade
from asd.evidence import Evidence, Judgement
from asd.evidence.prompt.taxonomy import left_out
from asd.journey import Journey
from asd.operations.population import Population, Situation, Step
from asd.policies import Policy
from asd.types import Action, Decision, Drafts, Query, Verification, pair_name

__all__ = ["Decider", "Lookup", "Remembered", "TablePosition", "Tabled", "decider_of"]


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
