"""What a server counts, for Prometheus: base units in the names, labels few and bounded.

Labels are stages, outcomes, kinds of tokens and of failures, and aliases of keys; never an id or a prompt.
`grafana.json`, beside this module, is a dashboard of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from asd.serving.admission import Call
from asd.serving.monitoring.events import Ended, Outcome
from asd.serving.monitoring.vitals import Vitals
from asd.serving.tariff import MICRO
from asd.types import Draft

__all__ = ["Metrics"]

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
SCORES = (0, 0.25, 0.5, 0.75, 1)
OTHERS = "*"
"""Label of all keys but the one that looks."""
TOKENS = ("prompt", "decoded", "verified", "drafted")
"""Kinds of tokens that a call reads or writes (`asd.types.Usage`)."""


class Metrics:
    """The counters of one server, in a registry of their own.

    Args:
        vitals: How the server is when somebody asks.
        states: Further gauges, likewise.
    """

    def __init__(self, vitals: Callable[[], Vitals], states: Callable[[], Iterator[Metric]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Now(vitals, states))
        self._requests = self._counter("asd_requests", "Requests that ended", "key", "outcome")
        self._seconds = self._histogram("asd_request_seconds", "From arrival to the answer", SECONDS, "stage")
        self._first = self._histogram(
            "asd_time_to_first_token_seconds", "From arrival to the first text sent", SECONDS, "stage"
        )
        self._per_token = self._histogram(
            "asd_time_per_output_token_seconds",
            "Of the call that wrote the answer, over the tokens it decoded",
            TOKEN_SECONDS,
            "stage",
        )
        self._answers = self._counter("asd_answers", "Answers returned", "stage")
        self._cached = self._counter("asd_cached_answers", "Drafts taken from the response cache", "stage")
        self._p_good = self._histogram(
            "asd_answer_p_good", "Probability that the answer is right", PROBABILITIES
        )
        self._calls = self._counter("asd_calls", "Calls of stages", "stage")
        self._tokens = self._counter("asd_tokens", "Tokens that calls read and wrote", "stage", "kind")
        self._spend = self._counter("asd_spend", "Priced cost, in the ladder's price unit", "key")
        self._shadow = self._counter("asd_shadow_spend", "The part of it that ran in the shadow", "key")
        self._scores = self._histogram("asd_feedback_score", "Scores that people gave to answers", SCORES)
        self._network = self._counter("asd_network_bytes", "Bodies of requests and replies", "direction")

    def refused(self, key: str, outcome: Outcome) -> None:
        """A request ended before it was taken."""
        self._requests.labels(key, outcome).inc()

    def ended(self, ended: Ended) -> None:
        """A request ended, with an answer or without."""
        self._requests.labels(ended.key, ended.outcome).inc()
        for bought in ended.bought:
            if isinstance(bought, Draft) and bought.cached:
                self._cached.labels(bought.stage).inc()
        self.paid(ended.key, ended.calls, ended.micros)
        if (draft := ended.draft) is not None:
            self._answered(ended, draft.stage)

    def paid(self, key: str, calls: Sequence[Call], micros: int) -> None:
        """These calls were made for a request of this key, its client's gone or not."""
        self._spend.labels(key).inc(micros / MICRO)
        for call in calls:
            self._calls.labels(call.stage).inc()
            used = call.usage
            counts = (used.n_prompt, used.n_decoded, used.n_verified, used.n_drafted)
            for kind, n in zip(TOKENS, counts, strict=True):
                self._tokens.labels(call.stage, kind).inc(n)

    def shadowed(self, key: str, calls: Sequence[Call], micros: int) -> None:
        """These calls were made in the shadow."""
        self.paid(key, calls, micros)
        self._shadow.labels(key).inc(micros / MICRO)

    def scored(self, score: float) -> None:
        """Somebody has scored an answer."""
        self._scores.observe(score)

    def transferred(self, received: int, sent: int) -> None:
        """Bytes of bodies."""
        self._network.labels("received").inc(received)
        self._network.labels("sent").inc(sent)

    def text(self, key: str | None = None) -> bytes:
        """All of them in Prometheus' text format; as a key sees them, others' together under `OTHERS`."""
        return generate_latest(self._registry if key is None else _RegistryOfKey(self._registry, key))

    def _answered(self, ended: Ended, stage: str) -> None:
        self._seconds.labels(stage).observe(ended.seconds)
        self._answers.labels(stage).inc()
        self._first.labels(stage).observe(ended.seconds if ended.first_text_s is None else ended.first_text_s)
        if ended.per_token_s is not None:
            self._per_token.labels(stage).observe(ended.per_token_s)
        if ended.p_good is not None:
            self._p_good.observe(ended.p_good)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(name, what, labels, registry=self._registry)

    def _histogram(self, name: str, what: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(name, what, labels, registry=self._registry, buckets=buckets)


class _RegistryOfKey(CollectorRegistry):
    """A registry as one key may see it."""

    def __init__(self, registry: CollectorRegistry, key: str) -> None:
        super().__init__()
        self._all = registry
        self._key = key

    def collect(self) -> Iterator[Metric]:
        """The same metrics, those of all other keys added up."""
        for metric in self._all.collect():
            seen = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            sums: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
            for name, labels, value, *_ in metric.samples:
                is_others = labels.get("key", self._key) != self._key
                at = name, tuple((labels | ({"key": OTHERS} if is_others else {})).items())
                known = sums.get(at)
                began = name.endswith("_created")  # the first of them
                sums[at] = value if known is None else min(known, value) if began else known + value
            for (name, of), value in sums.items():
                seen.add_sample(name, dict(of), value)
            yield seen


class _Now:
    """Gauges, read when they are asked for."""

    def __init__(self, vitals: Callable[[], Vitals], states: Callable[[], Iterator[Metric]]) -> None:
        self._vitals = vitals
        self._states = states

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client wants it."""
        now = self._vitals()
        yield GaugeMetricFamily("asd_open_requests", "Requests that are open", now.n_open)
        yield GaugeMetricFamily("asd_open_requests_limit", "How many may be open", now.most_open)
        yield GaugeMetricFamily("asd_draining", "1: no requests are taken any more", now.is_draining)
        yield from _by_stage(now)
        yield from self._states()

    def describe(self) -> Iterator[Metric]:
        """Nothing: else the registry would ask before there is a server."""
        return iter(())


def _by_stage(now: Vitals) -> Iterator[Metric]:
    waiting = GaugeMetricFamily("asd_queue_requests", "Requests that wait for a stage", labels=["stage"])
    working = GaugeMetricFamily("asd_in_flight_requests", "Requests in calls of a stage", labels=["stage"])
    busy = GaugeMetricFamily("asd_stage_utilisation_ratio", "Calls over those it takes", labels=["stage"])
    memory = GaugeMetricFamily(
        "asd_stage_memory_ratio", "Share of its memory in use, where that is known", labels=["stage"]
    )
    others = GaugeMetricFamily(
        "asd_stage_other_requests", "Requests that its server has from others", labels=["stage"]
    )
    resting = GaugeMetricFamily("asd_breaker_open", "1: the stage rests after failures", labels=["stage"])
    failed = CounterMetricFamily("asd_stage_failures", "Failed calls", labels=["stage", "kind"])
    for name, stage in now.stages.items():
        waiting.add_metric([name], stage.n_waiting)
        working.add_metric([name], stage.n_in_flight)
        busy.add_metric([name], stage.utilisation)
        resting.add_metric([name], name in now.resting)
        for family, value in ((memory, stage.memory), (others, stage.n_others)):
            if value is not None:
                family.add_metric([name], value)
    for (name, kind), n in now.failures.items():
        failed.add_metric([name, kind], n)
    yield from (waiting, working, busy, memory, others, resting, failed)
