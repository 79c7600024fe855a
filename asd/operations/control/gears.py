"""Gears: policies worked out beforehand for levels of load (after CascadeServe, arXiv 2406.14424)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from asd.operations.control.bearing import BEARABLE, demand_of
from asd.operations.control.deciders import Decider
from asd.operations.population import Population
from asd.operations.state import SystemState
from asd.policies import Policy

__all__ = ["Gear", "Gears", "gears_of"]


class Gear(NamedTuple):
    """A policy, and the rate of arrivals up to which it is used, requests a second."""

    most: float
    policy: Policy


@dataclass(slots=True, eq=False)
class Gears:
    """Policies worked out beforehand for levels of load (after CascadeServe, arXiv 2406.14424).

    Attributes:
        name: As it stands in tables.
        gears: The best first, the one for the heaviest load last.
        interval_s: Seconds between two looks.
        memory: Weight of the old rate in the new one.
    """

    name: str
    gears: Sequence[Gear]
    interval_s: float = 5.0
    memory: float = 0.7
    _rate: float = 0.0

    def policy(self, state: SystemState | None) -> Policy:
        """The first gear that is made for the rate of this moment."""
        if state is not None:
            self._rate = self.memory * self._rate + (1.0 - self.memory) * state.request_rate
        return next((gear.policy for gear in self.gears if self._rate <= gear.most), self.gears[-1].policy)


def gears_of(
    population: Population,
    policies: Sequence[Policy],
    servers: Mapping[str, tuple[int, int]],
    target: float = BEARABLE,
) -> list[Gear]:
    """How much load each policy bears, from recorded queries; those that bear less for no more are left out.

    Args:
        population: Recorded queries.
        policies: To choose among, the best first.
        servers: Replicas and largest call, by stage.
        target: Share of a stage's capacity, at full calls, that may be used.
    """
    gears: list[Gear] = []
    for policy in policies:
        taken = demand_of(population, Decider(population, policy).walk, servers).seconds
        stages = zip(population.stages, taken, strict=True)
        bears = [target * servers[stage][0] / seconds for stage, seconds in stages if seconds]
        if not gears or min(bears) > gears[-1].most:
            gears.append(Gear(min(bears), policy))
    return gears
