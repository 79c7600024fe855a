"""Read this first: the cascade's loop. Draft, judge, then stop or let a later stage answer.

    decide:    every open query asks the policy: stop, or which stage next?
    generate:  the queries that chose the same stage are answered together, in batches
    repeat     until every query has stopped

`Cascade.step` is one round of it. The border: the loop knows queries, drafts and prices; what an answer is
worth and when to stop is the policy's business (`asd.policies`), how tokens come about the engine's
(`asd.engines`). Stopping early changes quality and cost; nothing here changes what a stage would write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from asd.engines import Engine
from asd.engines.batching import in_batches
from asd.errors import ConfigError
from asd.ladder import Prices
from asd.policies import Policy
from asd.types import STOP, Completion, Decision, Draft, Query


class Cascade:
    """A policy over the stages of a ladder.

    Args:
        engines: One engine a stage, by stage name, in ladder order.
        policy: Chooses the next action in every state.
        prices: Price of a call, by stage name; the same names as `engines`.

    Raises:
        ConfigError: `engines` is empty, or a stage has an engine and no price or the other way round.
    """

    def __init__(self, engines: Mapping[str, Engine], policy: Policy, prices: Mapping[str, Prices]) -> None:
        if not engines or engines.keys() != prices.keys():
            raise ConfigError(
                f"a cascade needs an engine and a price for every stage; engines: {sorted(engines)}, "
                f"prices: {sorted(prices)}"
            )
        self.engines = engines
        self.policy = policy
        self.prices = prices

    def run(self, queries: Sequence[Query], batch_size: int = 16) -> list[Completion]:
        """Answer every query, in the order given; at most `batch_size` of them in one call of an engine.

        Raises:
            ConfigError: `batch_size` is not positive, or the policy breaks its protocol (names a stage that
                does not exist or has already answered, or returns an answer that was never given).
            EngineError: A stage could not answer.
        """
        journeys = [Journey(query) for query in queries]
        still_open = journeys
        while still_open:
            still_open = self.step(still_open, batch_size)
        return [self._completion(journey) for journey in journeys]

    def step(self, journeys: Sequence[Journey], batch_size: int) -> list[Journey]:
        """One round: decide for every open query, run each chosen stage on its group, return what goes on."""
        for journey in journeys:
            journey.decisions.append(self._decide(journey))
        going_on = [journey for journey in journeys if journey.action != STOP]
        for stage, engine in self.engines.items():
            group = [journey for journey in going_on if journey.action == stage]
            for drafts in in_batches(engine, [journey.query for journey in group], batch_size):
                for index, draft in drafts.items():
                    group[index].drafts[stage] = draft
        return going_on

    def _decide(self, journey: Journey) -> Decision:
        """The policy's choice, held to its protocol: without this check a query could be lost or loop."""
        decision = self.policy.decide(journey.query, journey.drafts)
        to_run = [stage for stage in self.engines if stage not in journey.drafts]
        if decision.action in to_run or (decision.action == STOP and decision.answer in journey.drafts):
            return decision
        raise ConfigError(
            f"policy {self.policy.name!r} chose action {decision.action!r} with answer {decision.answer!r} "
            f"for query {journey.query.id!r}: answered so far are {list(journey.drafts)}, "
            f"stages left to run {to_run}"
        )

    def _completion(self, journey: Journey) -> Completion:
        stage = journey.decisions[-1].answer
        assert stage is not None  # _decide lets a query stop only with an answer in hand
        return Completion(
            query=journey.query,
            stage=stage,
            text=journey.drafts[stage].text,
            drafts=tuple(journey.drafts.values()),
            decisions=tuple(journey.decisions),
            cost=sum(self.prices[name].cost(draft.usage) for name, draft in journey.drafts.items()),
        )


@dataclass(slots=True)
class Journey:
    """One query on its way through the cascade: the answers bought and the decisions taken so far."""

    query: Query
    drafts: dict[str, Draft] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)

    @property
    def action(self) -> str:
        """What was decided last."""
        return self.decisions[-1].action
