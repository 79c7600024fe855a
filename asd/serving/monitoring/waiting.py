"""The queue of a device at another load than the present one.

Where a device takes w calls at a time and these are busy a share rho of the time, requests that wait number

    N(rho) = c C(w, w rho) rho / (1 - rho)

on average, with Erlang's probability of waiting C (Allen and Cunneen; exact for M/M/w with c = 1 and for
M/G/1 with c = (1 + cv^2) / 2). What bursts and unlike calls make of it, c, is read off the queue that is
there, and rho grows in proportion to the load. Calls that take more queries at once as queues grow leave more
room than this says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["DeviceLoad"]

LEAST_QUEUE = 0.02
"""Requests, for c = 1, below which the queue that is there says nothing of c; it is 1 then."""
EVEN = 0.5
"""The least c: equal calls, for Poisson arrivals."""


@dataclass(frozen=True, slots=True)
class DeviceLoad:
    """What a device has to do.

    Attributes:
        utilisation: Share of the time that its calls run, at least 0; from 1 on it cannot keep up.
        n_waiting: Requests that wait for it, on average; infinite where it cannot keep up.
        width: Calls that it takes at once.
    """

    utilisation: float
    n_waiting: float
    width: int = 1

    def at(self, growth: float) -> DeviceLoad:
        """At so many times the load."""
        grown = replace(self, utilisation=growth * self.utilisation)
        return replace(grown, n_waiting=self._spread * grown._even)

    @property
    def _spread(self) -> float:
        """The c of this queue."""
        return max(EVEN, self.n_waiting / self._even) if self._even >= LEAST_QUEUE else 1.0

    @property
    def _even(self) -> float:
        """Requests that would wait for c = 1."""
        rho, blocked = self.utilisation, 1.0
        if rho >= 1.0:
            return math.inf
        for n in range(1, self.width + 1):  # Erlang's B, from which C follows
            blocked = self.width * rho * blocked / (n + self.width * rho * blocked)
        return blocked / (1.0 - rho * (1.0 - blocked)) * rho / (1.0 - rho)
