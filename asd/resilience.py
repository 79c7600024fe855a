"""When a stage breaks: which stages may be asked, what a failed call leaves undone, and who is asked instead.

    closed   a stage is asked; failures in a row are counted
    open     after `trip_after` of them it rests for `cool_down_s`, and nobody asks it
    again    the first call after that decides: an answer closes the breaker, a failure opens it for as long

A batch is never done twice: what a call delivered is kept, a batch that does not fit into memory is halved
until it does, a prompt that is too long is found by halving too, and only what is left counts as failed. A
query that a stage has failed does not go there again; its policy is solved again without that stage's edges.

Failures are what an engine raises about itself (`EngineError`) and whatever else comes out of it; a wrong
value given by the user (`ConfigError`, `DataError`) is nobody's failure and passes through. What a failed
call cost is not known and is in no priced cost. The border: calls and clocks; the loop is `asd.cascade`.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

from asd.engines.batching import batches, paired
from asd.errors import (
    AsdError,
    ConfigError,
    EngineError,
    OutOfMemoryError,
    PartialBatchError,
    RefusedError,
    UnavailableError,
)
from asd.policies import Policy
from asd.types import STOP, VERIFY, Decision, Draft, Failure, Query, Verification

__all__ = ["Breaker", "Detours", "Health", "Reroutable"]

T = TypeVar("T")

Clock = Callable[[], float]

TOO_LARGE = (OutOfMemoryError, MemoryError, RefusedError)
"""Errors that part of a batch may not meet."""


class Breaker:
    """Keeps one stage from being asked while it rests.

    Args:
        trip_after: Failures in a row that open it.
        cool_down_s: Seconds it then stays open.
        clock: Seconds now.

    Raises:
        ConfigError: `trip_after` is not positive, or `cool_down_s` is negative or not finite.
    """

    def __init__(self, trip_after: int, cool_down_s: float, clock: Clock) -> None:
        if trip_after < 1:
            raise ConfigError(f"trip_after must be at least 1, not {trip_after}")
        if not 0 <= cool_down_s < math.inf:
            raise ConfigError(f"cool_down_s must be a number of at least 0, not {cool_down_s}")
        self._trip_after = trip_after
        self._cool_down_s = cool_down_s
        self._clock = clock
        self._in_a_row = 0
        self._open_until = -math.inf

    @property
    def is_open(self) -> bool:
        """Whether the stage rests now."""
        return self._clock() < self._open_until

    def succeeded(self) -> None:
        """A call brought what was asked for."""
        self._in_a_row = 0

    def failed(self) -> None:
        """A call failed; one in a row after a rest is enough to open again."""
        self._in_a_row += 1
        if self._in_a_row >= self._trip_after:
            self._open_until = self._clock() + self._cool_down_s


class Health:
    """How the stages of a cascade are; one object may serve several cascades over the same engines.

    Args:
        trip_after: Failures in a row after which a stage rests.
        cool_down_s: Seconds it rests.
        clock: Seconds now.

    Attributes:
        counts: Failed calls so far, by stage and kind of failure.

    Raises:
        ConfigError: As `Breaker`.
    """

    def __init__(
        self, *, trip_after: int = 2, cool_down_s: float = 60.0, clock: Clock = time.monotonic
    ) -> None:
        self._new_breaker = partial(Breaker, trip_after, cool_down_s, clock)
        self._new_breaker()  # a wrong value shows here, not when the first stage fails
        self._breakers: dict[str, Breaker] = {}
        self.counts: Counter[tuple[str, str]] = Counter()

    def resting(self) -> frozenset[str]:
        """Stages that are not asked now."""
        return frozenset(stage for stage, breaker in self._breakers.items() if breaker.is_open)

    def call_in_batches(
        self, action: str, call: Callable[[list[int]], list[T]], queries: Sequence[Query], batch_size: int
    ) -> Iterator[dict[int, T | Failure | None]]:
        """`asd.engines.batching.call_in_batches` that survives failures.

        Args:
            action: What the call is for: a stage, or `VERIFY` and a stage.
            call: Gets indices into `queries` and returns one result each, in their order.
            queries: What it is for.
            batch_size: Most indices in one call.

        Yields:
            By index the result, or the failure, or None where the stage has come to rest and was not asked.

        Raises:
            ConfigError: `batch_size` is not positive, or the engine refuses its input.
        """
        stage = action.removeprefix(VERIFY)
        breaker = self._breakers.setdefault(stage, self._new_breaker())
        waiting = deque(batches(queries, batch_size))
        while waiting:
            batch = waiting.popleft()
            if breaker.is_open:
                yield dict.fromkeys(batch)
                continue
            try:
                found = paired(stage, batch, call(batch))
            except Exception as error:  # whatever comes out of a stage that crashes
                if isinstance(error, AsdError) and not isinstance(error, EngineError):
                    raise
                self.counts[stage, type(error).__name__] += 1
                if len(batch) > 1 and isinstance(error, TOO_LARGE):
                    waiting = _halved(batch, waiting, error)
                    continue
                if _is_the_stages(error):
                    breaker.failed()
                yield _salvaged(action, batch, error)
            else:
                breaker.succeeded()
                yield {**found}


def _halved(batch: list[int], waiting: deque[list[int]], error: Exception) -> deque[list[int]]:
    """The batch in halves, before what waits; where memory was short, nothing larger than that waits."""
    size = (len(batch) + 1) // 2
    if isinstance(error, RefusedError):
        return deque([batch[:size], batch[size:], *waiting])
    return deque(each[i : i + size] for each in [batch, *waiting] for i in range(0, len(each), size))


def _is_the_stages(error: Exception) -> bool:
    """Whether a failure says something of the stage, not of one query alone."""
    if isinstance(error, PartialBatchError):
        return any(isinstance(why, UnavailableError) for why in error.failed.values())
    return not isinstance(error, RefusedError)


def _salvaged(action: str, batch: Sequence[int], error: Exception) -> dict[int, Any]:
    """What a failed call delivered all the same, and a failure for everything else."""
    if not isinstance(error, PartialBatchError):
        return {i: _failure(action, error) for i in batch}
    failed = {batch[at]: _failure(action, why) for at, why in error.failed.items()}
    return {batch[at]: result for at, result in error.done.items()} | failed


def _failure(action: str, error: Exception) -> Failure:
    return Failure(action, type(error).__name__, str(error))


@runtime_checkable
class Reroutable(Policy, Protocol):
    """A policy that can say what it would do if some stages were not there."""

    def without(self, stages: Collection[str]) -> Policy:
        """The policy of the same problem without these stages; `ConfigError` where nothing is left to do."""


class Detours:
    """A policy, and what it becomes without the stages that are out of reach; each solved once.

    Args:
        policy: What to do while every stage can be asked.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._solved: dict[frozenset[str], Policy | None] = {}

    def decide(
        self,
        query: Query,
        drafts: Mapping[str, Draft],
        verification: Verification | None,
        out_of_reach: frozenset[str],
    ) -> Decision | None:
        """The policy's choice among the stages in reach; None where there is no answer and none to be had.

        A policy that cannot be solved again is followed while it asks for what is in reach. Where it does
        not, and where no stage is left at all, the best answer in hand is returned.
        """
        decision = self._policy.decide(query, drafts, verification)
        if not out_of_reach:
            return decision
        detour = self._without(out_of_reach)
        if detour is not None:
            return detour.decide(query, drafts, verification)
        if decision.action.removeprefix(VERIFY) not in out_of_reach:
            return decision
        return Decision(STOP, decision.answer, decision.p_good) if decision.answer in drafts else None

    def _without(self, stages: frozenset[str]) -> Policy | None:
        """The policy solved again, or None where that cannot be done."""
        if stages not in self._solved:
            try:
                policy = self._policy
                self._solved[stages] = policy.without(stages) if isinstance(policy, Reroutable) else None
            except ConfigError:  # no stage is left
                self._solved[stages] = None
        return self._solved[stages]
