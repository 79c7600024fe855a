"""Whether a request is served: the contract between the request path and the books.

    alias = admission.authenticate(secret)              # UnknownKeyError: 401
    ticket = await admission.admit(RequestFacts(...))   # RateLimitedError, CapReachedError: 429
    try:
        ...                                             # run the cascade
    finally:
        await ticket.settle(calls)                      # or ticket.release(), where no call was made

Admission is decided before the first byte of the answer. A ticket holds the most that the request can cost;
settling books what ran and frees the rest. Settle when no engine works for the request any more: a call that
ends after its client has left is paid for like any other.

`Accounts` is what the live page and a controller of spend ask besides. Values and protocols only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from asd.errors import ConfigError
from asd.types import NO_CALL, Draft, Usage, Verification

__all__ = [
    "Account", "Accounts", "Admission", "Call", "RequestCharge", "RequestFacts", "Spent", "Ticket",
    "calls_of",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What bounds the cost of a request before it runs.

    Attributes:
        id: Unique for ever; made by the server, not by the client.
        key: Alias of the API key (`Admission.authenticate`), never the key itself.
        model: The model's name as the client gave it.
        stages: Stages that may answer or verify.
        n_prompt: Most prompt tokens that any of these stages, or of those in the shadow, reads.
        max_new_tokens: Room for the answer.
        shadow: Stages that answer as well, whatever the cascade does, to keep an eye on quality.
        attempts: Most times that any one call is made.
        budget: Most that its own calls cost together, in micro-units, as whoever makes them takes care of;
            None: whatever they cost.

    Raises:
        ConfigError: There is no stage, or a count is out of range.
    """

    id: str
    key: str
    model: str
    stages: tuple[str, ...]
    n_prompt: int
    max_new_tokens: int
    shadow: tuple[str, ...] = ()
    attempts: int = 1
    budget: int | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise ConfigError(f"request {self.id!r} may use no stage; allow at least one")
        least = {"n_prompt": 0, "max_new_tokens": 1, "attempts": 1}
        for name, n in least.items():
            if getattr(self, name) < n:
                raise ConfigError(
                    f"request {self.id!r}: {name} must be at least {n}, not {getattr(self, name)}"
                )

    @property
    def n_tokens(self) -> int:
        """Tokens that count against a limit a minute: the prompt and the room for the answer."""
        return self.n_prompt + self.max_new_tokens


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a stage that was made for a request, and what it took."""

    stage: str
    usage: Usage
    shadow: bool = False


def calls_of(bought: Iterable[Draft | Verification], *, shadow: bool = False) -> list[Call]:
    """The calls behind drafts and verifications, as `Completion.bought` holds them.

    Leaves out what took no call: cached answers, and drafts that a verifier accepted whole.
    """
    return [
        Call(result.stage, result.usage, shadow)
        for result in bought
        if result.usage != NO_CALL and not (isinstance(result, Draft) and result.cached)
    ]


@dataclass(frozen=True, slots=True)
class RequestCharge:
    """What a request cost, in micro-units of the ladder's price unit.

    Attributes:
        id: Of the request.
        micros: What was booked, shadow runs included.
        shadow_micros: The part of it that ran in the shadow.
        held: What had been held for it.
        estimated: Booked without knowing what ran, as nobody has counted it: at most this was spent.
    """

    id: str
    micros: int
    shadow_micros: int
    held: int
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Account:
    """What was spent under one cap, in micro-units.

    Attributes:
        key: Alias of the key; "": all keys together.
        period: "day" (UTC, today) or "total".
        micros: Booked.
        held: For requests that run.
        cap: None: there is none.
    """

    key: str
    period: Literal["day", "total"]
    micros: int
    held: int
    cap: int | None


@dataclass(frozen=True, slots=True)
class Spent:
    """What is booked of all keys together, shadow runs included, in micro-units.

    Attributes:
        now_s: When, seconds since 1970.
        today: Of requests that were admitted since midnight (UTC).
        ever: Of all requests.
    """

    now_s: float
    today: int
    ever: int


@runtime_checkable
class Accounts(Protocol):
    """An admission that can tell what was spent."""

    async def accounts(self) -> list[Account]:
        """All keys together first, then by key; of today and for ever."""

    async def spent(self) -> Spent:
        """All keys together, as one reading."""


class Ticket(Protocol):
    """A request that was admitted, until it is settled or released."""

    @property
    def held(self) -> int:
        """The most that the request can cost, micro-units."""

    @property
    def shadow(self) -> tuple[str, ...]:
        """Stages whose runs in the shadow the hold covers: those of the facts, or, under a cap, none."""

    async def settle(self, calls: Sequence[Call], uncounted: Sequence[str] = ()) -> RequestCharge:
        """Book these calls and free the rest of the hold; the books are safe from a kill when it returns.

        `uncounted` names the stage of every call that was cancelled before anybody knew what it took: each
        is booked at its bound, and the request as estimated.

        Cancelling the caller does not undo it. A second call returns what the first one booked.
        """

    async def release(self) -> RequestCharge:
        """Settle with no calls: nothing ran."""


class Admission(Protocol):
    """Decides about requests, and keeps the books."""

    def authenticate(self, secret: str | None) -> str:
        """The alias of an API key, for metrics, logs and `RequestFacts.key`; None: the client sent no key.

        Raises:
            UnknownKeyError: There is no such key, or it is revoked or has expired, or a key is needed.
        """

    def is_operator(self, alias: str) -> bool:
        """Whether this key may see what every key spends."""

    async def admit(self, facts: RequestFacts) -> Ticket:
        """Hold the most that a request can cost.

        Raises:
            ConfigError: A stage has no price, or the id was used before.
            RateLimitedError: The key has made too many requests, or asked for too many tokens.
            CapReachedError: The request could pass a cap on spend.
            StorageError: The books cannot be written.
        """
