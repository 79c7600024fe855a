"""The last quarter of an hour of a server in bins of five seconds, and its hours: what the live page draws.

Requests count in the bin in which they end. What has a state rather than events (queues, calls that run,
settings) is looked at once a second (`Timeline.look`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from asd.serving.monitoring.events import ANSWERED, Ended, Outcome
from asd.serving.monitoring.vitals import Vitals

__all__ = ["BIN_S", "Bin", "Latencies", "Timeline", "mean_of", "percentiles"]

BIN_S = 5.0
BINS = 180
RECENT_S = 300.0
"""Of percentiles and shares."""
MOST_RECENT = 20_000
HOURS = 24 * 14
HOUR_S = 3600.0


@dataclass(slots=True)
class Bin:
    """Five seconds.

    Attributes:
        start_s: When they began, seconds since 1970.
        outcomes: Requests that ended.
        seconds: Of those that were answered.
        n_tokens: Decoded by all stages.
        micros: Spent, the shadow included.
        received, sent: Bytes.
        looks: Sums of what was looked at, by name, and `n_looks` of how many looks.
    """

    start_s: float
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    n_tokens: int = 0
    micros: int = 0
    received: int = 0
    sent: int = 0
    looks: dict[str, float] = field(default_factory=dict)
    n_looks: int = 0

    def mean(self, name: str) -> float | None:
        """Mean of what was looked at; None: nobody looked."""
        return self.looks[name] / self.n_looks if name in self.looks else None


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of one answered request.

    Attributes:
        at_s: When it ended, seconds since 1970.
        stage: That answered.
        seconds, first_s: From its arrival to the end, and to the first text.
        per_token_s: As `Ended.per_token_s`.
        p_good: Probability that the answer is right.
    """

    at_s: float
    stage: str
    seconds: float
    first_s: float
    per_token_s: float | None
    p_good: float | None


class Timeline:
    """What has happened lately.

    Args:
        clock: Seconds since 1970.

    Attributes:
        bins: Oldest first; the last one is open.
        started_s: When the server began.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.started_s = clock()
        self.bins: deque[Bin] = deque([Bin(self.started_s)], maxlen=BINS)
        self._recent: deque[Latencies] = deque(maxlen=MOST_RECENT)
        self._hours: deque[float] = deque([0.0], maxlen=HOURS)
        self._hour_s = self.started_s

    def refused(self, outcome: Outcome) -> None:
        """A request ended before it was taken."""
        self._now().outcomes[outcome] += 1
        self._hours[-1] += 1

    def ended(self, ended: Ended) -> None:
        """A request that was taken has ended."""
        now = self._now()
        now.outcomes[ended.outcome] += 1
        self._hours[-1] += 1
        self.paid(sum(call.usage.n_decoded for call in ended.calls), ended.micros)
        if ended.outcome in ANSWERED and ended.completion is not None:
            now.seconds.append(ended.seconds)
            first_s = ended.seconds if ended.first_text_s is None else ended.first_text_s
            stage = ended.completion.stage
            self._recent.append(
                Latencies(self._clock(), stage, ended.seconds, first_s, ended.per_token_s, ended.p_good)
            )

    def paid(self, n_tokens: int, micros: int) -> None:
        """Calls were made."""
        self._now().n_tokens += n_tokens
        self._now().micros += micros

    def transferred(self, received: int, sent: int) -> None:
        """Bytes of bodies."""
        self._now().received += received
        self._now().sent += sent

    def look(self, vitals: Vitals, steering: Mapping[str, float]) -> None:
        """How the server is now, and how it is set."""
        now = self._now()
        now.n_looks += 1
        seen = {"open": float(vitals.n_open), **{f"set {name}": value for name, value in steering.items()}}
        for name, stage in vitals.stages.items():
            seen[f"waiting {name}"] = stage.n_waiting
            seen[f"busy {name}"] = stage.utilisation
        for name, value in seen.items():
            now.looks[name] = now.looks.get(name, 0.0) + value

    def recent(self) -> list[Latencies]:
        """Answers of the last five minutes."""
        since = self._clock() - RECENT_S
        return [one for one in self._recent if one.at_s >= since]

    def last_bins(self, seconds: float = RECENT_S) -> list[Bin]:
        """Bins that began so lately, oldest first."""
        self._now()
        since = self._clock() - seconds
        return [one for one in self.bins if one.start_s >= since] or [self.bins[-1]]

    def seconds_of(self, bins: Sequence[Bin]) -> float:
        """How long these bins last so far, at least a second."""
        return max(1.0, self._clock() - bins[0].start_s)

    def hours(self) -> list[float]:
        """Requests of every whole hour since the start, oldest first."""
        self._now()
        return list(self._hours)[:-1]

    def _now(self) -> Bin:
        now = self._clock()
        while now >= self.bins[-1].start_s + BIN_S:
            last = self.bins[-1].start_s + BIN_S
            behind = now - last
            skipped = int(behind / BIN_S) - BINS  # after a long sleep, only those that are kept
            self.bins.append(Bin(last + max(0, skipped) * BIN_S))
        while now >= self._hour_s + HOUR_S:
            self._hour_s += HOUR_S
            self._hours.append(0.0)
        return self.bins[-1]


def mean_of(bins: Sequence[Bin], name: str) -> float | None:
    """Mean over bins of what was looked at; None: nobody looked."""
    values = [value for one in bins if (value := one.mean(name)) is not None]
    return float(np.mean(values)) if values else None


def percentiles(values: Iterable[float]) -> dict[int, float | None]:
    """The 50th, 95th and 99th; None where there are too few to tell (59 and 299)."""
    found = np.array(list(values))
    least = {50: 1, 95: 59, 99: 299}
    return {p: float(np.percentile(found, p)) if len(found) >= n else None for p, n in least.items()}
