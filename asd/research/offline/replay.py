"""Fit on some files, play others: what `asd replay` measures (`replayed`: recorded outcomes of real models).

Everything is fitted on train rows alone. Where the files hold several datasets, a dataset of the test rows
that has at least `MIN_ROWS` train rows is fitted on those; the other test datasets on all train rows.

The result is one JSON document, `ReplayReport`, schema version 1. Costs are in the files' unit unless they
say "share": that is of the mean cost of the best single model on the test rows. Intervals are 95 % percentile
intervals over resampled test rows (of more than 10,000 rows: normal ones), what was fitted held fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError, DataError
from asd.measurement.records import Record
from asd.research.offline.curves import LOSSES, Curve, in_order, sweep
from asd.research.offline.lists import Lists
from asd.research.offline.routing import Foresight
from asd.research.offline.selection import (
    CONFIDENCE,
    Always,
    Best,
    FittedBest,
    MixtureShare,
    SelectedMix,
    deliver,
    reference_stage,
)
from asd.research.offline.signals import cost_unit
from asd.research.offline.stopping import Stopping
from asd.research.recordings.recording import Counts, Recording
from asd.stopping.hull import Hull, aiq, apgr, call_share_at

__all__ = ["MIN_ROWS", "AskedAndDelivered", "Interval", "Point", "ReplayReport", "ours", "replay"]

Array = npt.NDArray[np.float64]

MIN_ROWS = 50
"""Fewer rows than this fit nothing."""
_N_RESAMPLES = 1000
_MOST_RESAMPLED = 10_000
"""Beyond so many rows an interval is the normal one: resampling would come to the same."""
_MOST_FOR_DEPTH = 6
"""Stages up to which sets of three are tried: 42 sets; of eleven stages there are 232."""


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """95 % of resamples lie between."""

    low: float
    high: float


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One setting on the test rows.

    Attributes:
        name: Of the setting or the model.
        lam: Runs of the dearest stage that one fully right answer is worth; None for a single model.
        n: Test rows.
        quality: Mean score of the answers returned.
        quality_interval: Of it.
        cost: Mean cost of a query, all calls.
        cost_interval: Of it.
        cost_share: `cost` over the best single model's.
        answered: Share of queries by the stage whose answer was returned.
        called: Share of queries on which each stage was called.
    """

    name: str
    lam: float | None
    n: int
    quality: float
    quality_interval: Interval
    cost: float
    cost_interval: Interval
    cost_share: float | None
    answered: dict[str, float]
    called: dict[str, float]


class AskedAndDelivered(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A loss asked for on train rows, and what the setting picked there lost on test rows.

    Attributes:
        asked: Most quality to lose against the reference.
        confidence: With which the setting was picked.
        settings: By dataset fitted for ("all": all train rows), what is played for which share of its
            queries; lam null: the reference alone.
        expected: Loss on out-of-fold train rows.
        delivered: Mean loss on test rows against the reference there.
        delivered_interval: Of it.
        shortfall: `delivered - asked`: above 0, more was lost than asked.
        cost_share: Mean cost over the best single model's.
    """

    asked: float
    confidence: float
    settings: dict[str, tuple[MixtureShare, ...]]
    expected: float
    delivered: float
    delivered_interval: Interval
    shortfall: float
    cost_share: float | None


class RouteLLM(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Two stages measured by calls to the strong one; null where the second is not better than the first."""

    weak: str
    strong: str
    apgr: float | None
    cpt_50: float | None
    cpt_80: float | None


class ReplayReport(Record, frozen=True, kw_only=True):
    """What `asd replay --json` writes.

    Attributes:
        kind: Marks the file.
        version: Of this schema.
        provenance: Recorded outcomes of real models.
        stages: In the order given.
        train: What the train files held.
        test: What the test files held.
        cost_unit: Mean cost of the dearest stage's call on the train rows: what lam is measured in.
        best_single: The model of the largest mean score on the test rows (the cheaper of equals).
        fitted_for: By dataset fitted for, the method that inner cross-validation chose.
        points: One a lam.
        singles: Every model alone.
        single_hull: Corners (cost, quality) of the hull of the models alone: the Zero router.
        oracle: With foresight, one a lam.
        aiq: Area under the hull of points and models over the models' range of cost; null without a range.
        aiq_singles: The same of the Zero router.
        cost_share_at: By loss below the best single model ("0.01"), the cost of that quality on the hull of
            points and models, as a share of the best single model's.
        oracle_cost_share_at: The same on the oracle's.
        asked: What was asked for beside what was delivered.
        routellm: For two stages.
    """

    kind: Literal["asd-replay"] = "asd-replay"
    version: Literal[1] = 1
    provenance: Literal["replayed"] = "replayed"
    stages: tuple[str, ...]
    train: Counts
    test: Counts
    cost_unit: float
    best_single: str
    fitted_for: dict[str, str]
    points: tuple[Point, ...]
    singles: tuple[Point, ...]
    single_hull: tuple[tuple[float, float], ...]
    oracle: tuple[Point, ...]
    aiq: float | None
    aiq_singles: float | None
    cost_share_at: dict[str, float | None]
    oracle_cost_share_at: dict[str, float | None]
    asked: tuple[AskedAndDelivered, ...]
    routellm: RouteLLM | None


def ours(n_stages: int) -> Best:
    """The methods that compete: short lists by a vote, stopping by regression; deeper where sets are few."""
    short = (
        Lists(words=True, n_draws=40, name="lists of two, words, vote"),
        Lists(),
        Stopping(words=True, name="stopping, words"),
    )
    deep = Stopping(
        depth=3, isotonic=False, strength=0.5, prune=True, words=True, name="stopping, words, depth 3"
    )
    return Best((*short, deep) if n_stages <= _MOST_FOR_DEPTH else short)


def replay(
    train: Recording, test: Recording, lams: Sequence[float], progress: Callable[[str], None] = lambda _: None
) -> ReplayReport:
    """Fit on train rows, play test rows.

    Args:
        train: Fitted on.
        test: Played; of the same stages.
        lams: Positive, each once.
        progress: Told what begins.

    Raises:
        ConfigError: A lam is not a positive number or given twice.
        DataError: Too few train rows, or a query is in both.
    """
    _check(train, test, lams)
    groups = _groups(train, test)
    played = []
    for name, seen, held_out in groups:
        progress(f"fitting on {len(seen)} rows of {name}")
        fitted = ours(len(train.stages)).fit(train if len(seen) == len(train) else train.take(seen))
        progress(f"playing {len(held_out)} rows of {name}")
        played.append(_play(name, fitted, test.take(held_out), lams))
    rows = test.take(np.concatenate([held_out for _, _, held_out in groups]))
    curve = in_order([group.curve for group in played], np.arange(len(rows)))
    oracle = sweep(Foresight().fit(train), rows, lams)
    return _report(train, rows, curve, oracle, played)


def _check(train: Recording, test: Recording, lams: Sequence[float]) -> None:
    if not lams or not all(np.isfinite(lam) and lam > 0 for lam in lams) or len(set(lams)) < len(lams):
        raise ConfigError(f"give one or more different positive numbers as lam, got {list(lams)}")
    if len(train) < MIN_ROWS:
        raise DataError(
            f"{len(train)} train queries have a score and a cost of all of {', '.join(train.stages)}; "
            f"{MIN_ROWS} are needed; left out: {train.counts}"
        )
    if both := _identity(train) & _identity(test):
        raise DataError(
            f"{len(both)} queries are in train and test files, such as {min(both)[:2]}; "
            "a policy is not measured on rows that fitted it"
        )


def _identity(rows: Recording) -> set[tuple[str, str, str]]:
    """What makes two rows the same query; without a prompt it cannot be told, files number their lines."""
    return {(*key, prompt) for key, prompt in zip(rows.keys, rows.prompts, strict=True) if prompt}


Group = tuple[str, npt.NDArray[np.intp], npt.NDArray[np.intp]]


def _groups(train: Recording, test: Recording) -> list[Group]:
    """Name, train rows and test rows of everything that is fitted on its own."""
    of_train, of_test = (np.array([dataset for dataset, _ in rows.keys]) for rows in (train, test))
    own = [name for name in test.datasets if (of_train == name).sum() >= MIN_ROWS]
    groups = [(name, np.flatnonzero(of_train == name), np.flatnonzero(of_test == name)) for name in own]
    rest = np.flatnonzero(~np.isin(of_test, own))
    return [*groups, ("all", np.arange(len(train)), rest)] if len(rest) else groups


class _ReplayedGroup(NamedTuple):
    """The test rows of a group: by which method, every lam, and by asked loss what was lost and paid."""

    name: str
    method: str
    curve: Curve
    asked: tuple[SelectedMix, ...]
    lost: tuple[Array, ...]
    paid: tuple[Array, ...]


def _play(name: str, fitted: FittedBest, rows: Recording, lams: Sequence[float]) -> _ReplayedGroup:
    contest = fitted.contest
    asked = [contest.ask(loss) for loss in LOSSES]
    everywhere = dict.fromkeys([*lams, *(lam for one in asked for lam in one.lams)])
    curve = sweep(fitted, rows, list(everywhere))
    delivered = [deliver(one, curve, rows, contest.reference) for one in asked]
    return _ReplayedGroup(
        name,
        contest.name,
        Curve._make(part[: len(lams)] for part in curve),
        tuple(asked),
        tuple(rows.scores[:, contest.reference] - got.quality[0] for got in delivered),
        tuple(got.cost[0] for got in delivered),
    )


def _ask(rows: Recording, played: Sequence[_ReplayedGroup]) -> list[AskedAndDelivered]:
    best_cost = float(rows.costs[:, reference_stage(rows)].mean())
    found = []
    for i, loss in enumerate(LOSSES):
        lost = np.concatenate([group.lost[i] for group in played])
        weights = np.array([len(group.lost[i]) for group in played]) / len(lost)
        delivered = float(lost.mean())
        found.append(
            AskedAndDelivered(
                asked=loss,
                confidence=CONFIDENCE,
                settings={group.name: group.asked[i].settings for group in played},
                expected=float(weights @ [group.asked[i].expected_loss for group in played]),
                delivered=delivered,
                delivered_interval=_intervals(lost[None])[0],
                shortfall=delivered - loss,
                cost_share=_ratio(
                    float(np.concatenate([group.paid[i] for group in played]).mean()), best_cost
                ),
            )
        )
    return found


def _report(
    train: Recording,
    rows: Recording,
    curve: Curve,
    oracle: Curve,
    played: Sequence[_ReplayedGroup],
) -> ReplayReport:
    best = reference_stage(rows)
    singles = _joined_settings([sweep(Always(k), rows, [1.0]) for k in range(len(rows.stages))])
    alone = Hull(singles.points())
    mixed, foreseen = Hull([*curve.points(), *singles.points()]), Hull([*oracle.points(), *singles.points()])
    costs = rows.costs.mean(axis=0)
    return ReplayReport(
        stages=rows.stages,
        train=train.counts,
        test=rows.counts,
        cost_unit=cost_unit(train),
        best_single=rows.stages[best],
        fitted_for={group.name: group.method for group in played},
        points=tuple(_points(rows, curve, [f"lam={lam:g}" for lam in curve.lams])),
        singles=tuple(msgspec.structs.replace(p, lam=None) for p in _points(rows, singles, rows.stages)),
        single_hull=tuple(zip(alone.costs.tolist(), alone.qualities.tolist(), strict=True)),
        oracle=tuple(_points(rows, oracle, [f"oracle lam={lam:g}" for lam in oracle.lams])),
        aiq=aiq(mixed, float(costs.min()), float(costs.max())),
        aiq_singles=aiq(alone, float(costs.min()), float(costs.max())),
        cost_share_at=_shares(mixed, rows, best),
        oracle_cost_share_at=_shares(foreseen, rows, best),
        asked=tuple(_ask(rows, played)),
        routellm=_routellm(rows, curve),
    )


def _joined_settings(curves: Sequence[Curve]) -> Curve:
    return Curve(*(np.concatenate(part, axis=0) for part in zip(*curves, strict=True)))


def _shares(hull: Hull, rows: Recording, best: int) -> dict[str, float | None]:
    quality, cost = float(rows.scores[:, best].mean()), float(rows.costs[:, best].mean())
    return {f"{loss:g}": _ratio(hull.cost_at(quality - loss), cost) for loss in LOSSES}


def _ratio(cost: float | None, unit: float) -> float | None:
    """None where the best single model costs nothing, or the quality is not reached."""
    return None if cost is None or not unit > 0.0 else float(cost / unit)


def _points(rows: Recording, curve: Curve, names: Sequence[str]) -> list[Point]:
    best_cost = float(rows.costs[:, reference_stage(rows)].mean())
    quality, cost = _intervals(curve.quality), _intervals(curve.cost)
    return [
        Point(
            name=name,
            lam=float(curve.lams[i]),
            n=len(rows),
            quality=float(curve.quality[i].mean()),
            quality_interval=quality[i],
            cost=float(curve.cost[i].mean()),
            cost_interval=cost[i],
            cost_share=_ratio(float(curve.cost[i].mean()), best_cost),
            answered={s: float((curve.answer[i] == k).mean()) for k, s in enumerate(rows.stages)},
            called={s: float(curve.called[i, :, k].mean()) for k, s in enumerate(rows.stages)},
        )
        for i, name in enumerate(names)
    ]


def _intervals(values: Array) -> list[Interval]:
    """Of the means of every line of shape (L, n), by resampling rows; many rows have normal means."""
    n = values.shape[1]
    if n > _MOST_RESAMPLED:
        centre, error = values.mean(axis=1), values.std(axis=1, ddof=1) / np.sqrt(n)
        low, high = centre - NormalDist().inv_cdf(0.975) * error, centre + NormalDist().inv_cdf(0.975) * error
    else:
        # A multinomial draw of counts is a resample.
        counts = np.random.default_rng(0).multinomial(n, np.full(n, 1.0 / n), size=_N_RESAMPLES)
        low, high = np.quantile(counts @ values.T / n, [0.025, 0.975], axis=0)
    return [Interval(*bounds) for bounds in zip(low.tolist(), high.tolist(), strict=True)]


def _routellm(rows: Recording, curve: Curve) -> RouteLLM | None:
    if len(rows.stages) != 2:
        return None
    weak, strong = sorted(range(2), key=lambda k: (rows.scores[:, k].mean(), rows.costs[:, k].mean()))
    points = list(zip(curve.called[:, :, strong].mean(axis=1), curve.quality.mean(axis=1), strict=True))
    q_weak, q_strong = float(rows.scores[:, weak].mean()), float(rows.scores[:, strong].mean())
    return RouteLLM(
        weak=rows.stages[weak],
        strong=rows.stages[strong],
        apgr=apgr(points, q_weak, q_strong),
        cpt_50=call_share_at(points, q_weak, q_strong, 0.5),
        cpt_80=call_share_at(points, q_weak, q_strong, 0.8),
    )
