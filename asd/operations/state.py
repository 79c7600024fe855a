"""What a controller may know of a running cascade: one type, whether it is live or simulated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["StageState", "SystemState"]


@dataclass(frozen=True, slots=True)
class StageState:
    """One stage.

    Attributes:
        replicas: Up now.
        n_waiting: Requests in its queue now, or a mean of that.
        n_in_flight: Requests in its calls now.
        utilisation: Share of the replicas' time that the calls took which ended since the last look.
        wait_s: Mean time from joining the queue to the end of the call, of the requests that left the stage
            since the last look; None: none did.
        call_s: Mean length of the calls that ended since the last look; None: none did.
        per_call: Mean queries in these calls; None: no call ended.
        memory: Share in use, of its server's room for keys and values, of its GPU's memory, or of what stages
            that take turns share; None: not known.
        n_others: Requests that its server has from others than us; None: it does not tell.
        is_resident: In memory; where it is not, its next call begins with a load.
    """

    replicas: int
    n_waiting: float
    n_in_flight: int
    utilisation: float
    wait_s: float | None
    call_s: float | None
    per_call: float | None
    memory: float | None = None
    n_others: float | None = None
    is_resident: bool = True

    @property
    def rate(self) -> float:
        """Requests a second that its calls took in; 0 where none ended."""
        if not self.call_s or not self.per_call:
            return 0.0
        return self.utilisation * self.replicas * self.per_call / self.call_s


@dataclass(frozen=True, slots=True)
class SystemState:
    """The whole.

    Attributes:
        now_s: When: since a run began, at midnight (simulated), or since 1970, as the books count the time.
        seconds: Since the last look.
        stages: By name, in ladder order.
        n_inside: Requests that have neither been answered nor failed.
        request_rate: Arrivals a second since the last look.
        error_rate: Share of the requests that ended since the last look without an answer.
        latency_s: Mean of the requests answered since the last look; None: none was.
        p95_s: Their 95th percentile; None: fewer than 59 were.
        quality: Mean score of them, where it is known (simulated); None: it is not.
        spent: Priced cost of the calls that ended since the last look: in cost units (simulated), or as
            booked, in the ladder's price unit; None: not known.
        spent_today: The same since midnight (UTC); None: not known.
        out: Stages that cannot be asked now.
    """

    now_s: float
    seconds: float
    stages: Mapping[str, StageState]
    n_inside: int
    request_rate: float
    error_rate: float
    latency_s: float | None
    p95_s: float | None
    quality: float | None = None
    spent: float | None = None
    spent_today: float | None = None
    out: frozenset[str] = frozenset()
