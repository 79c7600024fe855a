"""The worth of a second, learned: dual ascent on how far the 95th percentile of latency is from a target.

    mu <- min(most, max(0, (1 - forget) * mu + step * unit * (P95 / target - 1))),      unit = lam / target

A look that finds P95 above the target makes waiting dearer, one below it cheaper; mu stays within its bounds,
so that a load which nothing can serve winds nothing up, and is forgotten. Which policies can ever decide is
fixed beforehand by `lam` and `most`. The loop acts on latencies that are one look old: it is stable while
`step` times their response to mu stays below 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from asd.errors import ConfigError
from asd.operations.control.backlog import Adaptive, BacklogPolicy
from asd.operations.state import SystemState

__all__ = ["P95Target", "ascended"]

_WORST = 3.0
"""Relative violations beyond this count as this: one look may not throw mu to its bound."""


def ascended(mu: float, relative: float, step: float, forget: float) -> float:
    """One step of dual ascent on mu, at least 0.

    Args:
        mu: So far.
        relative: P95 over its target.
        step: Cost units a second.
        forget: Share of mu that is forgotten, in [0, 1).
    """
    return max(0.0, (1.0 - forget) * mu + step * min(_WORST, relative - 1.0))


@dataclass(slots=True, eq=False)
class P95Target(Adaptive):
    """A queue-aware policy that holds a 95th percentile.

    Attributes:
        inner: Solves and decides; its `mu` is what is learned.
        target_s: Seconds that P95 should not exceed.
        step: Of the ascent, in units of lam / target a look.
        forget: Share of mu that is forgotten at every look, in [0, 1).
        most: Largest mu, in the same units.

    Raises:
        ConfigError: A number is out of range.
    """

    target_s: float
    step: float = 0.2
    forget: float = 0.02
    most: float = 10.0

    def __post_init__(self) -> None:
        if not (
            0.0 < self.target_s < math.inf
            and self.step > 0.0
            and 0.0 <= self.forget < 1.0
            and self.most > 0.0
        ):
            raise ConfigError(
                "a target (finite), its step and its largest mu are positive and forget is in [0, 1), not "
                f"{self.target_s:g}, {self.step:g}, {self.most:g} and {self.forget:g}"
            )

    def policy(self, state: SystemState | None) -> BacklogPolicy:
        """The one policy there is, solved again at the worth of a second that was learned."""
        if state is not None and state.p95_s is not None:
            unit = self.inner.lam / self.target_s
            moved = ascended(self.inner.mu, state.p95_s / self.target_s, self.step * unit, self.forget)
            self.inner.mu = min(self.most * unit, moved)
        return self.inner.policy(state)
