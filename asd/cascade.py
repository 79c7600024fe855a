"""Read this first: the cascade's loop. Draft, judge, then stop, verify, or let a later stage answer.

    decide:    every open query asks the policy: stop, or which stage next, to answer or to verify?
    verify:    a stage reads the best answers in hand, one forward pass a batch
    continue:  a stage that has just verified a draft of the query goes on from the accepted prefix
    generate:  any other stage answers from the prompt
    repeat     until every query has stopped

`Cascade.step` is one round of it; queries that chose the same are called together. A draft accepted to its
end is the verifier's answer too, without a call. Where the cascade was given a `Health` (`asd.resilience`), a
stage that fails a query is done without from there on; else the failure ends the run, as a measurement must.

The border: the loop knows queries, drafts and prices; what an answer is worth and when to stop is the
policy's business (`asd.policies`), how tokens come about the engine's (`asd.engines`). Stopping early changes
quality and cost; nothing here changes what a stage would write.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from asd.engines import LOSSLESS, Acceptance, Engine, Verifier
from asd.engines.batching import answers, call_in_batches, readings
from asd.errors import ConfigError, NoStageLeftError
from asd.policies import Policy
from asd.prices import Prices
from asd.resilience import Detours, Health
from asd.types import NO_CALL, STOP, VERIFY, Completion, Decision, Draft, Failure, Query, Verification


class Cascade:
    """A policy over the stages of a ladder.

    Args:
        engines: One engine a stage, by stage name, in ladder order.
        policy: Chooses the next action in every state.
        prices: Price of a call, by stage name; the same names as `engines`.
        health: Keeps failing stages out of the way; None: a failure is raised.
        acceptance: How stages choose tokens, and when a verifier takes another's as its own. The policy was
            fitted on greedy, lossless outcomes; what others are worth, it takes on trust.

    Raises:
        ConfigError: `engines` is empty, or a stage has an engine and no price or the other way round.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        policy: Policy,
        prices: Mapping[str, Prices],
        health: Health | None = None,
        acceptance: Acceptance = LOSSLESS,
    ) -> None:
        if not engines or engines.keys() != prices.keys():
            raise ConfigError(
                f"a cascade needs an engine and a price for every stage; engines: {sorted(engines)}, "
                f"prices: {sorted(prices)}"
            )
        self.engines = engines
        self.verifiers = {name: engine for name, engine in engines.items() if isinstance(engine, Verifier)}
        self.policy = policy
        self.prices = prices
        self.health = health
        self.acceptance = acceptance
        self._detours = Detours(policy)

    def run(self, queries: Sequence[Query], batch_size: int = 16) -> list[Completion]:
        """Answer every query, in the order given; at most `batch_size` of them in one call of an engine.

        Raises:
            ConfigError: `batch_size` is not positive, or the policy breaks its protocol (names a stage that
                does not exist or has already answered, one to verify that cannot or has just done so, or
                returns an answer that was never given).
            NoStageLeftError: Queries are without an answer because every stage failed them; it holds the
                completions of the others.
            EngineError: A stage could not answer (without `health`).
        """
        journeys = [Journey(query) for query in queries]
        still_open = journeys
        while still_open:
            still_open = self.step(still_open, batch_size)
        completions = [self._completion(journey) for journey in journeys if journey.has_stopped]
        if len(completions) < len(journeys):
            raise _no_stage_left(completions, [journey for journey in journeys if not journey.has_stopped])
        return completions

    def step(self, journeys: Sequence[Journey], batch_size: int) -> list[Journey]:
        """One round: decide for every open query, run each chosen stage on its group, return what goes on."""
        for journey in journeys:
            decision = self._decide(journey)
            if decision is not None:
                journey.decisions.append(decision)
        going_on = [journey for journey in journeys if journey.decisions and not journey.has_stopped]
        chosen: defaultdict[str, list[Journey]] = defaultdict(list)
        for journey in going_on:
            chosen[journey.action].append(journey)
        for stage, engine in self.engines.items():
            continuing = [journey for journey in chosen[stage] if journey.is_read_by(stage)]
            starting = [journey for journey in chosen[stage] if not journey.is_read_by(stage)]
            self._generate(engine, starting, batch_size)
            if stage in self.verifiers:
                self._verify(self.verifiers[stage], chosen[VERIFY + stage], batch_size)
                self._continue(self.verifiers[stage], continuing, batch_size)
        return going_on

    def _generate(self, engine: Engine, group: Sequence[Journey], batch_size: int) -> None:
        def write(batch: Sequence[Journey]) -> list[Draft]:
            return answers(engine, _queries(batch), self.acceptance.sampling)

        self._call(engine.stage_name, write, group, batch_size)

    def _verify(self, engine: Verifier, group: Sequence[Journey], batch_size: int) -> None:
        def read(batch: Sequence[Journey]) -> list[Verification]:
            return readings(engine, _queries(batch), [journey.best for journey in batch], self.acceptance)

        self._call(VERIFY + engine.stage_name, read, group, batch_size)

    def _continue(self, engine: Verifier, group: Sequence[Journey], batch_size: int) -> None:
        """Go on from accepted prefixes; one that is the verifier's whole answer needs no call."""

        def go_on(batch: Sequence[Journey]) -> list[Draft]:
            return engine.continue_(_queries(batch), [journey.read for journey in batch], self.acceptance)

        for journey in group:
            if journey.read.text is not None:
                journey.take(_adopted(journey.read, journey.read.text))
        self._call(engine.stage_name, go_on, [j for j in group if j.verification is not None], batch_size)

    def _call(self, action: str, call: Call, group: Sequence[Journey], batch_size: int) -> None:
        """Call a stage for a group of queries, in batches, and hand every query what became of it."""

        def run(batch: list[int]) -> list[Became]:
            return list(call([group[i] for i in batch]))

        in_batches = call_in_batches if self.health is None else self.health.call_in_batches
        for batch in in_batches(action, run, _queries(group), batch_size):
            for i, result in batch.items():
                group[i].take(result)

    def _decide(self, journey: Journey) -> Decision | None:
        """The policy's choice, or None where every stage has failed a query that has no answer yet."""
        out_of_reach = journey.failed | (frozenset() if self.health is None else self.health.resting())
        decision = self._detours.decide(journey.query, journey.drafts, journey.verification, out_of_reach)
        return decision if decision is None else self._checked(journey, decision)

    def _checked(self, journey: Journey, decision: Decision) -> Decision:
        """The choice, held to the protocol of a policy: without this check a query could be lost or loop."""
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
        paid = [draft for draft in journey.drafts.values() if not draft.cached]
        calls: tuple[Draft | Verification, ...] = (*paid, *journey.verifications)
        return Completion(
            query=journey.query,
            stage=stage,
            text=journey.drafts[stage].text,
            drafts=tuple(journey.drafts.values()),
            decisions=tuple(journey.decisions),
            cost=sum(self.prices[call.stage].cost(call.usage) for call in calls),
            verifications=tuple(journey.verifications),
            failures=tuple(journey.failures),
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
        decisions: In order; one that came to nothing is taken back.
        failures: Calls that brought nothing, in order.
    """

    query: Query
    drafts: dict[str, Draft] = field(default_factory=dict)
    verifications: list[Verification] = field(default_factory=list)
    verification: Verification | None = None
    readers: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def action(self) -> str:
        """What was decided last."""
        return self.decisions[-1].action

    @property
    def has_stopped(self) -> bool:
        """An answer was returned."""
        return bool(self.decisions) and self.action == STOP

    @property
    def failed(self) -> frozenset[str]:
        """Stages that have failed this query."""
        return frozenset(failure.stage for failure in self.failures)

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

    def is_read_by(self, stage: str) -> bool:
        """The verification in hand is this stage's."""
        return self.verification is not None and self.verification.stage == stage

    def take(self, result: Became) -> None:
        """What became of the last decision; with an answer, what was verified is forgotten.

        After a failure, or where the stage came to rest and was not asked (None), it is decided anew.
        """
        if isinstance(result, Draft):
            self.drafts[result.stage] = result
            self.verification = None
            self.readers.clear()
        elif isinstance(result, Verification):
            self.verifications.append(result)
            self.verification = result
            self.readers.append(result.stage)
        else:
            self.decisions.pop()
            self.failures += [] if result is None else [result]


Became = Draft | Verification | Failure | None
Call = Callable[[Sequence[Journey]], Sequence[Draft | Verification]]


def _queries(group: Sequence[Journey]) -> list[Query]:
    return [journey.query for journey in group]


def _adopted(read: Verification, text: str) -> Draft:
    """A draft that the verifier would have written too, as its own answer in its own words."""
    return Draft(
        stage=read.stage,
        text=text,
        tokens=read.tokens,
        logprobs=read.logprobs,
        finished=True,
        usage=NO_CALL,
        seconds=0.0,
    )


def _no_stage_left(completions: Sequence[Completion], lost: Sequence[Journey]) -> NoStageLeftError:
    messages = dict.fromkeys(failure.message for failure in lost[0].failures)
    why = "; ".join(messages) or "its stages rest after failures"
    return NoStageLeftError(
        f"{len(lost)} of {len(lost) + len(completions)} queries have no answer, the first of them "
        f"{lost[0].query.id!r}: {why}",
        completions,
        [(journey.query, tuple(journey.failures)) for journey in lost],
    )
