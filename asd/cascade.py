"""Read this first: the cascade's loop. Draft, judge, then stop, verify, or let a later stage answer.

    decide:    every open query asks the policy: stop, or which stage next, to answer or to verify?
    verify:    a stage reads the best answers so far, one forward pass a batch
    continue:  a stage that has just verified a draft of the query continues from the accepted prefix
    generate:  any other stage answers from the prompt
    repeat     until every query has stopped

`Cascade.step` is one round of it; queries that chose the same are called together. A draft accepted to its
end is the verifier's answer too, without a call. Where the cascade was given a `Health` (`asd.resilience`), a
stage that fails a query is done without from there on; else the failure ends the run, as a measurement must.

It ends: a round brings every open query an answer, a verification, or the loss of a stage. Each of n stages
answers once or is lost, and verifies at most once between two answers, so there are at most n * (n + 1) / 2
rounds of calls. What was bought is never lost: whatever ends a run early carries the state of every query.

Scope: the loop knows queries, drafts and prices; what an answer is worth and when to stop is the
policy's business (`asd.policies`), how tokens come about the engine's (`asd.engines`). Stopping early changes
quality and cost; nothing here changes what a stage would write.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Self

from asd.dispatch import Dispatcher
from asd.engines import LOSSLESS, Acceptance, Engine, Verifier
from asd.engines.batches import answers, call_in_batches, readings
from asd.engines.closing import close_all
from asd.errors import AsdError, ConfigError, NoStageLeftError, PolicyError
from asd.evidence.prompt.taxonomy import left_out
from asd.journey import Journey, Result
from asd.ladder import Ladder
from asd.messages import Message
from asd.policies import FixedStage, Policy, Reroutable
from asd.prices import Prices
from asd.resilience import Detours, Health
from asd.types import (
    NO_CALL,
    STOP,
    TEXT,
    Action,
    AnswerForm,
    Completion,
    Decision,
    Draft,
    Query,
    Verification,
)

Prompt = Query | str | Sequence[Message | Mapping[str, str]]
"""A query, a prompt, or a conversation: messages, or dicts of role and content, the last one the user's."""


class Cascade:
    """A policy over the stages of a ladder.

    As a context manager it closes its engines at the end; they open again when they are asked.

    Args:
        engines: One engine a stage, by stage name, in ladder order.
        policy: Chooses the next action in every state.
        prices: Price of a call, by stage name, or the ladder that has them; the same names as `engines`.
        health: Keeps failing stages out of the way; None: a failure is raised.
        acceptance: How stages choose tokens, and when a verifier takes another's as its own. The policy was
            fitted on greedy, lossless outcomes; what others are worth, it takes on trust.
        form: What the answer to a plain text is.
        only: Domains by stage, of stages that are for queries of some domains (`Ladder.only`); default: the
            ladder's, where `prices` is one. A `FixedStage` is asked for whatever its domains are.

    Raises:
        ConfigError: `engines` is empty, an engine is another stage's than its name says, or a stage has an
            engine and no price or the other way round.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        policy: Policy,
        prices: Mapping[str, Prices] | Ladder,
        health: Health | None = None,
        acceptance: Acceptance = LOSSLESS,
        form: AnswerForm = TEXT,
        only: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        if isinstance(prices, Ladder):
            only = prices.only if only is None else only
            prices = prices.prices_at(1)
        if not engines or engines.keys() != prices.keys():
            raise ConfigError(
                f"a cascade needs an engine and a price for every stage; engines: {sorted(engines)}, "
                f"prices: {sorted(prices)}"
            )
        for name, engine in engines.items():
            if engine.stage_name != name:
                raise ConfigError(f"the engine of stage {engine.stage_name!r} is under the name {name!r}")
        self.engines = engines
        self.verifiers = {name: engine for name, engine in engines.items() if isinstance(engine, Verifier)}
        self.policy = policy
        self.prices = prices
        self.health = health
        self.acceptance = acceptance
        self.form = form
        self.only = {} if only is None or isinstance(policy, FixedStage) else only
        self._detours = Detours(policy)
        self._dispatcher: Dispatcher | None = None

    def __call__(self, prompt: Prompt, max_new_tokens: int = 256) -> Completion:
        """Answer one prompt or conversation; `max_new_tokens` is for what is no `Query`. Raises as `run`."""
        return self.run([self._query("1", prompt, max_new_tokens)])[0]

    def __repr__(self) -> str:
        return f"Cascade({' -> '.join(self.engines)}, {self.policy.name})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all engines, also where closing one of them raises; a second call does nothing."""
        if self._dispatcher is not None:
            self._dispatcher.close()
            self._dispatcher = None
        close_all(self.engines.values())

    def run(self, queries: Sequence[Prompt], batch_size: int = 16) -> list[Completion]:
        """Answer every query, prompt or conversation, in order, at most `batch_size` in a call of an engine.

        What ends a run early, an interrupt or a bug included, has an attribute `journeys`: the state of every
        query. Nothing they hold needs to be bought again: `resume` continues from there.

        Raises:
            ConfigError: `batch_size` is not positive, or one of the queries is none.
            PolicyError: The policy breaks its protocol, or raises what is no `AsdError`.
            NoStageLeftError: Queries are without an answer because every stage failed them; it holds the
                completions of the others.
            EngineError: A stage could not answer (without `health`), or returned what it was not asked for.
        """
        journeys = [Journey(query) for query in self._queries(queries)]
        try:
            return self.resume(journeys, batch_size)
        except BaseException as error:
            vars(error)["journeys"] = journeys
            raise

    def resume(self, journeys: Sequence[Journey], batch_size: int = 16) -> list[Completion]:
        """Bring every query to its end, from wherever it is; those that have stopped stay as they are.

        Stages that failed a query before may be asked again. Raises as `run`; the journeys are up to date
        whatever is raised.
        """
        still_open = [journey for journey in journeys if not journey.has_stopped]
        for journey in still_open:
            journey.lost.clear()
        n_stages = len(self.engines)
        for _ in range(n_stages * (n_stages + 1) // 2 + 1):  # the last one stops
            if still_open:
                still_open = self.step(still_open, batch_size)
        assert not still_open
        unanswered = [journey for journey in journeys if not journey.has_stopped]
        if unanswered:
            raise _no_stage_left(self.completed(journeys), unanswered)
        return self.completed(journeys)

    async def answer(self, query: Prompt) -> Completion:
        """Answer one query among others that come and go: whoever waits for a stage is called together.

        Its engines compute in threads, so any number of these may be awaited at the same time.

        Raises:
            NoStageLeftError: Every stage failed the query.
            PolicyError: The policy breaks its protocol.
            EngineError: A stage could not answer, and the cascade has no `health`.
        """
        journey = Journey(self._query("1", query))
        await self._dispatching().walk(self, journey)
        if not journey.has_stopped:
            raise _no_stage_left([], [journey])
        return self._completion(journey)

    async def as_completed(self, queries: Iterable[Prompt]) -> AsyncIterator[Completion]:
        """Answer all of them, and yield each when it is done. Raises as `answer`, at the first that fails."""
        tasks = [asyncio.ensure_future(self.answer(query)) for query in self._queries(queries)]
        try:
            for task in asyncio.as_completed(tasks):
                yield await task
        finally:
            for task in tasks:
                task.cancel()

    def utilisation(self, stage: str) -> float:
        """Calls of a stage that run for `answer`, over those that it takes at once; 0 before the first."""
        return 0.0 if self._dispatcher is None else self._dispatcher.utilisation(stage)

    def _dispatching(self) -> Dispatcher:
        """The dispatcher of the event loop that is running."""
        if self._dispatcher is None or self._dispatcher.loop is not asyncio.get_running_loop():
            self._dispatcher = Dispatcher(self.engines)
        return self._dispatcher

    def _queries(self, asked: Iterable[Prompt]) -> list[Query]:
        if isinstance(asked, str | Query):
            raise ConfigError(f"queries are {asked!r}; give a list of them, or ask for this one alone")
        return [self._query(str(i), query) for i, query in enumerate(asked, 1)]

    def _query(self, name: str, asked: Prompt, max_new_tokens: int = 256) -> Query:
        if isinstance(asked, Query) and isinstance(asked.prompt, str):
            return asked
        if isinstance(asked, str):
            return Query(name, "prompts", asked, max_new_tokens=max_new_tokens, form=self.form)
        if isinstance(asked, list | tuple):
            return Query.chat(name, "prompts", asked, max_new_tokens=max_new_tokens, form=self.form)
        raise ConfigError(
            f"{asked!r} is no prompt; give a text, a list of messages or an asd.Query of a text"
        )

    def completed(self, journeys: Sequence[Journey]) -> list[Completion]:
        """What was returned for those queries that have stopped, in their order."""
        return [self._completion(journey) for journey in journeys if journey.has_stopped]

    def step(self, journeys: Sequence[Journey], batch_size: int) -> list[Journey]:
        """One round: decide for every open query, run each chosen stage on its group; those still open."""
        for journey in journeys:
            self.decide(journey)
        going_on = [j for j in journeys if j.decision is not None and not j.has_stopped]
        chosen: defaultdict[Action, list[Journey]] = defaultdict(list)
        for journey in going_on:
            chosen[journey.chosen.action].append(journey)
        for stage in self.engines:
            for action in (Action.draft(stage), Action.verify(stage)):
                if action in chosen:
                    self.carry_out(action, chosen[action], batch_size)
        return going_on

    def carry_out(self, action: Action, group: Sequence[Journey], batch_size: int) -> None:
        """Call a stage for queries that have all chosen this action, and hand every one what became of it."""
        stage = action.stage
        if action.kind == "verify":
            self._verify(self.verifiers[stage], group, batch_size)
            return
        self._generate(self.engines[stage], [j for j in group if not j.is_read_by(stage)], batch_size)
        if stage in self.verifiers:
            read = [journey for journey in group if journey.is_read_by(stage)]
            self._continue(self.verifiers[stage], read, batch_size)

    def _generate(self, engine: Engine, group: Sequence[Journey], batch_size: int) -> None:
        def write(batch: Sequence[Journey]) -> list[Draft]:
            return answers(engine, _queries(batch), self.acceptance.sampling)

        self._call(Action.draft(engine.stage_name), write, group, batch_size)

    def _verify(self, engine: Verifier, group: Sequence[Journey], batch_size: int) -> None:
        def read(batch: Sequence[Journey]) -> list[Verification]:
            return readings(engine, _queries(batch), [journey.best for journey in batch], self.acceptance)

        self._call(Action.verify(engine.stage_name), read, group, batch_size)

    def _continue(self, engine: Verifier, group: Sequence[Journey], batch_size: int) -> None:
        """Go on from accepted prefixes; one that is the verifier's whole answer needs no call."""

        def go_on(batch: Sequence[Journey]) -> list[Draft]:
            return engine.continue_(_queries(batch), [journey.read for journey in batch], self.acceptance)

        for journey in group:
            if journey.read.text is not None:
                journey.take(_adopted(journey.best, journey.read, journey.read.text))
        self._call(
            Action.draft(engine.stage_name),
            go_on,
            [j for j in group if j.verification is not None],
            batch_size,
        )

    def _call(self, action: Action, call: Call, group: Sequence[Journey], batch_size: int) -> None:
        """Call a stage for a group of queries, in batches, and hand every query what became of it."""

        def run(batch: list[int]) -> list[Result]:
            return list(call([group[i] for i in batch]))

        in_batches = call_in_batches if self.health is None else self.health.call_in_batches
        for batch in in_batches(action, run, _queries(group), batch_size):
            for i, result in batch.items():
                group[i].take(result)

    def decide(self, journey: Journey) -> None:
        """Begin a round: ask the policy what to do next, and stop where it says so."""
        journey.follow(self._decide(journey))

    def _decide(self, journey: Journey) -> Decision | None:
        """What to do next; None where every stage has failed a query that has no answer yet.

        Stages out of reach are gone round by the policy that is solved again without them. Where there is no
        such policy, the cascade's own is followed as long as it asks for what is in reach; then the best
        answer so far is returned. A policy that can do without no stage is followed past stages of other
        domains: the next larger one is asked instead.
        """
        elsewhere = self._left_out(journey.query)
        resting = frozenset() if self.health is None else self.health.resting()
        out_of_reach = journey.lost | resting | set(elsewhere)
        detour = self._detours.around(frozenset(out_of_reach))
        if detour is not None:
            return self._ask(detour, journey, out_of_reach)
        decision = self._ask(self.policy, journey, frozenset())
        if decision.action.stage in elsewhere and not isinstance(self.policy, Reroutable):
            decision = self._stood_in(decision, journey, out_of_reach)
        if decision.action.stage not in out_of_reach:
            return decision
        return Decision(STOP, decision.answer, decision.p_good) if journey.drafts else None

    def _left_out(self, query: Query) -> tuple[str, ...]:
        """Stages that are for other domains than the query's, in ladder order."""
        elsewhere = left_out(self.only, query.prompt)
        return tuple(name for name in self.engines if name in elsewhere)

    def _stood_in(self, decision: Decision, journey: Journey, gone: Collection[str]) -> Decision:
        """A larger stage in the place of the one chosen; once it has answered, its answer is returned."""
        names = list(self.engines)
        above = names[names.index(decision.action.stage) + 1 :]
        stood_in = [name for name in above if name in journey.drafts]
        if stood_in:
            return Decision(STOP, stood_in[-1], decision.p_good)
        left = [name for name in above if name not in gone]
        return Decision(Action.draft(left[0]), decision.answer, decision.p_good) if left else decision

    def _ask(self, policy: Policy, journey: Journey, out_of_reach: Collection[str]) -> Decision:
        """The policy's choice, held to its protocol: without this check a query could be lost or loop."""
        to_run = [stage for stage in self.engines if stage not in journey.drafts.keys() | out_of_reach]
        to_verify = [stage for stage in to_run if stage in self.verifiers and stage not in journey.readers]
        actions = [*map(Action.draft, to_run)]
        if journey.drafts:
            actions += [*map(Action.verify, to_verify), STOP]
        try:
            decision = policy.decide(journey.query, MappingProxyType(journey.drafts), journey.verification)
        except AsdError:
            raise
        except Exception as error:
            raise self._broken(f"raised {error!r}", journey, actions) from error
        if not isinstance(decision, Decision):
            raise self._broken(f"chose {decision!r}, which is no Decision,", journey, actions)
        in_hand = list(journey.drafts)
        names_an_answer = decision.answer in in_hand if in_hand else decision.answer is None
        if decision.action not in actions or not names_an_answer:
            chosen = f"chose action {str(decision.action)!r} with answer {decision.answer!r}"
            raise self._broken(chosen, journey, actions)
        return decision

    def _broken(self, what: str, journey: Journey, actions: Sequence[Action]) -> PolicyError:
        in_hand = list(journey.drafts)
        names = f"one of {in_hand} as its answer" if in_hand else "no answer"
        open_ones = [str(action) for action in actions]
        return PolicyError(
            f"policy {self.policy.name!r} {what} for query {journey.query.id!r}: answered so far are "
            f"{in_hand}, open are {open_ones}; a decision names one of these actions and {names}"
        )

    def _completion(self, journey: Journey) -> Completion:
        stage = journey.decisions[-1].answer
        assert stage is not None  # _ask lets a query stop only once it has an answer
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
            left_out=self._left_out(journey.query),
        )


Call = Callable[[Sequence[Journey]], Sequence[Draft | Verification]]


def _queries(group: Sequence[Journey]) -> list[Query]:
    return [journey.query for journey in group]


def _adopted(draft: Draft, read: Verification, text: str) -> Draft:
    """A draft that the verifier would have written too, as its own answer in its own words."""
    return Draft(
        stage=read.stage,
        text=text,
        tokens=read.tokens,
        logprobs=read.logprobs,
        finished=True,
        usage=NO_CALL,
        seconds=0.0,
        signals=draft.signals,
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
