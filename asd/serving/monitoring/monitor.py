"""Everything that watches a server, behind one object: it is told of every request that ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from prometheus_client.core import GaugeMetricFamily, Metric

from asd.guarantee.monitor import Reading, ShiftMonitor
from asd.guarantee.record import EVERYTHING, Guarantee
from asd.operations.live import Meter
from asd.serving.admission import Call
from asd.serving.monitoring.anomalies import AnomalyDetector, Observation
from asd.serving.monitoring.decisions import DecisionLog
from asd.serving.monitoring.evaluation import Compared, Evaluation, agree
from asd.serving.monitoring.events import ANSWERED, Ended, Outcome
from asd.serving.monitoring.metrics import Metrics
from asd.serving.monitoring.timeline import Timeline
from asd.serving.monitoring.vitals import Vitals
from asd.types import Draft, Query, Trace

__all__ = ["UNWATCHED", "Monitor", "MonitorSettings"]

_LOG = logging.getLogger(__name__)

SHIFT_ALPHA = 0.01
SHIFT_EVERY_S = 10.0
"""Between two queries that the monitor of shifts looks at: it keeps what it has seen, for ever."""


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """How a server is watched.

    Attributes:
        share: Of the requests that are answered in the shadow too.
        every_stage: By every stage, as `asd fit` needs it; else by the reference alone.
        promised: Share of the reference's quality that the server promises; None: it promises none.
        guarantee: Of the policy that is served at the server's own setting; None: it has none.
        log: Where decisions go; None: nowhere.
    """

    share: float = 0.0
    every_stage: bool = False
    promised: float | None = None
    guarantee: Guarantee | None = None
    log: DecisionLog | None = None

    def reference(self, stages: Sequence[str]) -> str:
        """The stage that quality is a share of: what the guarantee compares with, else the largest."""
        grants = {} if self.guarantee is None else self.guarantee.grants
        return grants[EVERYTHING].stage if EVERYTHING in grants else stages[-1]

    def shadow_of(self, stages: tuple[str, ...]) -> tuple[str, ...]:
        """Stages that answer in the shadow, of these of the ladder."""
        return stages if self.every_stage else (self.reference(stages),)


UNWATCHED = MonitorSettings()
"""Metrics and anomalies only."""


class Monitor:
    """What a server is seen through.

    Args:
        vitals: How the server is when somebody asks.
        meter: Adds up what a controller may know.
        stages: Of the ladder, in its order.
        watching: What else is watched.

    Attributes:
        metrics: What Prometheus reads.
        evaluation: The delivered quality.
        anomalies: What is no longer as it was.
        timeline: The last quarter of an hour.
        vitals, meter, watching: As given.
        reference: The stage that quality is a share of.
        unheld: What a controller with a certified floor warns of; "": nothing; None: there is none.
    """

    def __init__(
        self,
        vitals: Callable[[], Vitals],
        meter: Meter,
        stages: tuple[str, ...],
        watching: MonitorSettings = UNWATCHED,
    ) -> None:
        self.vitals = vitals
        self.meter = meter
        self.watching = watching
        self.reference = watching.reference(stages)
        self.unheld: str | None = None
        self.metrics = Metrics(vitals, self._states)
        self.evaluation = Evaluation(watching.promised)
        self.anomalies = AnomalyDetector(stages)
        self.timeline = Timeline(time.time)
        self._shift = _shift_of(watching.guarantee)
        self._shift_at = -SHIFT_EVERY_S

    @property
    def shift(self) -> Reading | None:
        """Whether queries still look like those of the guarantee; None: there is none."""
        return None if self._shift is None else self._shift.reading

    def taken(self) -> float:
        """A request was taken on; when, by the clock that `Ended.taken_s` is of."""
        now = time.monotonic()
        self.anomalies.arrive(now)
        self.meter.arrived()
        return now

    def refused(self, key: str, outcome: Outcome) -> None:
        """A request ended before it was taken."""
        self.metrics.refused(key, outcome)
        self.timeline.refused(outcome)

    def ended(self, ended: Ended) -> None:
        """A request that was taken has ended."""
        self.metrics.ended(ended)
        self.timeline.ended(ended)
        self.meter.ended(ended.completion, ended.seconds)
        self._look_for_anomalies(ended)
        if ended.guaranteed and ended.completion is not None:
            self._look_for_shift(ended)

    def shadowed(
        self, query: Query, ended: Ended, shadow: Mapping[str, Draft], calls: Sequence[Call], micros: int
    ) -> Compared | None:
        """Stages have answered a request in the shadow; None: the reference is not among them."""
        self.metrics.shadowed(ended.key, calls, micros)
        self.timeline.paid(sum(call.usage.n_decoded for call in calls), micros)
        delivered, reference = ended.draft, shadow.get(self.reference)
        if delivered is None or reference is None:
            return None
        return self.evaluation.compare(same=agree(query, delivered, reference))

    def transferred(self, received: int, sent: int) -> None:
        """Bytes of bodies."""
        self.metrics.transferred(received, sent)
        self.timeline.transferred(received, sent)

    async def look(self, steering: Callable[[], Mapping[str, float]]) -> None:
        """See once a second how the server is and how it is set, until cancelled."""
        while True:
            self.timeline.look(self.vitals(), steering())
            self.meter.sample()
            await asyncio.sleep(1.0)

    def write(self, trace: Trace) -> Trace | None:
        """Append to the log of decisions; the line as it is written, None where there is no log."""
        return None if self.watching.log is None else self.watching.log.write(trace)

    def _look_for_anomalies(self, ended: Ended) -> None:
        answered = ended.outcome in ANSWERED
        seen = Observation(
            arrived_s=ended.taken_s,
            ended_s=time.monotonic(),
            outcome="answered" if answered else "failed" if ended.outcome == "failed" else "gone",
            n_inside=ended.n_inside,
            cost=float(ended.micros),
            stage=None if ended.completion is None else ended.completion.stage,
            p_good=ended.p_good,
        )
        for anomaly in self.anomalies.observe(seen):
            _LOG.warning("anomaly: %s", anomaly)

    def _look_for_shift(self, ended: Ended) -> None:
        assert ended.completion is not None
        now = time.monotonic()
        if self._shift is not None and now >= self._shift_at + SHIFT_EVERY_S:
            self._shift_at = now
            self._shift.watch(ended.completion)

    def _states(self) -> Iterator[Metric]:
        """Gauges of what is concluded, where there is something to conclude it from."""
        found = self.evaluation.delivered()
        yield GaugeMetricFamily("asd_promise_at_risk", "1: the promised quality is not kept", found.at_risk)
        yield GaugeMetricFamily("asd_compared_answers", "Answers the estimate of quality rests on", found.n)
        shares = {
            "asd_delivered_quality_ratio": found.share,
            "asd_delivered_quality_lower_ratio": found.low if found.n else None,
            "asd_delivered_quality_upper_ratio": found.high if found.n else None,
            "asd_promised_quality_ratio": found.promised,
        }
        for name, share in shares.items():
            yield _gauge(name, "Share of the reference's quality", share)
        reading = self.shift
        yield _gauge("asd_shift_evidence", "Capital won by a bet that queries have changed",
                     None if reading is None else reading.evidence)  # fmt: skip
        yield _gauge("asd_shift_alarm", "1: queries have changed", None if reading is None else reading.alarm)
        yield _gauge("asd_target_unheld", "1: P95, or the floor itself, is not or may soon not be held",
                     None if self.unheld is None else bool(self.unheld))  # fmt: skip
        anomalies = GaugeMetricFamily("asd_anomaly", "1: not as it was", labels=["signal"])
        for signal in self.anomalies.sums:
            anomalies.add_metric([signal], signal in self.anomalies.active)
        yield anomalies


def _gauge(name: str, what: str, value: float | None) -> GaugeMetricFamily:
    """A gauge that has no sample where there is nothing to tell."""
    found = GaugeMetricFamily(name, what, labels=[])
    if value is not None:
        found.add_metric([], value)
    return found


def _shift_of(guarantee: Guarantee | None) -> ShiftMonitor | None:
    """For the one policy of a guarantee of all queries together."""
    if guarantee is None or EVERYTHING not in guarantee.grants:
        return None
    watched = guarantee.grants[EVERYTHING].watched
    return ShiftMonitor(watched, alpha=SHIFT_ALPHA, rng=np.random.default_rng()) if watched else None
