"""The frontier may not retreat: what a given cost buys at each lambda, against what it bought before.

The stored points (mean cost, mean quality) of one policy's sweep, with "no answer at no cost" and free
disposal, span the concave hull h(c): the best quality per cost by mixing lambdas. Each point's shortfall is
h(c) - q. The retreat of a lambda is how much its shortfall grew:

    retreat = [h(c_new) - q_new] - [h(c_old) - q_old]

so a point that was inside the hull when it was recorded is not blamed for it. Noise is resampled by item,
stored and new values together, hull included.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from asd.evaluation.statistics import Loss, holm
from asd.measurement.records import Run
from bench.comparison import common_items
from bench.verdicts import Finding, Limits

__all__ = ["hull_quality", "judge_frontier"]

Array = NDArray[np.float64]
_N_RESAMPLES = 400


@dataclass(frozen=True, slots=True)
class Sweep:
    """One policy on one dataset, stored and new, over the lambdas and items that both runs have.

    `old` and `new` have shape (2, lambdas, items): cost first, quality second.
    """

    ids: tuple[str, ...]
    old: Array
    new: Array
    tolerance: float


def hull_quality(points: Array, costs: Array) -> Array:
    """Height over given costs of the hull of some points (row 0 cost, row 1 quality).

    Concave, non-decreasing, through the origin.
    """
    hull = [(0.0, 0.0)]
    for point in sorted((cost, quality) for cost, quality in points.T.tolist()):
        if point[1] <= hull[-1][1]:
            continue
        while len(hull) > 1 and _turns_left(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return np.asarray(np.interp(costs, *np.transpose(hull)), float)


def judge_frontier(run: Run, stored: Run, limits: Limits) -> list[Finding]:
    """One finding a lambda of every sweep, on the metric "retreat" (quality lost at equal cost)."""
    rng = np.random.default_rng(limits.seed)
    rows = []
    for sweep in _sweeps(run, stored):
        losses = _retreats(sweep, rng, limits.confidence)
        rows += [(cell_id, loss, sweep.tolerance) for cell_id, loss in zip(sweep.ids, losses, strict=True)]
    adjusted = holm([loss.p_value for _, loss, _ in rows])
    return [
        Finding(cell_id, "retreat", limits.verdict(loss, p, tolerance), 0.0, loss.estimate, loss)
        for (cell_id, loss, tolerance), p in zip(rows, adjusted, strict=True)
    ]


def _sweeps(run: Run, stored: Run) -> list[Sweep]:
    """Sweeps of two lambdas or more, from the per-item values of the suites `cost` and `quality`."""
    lams = defaultdict(list)
    for cell in stored.cells:
        if cell.suite == "quality" and cell.dataset is not None and cell.lam is not None:
            lams[cell.dataset, cell.policy].append(cell.lam)
    found = (
        _sweep(run, stored, dataset, policy, sorted(values)) for (dataset, policy), values in lams.items()
    )
    return [sweep for sweep in found if sweep is not None and len(sweep.ids) > 1]


def _sweep(run: Run, stored: Run, dataset: str, policy: str, lams: list[float]) -> Sweep | None:
    before, after = stored.dataset(dataset), run.dataset(dataset)
    if before is None or after is None:
        return None
    common = common_items(before, after)
    old_cells, new_cells = _points(stored, dataset, policy), _points(run, dataset, policy)
    both = [lam for lam in lams if lam in old_cells and lam in new_cells]
    if not both or not len(common.before) or common.is_altered:
        return None
    old = np.stack([old_cells[lam][:, common.before] for lam in both], axis=1)
    new = np.stack([new_cells[lam][:, common.after] for lam in both], axis=1)
    ids = tuple(f"frontier[{dataset}-{policy}-lam={lam:g}]" for lam in both)
    return Sweep(ids, old, new, _quality_tolerance(stored, dataset, policy))


def _points(run: Run, dataset: str, policy: str) -> dict[float, Array]:
    """By lambda, cost and quality of every item: shape (2, items)."""
    values: dict[float, dict[str, Array]] = defaultdict(dict)
    for cell in run.cells:
        metric = cell.metric(cell.suite)
        if (cell.dataset, cell.policy) == (dataset, policy) and cell.lam is not None and metric is not None:
            values[cell.lam][cell.suite] = np.asarray(metric.items, float)
    return {
        lam: np.stack([found["cost"], found["quality"]])
        for lam, found in values.items()
        if {"cost", "quality"} <= found.keys()
    }


def _quality_tolerance(stored: Run, dataset: str, policy: str) -> float:
    return min(
        metric.tolerance
        for cell in stored.cells
        if (cell.suite, cell.dataset, cell.policy) == ("quality", dataset, policy)
        and (metric := cell.metric("quality")) is not None
    )


def _retreats(sweep: Sweep, rng: np.random.Generator, confidence: float) -> list[Loss]:
    """One loss a lambda, with intervals and p-values from resampling the items."""
    estimates = _retreat(sweep.old.mean(axis=2), sweep.new.mean(axis=2))
    if np.allclose(sweep.old, sweep.new, rtol=1e-9, atol=1e-12):
        return [Loss(0.0, 0.0, 0.0, 1.0)] * len(sweep.ids)
    n_items = sweep.old.shape[2]
    weights = rng.multinomial(n_items, np.full(n_items, 1 / n_items), size=_N_RESAMPLES) / n_items
    draws = np.stack([_retreat(sweep.old @ weight, sweep.new @ weight) for weight in weights])
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    noise = np.maximum(draws.std(axis=0), 1e-12)
    p_values = stats.norm.sf(estimates / noise)
    return [Loss(*map(float, row)) for row in zip(estimates, low, high, p_values, strict=True)]


def _retreat(old: Array, new: Array) -> Array:
    """Growth of the shortfall, one number a lambda, from mean points of shape (2, lambdas)."""
    shortfall_new = hull_quality(old, new[0]) - new[1]
    shortfall_old = hull_quality(old, old[0]) - old[1]
    return np.asarray(shortfall_new - shortfall_old, float)


def _turns_left(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """`b` lies on or below the line from `a` to `c`."""
    return (b[0] - a[0]) * (c[1] - a[1]) >= (b[1] - a[1]) * (c[0] - a[0])
