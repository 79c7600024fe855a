"""Everything that watches a server, behind one object: it is told of every request that ends."""

from __future__ import annotations

from collections.abc import Callable

from asd.serving.monitoring.events import Ended, Outcome
from asd.serving.monitoring.metrics import Metrics
from asd.serving.monitoring.vitals import Vitals

__all__ = ["Monitor"]


class Monitor:
    """What a server is seen through.

    Args:
        vitals: How the server is when somebody asks.

    Attributes:
        metrics: What Prometheus reads.
        vitals: As given.
    """

    def __init__(self, vitals: Callable[[], Vitals]) -> None:
        self.vitals = vitals
        self.metrics = Metrics(vitals)

    def refused(self, key: str, outcome: Outcome) -> None:
        """A request ended before it was taken."""
        self.metrics.refused(key, outcome)

    def ended(self, ended: Ended) -> None:
        """A request that was taken has ended."""
        self.metrics.ended(ended)
