"""Read this first: the cascade's loop. Draft, judge, then stop, verify, or let a later stage answer.

    decide:    every open query asks the policy: stop, or which stage next, to answer or to verify?
    verify:    a stage reads the best answers in hand, one forward pass a batch
    continue:  a stage that has just verified a draft of the query goes on from the accepted prefix
    generate:  any other stage answers from the prompt
    repeat     until every query has stopped

`Cascade.step` is one round of it; queries that chose the same are called together. A draft accepted whole is
the verifier's answer too, without a call. The border: the loop knows queries, drafts and prices; what an
answer is worth and when to stop is the policy's business (`asd.policies`), how tokens come about the engine's
(`asd.engines`). Stopping early changes quality and cost; nothing here changes what a stage would write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from asd.engines import Engine, Verifier
from asd.engines.batching import call_in_batches
from asd.errors import ConfigError
from asd.ladder import Prices
from asd.policies import Policy
from asd.types import NO_CALL, STOP, VERIFY, Completion, Decision, Draft, Query, Verification


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
        self.verifiers = {name: engine for name, engine in engines.items() if isinstance(engine, Verifier)}
        self.policy = policy
        self.prices = prices

    def run(self, queries: Sequence[Query], batch_size: int = 16) -> list[Completion]:
        """Answer every query, in the order given; at most `batch_size` of them in one call of an engine.

        Raises:
            ConfigError: `batch_size` is not positive, or the policy breaks its protocol (names a stage that
                does not exist or has already answered, one to verify that cannot or has just done so, or
                returns an answer that was never given).
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
            answering = [journey for journey in going_on if journey.action == stage]
            continuing = [journey for journey in answering if journey.is_read_by(stage)]
            starting = [journey for journey in answering if not journey.is_read_by(stage)]
            self._generate(engine, starting, batch_size)
            if stage in self.verifiers:
                reading = [journey for journey in going_on if journey.action == VERIFY + stage]
                self._verify(self.verifiers[stage], reading, batch_size)
                self._continue(self.verifiers[stage], continuing, batch_size)
        return going_on

    def _generate(self, engine: Engine, group: Sequence[Journey], batch_size: int) -> None:
        def write(batch: Sequence[Journey]) -> list[Draft]:
            return engine.generate(_queries(batch))

        self._call(engine.stage_name, write, group, batch_size)

    def _verify(self, engine: Verifier, group: Sequence[Journey], batch_size: int) -> None:
        def read(batch: Sequence[Journey]) -> list[Verification]:
            return engine.verify(_queries(batch), [journey.best for journey in batch])

        self._call(engine.stage_name, read, group, batch_size)

    def _continue(self, engine: Verifier, group: Sequence[Journey], batch_size: int) -> None:
        """Go on from accepted prefixes; what was accepted whole and ends there needs no call."""

        def go_on(batch: Sequence[Journey]) -> list[Draft]:
            return engine.continue_(_queries(batch), [journey.read for journey in batch])

        settled = [journey for journey in group if journey.read.accepted and journey.drafted.finished]
        for journey in settled:
            journey.take(_adopted(journey.drafted, journey.read))
        self._call(engine.stage_name, go_on, [j for j in group if j.verification is not None], batch_size)

    @staticmethod
    def _call(stage: str, call: Call, group: Sequence[Journey], batch_size: int) -> None:
        """Call a stage for a group of queries, in batches, and hand every query its result."""
        results = call_in_batches(
            stage, lambda batch: list(call([group[i] for i in batch])), _queries(group), batch_size
        )
        for batch in results:
            for i, result in batch.items():
                group[i].take(result)

    def _decide(self, journey: Journey) -> Decision:
        """The policy's choice, held to its protocol: without this check a query could be lost or loop."""
        decision = self.policy.decide(journey.query, journey.drafts, journey.verification)
        to_run = [stage for stage in self.engines if stage not in journey.drafts]
        to_verify = [
            VERIFY + stage for stage in to_run if stage in self.verifiers and stage not in journey.readers
        ]
        if decision.action in to_run:
            return decision
        if decision.action in (STOP, *to_verify) and decision.answer in journey.drafts:
            return decision
        raise ConfigError(
            f"policy {self.policy.name!r} chose action {decision.action!r} with answer {decision.answer!r} "
            f"for query {journey.query.id!r}: answered so far are {list(journey.drafts)}, "
            f"stages left to run {to_run}, to verify an answer {to_verify if journey.drafts else []}"
        )

    def _completion(self, journey: Journey) -> Completion:
        stage = journey.decisions[-1].answer
        assert stage is not None  # _decide lets a query stop only with an answer in hand
        calls: tuple[Draft | Verification, ...] = (*journey.drafts.values(), *journey.verifications)
        return Completion(
            query=journey.query,
            stage=stage,
            text=journey.drafts[stage].text,
            drafts=tuple(journey.drafts.values()),
            decisions=tuple(journey.decisions),
            cost=sum(self.prices[call.stage].cost(call.usage) for call in calls),
            verifications=tuple(journey.verifications),
        )


@dataclass(slots=True)
class Journey:
    """One query on its way through the cascade: answers and verifications bought, decisions taken so far.

    Attributes:
        query: The question.
        drafts: By stage, in the order of the calls.
        verifications: In the order of the calls.
        verification: The one in hand: the last, until another stage answers.
        readers: Stages that have verified since the last answer; none of them needs to do so again.
        decisions: In order.
    """

    query: Query
    drafts: dict[str, Draft] = field(default_factory=dict)
    verifications: list[Verification] = field(default_factory=list)
    verification: Verification | None = None
    readers: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    @property
    def action(self) -> str:
        """What was decided last."""
        return self.decisions[-1].action

    @property
    def best(self) -> Draft:
        """The best answer in hand, as decided last."""
        answer = self.decisions[-1].answer
        assert answer is not None  # _decide lets a query stop or verify only with an answer in hand
        return self.drafts[answer]

    @property
    def read(self) -> Verification:
        """The verification in hand, where there is one."""
        assert self.verification is not None
        return self.verification

    @property
    def drafted(self) -> Draft:
        """The draft that was read."""
        return self.drafts[self.read.drafter]

    def is_read_by(self, stage: str) -> bool:
        """The verification in hand is this stage's."""
        return self.verification is not None and self.verification.stage == stage

    def take(self, result: Draft | Verification) -> None:
        """An answer or a verification has come back; with an answer, what was verified is forgotten."""
        if isinstance(result, Verification):
            self.verifications.append(result)
            self.verification = result
            self.readers.append(result.stage)
        else:
            self.drafts[result.stage] = result
            self.verification = None
            self.readers.clear()


Call = Callable[[Sequence[Journey]], Sequence[Draft | Verification]]


def _queries(group: Sequence[Journey]) -> list[Query]:
    return [journey.query for journey in group]


def _adopted(draft: Draft, read: Verification) -> Draft:
    """A draft that the verifier would have written too, as its own answer."""
    return Draft(
        stage=read.stage,
        text=draft.text,
        tokens=read.tokens,
        logprobs=read.logprobs,
        finished=True,
        usage=NO_CALL,
        seconds=0.0,
    )
