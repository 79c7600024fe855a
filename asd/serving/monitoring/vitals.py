"""How a server is at this moment: what is open, what waits at every stage, what fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from asd.dispatch import Dispatcher
from asd.resilience import Health

__all__ = ["StageVitals", "Vitals", "stages_of"]


@dataclass(frozen=True, slots=True)
class StageVitals:
    """One stage.

    Attributes:
        width: Calls that it takes at once.
        n_waiting: Requests in its queue.
        n_in_flight: Requests in its calls.
        utilisation: Calls that run, over `width`.
        is_resting: Its circuit breaker is open: nobody asks it.
        failures: Failed calls so far, by kind of error.
    """

    width: int
    n_waiting: int
    n_in_flight: int
    utilisation: float
    is_resting: bool
    failures: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Vitals:
    """The whole server.

    Attributes:
        n_open: Requests that were taken and for which work may still run.
        most_open: How many may be.
        is_draining: No further ones are taken.
        stages: By name, in ladder order.
    """

    n_open: int
    most_open: int
    is_draining: bool
    stages: Mapping[str, StageVitals]


def stages_of(names: tuple[str, ...], dispatcher: Dispatcher, health: Health) -> dict[str, StageVitals]:
    """Every stage as it is now."""
    resting, counts = health.resting(), health.counts
    return {
        name: StageVitals(
            width=dispatcher.width(name),
            n_waiting=dispatcher.n_waiting(name),
            n_in_flight=dispatcher.n_in_flight(name),
            utilisation=dispatcher.utilisation(name),
            is_resting=name in resting,
            failures={kind: n for (stage, kind), n in counts.items() if stage == name},
        )
        for name in names
    }
