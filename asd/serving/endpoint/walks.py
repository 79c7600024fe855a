"""One request's way through the cascade: within its budget, until its deadline, seen from outside.

A walk ends with the policy's answer, at the deadline with the best answer so far, or with an error. What its
stages have computed is paid for whatever becomes of the request, so `settled` waits until the calls that were
cancelled with it have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from asd.cascade import Cascade
from asd.dispatch import Dispatcher
from asd.errors import CallCancelledError, NoStageLeftError
from asd.journey import DispatchedCall, Journey
from asd.serving.admission import Call, RequestFacts, calls_of
from asd.serving.endpoint.refusals import RequestError
from asd.serving.tariff import MICRO, Tariff
from asd.types import STOP, Completion, Decision, Draft, Query, Verification

__all__ = ["Allowance", "Delivered", "Walk"]


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a walk may take.

    Attributes:
        tariff: What calls cost.
        facts: What bounds the cost of its calls.
        arrived: When the request came, by the event loop's clock.
        seconds: How long after that it must be answered.
    """

    tariff: Tariff
    facts: RequestFacts
    arrived: float
    seconds: float

    @property
    def deadline(self) -> float:
        """By the event loop's clock."""
        return self.arrived + self.seconds

    def too_dear(self, calls: Sequence[Call]) -> set[str]:
        """Stages of which one more call may pass the budget, after these calls."""
        if self.facts.budget is None:
            return set()
        left = self.facts.budget - sum(map(self.tariff.micros, calls))
        return {name for name in self.facts.stages if self.tariff.call_bound(name, self.facts) > left}

    @property
    def least(self) -> float:
        """The smallest budget with which some stage can be asked, in the ladder's price unit."""
        return min(self.tariff.call_bound(name, self.facts) for name in self.facts.stages) / MICRO


@dataclass(frozen=True, slots=True)
class Delivered:
    """What a request got.

    Attributes:
        completion: The answer and the way there.
        in_time: False: the deadline came first, and this is the best answer so far.
        seconds: From the arrival of the request.
    """

    completion: Completion
    in_time: bool
    seconds: float

    @property
    def draft(self) -> Draft:
        """The answer that is returned."""
        return next(draft for draft in self.completion.drafts if draft.stage == self.completion.stage)

    @property
    def p_good(self) -> float | None:
        """Calibrated probability that it is right; None: the policy does not look at evidence."""
        return self.completion.decisions[-1].p_good.get(self.completion.stage)


class Walk:
    """One query in a cascade.

    Args:
        dispatcher: Of the cascade's engines.
        cascade: Whose policy decides.
        query: What is asked.
        allowed: What it may take.

    Attributes:
        allowed: As given.
        moved: Set whenever there is something new in `state`; whoever waits for it clears it.
        state: What had been bought and decided after the last step.
    """

    def __init__(self, dispatcher: Dispatcher, cascade: Cascade, query: Query, allowed: Allowance) -> None:
        self._dispatcher = dispatcher
        self._cascade = cascade
        self.allowed = allowed
        self._journey = Journey(query)
        self.state = self._journey.copy()
        self.moved = asyncio.Event()

    @property
    def bought(self) -> list[Draft | Verification]:
        """All that stages have delivered; after `settled`, all that they ever will."""
        return [*self._journey.drafts.values(), *self._journey.verifications]

    @property
    def calls(self) -> list[DispatchedCall]:
        """Calls that were made, in order; after `settled`, all of them."""
        return self._journey.calls

    @property
    def uncounted(self) -> list[str]:
        """Stages of calls that were cancelled before anybody knew what they took; as `bought`."""
        cancelled = CallCancelledError.__name__
        return [failure.stage for failure in self._journey.failures if failure.kind == cancelled]

    async def end(self) -> Delivered:
        """Walk on to the end, at most until the deadline.

        Cancelling it leaves the queue of a stage, and cancels a call that runs already.

        Raises:
            RequestError: The deadline came before any answer, or the budget is too small for one.
            NoStageLeftError: Every stage failed the query.
            PolicyError: The policy breaks its protocol.
            ConfigError: The query cannot be asked.
        """
        in_time = True
        try:
            async with asyncio.timeout_at(self.allowed.deadline):
                await self._on()
            state = self.state
        except TimeoutError:
            if not self.state.drafts:
                raise RequestError(
                    504,
                    f"no stage answered within {self.allowed.seconds:g} s; name a later deadline_s, or only "
                    "smaller stages",
                    code="deadline_exceeded",
                ) from None
            state, in_time = self._best(), False
        if not state.has_stopped:
            raise self._unanswered()
        [completion] = self._cascade.completed([state])
        return Delivered(completion, in_time, asyncio.get_running_loop().time() - self.allowed.arrived)

    async def settled(self) -> None:
        """Until no stage works for the query any more."""
        await self._dispatcher.settled(self._journey)

    async def _on(self) -> None:
        going = True
        while going:
            self._journey.lost |= self._too_dear()
            going = await self._dispatcher.step(self._cascade, self._journey)
            self.state = self._journey.copy()
            self.moved.set()

    def _too_dear(self) -> set[str]:
        """Stages of which another call may pass the budget."""
        return self.allowed.too_dear(calls_of(self.bought))

    def _best(self) -> Journey:
        """As if the policy had stopped where the deadline found the query."""
        state = self.state.copy()
        if not state.has_stopped:
            self._cascade.decide(state)
            decided = state.decision or state.decisions[-1]
            answer = decided.answer or next(reversed(state.drafts))
            if not state.has_stopped:
                state.follow(Decision(STOP, answer, decided.p_good, decided.values, decided.votes))
        return state

    def _unanswered(self) -> Exception:
        failures = tuple(self.state.failures)
        too_dear = self._too_dear()
        if too_dear and not failures:
            return RequestError(
                400,
                f"the budget may be too little for any stage: the cheapest call may cost "
                f"{self.allowed.least:.4g} where it may write {self.allowed.facts.max_new_tokens} tokens; "
                "raise it, or lower max_tokens",
                code="budget_too_small",
                param="budget",
            )
        return NoStageLeftError("no stage answered", [], [(self.state.query, failures)])
