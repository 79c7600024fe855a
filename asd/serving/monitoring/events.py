"""What a server reports to its monitor: one value for every request that has ended. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asd.journey import DispatchedCall
from asd.serving.admission import Call
from asd.types import Completion, Draft, Verification

__all__ = ["ANSWERED", "Ended", "Outcome"]

Outcome = Literal["answered", "late", "failed", "left", "refused"]
"""Of a request; "late": the best answer at its deadline; "left": the client went; "refused": not begun."""

ANSWERED: tuple[Outcome, ...] = ("answered", "late")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A request that was taken and has ended; no stage works for it any more.

    Attributes:
        key: Alias of the client's key.
        outcome: How it ended.
        arrived_at: Seconds since 1970.
        taken_s: When it was taken on, by a clock that nobody sets (`Monitor.taken`).
        seconds: From its arrival to its end.
        n_inside: Requests that were open when it came.
        bought: All that stages have delivered for it, in no order.
        calls: What of it was paid for.
        micros: What that cost, micro-units of the ladder's price unit.
        completion: The answer and the way there; None: there was no answer.
        p_good: Calibrated probability that the answer is right; None: unknown.
        guaranteed: The policy's guarantee covers it.
        first_text_s: From its arrival to the first text that the client was sent; None: none was.
        dispatched: Calls as they were made.
        error: What ended it without an answer; None: there was one, or the client left.
    """

    key: str
    outcome: Outcome
    arrived_at: float
    taken_s: float
    seconds: float
    n_inside: int
    bought: tuple[Draft | Verification, ...]
    calls: tuple[Call, ...]
    micros: int
    completion: Completion | None = None
    p_good: float | None = None
    first_text_s: float | None = None
    guaranteed: bool = False
    dispatched: tuple[DispatchedCall, ...] = ()
    error: Exception | None = None

    @property
    def draft(self) -> Draft | None:
        """The answer that was returned."""
        if self.completion is None:
            return None
        return next(draft for draft in self.completion.drafts if draft.stage == self.completion.stage)

    @property
    def per_token_s(self) -> float | None:
        """Seconds of the call that wrote the answer, over the tokens decoded; None: none was made for it."""
        draft = self.draft
        if draft is None or draft.cached or not draft.usage.n_decoded:
            return None
        return draft.seconds / draft.usage.n_decoded
