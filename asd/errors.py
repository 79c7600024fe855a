"""The exceptions that `asd` raises for wrong input and broken surroundings.

    AsdError
    ├── ConfigError      a value, key, name or option the user gave is wrong
    │   ├── PolicyMismatchError   the policy was fitted on another ladder
    │   └── PolicyError           a policy broke its protocol, or raised
    ├── DataError        a trace, workload, baseline or artifact file is missing, broken or empty
    ├── EngineError      a stage cannot load or cannot answer
    │   ├── RefusedError          the stage will never answer this query; others are not affected
    │   │   └── PromptTooLongError    the prompt does not fit the stage's context
    │   ├── OutOfMemoryError      the batch does not fit the stage's memory; a smaller one may
    │   │   └── StageTooLargeError    the weights do not fit the memory that is free
    │   ├── UnavailableError      the stage is not there, out of time or overloaded
    │   ├── CallCancelledError    the call was cancelled by whoever waited for it; what it took is not known
    │   ├── PartialBatchError     some queries of a batch failed; holds the results of the others
    │   └── NoStageLeftError      every stage failed a query; holds what has been answered
    ├── StorageError     a result could not be written (disk full, no permission)
    ├── SimulationError  a simulated run breaks a law that holds exactly
    └── AdmissionError   a server does not take a request
        ├── UnknownKeyError       no API key, or one that is unknown, revoked or expired
        ├── RateLimitedError      too many requests or tokens a minute
        └── CapReachedError       it could pass a cap on spend

Every message names the offending value and the remedy; the CLI prints it and exits with code 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asd.journey import Journey
    from asd.types import Completion, Failure, Query


class AsdError(Exception):
    """Base of all errors raised on purpose by this package.

    Attributes:
        journeys: Where the error ended a `Cascade.run`: the state of every query, which `Cascade.resume` goes
            on from; empty elsewhere. A run gives it to exceptions of other kinds too.
    """

    journeys: Sequence[Journey] = ()


class ConfigError(AsdError):
    """A value, key, name or option the user gave is wrong."""


class PolicyMismatchError(ConfigError):
    """The policy artifact was fitted on another ladder than the one it is asked to steer."""


class PolicyError(ConfigError):
    """A policy named an action that is not open in the state it was asked in, or raised."""


class DataError(AsdError):
    """A trace, workload, baseline or artifact file is missing, broken or empty."""


class EngineError(AsdError):
    """A stage cannot be loaded or cannot answer."""


class RefusedError(EngineError):
    """The stage will never answer this query, however often it is asked: a content filter, a rejected prompt.

    It says something about the query, nothing about the health of the stage or about other queries.
    """


class PromptTooLongError(RefusedError):
    """The prompt and the room for an answer exceed the stage's context."""


class OutOfMemoryError(EngineError):
    """The batch does not fit the stage's memory; a smaller one may."""


class StageTooLargeError(OutOfMemoryError):
    """The weights of a stage do not fit the memory that is free; no smaller batch helps."""


class UnavailableError(EngineError):
    """The stage is not there, does not answer in time or is overloaded."""


class CallCancelledError(EngineError):
    """The call was cancelled (`asd.cancellation`); what it took up to then is not known."""


class PartialBatchError(EngineError):
    """Some queries of a batch failed and others did not: nothing that is done need be done again.

    Attributes:
        done: Results by position in the batch.
        failed: What was wrong with each of the others, by position.
    """

    def __init__(self, message: str, done: Mapping[int, Any], failed: Mapping[int, EngineError]) -> None:
        super().__init__(message)
        self.done = done
        self.failed = failed


class NoStageLeftError(EngineError):
    """Some queries have no answer because every stage they could go to failed them.

    Attributes:
        completions: What has been answered all the same.
        unanswered: The queries without an answer, each with what failed on the way.
    """

    def __init__(
        self,
        message: str,
        completions: Sequence[Completion],
        unanswered: Sequence[tuple[Query, Sequence[Failure]]],
    ) -> None:
        super().__init__(message)
        self.completions = completions
        self.unanswered = unanswered


class StorageError(AsdError):
    """A result could not be written; what had been written before is intact."""


class SimulationError(AsdError):
    """A simulated run breaks a law that holds exactly: a bug of the simulator, never of the input."""


class AdmissionError(AsdError):
    """A server does not take a request; nothing ran and nothing was booked.

    Attributes:
        retry_after_s: Seconds after which the same request may be taken; None: nobody knows, or never.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnknownKeyError(AdmissionError):
    """The request has no API key, or one that is unknown, revoked or expired. Never says which key."""


class RateLimitedError(AdmissionError):
    """The key has made too many requests, or asked for too many tokens, in the last minute."""


class CapReachedError(AdmissionError):
    """The request could pass a cap on spend: what is spent, what is held and its own bound exceed it."""
