"""What a server counts, for Prometheus: requests, answers, calls and spend; labels are few and bounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from asd.serving.admission import Call
from asd.serving.endpoint.walks import Delivered

__all__ = ["Metrics", "Outcome"]

Outcome = Literal["answered", "late", "failed", "left", "refused"]
"""Of a request; "late": the best answer at its deadline; "left": the client went; "refused": not begun."""

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class Metrics:
    """The counters of one server, in a registry of their own.

    Args:
        n_open: Requests that are open now.
    """

    def __init__(self, n_open: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("asd_requests", "Requests that ended", ["key", "outcome"], registry=registry)
        self._seconds = Histogram(
            "asd_request_seconds", "From arrival to the answer", buckets=SECONDS, registry=registry
        )
        self._answers = Counter("asd_answers", "Answers returned", ["stage"], registry=registry)
        self._p_good = Histogram(
            "asd_answer_p_good",
            "Probability that the answer is right",
            buckets=PROBABILITIES,
            registry=registry,
        )
        self._calls = Counter("asd_calls", "Calls of stages", ["stage"], registry=registry)
        self._spend = Counter(
            "asd_spend", "Priced cost, in the ladder's price unit", ["key"], registry=registry
        )
        Gauge("asd_open_requests", "Requests that are open", registry=registry).set_function(n_open)

    def ended(self, key: str, outcome: Outcome) -> None:
        """A request came to its end, whichever."""
        self._requests.labels(key, outcome).inc()

    def answered(self, delivered: Delivered) -> None:
        """An answer was returned."""
        self._seconds.observe(delivered.seconds)
        self._answers.labels(delivered.completion.stage).inc()
        if delivered.p_good is not None:
            self._p_good.observe(delivered.p_good)

    def paid(self, key: str, calls: Sequence[Call], cost: float) -> None:
        """These calls were made for a request, its client's gone or not."""
        for call in calls:
            self._calls.labels(call.stage).inc()
        self._spend.labels(key).inc(cost)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)
