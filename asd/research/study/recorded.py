"""Recorded outcomes of real models in a study: what the policy keeps and saves on rows it was not fitted on.

Everything is cross-validated: in each of five folds the method, its settings and the one that is to keep
`KEPT` of the best single stage's quality are fitted on the other four; a data set with at least `MIN_ROWS`
queries is fitted by itself. "cascade" is that setting, beside every stage alone. Seconds are the recorded
wall times of the calls that were made, added up: what a queue or a network did to them is in them.

Scope: recordings in, tables out; reading files is `asd.research.recordings.recording`'s. Provenance
`replayed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from asd.errors import DataError
from asd.research.offline.curves import Curve, in_order, splits, sweep
from asd.research.offline.replay import MIN_ROWS, ours
from asd.research.offline.routing import Foresight
from asd.research.offline.selection import CONFIDENCE, Always, FittedBest
from asd.research.recordings.recording import Recording
from asd.research.study.comparisons import interval
from asd.research.study.latency import speed_up
from asd.research.study.methods import KEPT, LAMS
from asd.research.study.record import StudyTable, Value
from asd.research.study.significance import compare
from asd.research.study.sweep import flagged

__all__ = ["CASCADE", "EVERYTHING", "described", "recorded_tables"]

Array = NDArray[np.float64]

CASCADE = "cascade"
EVERYTHING = "all"
N_FOLDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class _ReplayedDataset:
    """One data set, every row played by what was fitted on the other folds."""

    name: str
    rows: Recording
    sweep: Curve
    foresight: Curve
    keeping: Curve

    def singles(self) -> list[tuple[str, Curve]]:
        """Every stage alone."""
        return [(f"always-{s}", sweep(Always(k), self.rows, [1.0])) for k, s in enumerate(self.rows.stages)]


def recorded_tables(recording: Recording, seed: int) -> list[StudyTable]:
    """The cascade beside every model alone, and the sweep over lambda.

    Args:
        recording: Stages in ladder order, the largest last.
        seed: Of folds and intervals.

    Raises:
        DataError: A data set has too few queries to be fitted.
    """
    datasets = np.array([dataset for dataset, _ in recording.keys])
    small = [name for name in recording.datasets if (datasets == name).sum() < MIN_ROWS]
    if small:
        raise DataError(f"{', '.join(small)}: fewer than {MIN_ROWS} queries have an outcome of every stage")
    played = [
        _play(name, recording.take(np.flatnonzero(datasets == name)), seed) for name in recording.datasets
    ]
    if len(played) > 1:
        played.append(_pooled(played, recording, datasets))
    return [_methods(played, seed), _sweep(played)]


def described(recording: Recording) -> str:
    """Models, data sets and where costs come from, in words."""
    return (
        f"recorded outcomes of {', '.join(recording.stages)} on {', '.join(recording.datasets)}; "
        f"cost {recording.counts.cost_source}"
    )


def _play(name: str, rows: Recording, seed: int) -> _ReplayedDataset:
    parts = list(splits(len(rows), N_FOLDS, seed))
    back = np.argsort(np.concatenate([held_out for _, held_out in parts]))
    found: list[list[Curve]] = [[], [], []]
    for seen, held_out in parts:
        train, other = rows.take(seen), rows.take(held_out)
        fitted = ours(len(rows.stages)).fit(train)
        found[0].append(sweep(fitted, other, LAMS))
        found[1].append(sweep(Foresight().fit(train), other, LAMS))
        found[2].append(_keeping(fitted, other))
    return _ReplayedDataset(name, rows, *(in_order(curves, back) for curves in found))


def _keeping(fitted: FittedBest, rows: Recording) -> Curve:
    """The cheapest setting that surely keeps `KEPT` out of fold on the rows fitted on, or the best stage."""
    contest = fitted.contest
    more = contest.curve.quality - KEPT * contest.quality
    noise = more.std(axis=1, ddof=1) / np.sqrt(more.shape[1])
    surely = more.mean(axis=1) >= NormalDist().inv_cdf(CONFIDENCE) * noise
    cost = np.where(surely, contest.curve.cost.mean(axis=1), np.inf)
    if not cost.min() < contest.cost:
        return sweep(Always(contest.reference), rows, [1.0])
    return sweep(fitted, rows, [float(contest.curve.lams[cost.argmin()])])


def _pooled(
    played: Sequence[_ReplayedDataset], recording: Recording, datasets: NDArray[np.str_]
) -> _ReplayedDataset:
    """All data sets together, each as it was played by itself."""
    order = np.concatenate([np.flatnonzero(datasets == part.name) for part in played])
    straight = np.arange(len(order))
    curves = zip(*((part.sweep, part.foresight, part.keeping) for part in played), strict=True)
    return _ReplayedDataset(
        EVERYTHING, recording.take(order), *(in_order(parts, straight) for parts in curves)
    )


def _methods(played: Sequence[_ReplayedDataset], seed: int) -> StudyTable:
    stages = played[0].rows.stages
    rng = np.random.default_rng(seed)
    return StudyTable(
        name="recorded",
        title="Recorded models: every model alone, and the cascade",
        provenance="replayed",
        measured_on=described(played[-1].rows),
        n=len(played[-1].rows),
        columns=(
            *("dataset", "method", "n", "quality", "quality_low", "quality_high", "cost", "cost_low"),
            *("cost_high", "quality_percent", "quality_percent_low", "quality_percent_high"),
            *("cost_percent", "cost_percent_low", "cost_percent_high"),
            *("seconds", "speed_up", "speed_up_low", "speed_up_high"),
            *(f"share_{stage}" for stage in stages),
        ),
        rows=tuple(
            (part.name, name, len(part.rows), *_row(part.rows, curve, rng))
            for part in played
            for name, curve in (*part.singles(), (CASCADE, part.keeping))
        ),
        note=f"The cascade's setting is the cheapest to keep {KEPT:.0%} of the best single model's quality "
        f"out of fold, {CONFIDENCE:.0%} sure; everything is fitted on the other four folds. Percent: "
        "difference to the last model alone, 95 % BCa intervals, paired by query. Seconds: recorded wall "
        "time of the calls made; a dash where none was recorded. Costs in the files' unit.",
    )


def _row(rows: Recording, curve: Curve, rng: np.random.Generator) -> Iterator[Value]:
    quality, cost = curve.quality[0], curve.cost[0]
    for values in (quality, cost):
        yield float(values.mean())
        yield from interval(values, rng)
    yield from _percent(quality, rows.scores[:, -1], rng)
    yield from _percent(cost, rows.costs[:, -1], rng)
    seconds = np.where(curve.called[0], rows.latency, 0.0).sum(axis=1)
    if np.isfinite(seconds).all() and np.isfinite(rows.latency[:, -1]).all():
        yield float(seconds.mean())
        yield from speed_up(seconds, rows.latency[:, -1], rng)
    else:
        yield from (None,) * 4
    yield from ((curve.answer[0] == k).mean().item() for k in range(len(rows.stages)))


def _percent(values: Array, reference: Array, rng: np.random.Generator) -> tuple[Value, ...]:
    """Difference with its interval; undefined where the reference is nothing."""
    level = float(reference.mean())
    if not level > 0.0:
        return None, None, None
    found = compare(values, reference, rng)
    return tuple(100.0 * value / level for value in (found.mean, found.low, found.high))


def _sweep(played: Sequence[_ReplayedDataset]) -> StudyTable:
    stages = played[0].rows.stages
    return StudyTable(
        name="recorded_lambda",
        title="Recorded models over lambda",
        provenance="replayed",
        measured_on=described(played[-1].rows),
        n=len(played[-1].rows),
        columns=(
            *("lambda", "dataset", "quality", "cost", "quality_oracle", "cost_oracle"),
            *(f"share_{stage}" for stage in stages),
            "flag",
        ),
        rows=tuple(row for part in played for row in _points(part, len(stages))),
        note="Lambda: calls of the dearest model that one right answer is worth. Oracle: with foresight, the "
        "best single model for every query. A flag names what fell below the row before, which can happen "
        "on rows that were not fitted on.",
    )


def _points(part: _ReplayedDataset, n_stages: int) -> Iterator[tuple[Value, ...]]:
    before = (0.0, 0.0)
    for i, lam in enumerate(part.sweep.lams.tolist()):
        now = (float(part.sweep.quality[i].mean()), float(part.sweep.cost[i].mean()))
        oracle = (float(part.foresight.quality[i].mean()), float(part.foresight.cost[i].mean()))
        shares = [(part.sweep.answer[i] == k).mean().item() for k in range(n_stages)]
        yield (lam, part.name, *now, *oracle, *shares, flagged(now, before))
        before = now
