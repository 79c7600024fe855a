"""Fit on some files, play others: what `asd replay` measures (`replayed`: recorded outcomes of real models).

Everything is fitted on train rows alone. Where the files hold several datasets, a dataset of the test rows
that has at least `MIN_ROWS` train rows is fitted on those; the other test datasets on all train rows.

The result is one JSON document, `Report`, schema version 1. Costs are in the files' unit unless they say
"share": that is of the mean cost of the best single model on the test rows. Intervals are 95 % percentile
intervals over resampled test rows, what was fitted held fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError, DataError
from asd.measurement.records import Record
from asd.study.curves import LOSSES, Curve, in_order, sweep
from asd.study.frontier import Hull, aiq, apgr, call_share_at
from asd.study.lists import Lists
from asd.study.recording import Counts, Recording
from asd.study.routing import Foresight
from asd.study.selection import (
    CONFIDENCE,
    Always,
    Asked,
    Best,
    FittedBest,
    Setting,
    deliver,
    reference_stage,
)
from asd.study.stopping import Stopping

__all__ = ["MIN_ROWS", "AskedAndDelivered", "Interval", "Point", "Report", "ours", "replay"]

Array = npt.NDArray[np.float64]

MIN_ROWS = 50
"""Fewer rows than this fit nothing."""
_N_RESAMPLES = 1000
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
    settings: dict[str, tuple[Setting, ...]]
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


class Report(Record, frozen=True, kw_only=True):
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
) -> Report:
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
    curves, asked, chosen, unit = [], [], {}, float(train.costs.mean(axis=0).max()) or 1.0
    groups = _groups(train, test)
    for name, seen, held_out in groups:
        progress(f"fitting on {len(seen)} rows of {name}")
        fitted = ours(len(train.stages)).fit(train.take(seen))
        chosen[name] = fitted.winner
        progress(f"playing {len(held_out)} rows of {name}")
        rows = test.take(held_out)
        curves.append(sweep(fitted, rows, lams))
        asked.append([_delivered(fitted, rows, loss) for loss in LOSSES])
    order = np.concatenate([held_out for _, _, held_out in groups])
    rows = test.take(order)
    curve = in_order(curves, np.arange(len(order)))
    oracle = sweep(Foresight().fit(train), rows, lams)
    return _report(train, rows, curve, oracle, unit, chosen, _ask(rows, groups, asked))


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


class _Delivered(msgspec.Struct, frozen=True):
    """One asked loss on one group's rows."""

    asked: Asked
    loss: Array
    cost: Array


def _delivered(fitted: FittedBest, rows: Recording, loss: float) -> _Delivered:
    asked = fitted.ask(loss)
    curve = deliver(fitted, asked, rows)
    return _Delivered(asked, rows.scores[:, fitted.reference] - curve.quality[0], curve.cost[0])


def _ask(
    rows: Recording, groups: Sequence[Group], asked: Sequence[Sequence[_Delivered]]
) -> list[AskedAndDelivered]:
    best_cost = float(rows.costs[:, reference_stage(rows)].mean())
    found = []
    for loss, parts in zip(LOSSES, zip(*asked, strict=True), strict=True):
        lost = np.concatenate([part.loss for part in parts])
        weights = np.array([len(part.loss) for part in parts]) / len(lost)
        delivered = float(lost.mean())
        found.append(
            AskedAndDelivered(
                asked=loss,
                confidence=CONFIDENCE,
                settings={name: p.asked.settings for (name, _, _), p in zip(groups, parts, strict=True)},
                expected=float(weights @ [part.asked.expected_loss for part in parts]),
                delivered=delivered,
                delivered_interval=_interval(lost),
                shortfall=delivered - loss,
                cost_share=_ratio(float(np.concatenate([part.cost for part in parts]).mean()), best_cost),
            )
        )
    return found


def _report(
    train: Recording,
    rows: Recording,
    curve: Curve,
    oracle: Curve,
    unit: float,
    chosen: dict[str, str],
    asked: Sequence[AskedAndDelivered],
) -> Report:
    best = reference_stage(rows)
    singles = _joined_settings([sweep(Always(k), rows, [1.0]) for k in range(len(rows.stages))])
    alone = Hull(singles.points())
    mixed, foreseen = Hull([*curve.points(), *singles.points()]), Hull([*oracle.points(), *singles.points()])
    costs = rows.costs.mean(axis=0)
    return Report(
        stages=rows.stages,
        train=train.counts,
        test=rows.counts,
        cost_unit=unit,
        best_single=rows.stages[best],
        fitted_for=chosen,
        points=tuple(_points(rows, curve, [f"lam={lam:g}" for lam in curve.lams])),
        singles=tuple(msgspec.structs.replace(p, lam=None) for p in _points(rows, singles, rows.stages)),
        single_hull=tuple(zip(alone.costs.tolist(), alone.qualities.tolist(), strict=True)),
        oracle=tuple(_points(rows, oracle, [f"oracle lam={lam:g}" for lam in oracle.lams])),
        aiq=aiq(mixed, float(costs.min()), float(costs.max())),
        aiq_singles=aiq(alone, float(costs.min()), float(costs.max())),
        cost_share_at=_shares(mixed, rows, best),
        oracle_cost_share_at=_shares(foreseen, rows, best),
        asked=tuple(asked),
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
    return [
        Point(
            name=name,
            lam=float(curve.lams[i]),
            n=len(rows),
            quality=float(curve.quality[i].mean()),
            quality_interval=_interval(curve.quality[i]),
            cost=float(curve.cost[i].mean()),
            cost_interval=_interval(curve.cost[i]),
            cost_share=_ratio(float(curve.cost[i].mean()), best_cost),
            answered={s: float((curve.answer[i] == k).mean()) for k, s in enumerate(rows.stages)},
            called={s: float(curve.called[i, :, k].mean()) for k, s in enumerate(rows.stages)},
        )
        for i, name in enumerate(names)
    ]


def _interval(values: Array) -> Interval:
    """Of a mean, by resampling rows; a multinomial draw of counts is a resample."""
    n = len(values)
    counts = np.random.default_rng(0).multinomial(
        n, np.full(n, 1.0 / n), size=min(_N_RESAMPLES, 10_000_000 // n)
    )
    low, high = np.quantile(counts @ values / n, [0.025, 0.975])
    return Interval(float(low), float(high))


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
