"""How many training queries a policy needs: what is lost on held-out rows against training on all of them.

    tables       evidence as fitted; means, costs and kernels estimated on n queries
    whole fit    predictor, calibration, bins and kernels, everything fitted on n queries (from `MIN_ROWS` on)

Sub-optimality is the value, lambda * quality - cost, after training on all rows minus that on n of them, on
the same held-out rows. It is zero at all rows by construction, so sizes beyond half are left out. Theory for
estimating a mean says n^(-1/2); where few actions differ much in value, a choice is learnt faster than that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from asd.policy.estimate import EstimationTable as States
from asd.policy.estimate import estimate_graph
from asd.policy.fit import MIN_ROWS, fit
from asd.policy.heldout import replay
from asd.research.study.material import Material
from asd.research.study.record import StudyTable, Value
from asd.research.theory.judged import judged
from asd.stopping.graph import Graph
from asd.stopping.recursion import solve

__all__ = ["ENOUGH", "LAMS", "sample_slope", "sample_tables"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

LAMS = (1.0, 2.0, 5.0, 10.0)
"""Sub-optimality is the mean over these, each divided by 1 + lambda: an answer and a run of the largest."""

SMALLEST = 20
N_TABLE_DRAWS = 50
N_FIT_DRAWS = 2
N_RESAMPLES = 1000

ENOUGH = 10
"""Draws from which an interval over them is told."""

_SPREAD = np.unique(np.outer(LAMS, 2.0 ** np.linspace(-3.0, 3.0, 33)))
"""Long queries are decided at lambda / scale."""

Losses = Mapping[int, Array]
"""By number of training queries, what every draw of them lost, shape (draws,)."""


def sample_tables(
    material: Material, *, n_draws: int = N_TABLE_DRAWS, n_fit_draws: int = N_FIT_DRAWS
) -> list[StudyTable]:
    """Sub-optimality by number of training queries, and its slopes.

    Args:
        material: Trained on its calibration rows, valued on its test rows.
        n_draws: Draws of n rows for the tables alone, milliseconds each.
        n_fit_draws: For the whole fit, many seconds each; 0 leaves it out.
    """
    training, held_out = (
        [t for outcomes in part for t in outcomes.traces] for part in (material.calibration, material.test)
    )
    unit, rng = material.fitted.ladder.unit(), np.random.default_rng(material.seed)
    known, fresh = (judged(material.fitted, material.ladder, rows) for rows in (training, held_out))

    def of_tables(index: Index) -> float:
        return _worth(estimate_graph(known.where(np.isin(np.arange(len(training)), index))), fresh)

    def of_fit(index: Index) -> float:
        fitted = fit([training[i] for i in index], material.ladder, fitted_at="in a study")
        return _worth(fitted.graph(unit=unit), judged(fitted, material.ladder, held_out, unit=unit))

    n = len(training)
    lost = {"tables": _losses(of_tables, _sizes(SMALLEST, n), n, n_draws, rng)}
    if n_fit_draws and _sizes(MIN_ROWS, n):
        lost["whole fit"] = _losses(of_fit, _sizes(MIN_ROWS, n), n, n_fit_draws, rng)
    return [_points(material, lost, n, rng), _slopes(material, lost, rng)]


def _sizes(smallest: int, n: int) -> list[int]:
    """Doubling from the smallest to half of all."""
    return [smallest * 2**k for k in range(32) if smallest * 2**k <= n // 2]


def _worth(graph: Graph, fresh: States) -> float:
    """Value on fresh rows of the policies solved on a problem, over `LAMS`."""
    solution = solve(graph, _SPREAD)
    played = [(lam, *replay(solution, fresh, lam)) for lam in LAMS]
    return float(np.mean([(lam * quality - cost).mean() / (1.0 + lam) for lam, quality, cost in played]))


def _losses(
    value: Callable[[Index], float], sizes: Sequence[int], n: int, n_draws: int, rng: np.random.Generator
) -> Losses:
    best = value(np.arange(n))
    drawn = {size: [rng.choice(n, size, replace=False) for _ in range(n_draws)] for size in sizes}
    return {size: best - np.array([value(index) for index in draws]) for size, draws in drawn.items()}


def _points(material: Material, lost: Mapping[str, Losses], n: int, rng: np.random.Generator) -> StudyTable:
    rows: list[tuple[Value, ...]] = []
    for what, losses in lost.items():
        for size, values in losses.items():
            ends = _ends(_resampled(values, rng)) if len(values) >= ENOUGH else (None, None)
            rows.append((what, size, len(values), float(values.mean()), *ends))
    return StudyTable(
        name="samples",
        title="Sub-optimality by number of training queries",
        provenance="replayed",
        measured_on=f"{material.measured_on}; trained on {n} other questions at most",
        n=material.n,
        columns=("trained", "queries", "draws", "lost", "lost_low", "lost_high"),
        rows=tuple(rows),
        note="Lost: cost units per (1 + lambda), mean over draws and over lambda "
        + ", ".join(f"{lam:g}" for lam in LAMS)
        + ", against training on all; 95 % interval over draws of the training queries, "
        f"a dash below {ENOUGH} of them.",
    )


def _slopes(material: Material, lost: Mapping[str, Losses], rng: np.random.Generator) -> StudyTable:
    return StudyTable(
        name="sample_slopes",
        title="How fast sub-optimality falls with training queries",
        provenance="replayed",
        measured_on=material.measured_on,
        n=material.n,
        columns=("trained", "from", "to", "slope", "slope_low", "slope_high", "slope_theory"),
        rows=tuple((what, *sample_slope(losses, rng), -0.5) for what, losses in lost.items()),
        note="Slope of log sub-optimality over log queries, up to the first size at which some resample of "
        "the draws loses nothing; a dash where fewer than two sizes are left. 95 % bootstrap interval over "
        f"draws, a dash below {ENOUGH} of them.",
    )


def sample_slope(losses: Losses, rng: np.random.Generator) -> tuple[Value, ...]:
    """First and last size of the fit, slope, 95 % bootstrap interval over the draws."""
    resampled = np.stack([_resampled(values, rng) for values in losses.values()])
    n_used = next((i for i, values in enumerate(resampled) if values.min() <= 0.0), len(resampled))
    if n_used < 2:
        return None, None, None, None, None
    used = list(losses)[:n_used]
    means = [float(losses[size].mean()) for size in used]
    slopes = np.polyfit(np.log(used), np.log(resampled[:n_used]), 1)[0]
    ends = _ends(slopes) if min(len(losses[size]) for size in used) >= ENOUGH else (None, None)
    return used[0], used[-1], float(np.polyfit(np.log(used), np.log(means), 1)[0]), *ends


def _ends(values: Array) -> tuple[float, float]:
    """Of the 95 % interval."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _resampled(values: Array, rng: np.random.Generator) -> Array:
    """Means of resamples, shape (N_RESAMPLES,)."""
    return np.asarray(values[rng.integers(len(values), size=(N_RESAMPLES, len(values)))].mean(axis=1))
