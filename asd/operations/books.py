"""What a simulated run came to, window by window and as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Self

from asd.measurement.records import Record
from asd.operations.occupancy import Stay
from asd.operations.quantiles import Quantiles

__all__ = ["Books", "StageStay", "StageWindow", "Summary"]


class StageWindow(Record, frozen=True, kw_only=True):
    """One stage in one stretch of time.

    Attributes:
        utilisation: Share of the time of the replicas that were up that calls took.
        mean_inside: Requests that wait or are worked on, mean over time.
        visit_s: Mean time from joining the queue to the end of the call; 0 where nobody left.
        n_calls: Calls begun.
        n_visits: Requests that joined.
        share_answered: Of the requests answered, by an answer of this stage.
    """

    utilisation: float
    mean_inside: float
    visit_s: float
    n_calls: int
    n_visits: int
    share_answered: float


class Summary(Record, frozen=True, kw_only=True):
    """A stretch of time: a window, or a whole run.

    Attributes:
        start_s: When it began.
        seconds: How long it was.
        n_arrived: Requests that came.
        n_answered: Of those that ended: with an answer.
        n_refused: Not let in.
        n_failed: No stage was left to answer them.
        n_inside: Still under way at its end.
        mean_inside: Mean over time.
        latency_s: Mean from arrival to answer; 0 where nothing was answered.
        p50_s: Median latency, within half a percent; None: too few answers, as for the others.
        p95_s: 95th percentile.
        p99_s: 99th percentile.
        quality: Mean score of the answers returned.
        cost: Mean priced cost of an answered request, cost units.
        reference: Mean score of the largest stage on the very queries that were answered; None: none was, or
            the file was written before that was recorded.
        stages: By name.
    """

    start_s: float
    seconds: float
    n_arrived: int
    n_answered: int
    n_refused: int
    n_failed: int
    n_inside: int
    mean_inside: float
    latency_s: float
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    quality: float
    cost: float
    stages: dict[str, StageWindow]
    reference: float | None = None

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.n_answered / self.seconds

    def keeps(self, share: float) -> bool:
        """Whether the answers score at least this share of what the largest stage scores on these queries."""
        return self.reference is not None and self.quality >= share * self.reference

    @property
    def error_rate(self) -> float:
        """Share of the requests that ended without an answer."""
        ended = self.n_answered + self.n_refused + self.n_failed
        return (ended - self.n_answered) / ended if ended else 0.0


class Tally:
    """Counts of a stretch of time, which add up."""

    __slots__ = (
        "answered_by",
        "cost",
        "latency",
        "n_arrived",
        "n_failed",
        "n_refused",
        "quality",
        "reference",
    )

    def __init__(self) -> None:
        self.n_arrived = self.n_refused = self.n_failed = 0
        self.latency = Quantiles()
        self.quality = self.reference = self.cost = 0.0
        self.answered_by: Counter[str] = Counter()

    def answer(self, seconds: float, stage: str, score: float, cost: float, reference: float) -> None:
        """A request is answered; `reference` is what the largest stage scores on it."""
        self.latency.add(seconds)
        self.quality += score
        self.reference += reference
        self.cost += cost
        self.answered_by[stage] += 1

    @property
    def n_ended(self) -> int:
        """Requests that left, answered or not, those refused apart."""
        return self.latency.n + self.n_failed

    def add(self, other: Tally) -> None:
        """Add another stretch."""
        self.n_arrived += other.n_arrived
        self.n_refused += other.n_refused
        self.n_failed += other.n_failed
        self.latency.merge(other.latency)
        self.quality += other.quality
        self.reference += other.reference
        self.cost += other.cost
        self.answered_by.update(other.answered_by)


class StageStay(Record, frozen=True, kw_only=True):
    """What one stage's time went into, which adds up.

    Attributes:
        up_s: Seconds of its replicas that were up.
        busy_s: Seconds of them that calls took.
        inside_s: Seconds that requests spent there.
        n_left: Requests that left.
        n_calls: Calls begun.
        n_visits: Requests that joined.
    """

    up_s: float = 0.0
    busy_s: float = 0.0
    inside_s: float = 0.0
    n_left: int = 0
    n_calls: int = 0
    n_visits: int = 0

    @classmethod
    def of(cls, visits: Stay, calls: Stay, up_s: float) -> Self:
        """From the two occupancies of a station."""
        return cls(
            up_s=up_s,
            busy_s=calls.integral_s,
            inside_s=visits.integral_s,
            n_left=visits.n_left,
            n_calls=calls.n_entered,
            n_visits=visits.n_entered,
        )

    def __add__(self, other: StageStay) -> StageStay:
        names = self.__struct_fields__
        return StageStay(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def window(self, seconds: float, share_answered: float) -> StageWindow:
        """As means."""
        return StageWindow(
            utilisation=self.busy_s / self.up_s if self.up_s else 0.0,
            mean_inside=self.inside_s / seconds,
            visit_s=self.inside_s / self.n_left if self.n_left else 0.0,
            n_calls=self.n_calls,
            n_visits=self.n_visits,
            share_answered=share_answered,
        )


class Books:
    """A run: the window that is open, and all before it.

    Attributes:
        now: Counts of the open window.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self.now = Tally()
        self._all = Tally()
        self._stages = {stage: StageStay() for stage in stages}
        self._inside_s = self._seconds = 0.0
        self._n_inside = 0

    def close(self, system: Stay, stages: Mapping[str, StageStay]) -> Summary:
        """End the window."""
        summary = _summary(self._seconds, system.seconds, self.now, system.integral_s, system.n_after, stages)
        self._all.add(self.now)
        self.now = Tally()
        self._stages = {name: self._stages[name] + stay for name, stay in stages.items()}
        self._inside_s += system.integral_s
        self._seconds += system.seconds
        self._n_inside = system.n_after
        return summary

    def total(self) -> Summary:
        """All windows that have ended."""
        return _summary(0.0, self._seconds, self._all, self._inside_s, self._n_inside, self._stages)


def _summary(
    start: float,
    seconds: float,
    tally: Tally,
    inside_s: float,
    n_inside: int,
    stages: Mapping[str, StageStay],
) -> Summary:
    n = tally.latency.n
    return Summary(
        start_s=start,
        seconds=seconds,
        n_arrived=tally.n_arrived,
        n_answered=n,
        n_refused=tally.n_refused,
        n_failed=tally.n_failed,
        n_inside=n_inside,
        mean_inside=inside_s / seconds,
        latency_s=tally.latency.mean,
        p50_s=tally.latency.at(0.5),
        p95_s=tally.latency.at(0.95),
        p99_s=tally.latency.at(0.99),
        quality=tally.quality / n if n else 0.0,
        cost=tally.cost / n if n else 0.0,
        stages={
            name: stay.window(seconds, tally.answered_by[name] / n if n else 0.0)
            for name, stay in stages.items()
        },
        reference=tally.reference / n if n else None,
    )
