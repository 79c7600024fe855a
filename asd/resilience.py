"""When a stage breaks: which stages may be asked, what a failed call leaves undone, and who is asked instead.

    closed   a stage is asked; failures in a row are counted
    open     after `trip_after` of them it rests for `cool_down_s`, and nobody asks it
    again    the first call after that decides: an answer closes the breaker, a failure opens it for as long

A batch is never done twice: what a call delivered is kept, a batch that does not fit into memory is halved
until it does, a prompt that is too long is found by halving too, and only what is left counts as failed. A
query that a stage has failed does not go there again; its policy is solved again without that stage's edges.

What counts as a stage's failure is `FAILURES`: `EngineError`, `OSError` (files, connections, timeouts),
`RuntimeError` (what torch and vLLM raise) and `MemoryError`; an engine turns its library's other errors into
`EngineError`. Everything else ends the run: a wrong value given by the user (`ConfigError`, `DataError`), and
a bug (`TypeError`, `KeyError`, ...), which rerouting would only hide. Every failure is counted and logged.
What a failed call cost is not known and is in no priced cost. Calls and clocks only; the loop is
`asd.cascade`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from asd.engines.batches import batches, cut, half, kept, paired, short_of_memory
from asd.errors import (
    AsdError,
    CallCancelledError,
    ConfigError,
    EngineError,
    OutOfMemoryError,
    PartialBatchError,
    PolicyError,
    RefusedError,
    StageTooLargeError,
    UnavailableError,
)
from asd.policies import Policy, Reroutable
from asd.types import Action, Failure, Query

__all__ = ["COOL_DOWN_S", "FAILURES", "Breaker", "Detours", "Health"]

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

Clock = Callable[[], float]

FAILURES = (EngineError, OSError, RuntimeError, MemoryError)
"""Errors that say that a stage failed; all others are raised."""

COOL_DOWN_S = 60.0
"""Seconds that a stage rests which has failed, where nothing else is said."""

BUGS = (NotImplementedError, RecursionError)
"""Kinds of `RuntimeError` that say that a program is wrong."""


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
    """How the stages of a cascade are; one object may serve several cascades and threads.

    Args:
        trip_after: Failures in a row after which a stage rests.
        cool_down_s: Seconds it rests.
        clock: Seconds now.

    Raises:
        ConfigError: As `Breaker`.
    """

    def __init__(
        self, *, trip_after: int = 2, cool_down_s: float = COOL_DOWN_S, clock: Clock = time.monotonic
    ) -> None:
        self._new_breaker = partial(Breaker, trip_after, cool_down_s, clock)
        self._new_breaker()  # a wrong value shows here, not when the first stage fails
        self._lock = threading.Lock()
        self._breakers: dict[str, Breaker] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """Failed calls so far, by stage and kind of failure."""
        with self._lock:
            return self._counts.copy()

    def resting(self) -> frozenset[str]:
        """Stages that are not asked now."""
        with self._lock:
            return frozenset(stage for stage, breaker in self._breakers.items() if breaker.is_open)

    def call_in_batches(
        self, action: Action, call: Callable[[list[int]], list[T]], queries: Sequence[Query], batch_size: int
    ) -> Iterator[dict[int, T | Failure | None]]:
        """`asd.engines.batches.call_in_batches` that survives failures.

        Args:
            action: What the call is for.
            call: Gets indices into `queries` and returns one result each, in their order.
            queries: What it is for.
            batch_size: Most indices in one call.

        Yields:
            By index the result, or the failure, or None where the stage has come to rest and was not asked.

        Raises:
            ConfigError: `batch_size` is not positive, or the engine refuses its input.
        """
        stage = action.stage
        waiting = deque(batches(queries, batch_size))
        while waiting:
            batch = waiting.popleft()
            if stage in self.resting():
                yield dict.fromkeys(batch)
                continue
            try:
                found = paired(stage, batch, call)
            except BUGS:
                raise
            except FAILURES as error:
                self._failed(action, batch, error)
                if isinstance(error, RefusedError) and len(batch) > 1:
                    waiting.extendleft((batch[half(batch) :], batch[: half(batch)]))
                    continue
                again = short_of_memory(batch, error)
                yield _settled(action, [i for i in batch if i not in again], batch, error)
                waiting = cut(again, waiting, half(batch)) if again else waiting
            else:
                self._succeeded(stage)
                yield {**found}

    def _succeeded(self, stage: str) -> None:
        with self._lock:
            if stage in self._breakers:
                self._breakers[stage].succeeded()

    def _failed(self, action: Action, batch: Sequence[int], error: Exception) -> None:
        """Count and log a failed call, the first of its kind as a warning; a cancelled one is no failure."""
        if isinstance(error, CallCancelledError):
            return
        stage, kind = action.stage, type(error).__name__
        with self._lock:
            self._counts[stage, kind] += 1
            is_first = self._counts[stage, kind] == 1
            if _is_the_stages(error):
                self._breakers.setdefault(stage, self._new_breaker()).failed()
        message = "%r failed for %d queries with %s: %s"
        _LOG.debug(message, str(action), len(batch), kind, error, exc_info=error)
        if is_first:
            _LOG.warning(
                message + "; further ones are logged at level DEBUG", str(action), len(batch), kind, error
            )


def _is_the_stages(error: Exception) -> bool:
    """Whether a failure says something of the stage, not of some queries alone."""
    if isinstance(error, PartialBatchError):
        return any(isinstance(why, UnavailableError) for why in error.failed.values())
    if isinstance(error, StageTooLargeError):
        return True
    return not isinstance(error, (RefusedError, OutOfMemoryError))


def _settled(
    action: Action, settled: Collection[int], batch: Sequence[int], error: Exception
) -> dict[int, Any]:
    """For those of a failed batch that are not asked again: what it brought all the same, or the failure."""
    failed = error.failed if isinstance(error, PartialBatchError) else {}
    why = {batch[at]: error for at, error in failed.items()}
    return {i: _failure(action, why.get(i, error)) for i in settled} | kept(batch, error)


def _failure(action: Action, error: Exception) -> Failure:
    return Failure(action, type(error).__name__, str(error) or repr(error))


class Detours:
    """A policy, and what it becomes without the stages that are out of reach; each solved once.

    Args:
        policy: What to do while every stage can be asked.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._solved: dict[frozenset[str], Policy | None] = {frozenset(): policy}

    def around(self, stages: frozenset[str]) -> Policy | None:
        """The policy solved again without these stages, or None: it cannot be, or no stage is left.

        Raises:
            PolicyError: The policy's `without` raises what is no `AsdError`.
        """
        if stages not in self._solved:
            self._solved[stages] = self._solve(stages)
        return self._solved[stages]

    def _solve(self, stages: frozenset[str]) -> Policy | None:
        if not isinstance(self._policy, Reroutable):
            return None
        try:
            return self._policy.without(stages)
        except ConfigError:  # no stage is left
            return None
        except AsdError:
            raise
        except Exception as error:
            raise PolicyError(
                f"policy {self._policy.name!r} raised {error!r} when it was to do without {sorted(stages)}"
            ) from error
