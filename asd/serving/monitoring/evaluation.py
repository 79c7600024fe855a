"""What quality a server delivers, from requests that the reference stage has answered in the shadow.

A sampled share of the requests at the server's own setting is drawn before anything of it is decided, so they
are a fair sample. Each shows whether the delivered answer says the same as the reference's (`answer_of`): the
share of the reference's answers that is kept. Where people have scored an answer, their score counts instead;
a reference's answer that nobody scored counts as right, so where the two differ the estimate is cautious.

The interval is a betting one (`asd.guarantee.p_values`), at 95 %, over the last `MOST` comparisons. The alarm
is an e-detector (Shin, Ramdas and Rinaldo, arXiv 2203.03532): with x = score - promised * reference, and for
each of a few stakes b,

    M <- max(M, 1) * (1 - b x),    alarm where the mean of the M is at least 1 / ALPHA

As long as the promise is kept, at least 1 / ALPHA comparisons lie between two alarms, in the mean.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asd.errors import AsdError
from asd.evidence.metrics import Reliability, reliability
from asd.guarantee.p_values import betting_p_value
from asd.quality.aggregate import Answered, assess
from asd.quality.answers import answer_of
from asd.types import Draft, Query

__all__ = ["Compared", "DeliveredQuality", "Evaluation", "agree"]

Array = npt.NDArray[np.float64]

MOST = 2000
ALPHA = 1e-6
DELTA = 0.05
STAKES = (0.25, 0.5, 1.0, 2.0)
FEWEST = 20
"""Scores below which a calibration says nothing."""
LONGEST = 2000
"""Characters of a text up to which it is likened to its reference, which takes their product."""
MOST_SHARE = 2.0
"""Of the reference's quality, that an upper limit may come to."""


def agree(query: Query, one: Draft, other: Draft) -> bool:
    """Whether two replies answer the same; one that answers nothing agrees with none."""
    first, second = (answer_of(query.form, draft.text) for draft in (one, other))
    return first is not None and first == second


@dataclass(slots=True)
class Compared:
    """A delivered answer beside the reference's.

    Attributes:
        same: They say the same.
        score: Of the delivered one, in [0, 1].
        reference: Of the reference's.
    """

    same: bool
    score: float
    reference: float = 1.0

    def take(self, score: float, *, returned: bool, reference: bool) -> None:
        """Somebody has scored the delivered answer, the reference's, or what is both."""
        if returned or (reference and self.same):
            self.score = score
        if reference or (returned and self.same):
            self.reference = score


@dataclass(frozen=True, slots=True)
class DeliveredQuality:
    """What is known of the delivered quality.

    Attributes:
        n: Comparisons that it rests on.
        share: Of the reference's quality that is kept; None: nothing was compared yet.
        low, high: Limits of its interval, each wrong with probability `DELTA` / 2.
        promised: What was promised; None: nothing.
        at_risk: The promise is being broken, by the alarm of the module's docstring.
        calibration: `p_good` beside the scores that people gave; None: there are too few.
    """

    n: int
    share: float | None
    low: float
    high: float
    promised: float | None
    at_risk: bool
    calibration: Reliability | None


class Evaluation:
    """The estimate of one server.

    Args:
        promised: Share of the reference's quality that was promised; None: nothing was.
    """

    def __init__(self, promised: float | None = None) -> None:
        self.promised = promised
        self._compared: deque[Compared] = deque(maxlen=MOST)
        self._scored: deque[tuple[float, float]] = deque(maxlen=MOST)
        self._evidence = [1.0] * len(STAKES)
        self._likened: deque[Mapping[str, float]] = deque(maxlen=MOST)

    @property
    def at_risk(self) -> bool:
        """The alarm."""
        return sum(self._evidence) / len(STAKES) >= 1.0 / ALPHA

    def compare(self, *, same: bool) -> Compared:
        """An answer was compared with the reference's; scores that come later go into what is returned."""
        row = Compared(same, float(same))
        self._compared.append(row)
        if self.promised is not None:
            self._bet(row.score - self.promised)
        return row

    def score(self, score: float, p_good: float) -> None:
        """Somebody has scored an answer of which the evidence had said `p_good`."""
        self._scored.append((p_good, score))

    def liken(self, answer: str, reference: str) -> None:
        """How like its reference a delivered text is, by every metric (`asd.quality.aggregate`).

        Takes its time; nothing is noted of texts that are empty or too long, or without `asd[quality]`.
        """
        if max(len(answer), len(reference)) <= LONGEST:
            with suppress(AsdError):
                [found] = assess([Answered("", answer, (reference,))], "text")
                self._likened.append({"quality": found.quality, **found.scores})

    def likeness(self) -> tuple[int, dict[str, float]]:
        """Texts that were likened to their references, and the mean of every metric, the weighted first."""
        rows = list(self._likened)
        names = rows[0] if rows else ()
        return len(rows), {name: float(np.mean([row[name] for row in rows])) for name in names}

    def delivered(self) -> DeliveredQuality:
        """What is known now."""
        rows = np.array([(row.score, row.reference) for row in self._compared]).reshape(-1, 2)
        score, reference = rows.T
        share = float(score.sum() / reference.sum()) if reference.sum() else None
        low, high = _interval(score, reference) if len(rows) else (0.0, MOST_SHARE)
        p, seen = np.array(self._scored).reshape(-1, 2).T
        calibration = reliability(p, seen) if len(p) >= FEWEST else None
        return DeliveredQuality(len(rows), share, low, high, self.promised, self.at_risk, calibration)

    def _bet(self, x: float) -> None:
        assert self.promised is not None
        most = 0.9 / (1.0 - self.promised) if self.promised < 1.0 else math.inf
        self._evidence = [
            min(max(before, 1.0) * (1.0 - min(stake, most) * x), 1e3 / ALPHA)
            for stake, before in zip(STAKES, self._evidence, strict=True)
        ]


def _interval(score: Array, reference: Array) -> tuple[float, float]:
    """The largest share that is exceeded with confidence, and the smallest one that is not reached."""

    def exceeds(k: float) -> bool:
        return float(betting_p_value(score - k * reference, -k, 1.0, DELTA / 2.0)) <= DELTA / 2.0

    def misses(k: float) -> bool:
        return float(betting_p_value(k * reference - score, -1.0, k, DELTA / 2.0)) <= DELTA / 2.0

    return _last(exceeds, 0.0, MOST_SHARE), _last(lambda k: not misses(k), 0.0, MOST_SHARE)


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where something ceases to hold, to a thousandth; it holds at `low`."""
    while high - low > 1e-3:
        middle = (low + high) / 2.0
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
