"""One query on its way through a cascade: what has been bought for it, and what was decided.

State only: what to do next is the policy's decision, the calls are the cascade's (`asd.cascade`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from asd.errors import EngineError
from asd.stops import cut_draft
from asd.types import STOP, Action, Decision, Draft, Failure, Query, Verification

__all__ = ["DispatchedCall", "Journey", "Result"]

Result = Draft | Verification | Failure | None
"""What became of a decision; None: the stage rests after failures and was not asked."""


class DispatchedCall(NamedTuple):
    """A call that a dispatcher has made for a query, and what it brought; times by the event loop's clock.

    Attributes:
        action: What was to be done.
        asked: When the query began to wait for its stage.
        began, ended: From when to when the engine was called.
        n_queries: That were called together, this one included.
        result: What came of it for this query.
    """

    action: Action
    asked: float
    began: float
    ended: float
    n_queries: int
    result: Result


@dataclass(slots=True)
class Journey:
    """One query on its way through the cascade: answers and verifications bought, decisions taken so far.

    Attributes:
        query: The question.
        drafts: By stage, in the order of the calls.
        verifications: In the order of the calls.
        verification: The current one: the last, until another stage answers.
        readers: Stages that have verified since the last answer; none of them needs to do so again.
        decision: The one of this round; None: there is no answer and no stage left to ask.
        decisions: Those that were carried out, in order.
        failures: Calls that brought nothing, in order.
        lost: Stages that failed the query or came to rest before they were asked; not asked again.
        result: What became of this round's decision so far.
        calls: That a dispatcher has made for the query, in order.
    """

    query: Query
    drafts: dict[str, Draft] = field(default_factory=dict)
    verifications: list[Verification] = field(default_factory=list)
    verification: Verification | None = None
    readers: list[str] = field(default_factory=list)
    decision: Decision | None = None
    decisions: list[Decision] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    result: Result = None
    calls: list[DispatchedCall] = field(default_factory=list)

    @property
    def has_stopped(self) -> bool:
        """An answer was returned."""
        return bool(self.decisions) and self.decisions[-1].action == STOP

    @property
    def is_carried_out(self) -> bool:
        """This round's decision has brought what it asked for."""
        return bool(self.decisions) and self.decisions[-1] is self.decision

    @property
    def chosen(self) -> Decision:
        """The decision of this round, where there is one."""
        assert self.decision is not None
        return self.decision

    @property
    def best(self) -> Draft:
        """The best answer so far, as decided in this round."""
        answer = self.chosen.answer
        assert answer is not None  # a policy may stop or verify only once there is an answer
        return self.drafts[answer]

    @property
    def read(self) -> Verification:
        """The current verification, where there is one."""
        assert self.verification is not None
        return self.verification

    def copy(self) -> Journey:
        """What there is now; this journey goes its way without it."""
        return replace(
            self,
            drafts=dict(self.drafts),
            verifications=list(self.verifications),
            readers=list(self.readers),
            decisions=list(self.decisions),
            failures=list(self.failures),
            lost=set(self.lost),
            calls=list(self.calls),
        )

    def is_read_by(self, stage: str) -> bool:
        """The current verification is this stage's."""
        return self.verification is not None and self.verification.stage == stage

    def follow(self, decision: Decision | None) -> None:
        """Begin a round; a query that stops has come to its end."""
        self.decision, self.result = decision, None
        if decision is not None and decision.action == STOP:
            self.decisions.append(decision)

    def take(self, result: Result) -> None:
        """What became of this round's decision; with an answer, what was verified is forgotten.

        Raises:
            EngineError: The result is of another stage or of another kind than what was asked for.
        """
        action, self.result = self.chosen.action, result
        if result is None or isinstance(result, Failure):
            self.lost.add(action.stage)
            self.failures += [] if result is None else [result]
            return
        if isinstance(result, Draft) and (action.kind, action.stage) == ("draft", result.stage):
            self.drafts[result.stage] = cut_draft(result, self.query)
            self.verification = None
            self.readers.clear()
        elif isinstance(result, Verification) and (action.kind, action.stage) == ("verify", result.stage):
            self.verifications.append(result)
            self.verification = result
            self.readers.append(result.stage)
        else:
            raise EngineError(
                f"asked for {str(action)!r} on query {self.query.id!r}, the engine returned "
                f"{type(result).__name__} of stage {getattr(result, 'stage', None)!r}; an engine returns "
                "drafts and verifications of its own stage"
            )
        self.decisions.append(self.chosen)
