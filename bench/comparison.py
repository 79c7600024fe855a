"""A run against a stored run: which metrics may be compared here, and whether they got worse.

A metric that did not change at all passes. Changed ones are judged in pools: all lambdas of one policy on one
dataset together, and all datasets together, because eight lambdas are eight looks at the same items, and a
single cell of a few hundred right-or-wrong answers cannot tell one point from luck. A cell that changed takes
the verdict of its pool. That no single lambda slides behind the others' back is `frontier`'s business.

The border: presence (missing, new) and absolute targets are `gate`'s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asd.evaluation.statistics import Loss, holm, paired_loss, time_loss
from asd.measurement.records import Cell, DatasetRecord, Metric, Run
from bench.verdicts import Finding, Limits, Verdict

__all__ = ["Common", "common_items", "compare"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Common:
    """The items that two runs share: `before[i]` and `after[i]` are the positions of the same item.

    Attributes:
        before: In the stored run.
        after: In the new run.
        is_all: Neither run has items beyond these, and the order is the same.
        is_altered: Some of them ask something else than they did.
    """

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    is_all: bool
    is_altered: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """One metric in the stored run and in the new one, with the items that both have (None: no dataset)."""

    cell: Cell
    before: Metric
    after: Metric
    common: Common | None

    def values(self) -> tuple[Array, Array]:
        """What is compared: shared items, else seconds, else the value itself."""
        if self.before.items is not None and self.after.items is not None and self.common is not None:
            return np.take(self.before.items, self.common.before), np.take(
                self.after.items, self.common.after
            )
        old, new = (metric.seconds or (metric.value,) for metric in (self.before, self.after))
        return np.asarray(old, float), np.asarray(new, float)

    @property
    def is_unchanged(self) -> bool:
        """Equal up to rounding in the last places."""
        old, new = self.values()
        return old.shape == new.shape and bool(np.allclose(old, new, rtol=1e-9, atol=1e-12))

    @property
    def is_pooled(self) -> bool:
        """Carries what an interval needs; a bare value does not."""
        return self.before.items is not None or self.before.seconds is not None


@dataclass(frozen=True, slots=True)
class Pool:
    """Pairs judged together; the label reads like a cell id with stars: `quality[tiny-text-optimal-*]`."""

    label: str
    pairs: tuple[Pair, ...]


def common_items(before: DatasetRecord, after: DatasetRecord) -> Common:
    """Items of the same id in both records, in the order of the stored one."""
    place = {item: index for index, item in enumerate(after.items)}
    shared = [(i, place[item]) for i, item in enumerate(before.items) if item in place]
    old, new = (np.array([pair[side] for pair in shared], dtype=np.int64) for side in (0, 1))
    altered = bool((np.take(before.digests, old) != np.take(after.digests, new)).any())
    return Common(old, new, is_all=before.items == after.items, is_altered=altered)


def compare(run: Run, stored: Run, limits: Limits, *, same_sweep: bool) -> list[Finding]:
    """Findings on every metric that both runs have.

    Args:
        run: The new run.
        stored: The baseline's.
        limits: How sure to be.
        same_sweep: The run was asked for all lambdas of the stored one; summaries over a sweep need that.
    """
    findings, judged = [], []
    for pair in _pairs(run, stored):
        reason = _obstacle(pair, run, stored, same_sweep=same_sweep)
        if reason:
            findings.append(_finding(pair, Verdict.CANNOT_JUDGE, note=reason))
        elif pair.is_unchanged:
            findings.append(_finding(pair, Verdict.PASS))
            judged.append(pair)
        elif pair.is_pooled:
            judged.append(pair)
        else:
            findings.append(_judge_value(pair))
    return findings + _judge_pools([pair for pair in judged if pair.is_pooled], limits)


def _pairs(run: Run, stored: Run) -> Iterator[Pair]:
    cells = {cell.id: cell for cell in run.cells}
    shared = {old.name: common_items(old, new) for old in stored.datasets if (new := run.dataset(old.name))}
    for cell in stored.cells:
        common = None if cell.dataset is None else shared.get(cell.dataset)
        for metric in cell.metrics:
            counterpart = cells[cell.id].metric(metric.name) if cell.id in cells else None
            if counterpart is not None:
                yield Pair(cell, metric, counterpart, common)


def _obstacle(pair: Pair, run: Run, stored: Run, *, same_sweep: bool) -> str | None:
    """Why a pair cannot be judged here; None if it can."""
    if _definition(pair.before) != _definition(pair.after):
        return "the metric was redefined; record the baseline again"
    here, there = run.header.hardware, stored.header.hardware
    if pair.before.kind == "time" and here != there:
        return f"the baseline's times are of {there.slug}"
    if pair.before.kind == "count" and not here.computes_like(there):
        return f"the baseline's counts are of {there.slug}"
    return _item_obstacle(pair, run, stored, same_sweep=same_sweep) or _timing_obstacle(pair)


def _item_obstacle(pair: Pair, run: Run, stored: Run, *, same_sweep: bool) -> str | None:
    if pair.common is None:
        same_items = {(d.name, d.items) for d in run.datasets} == {(d.name, d.items) for d in stored.datasets}
        return None if same_items and same_sweep else "it sums up another sweep than the baseline's"
    if not len(pair.common.before):
        return "no item in common with the baseline"
    if pair.common.is_altered:
        return "items ask something else than in the baseline; record it again"
    if pair.before.items is None and not pair.common.is_all:
        return "its value is of other items than the baseline's"
    if _is_relative(pair.before) and pair.values()[0].mean() <= 0 and not pair.is_unchanged:
        return "the stored mean is 0, which a relative tolerance cannot be applied to"
    return None


def _timing_obstacle(pair: Pair) -> str | None:
    n, n_stored = (len(metric.seconds or ()) for metric in (pair.after, pair.before))
    return None if n == n_stored else f"{n} units were timed, of the baseline's {n_stored}"


def _definition(metric: Metric) -> tuple[object, ...]:
    return (
        metric.unit,
        metric.kind,
        metric.direction,
        metric.items is None,
        metric.yardstick is None,
    )


def _is_relative(metric: Metric) -> bool:
    return metric.kind != "quality" and metric.direction != "same"


def _judge_value(pair: Pair) -> Finding:
    """A bare value: counts repeat exactly where they may block at all; a time without passes is no proof."""
    rise = pair.after.value - pair.before.value
    if _is_relative(pair.before):
        rise /= pair.before.value
    loss = {"lower": rise, "higher": -rise, "same": abs(rise)}[pair.before.direction]
    worse = Verdict.INCONCLUSIVE if pair.before.kind == "time" else Verdict.REGRESSED
    return _finding(
        pair,
        worse if loss > pair.before.tolerance else Verdict.PASS,
        loss=Loss(loss, loss, loss, 0.0 if loss > 0 else 1.0),
    )


def _judge_pools(pairs: Sequence[Pair], limits: Limits) -> list[Finding]:
    """Holm's family is one kind of metric: what all of them may falsely alarm together stays below alpha."""
    findings = []
    rng = np.random.default_rng(limits.seed)
    for kind in ("quality", "cost", "count", "time"):
        pools = _pools(pair for pair in pairs if pair.before.kind == kind)
        losses = [_pool_loss(pool, rng, limits.confidence) for pool in pools]
        adjusted = holm([loss.p_value for loss in losses])
        for pool, loss, p in zip(pools, losses, adjusted, strict=True):
            findings += _pool_findings(pool, loss, p, limits)
    return findings


def _pools(pairs: Iterable[Pair]) -> list[Pool]:
    """Pairs by dataset, and over all datasets where there are several."""
    by_metric: dict[tuple[str, str, str], dict[str | None, list[Pair]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for pair in pairs:
        by_metric[pair.cell.suite, pair.cell.policy, pair.before.name][pair.cell.dataset].append(pair)
    pools = []
    for (suite, policy, _), by_dataset in by_metric.items():
        for dataset, members in by_dataset.items():
            pools.append(Pool(f"{suite}[{dataset or 'run'}-{policy}-*]", tuple(members)))
        if len(by_dataset) > 1:
            everything = tuple(pair for members in by_dataset.values() for pair in members)
            pools.append(Pool(f"{suite}[*-{policy}-*]", everything))
    return pools


def _pool_loss(pool: Pool, rng: np.random.Generator, confidence: float) -> Loss:
    metric = pool.pairs[0].before
    old, new = (_item_means(pool, [pair.values()[side] for pair in pool.pairs]) for side in (0, 1))
    if metric.items is None:
        return time_loss(old, new, rng, yardsticks=_yardsticks(pool), confidence=confidence)
    exact = all(bool(np.isin(side, (0, 1)).all()) for pair in pool.pairs for side in pair.values())
    return paired_loss(
        old, new, metric.direction, rng, relative=_is_relative(metric), exact=exact, confidence=confidence
    )


def _yardsticks(pool: Pool) -> tuple[Array, Array] | None:
    if pool.pairs[0].before.yardstick is None:
        return None
    old = _item_means(pool, [np.asarray(pair.before.yardstick, float) for pair in pool.pairs])
    return old, _item_means(pool, [np.asarray(pair.after.yardstick, float) for pair in pool.pairs])


def _item_means(pool: Pool, values: Sequence[Array]) -> Array:
    """One value an item: the mean over the cells of its dataset, datasets one after the other."""
    by_dataset: dict[str | None, list[Array]] = defaultdict(list)
    for pair, cell_values in zip(pool.pairs, values, strict=True):
        by_dataset[pair.cell.dataset].append(cell_values)
    return np.concatenate([np.mean(cells, axis=0) for cells in by_dataset.values()])


def _pool_findings(pool: Pool, loss: Loss, adjusted_p: float, limits: Limits) -> list[Finding]:
    """One finding for the pool; its changed cells take the verdict of their own dataset's pool."""
    changed = [pair for pair in pool.pairs if not pair.is_unchanged]
    if not changed:
        return []
    verdict = limits.verdict(loss, adjusted_p, min(pair.before.tolerance for pair in pool.pairs))
    shown = [_finding(pair, verdict) for pair in pool.pairs]
    old, new = (float(np.mean([getattr(f, side) for f in shown])) for side in ("baseline", "current"))
    whole = Finding(pool.label, pool.pairs[0].before.name, verdict, old, new, loss)
    spans_datasets = len({pair.cell.dataset for pair in pool.pairs}) > 1
    cells = [] if spans_datasets else [_finding(pair, verdict, loss=loss) for pair in changed]
    return cells if len(pool.pairs) == 1 else [*cells, whole]


def _finding(pair: Pair, verdict: Verdict, *, loss: Loss | None = None, note: str = "") -> Finding:
    old, new = pair.before.value, pair.after.value
    if not note and pair.before.items is not None:
        old, new = (float(side.mean()) for side in pair.values())
    return Finding(pair.cell.id, pair.before.name, verdict, old, new, loss, note)
