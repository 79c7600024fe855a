"""How a server is at this moment: what is open, what waits at every stage, what fails."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from asd.operations.state import StageState

__all__ = ["Vitals"]


@dataclass(frozen=True, slots=True)
class Vitals:
    """The whole server.

    Attributes:
        n_open: Requests that were taken and for which work may still run.
        most_open: How many may be.
        is_draining: No further ones are taken.
        stages: By name, in ladder order.
        devices: Stages that take turns, together; the others by themselves.
        resting: Stages whose circuit breaker is open: nobody asks them.
        failures: Failed calls so far, by stage and kind of error.
    """

    n_open: int
    most_open: int
    is_draining: bool
    stages: Mapping[str, StageState]
    devices: Sequence[tuple[str, ...]]
    resting: Collection[str]
    failures: Mapping[tuple[str, str], int]
