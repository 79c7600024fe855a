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
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from asd.evaluation.statistics import Bootstrap, Loss
from asd.measurement.records import Run
from bench.gate.comparison import Comparison, common_items
from bench.gate.family import Candidate
from bench.gate.verdicts import Finding, Verdict

__all__ = ["compare_frontiers", "hull_quality"]

Array = NDArray[np.float64]
_N_RESAMPLES = 400


@dataclass(frozen=True, slots=True)
class SweepPair:
    """One policy on one dataset, stored and new, over the lambdas and items that both runs have.

    `old` and `new` have shape (2, lambdas, items): cost first, quality second.
    """

    ids: tuple[str, ...]
    old: Array
    new: Array
    tolerance: float


def hull_quality(points: Array, costs: Array) -> Array:
    """Height over given costs of the hull of some points: the best quality that mixing two of them can buy.

    Concave, non-decreasing (what is paid need not be used), through the origin.

    Args:
        points: Shape (..., 2, points): cost first, quality second.
        costs: Shape (..., n); the result has this shape.
    """
    cost, quality = (np.pad(points[..., side, :], [(0, 0)] * (points.ndim - 2) + [(1, 0)]) for side in (0, 1))
    at, left, right = costs[..., :, None, None], cost[..., None, :, None], cost[..., None, None, :]
    gap = np.where(right > left, right - left, 1.0)
    share = np.where(right > left, np.clip((at - left) / gap, 0.0, 1.0), 0.0)
    mixed = (1 - share) * quality[..., None, :, None] + share * quality[..., None, None, :]
    return np.asarray(np.where(left <= at, mixed, 0.0).max(axis=(-1, -2)))


def compare_frontiers(run: Run, stored: Run, bootstrap: Bootstrap) -> Comparison:
    """Every lambda of every sweep, on the metric "retreat" (quality lost at equal cost)."""
    findings, candidates = [], []
    for sweep in _sweeps(run, stored):
        if np.allclose(sweep.old, sweep.new, rtol=1e-9, atol=1e-12):
            findings += [Finding(cell_id, "retreat", Verdict.PASS, 0.0, 0.0) for cell_id in sweep.ids]
            continue
        for cell_id, loss in zip(sweep.ids, _retreats(sweep, bootstrap), strict=True):
            tell = partial(_tell, cell_id, loss)
            candidates.append(Candidate(loss, sweep.tolerance, sweep.old.shape[2], tell))
    return Comparison(findings, candidates)


def _tell(cell_id: str, loss: Loss, verdict: Verdict, note: str) -> list[Finding]:
    return [Finding(cell_id, "retreat", verdict, 0.0, loss.estimate, loss, note)]


def _sweeps(run: Run, stored: Run) -> list[SweepPair]:
    """Sweeps of two lambdas or more, from the per-item values of the suites `cost` and `quality`."""
    lams = defaultdict(list)
    for cell in stored.cells:
        if cell.suite == "quality" and cell.dataset is not None and cell.lam is not None:
            lams[cell.dataset, cell.policy].append(cell.lam)
    found = (
        _sweep(run, stored, dataset, policy, sorted(values)) for (dataset, policy), values in lams.items()
    )
    return [sweep for sweep in found if sweep is not None and len(sweep.ids) > 1]


def _sweep(run: Run, stored: Run, dataset: str, policy: str, lams: list[float]) -> SweepPair | None:
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
    return SweepPair(ids, old, new, _quality_tolerance(stored, dataset, policy))


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


def _retreats(sweep: SweepPair, bootstrap: Bootstrap) -> list[Loss]:
    """One loss a lambda, with intervals and p-values from resampling the items."""
    estimates = _retreat(sweep.old.mean(axis=2), sweep.new.mean(axis=2))
    weights = bootstrap.weights(sweep.old.shape[2])[:_N_RESAMPLES]
    old, new = (np.moveaxis(side @ weights.T, 2, 0) for side in (sweep.old, sweep.new))
    draws = _retreat(old, new)
    noise = np.maximum(draws.std(axis=0), 1e-12)
    p_values = stats.norm.sf(estimates / noise)
    return [
        Loss(float(estimate), *bootstrap.interval(of_lam), float(p))
        for estimate, of_lam, p in zip(estimates, draws.T, p_values, strict=True)
    ]


def _retreat(old: Array, new: Array) -> Array:
    """Growth of the shortfall, one number a lambda, from mean points of shape (..., 2, lambdas)."""
    shortfall_new = hull_quality(old, new[..., 0, :]) - new[..., 1, :]
    shortfall_old = hull_quality(old, old[..., 0, :]) - old[..., 1, :]
    return np.asarray(shortfall_new - shortfall_old, float)
