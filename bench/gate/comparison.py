"""A run against a stored run: which metrics may be compared here, and whether they got worse.

A metric that did not change at all passes. Changed ones are judged in pools: all lambdas of one policy on one
dataset together, and all datasets together, because eight lambdas are eight looks at the same items, and a
single cell of a few hundred right-or-wrong answers cannot tell one point from luck. A cell that changed takes
the verdict of its pool. That no single lambda slides behind the others' back is `frontier`'s business.

Times are compared over equal numbers of passes, the first of either run: whole passes, ratios within a pass.

Scope: presence (missing, new) and absolute targets are `gate`'s; what a loss has to be proved against is
`family`'s.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from asd.evaluation.statistics import Bootstrap, Loss, paired_loss, time_loss
from asd.measurement.records import Cell, DatasetRecord, Metric, Run
from bench.gate.family import Candidate, ErrorRates
from bench.gate.steps import other_steps
from bench.gate.verdicts import Finding, Verdict

__all__ = ["Common", "Comparison", "common_items", "compare", "same_items"]

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
        """What is compared: shared items, else seconds of shape (passes, units), else the value itself."""
        if self.before.items and self.after.items and self.common:
            return (
                np.take(self.before.items, self.common.before),
                np.take(self.after.items, self.common.after),
            )
        if self.before.samples and self.after.samples:
            return self._passes(self.before.samples), self._passes(self.after.samples)
        return np.array([self.before.value]), np.array([self.after.value])

    def references(self) -> tuple[Array, Array] | None:
        """What the largest stage took for the same units; None for times that are no ratios."""
        if self.before.reference is None or self.after.reference is None:
            return None
        return self._passes(self.before.reference), self._passes(self.after.reference)

    def _passes(self, passes: Sequence[Sequence[float]]) -> Array:
        """As many passes as both runs have."""
        n_passes = min(len(self.before.samples or ()), len(self.after.samples or ()))
        return np.asarray(passes[:n_passes], float)

    @property
    def is_unchanged(self) -> bool:
        """Equal up to rounding in the last places."""
        if self.before == self.after and (self.common is None or self.common.is_all):
            return True
        old, new = self.values()
        return old.shape == new.shape and bool(np.allclose(old, new, rtol=1e-9, atol=1e-12))

    @property
    def n_units(self) -> float:
        """Timed units; no number bounds what is not timed."""
        return len(self.before.samples[0]) if self.before.samples else math.inf

    @property
    def is_pooled(self) -> bool:
        """Carries what an interval needs; a bare value does not."""
        return self.before.items is not None or self.before.samples is not None


@dataclass(frozen=True, slots=True)
class PairPool:
    """Pairs judged together; the label reads like a cell id with stars: `quality[tiny-text-optimal-*]`.

    `told` are those whose cells take its verdict.
    """

    label: str
    pairs: tuple[Pair, ...]
    told: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is certain without a test, and what has to be proved."""

    findings: list[Finding]
    candidates: list[Candidate]


def common_items(before: DatasetRecord, after: DatasetRecord) -> Common:
    """Items of the same id in both records, in the order of the stored one."""
    place = {item: index for index, item in enumerate(after.items)}
    shared = [(i, place[item]) for i, item in enumerate(before.items) if item in place]
    old, new = (np.array([pair[side] for pair in shared], dtype=np.int64) for side in (0, 1))
    altered = bool((np.take(before.digests, old) != np.take(after.digests, new)).any())
    return Common(old, new, is_all=before.items == after.items, is_altered=altered)


def same_items(run: Run, stored: Run, dataset: str | None) -> bool:
    """Both runs asked the very same items of a dataset, or of all of them (None)."""
    asked, known = (
        {(d.name, d.fingerprint) for d in side.datasets if dataset in (None, d.name)}
        for side in (run, stored)
    )
    return asked == known


def compare(run: Run, stored: Run, limits: ErrorRates, *, same_sweep: bool) -> Comparison:
    """Every metric that both runs have.

    Args:
        run: The new run.
        stored: The baseline's.
        limits: Resamples for the intervals, and how many units it takes at least.
        same_sweep: The run was asked for all lambdas of the stored one; what sums up a sweep needs that.
    """
    findings, judged = [], []
    for pair in _pairs(run, stored):
        if reason := _obstacle(pair, run, stored, same_sweep=same_sweep):
            findings.append(_finding(pair, Verdict.CANNOT_JUDGE, note=reason))
        elif pair.is_pooled:
            judged.append(pair)
        else:
            findings.append(_judge_value(pair))
    findings += [_finding(pair, Verdict.PASS) for pair in judged if pair.is_unchanged]
    changed = [
        pool for pool in _pools(judged, limits.least) if not all(pair.is_unchanged for pair in pool.pairs)
    ]
    return Comparison(findings, [_candidate(pool, limits.bootstrap) for pool in changed])


def _pairs(run: Run, stored: Run) -> Iterator[Pair]:
    cells = {cell.id: cell for cell in run.cells}
    shared = {old.name: common_items(old, new) for old in stored.datasets if (new := run.dataset(old.name))}
    for cell in stored.cells:
        common = None if cell.dataset is None else shared.get(cell.dataset)
        for metric in cell.metrics:
            counterpart = cells[cell.id].metric(metric.name) if cell.id in cells else None
            if counterpart is not None and counterpart.kind != "summary":
                yield Pair(cell, metric, counterpart, common)


def _obstacle(pair: Pair, run: Run, stored: Run, *, same_sweep: bool) -> str:
    """Why a pair cannot be judged here; empty if it can."""
    here, there = run.header.hardware, stored.header.hardware
    if pair.before.kind == "time" and here != there:
        return f"the baseline's times are of {there.slug}"
    if pair.before.kind == "time" and (moved := other_steps(run.header, stored.header)):
        return moved
    if pair.before.kind == "count" and not here.computes_like(there):
        return f"the baseline's counts are of {there.slug}"
    if pair.before.kind == pair.after.kind == "time" and pair.after.samples and not pair.before.samples:
        return "the baseline's times were recorded with other statistics; record it again"
    if _definition(pair.before) != _definition(pair.after):
        return "the metric was redefined; record the baseline again"
    return (
        _item_obstacle(pair, run, stored, same_sweep=same_sweep)
        or _timing_obstacle(pair)
        or _zero_obstacle(pair)
    )


def _item_obstacle(pair: Pair, run: Run, stored: Run, *, same_sweep: bool) -> str:
    if pair.common is None:
        same = same_items(run, stored, None) and same_sweep
        return "" if same else "it sums up another sweep than the baseline's"
    if not len(pair.common.before):
        return "no item in common with the baseline"
    if pair.common.is_altered:
        return "items ask something else than in the baseline; record it again"
    if pair.before.items is None and not pair.common.is_all:
        return "its value is of other items than the baseline's"
    return ""


def _timing_obstacle(pair: Pair) -> str:
    n, n_stored = (len(metric.samples[0]) if metric.samples else 0 for metric in (pair.after, pair.before))
    return "" if n == n_stored else f"{n} units were timed, of the baseline's {n_stored}"


def _zero_obstacle(pair: Pair) -> str:
    old, new = (float(side.mean()) for side in pair.values())
    if _is_relative(pair.before) and old <= 0 and _sign(pair.before) * (new - old) > 0:
        return "the stored value is 0, which a relative tolerance cannot be applied to"
    return ""


def _definition(metric: Metric) -> tuple[object, ...]:
    return (
        metric.unit,
        metric.kind,
        metric.direction,
        metric.items is None,
        metric.samples is None,
        metric.reference is None,
    )


def _is_relative(metric: Metric) -> bool:
    return metric.kind != "quality" and metric.direction != "same"


def _sign(metric: Metric) -> int:
    """Of a change for the worse."""
    return -1 if metric.direction == "higher" else 1


def _judge_value(pair: Pair) -> Finding:
    """A bare value: counts repeat exactly where they may block at all; one time is no proof."""
    before, rise = pair.before, pair.after.value - pair.before.value
    loss = abs(rise) if before.direction == "same" else _sign(before) * rise
    if _is_relative(before) and before.value > 0:
        loss /= before.value
    worse = Verdict.INCONCLUSIVE if before.kind == "time" else Verdict.REGRESSED
    verdict = worse if loss > before.tolerance else Verdict.PASS
    return _finding(pair, verdict, loss=Loss(loss, loss, loss, 0.0 if loss > 0 else 1.0))


def _pools(pairs: Iterable[Pair], least_units: int) -> list[PairPool]:
    """Pairs by dataset, and over all datasets where there are several.

    Times of too few units are judged with all datasets alone: a few large calls cannot tell a loss from luck.
    """
    by_metric: dict[tuple[str, str, str], dict[str | None, list[Pair]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for pair in pairs:
        by_metric[pair.cell.suite, pair.cell.policy, pair.before.name][pair.cell.dataset].append(pair)
    pools = []
    for (suite, policy, _), by_dataset in by_metric.items():
        few: list[Pair] = []
        for dataset, members in by_dataset.items():
            if len(by_dataset) > 1 and members[0].n_units < least_units:
                few += members
            else:
                of_dataset = tuple(members)
                pools.append(PairPool(f"{suite}[{dataset or 'run'}-{policy}-*]", of_dataset, of_dataset))
        if len(by_dataset) > 1:
            everything = tuple(pair for members in by_dataset.values() for pair in members)
            pools.append(PairPool(f"{suite}[*-{policy}-*]", everything, tuple(few)))
    return pools


def _candidate(pool: PairPool, bootstrap: Bootstrap) -> Candidate:
    metric = pool.pairs[0].before
    values = [pair.values() for pair in pool.pairs]
    old, new = (_item_means(pool, [sides[side] for sides in values]) for side in (0, 1))
    tolerance = min(pair.before.tolerance for pair in pool.pairs)
    if metric.items is None:
        loss = time_loss(old, new, bootstrap, tolerance=tolerance, references=_references(pool))
    else:
        exact = all(bool(np.isin(side, (0, 1)).all()) for sides in values for side in sides)
        loss = paired_loss(old, new, metric.direction, bootstrap, relative=_is_relative(metric), exact=exact)
    return Candidate(loss, tolerance, old.shape[-1], partial(_tell, pool, loss))


def _references(pool: PairPool) -> tuple[Array, Array] | None:
    sides = [found for pair in pool.pairs if (found := pair.references()) is not None]
    if not sides:
        return None
    return _item_means(pool, [old for old, _ in sides]), _item_means(pool, [new for _, new in sides])


def _item_means(pool: PairPool, values: Sequence[Array]) -> Array:
    """One value an item: the mean over the cells of its dataset, datasets one after the other.

    Of times that is so in every pass that all of them have.
    """
    n_passes = min(len(value) for value in values) if values[0].ndim > 1 else None
    by_dataset: dict[str | None, list[Array]] = defaultdict(list)
    for pair, cell_values in zip(pool.pairs, values, strict=True):
        by_dataset[pair.cell.dataset].append(cell_values[:n_passes])
    return np.concatenate([np.mean(cells, axis=0) for cells in by_dataset.values()], axis=-1)


def _tell(pool: PairPool, loss: Loss, verdict: Verdict, note: str) -> list[Finding]:
    """One finding for the pool, and one for each changed cell that takes its verdict."""
    shown = [_finding(pair, verdict) for pair in pool.pairs]
    old, new = (float(np.mean([getattr(f, side) for f in shown])) for side in ("baseline", "current"))
    ids = tuple(pair.cell.id for pair in pool.pairs)
    whole = Finding(pool.label, pool.pairs[0].before.name, verdict, old, new, loss, note, ids)
    changed = [pair for pair in pool.told if not pair.is_unchanged]
    cells = [_finding(pair, verdict, loss=loss, note=note) for pair in changed]
    return cells if len(pool.pairs) == 1 else [*cells, whole]


def _finding(pair: Pair, verdict: Verdict, *, loss: Loss | None = None, note: str = "") -> Finding:
    old, new = pair.before.value, pair.after.value
    if pair.before.items and pair.after.items and pair.common and len(pair.common.before):
        old, new = (float(side.mean()) for side in pair.values())
    return Finding(pair.cell.id, pair.before.name, verdict, old, new, loss, note)
