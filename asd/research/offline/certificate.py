"""Is this ladder worth having? What its recorded outcomes say before a policy is fitted.

Ceiling: the mean of the best score per query, what perfect choice would give. Where even that is wrong, no
policy helps: the share of queries on which every stage scores 0, with its exact (Clopper-Pearson) interval.
A rung is dominated by another that costs no more and scores no less on average. The best pair is the one that
foresight (call the cheaper one where it is right) makes cheapest at the best single model's quality. The
expected saving is that of lists of two models, cross-validated, read off the hull of their points and the
single models, with an interval over resampled queries.
"""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from asd.errors import DataError
from asd.evidence.metrics import auroc
from asd.measurement.records import Record
from asd.research.offline.curves import LOSSES, SWEEP, cost_shares, cross_validate
from asd.research.offline.lists import Lists
from asd.research.offline.replay import MIN_ROWS, Interval
from asd.research.offline.selection import reference_stage
from asd.research.recordings.recording import Counts, Recording

__all__ = ["CertificateReport", "Rung", "Saving", "certify"]

Array = npt.NDArray[np.float64]


class Rung(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One stage.

    Attributes:
        stage: Its name.
        quality: Mean score.
        cost: Mean cost of a call.
        dominated_by: Stages that cost no more and score no less, and differ in one of the two.
        auroc: How well its confidence separates its right answers from its wrong; null where it has none,
            or where its answers are all alike.
    """

    stage: str
    quality: float
    cost: float
    dominated_by: tuple[str, ...]
    auroc: float | None


class Saving(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Share of the best single model's cost that is saved where at most `loss` of quality is lost."""

    loss: float
    saving: float
    interval: Interval


class CertificateReport(Record, frozen=True, kw_only=True):
    """What `asd certify --json` writes.

    Attributes:
        kind: Marks the file.
        version: Of this schema.
        provenance: Recorded outcomes of real models.
        counts: What was read and left out.
        rungs: Every stage, cheapest first.
        best_single: The stage of the largest mean score (the cheaper of equals).
        ceiling: Mean over queries of the best score of any stage.
        all_fail: Share of queries on which every stage scores 0.
        all_fail_interval: Its 95 % Clopper-Pearson interval.
        best_pair: The cheapest pair with foresight at the best single model's quality.
        best_pair_share: Its cost there, as a share of the best single model's.
        savings: Expected, by loss; empty where the best single model costs nothing.
    """

    kind: Literal["asd-certificate"] = "asd-certificate"
    version: Literal[1] = 1
    provenance: Literal["replayed"] = "replayed"
    counts: Counts
    rungs: tuple[Rung, ...]
    best_single: str
    ceiling: float
    all_fail: float
    all_fail_interval: Interval
    best_pair: tuple[str, str] | None
    best_pair_share: float | None
    savings: tuple[Saving, ...]


def certify(rows: Recording) -> CertificateReport:
    """Look at recorded outcomes.

    Raises:
        DataError: Fewer than `MIN_ROWS` queries can be used.
    """
    if len(rows) < MIN_ROWS:
        raise DataError(f"{len(rows)} queries can be used, {MIN_ROWS} are needed; left out: {rows.counts}")
    best = reference_stage(rows)
    n_fail = int((rows.scores.max(axis=1) == 0.0).sum())
    pair = _best_pair(rows, best)
    return CertificateReport(
        counts=rows.counts,
        rungs=tuple(_rung(rows, k) for k in np.argsort(rows.costs.mean(axis=0), kind="stable").tolist()),
        best_single=rows.stages[best],
        ceiling=float(rows.scores.max(axis=1).mean()),
        all_fail=n_fail / len(rows),
        all_fail_interval=clopper_pearson(n_fail, len(rows)),
        best_pair=None if pair is None else (rows.stages[pair[1]], rows.stages[pair[2]]),
        best_pair_share=None if pair is None else pair[0],
        savings=_savings(rows, best),
    )


def clopper_pearson(n_hits: int, n: int, confidence: float = 0.95) -> Interval:
    """Exact interval of a share of independent draws (Clopper and Pearson 1934)."""
    from scipy.stats import binomtest  # noqa: PLC0415 - takes half a second

    interval = binomtest(n_hits, n).proportion_ci(confidence, "exact")
    return Interval(float(interval.low), float(interval.high))


def _rung(rows: Recording, k: int) -> Rung:
    quality, cost = rows.scores.mean(axis=0), rows.costs.mean(axis=0)
    above = (cost <= cost[k]) & (quality >= quality[k]) & ((cost < cost[k]) | (quality > quality[k]))
    has_own = not np.isnan(rows.confidence[:, k]).any()
    return Rung(
        stage=rows.stages[k],
        quality=float(quality[k]),
        cost=float(cost[k]),
        dominated_by=tuple(rows.stages[j] for j in np.flatnonzero(above).tolist()),
        auroc=auroc(rows.confidence[:, k], rows.scores[:, k]) if has_own else None,
    )


def _best_pair(rows: Recording, best: int) -> tuple[float, int, int] | None:
    """Share of the best's cost, the cheaper and the dearer stage; None where no pair reaches its quality."""
    quality, cost = float(rows.scores[:, best].mean()), float(rows.costs[:, best].mean())
    order = np.argsort(rows.costs.mean(axis=0), kind="stable").tolist()
    found = []
    for i, j in combinations(order, 2):
        calls_second = rows.scores[:, j] > rows.scores[:, i]
        if np.where(calls_second, rows.scores[:, j], rows.scores[:, i]).mean() >= quality and cost > 0.0:
            found.append(
                (float(np.where(calls_second, rows.costs[:, j], rows.costs[:, i]).mean()) / cost, i, j)
            )
    return min(found, default=None)


def _savings(rows: Recording, best: int) -> tuple[Saving, ...]:
    if not rows.costs[:, best].mean() > 0.0:
        return ()
    curve = cross_validate(Lists(), rows, SWEEP)
    here, *draws = 1.0 - cost_shares(rows, [curve])[0]
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return tuple(
        Saving(loss=loss, saving=float(here[i]), interval=Interval(float(low[i]), float(high[i])))
        for i, loss in enumerate(LOSSES)
    )
