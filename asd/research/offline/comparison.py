"""Every method on the same folds: what quality costs, read off the frontier of held-out points.

A cell is a file and a ladder. Five folds, everything (inner choices included) fitted on the other four; a
method's points are the means over all held-out rows, one a lam. Read off the non-decreasing concave hull of
these points and the single models: cost at 1, 2 and 5 points below the best single model, as a share of its
cost. Over cells, the geometric mean. Intervals: percentile bootstrap over the rows of every cell, points and
hull recomputed, what was fitted held fixed.

Ours is also asked, on the rows it is fitted on, for each of these losses; what that delivered on held-out
rows stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from asd.errors import DataError
from asd.measurement.records import Record
from asd.research.offline.binned import BinnedInduction
from asd.research.offline.curves import LOSSES, SWEEP, Curve, cost_shares, in_order, splits, sweep
from asd.research.offline.deployable import Deployable
from asd.research.offline.policies import Method
from asd.research.offline.replay import Interval, ours
from asd.research.offline.routing import Foresight, PromptRouter, SingleStage
from asd.research.offline.selection import CONFIDENCE, CrossValidation, deliver, reference_stage
from asd.research.offline.stopping import Stopping
from asd.research.recordings.recording import Recording

__all__ = ["DeliveredLoss", "FrontierReport", "MethodRow", "compare", "rivals"]

Array = npt.NDArray[np.float64]

_N_FOLDS = 5


class MethodRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One method.

    Attributes:
        method: Its name.
        shares: By loss, the geometric mean over cells of the cost share.
        intervals: Of them.
        cells: By cell, the shares.
    """

    method: str
    shares: dict[str, float]
    intervals: dict[str, Interval]
    cells: dict[str, dict[str, float]]


class DeliveredLoss(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A loss asked of ours, over cells.

    Attributes:
        asked: Most quality to lose.
        confidence: With which settings were picked.
        delivered: Mean over cells of the loss on held-out rows.
        shortfall: Mean over cells of `delivered - asked`.
        missed: Cells where more was lost than asked.
        missed_surely: Of these, where the loss exceeds the asked one beyond the noise of the held-out rows
            (one-sided, 95 %).
        n_cells: Of how many.
        cost_share: Geometric mean over cells of the cost over the best single model's.
        cells: By cell, the loss delivered.
    """

    asked: float
    confidence: float
    delivered: float
    shortfall: float
    missed: int
    missed_surely: int
    n_cells: int
    cost_share: float
    cells: dict[str, float]


class FrontierReport(Record, frozen=True, kw_only=True):
    """What `asd frontier --json` writes."""

    kind: Literal["asd-frontier"] = "asd-frontier"
    version: Literal[1] = 1
    provenance: Literal["replayed"] = "replayed"
    n_rows: dict[str, int]
    rows: tuple[MethodRow, ...]
    asked: tuple[DeliveredLoss, ...]


class ComparisonCell(NamedTuple):
    """A file and a ladder."""

    name: str
    rows: Recording


def rivals(n_stages: int, *, deployable: bool = False) -> tuple[Method, ...]:
    """What ours is compared with, the members that compete within it and what `asd fit` makes included."""
    made: tuple[Method, ...] = ()
    if deployable:
        made = (Deployable("dp"), Deployable("lists"), Deployable("auto"))
    return (
        SingleStage(),
        PromptRouter("neighbours"),
        PromptRouter("ridge"),
        BinnedInduction(),
        Stopping(),
        *ours(n_stages).members,
        *made,
        Foresight(),
    )


def compare(cells: Sequence[ComparisonCell], *, deployable: bool = False) -> FrontierReport:
    """Fit and play every method on the same folds of every cell, behind a progress bar.

    Args:
        cells: Files and ladders.
        deployable: Whether what `asd fit` makes is played too, which takes seconds a fold.

    Raises:
        DataError: The best single model of a cell is free: no cost is a share of its cost.
    """
    for cell in cells:
        _check_priced(cell)
    shares: dict[str, dict[str, Array]] = {}
    delivered: dict[str, list[Array]] = {}
    for cell in tqdm(cells, desc="frontier", unit="cell", disable=None):
        curves, delivered[cell.name] = _cross_validated(cell.rows, deployable=deployable)
        for name, draws in zip(curves, cost_shares(cell.rows, list(curves.values())), strict=True):
            shares.setdefault(name, {})[cell.name] = draws
    complete = {name: found for name, found in shares.items() if len(found) == len(cells)}
    return FrontierReport(
        n_rows={cell.name: len(cell.rows) for cell in cells},
        rows=tuple(_row(name, found) for name, found in complete.items()),
        asked=tuple(_delivered(i, cells, delivered) for i in range(len(LOSSES))),
    )


def _check_priced(cell: ComparisonCell) -> None:
    best = reference_stage(cell.rows)
    if not cell.rows.costs[:, best].mean() > 0.0:
        raise DataError(
            f"{cell.name}: {cell.rows.stages[best]!r}, the best single model, costs nothing, so no cost is a "
            "share of its cost; declare costs with --costs"
        )


def _cross_validated(rows: Recording, *, deployable: bool) -> tuple[dict[str, Curve], list[Array]]:
    """Of every method and of ours, the curve on held-out rows; what each asked loss cost, shape (2, n)."""
    n_stages = len(rows.stages)
    best, methods = ours(n_stages), rivals(n_stages, deployable=deployable)
    names = [*(method.name for method in methods), best.name]
    found: list[list[Curve]] = [[] for _ in names]
    asked: list[list[Array]] = [[] for _ in LOSSES]
    parts = list(splits(len(rows), _N_FOLDS, seed=0))
    for seen, held_out in parts:
        train, other = rows.take(seen), rows.take(held_out)
        curves = {method.name: sweep(method.fit(train), other, SWEEP) for method in methods}
        contest = best.compete(train)
        # The winner is one of the methods, fitted on these very rows.
        curves[best.name] = curves[contest.name]
        for own, name in zip(found, names, strict=True):
            own.append(curves[name])
        for costs, loss in zip(asked, LOSSES, strict=True):
            costs.append(_ask(contest, curves[best.name], other, loss))
    back = np.argsort(np.concatenate([held_out for _, held_out in parts]))
    joined = [np.concatenate(costs, axis=1)[:, back] for costs in asked]
    return {name: in_order(own, back) for name, own in zip(names, found, strict=True)}, joined


def _ask(contest: CrossValidation, played: Curve, rows: Recording, loss: float) -> Array:
    """What was lost and paid on every row, shape (2, n)."""
    curve = deliver(contest.ask(loss), played, rows, contest.reference)
    return np.stack([rows.scores[:, contest.reference] - curve.quality[0], curve.cost[0]])


def _row(name: str, found: dict[str, Array]) -> MethodRow:
    pooled = np.exp(np.mean([np.log(np.maximum(draws, 1e-6)) for draws in found.values()], axis=0))
    low, high = np.quantile(pooled[1:], [0.025, 0.975], axis=0)
    names = [f"{loss:g}" for loss in LOSSES]
    return MethodRow(
        method=name,
        shares=dict(zip(names, pooled[0].tolist(), strict=True)),
        intervals={loss: Interval(float(low[i]), float(high[i])) for i, loss in enumerate(names)},
        cells={cell: dict(zip(names, draws[0].tolist(), strict=True)) for cell, draws in found.items()},
    )


def _delivered(i: int, cells: Sequence[ComparisonCell], delivered: dict[str, list[Array]]) -> DeliveredLoss:
    lost = {cell.name: delivered[cell.name][i][0] for cell in cells}
    beyond = np.array([values.mean() - LOSSES[i] for values in lost.values()])
    noise = np.array([values.std(ddof=1) / np.sqrt(len(values)) for values in lost.values()])
    shares = [delivered[c.name][i][1].mean() / c.rows.costs[:, reference_stage(c.rows)].mean() for c in cells]
    return DeliveredLoss(
        asked=LOSSES[i],
        confidence=CONFIDENCE,
        delivered=float(beyond.mean() + LOSSES[i]),
        shortfall=float(beyond.mean()),
        missed=int((beyond > 0.0).sum()),
        missed_surely=int((beyond > NormalDist().inv_cdf(0.95) * noise).sum()),
        n_cells=len(cells),
        cost_share=float(np.exp(np.mean(np.log(shares)))),
        cells={name: float(values.mean()) for name, values in lost.items()},
    )
