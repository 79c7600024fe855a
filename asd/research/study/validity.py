"""Is a guarantee kept as often as it says? Calibration sets are drawn from a known population, many times.

The population is a table of recorded outcomes whose rows fitted nothing, so that the true quality of every
setting is known. Each draw is one user's calibration set; `asd.guarantee.certificate.grant`, the code of
`asd fit --keep` itself, says what it allows. Counted are the *violations*: promised, and false in the
population. They may happen in a share delta of the draws. Beside them stand what the promise costs: the
saving with it, the saving of the setting one would choose without it (the cheapest whose calibration mean
keeps the quality, and how often that is false), and the best saving that is true.

Draws with replacement are what the guarantee assumes, independent rows; drawn without replacement a set
resembles its population more, and violations are rarer.

Scope: recorded outcomes (provenance `replayed`). Files of public models have no cascade of ours, so a
plain one is put on them: climb the stages until the fitted success probability of the latest answer reaches a
threshold; the thresholds are the settings. The guarantee needs no more than an order of settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from asd.errors import ConfigError
from asd.evidence.logistic import fit_logistic
from asd.guarantee.certificate import Promise, Sweep, grant
from asd.guarantee.certificate import sweep as play_sweep
from asd.guarantee.record import EVERYTHING
from asd.ladder import Ladder
from asd.measurement.records import Record
from asd.policy.fit import fit
from asd.research.recordings.outcomes import RecordedOutcomes
from asd.types import Trace

__all__ = ["RowPopulation", "Validity", "check_validity", "from_outcomes", "from_traces"]

Array = npt.NDArray[np.float64]

_SHARES = np.linspace(0.0, 1.0, 41)
"""On recorded files, the settings are these quantiles of the fitted probabilities, and "always escalate"."""


@dataclass(frozen=True, slots=True, eq=False)
class RowPopulation:
    """Every setting on every row that fitted nothing; `n_fit` other rows fitted the settings."""

    name: str
    n_fit: int
    everyone: Sweep


class Validity(Record, frozen=True, kw_only=True):
    """What came of many draws; shares of draws, savings as shares of the single stage's cost.

    Attributes:
        population: Its name.
        n_population: Its rows.
        n: Rows of a calibration set.
        replaced: Whether they were drawn with replacement.
        n_draws: Calibration sets.
        keep: Share of quality promised.
        delta: Probability of a wrong promise that was accepted.
        violations: Share of draws whose promise is false in the population.
        low: Of the Clopper-Pearson interval (95 %) around it.
        high: Of the same.
        granted: Share of draws with more than the fallback.
        saving: Mean true saving over all draws, 0 with the fallback.
        unguarded_violations: Share of false choices without a guarantee.
        unguarded_saving: Mean true saving of those.
        best_saving: Of the cheapest setting that truly keeps the quality.
    """

    population: str
    n_population: int
    n: int
    replaced: bool
    n_draws: int
    keep: float
    delta: float
    violations: float
    low: float
    high: float
    granted: float
    saving: float
    unguarded_violations: float
    unguarded_saving: float
    best_saving: float


def check_validity(
    population: RowPopulation,
    promise: Promise,
    n: int,
    n_draws: int,
    rng: np.random.Generator,
    *,
    replaced: bool,
) -> Validity:
    """Draw calibration sets of `n` rows, and count what their promises are worth in the population.

    Raises:
        ConfigError: The promise is not about quality alone, or more rows are drawn than there are.
    """
    if promise.keep is None or promise.cap_cost is not None:
        raise ConfigError("the study is about quality kept; give keep and no cap")
    seen, size = population.everyone, population.everyone.cost.shape[1]
    if not replaced and n > size:
        raise ConfigError(f"{n} rows cannot be drawn from {size} without replacement")
    truth = _Truth.of(seen, promise.keep)
    draws = [seen.at(rng.choice(size, n, replace=replaced)) for _ in range(n_draws)]
    given = np.array([_index(seen, grant(draw, promise, promise.delta).lam) for draw in draws])
    unguarded = np.array([_unguarded(draw, promise.keep) for draw in draws])
    wrong = truth.false[given]
    interval = stats.binomtest(int(wrong.sum()), n_draws).proportion_ci()
    return Validity(
        population=population.name,
        n_population=size,
        n=n,
        replaced=replaced,
        n_draws=n_draws,
        keep=promise.keep,
        delta=promise.delta,
        violations=float(wrong.mean()),
        low=float(interval.low),
        high=float(interval.high),
        granted=float((given >= 0).mean()),
        saving=float(truth.saving[given].mean()),
        unguarded_violations=float(truth.false[unguarded].mean()),
        unguarded_saving=float(truth.saving[unguarded].mean()),
        best_saving=float(truth.saving[~truth.false].max()),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Truth:
    """Of every setting in the population, and last (index -1) of the fallback: shape (L + 1,)."""

    false: npt.NDArray[np.bool_]
    saving: Array

    @classmethod
    def of(cls, everyone: Sweep, keep: float) -> _Truth:
        false = everyone.quality.mean(axis=1) < keep * everyone.stage_quality.mean()
        saving = 1.0 - everyone.cost.mean(axis=1) / everyone.stage_cost.mean()
        return cls(np.append(false, False), np.append(saving, 0.0))


def _index(seen: Sweep, lam: float | None) -> int:
    return -1 if lam is None else int(np.searchsorted(seen.lams, lam))


def _unguarded(draw: Sweep, keep: float) -> int:
    """The cheapest setting that keeps the quality on the rows drawn, or the single stage."""
    keeps = draw.quality.mean(axis=1) >= keep * draw.stage_quality.mean()
    cost = np.where(keeps, draw.cost.mean(axis=1), np.inf)
    return int(cost.argmin()) if cost.min() < draw.stage_cost.mean() else -1


def from_traces(
    name: str, traces: Sequence[Trace], ladder: Ladder, n_fit: int, rng: np.random.Generator
) -> RowPopulation:
    """A population of own traces: the optimal policies fitted on `n_fit` of them, played on the others.

    Raises:
        DataError: As fitting and playing say.
    """
    order = rng.permutation(len(traces))
    fitting, rest = ([traces[i] for i in part] for part in (order[:n_fit], order[n_fit:]))
    artifact = fit(fitting, ladder, fitted_at="in a study")
    promise = Promise(delta=0.5, keep=1.0)  # no level enters what is played
    return RowPopulation(name, n_fit, play_sweep(artifact, fitting, rest, ladder, promise)[EVERYTHING])


def from_outcomes(
    name: str, outcomes: RecordedOutcomes, n_fit: int, rng: np.random.Generator
) -> RowPopulation:
    """A population of recorded outcomes: a walk up the stages, its probabilities fitted on `n_fit` rows.

    Raises:
        ConfigError: No rows are left.
    """
    n = len(outcomes.prompts)
    if not 0 < n_fit < n:
        raise ConfigError(f"of {n} rows {n_fit} cannot fit and leave a population")
    order = rng.permutation(n)
    fitting, rest = order[:n_fit], order[n_fit:]
    p = _p_good(outcomes, fitting)
    alone = outcomes.scores[fitting].mean(axis=0)
    best = max(range(len(outcomes.stages)), key=lambda k: (alone[k], -k))
    thresholds = np.append(np.unique(np.quantile(p[fitting, :-1], _SHARES)), np.inf)
    walked = [_walk(outcomes, p, threshold) for threshold in thresholds]
    everyone = Sweep(
        lams=thresholds,
        quality=np.array([quality for quality, _ in walked]),
        cost=np.array([cost for _, cost in walked]),
        stage=outcomes.stages[best],
        stage_quality=outcomes.scores[:, best],
        stage_cost=outcomes.costs[:, best],
        cost_bound=float(outcomes.costs[fitting].sum(axis=1).max()),
    )
    return RowPopulation(name, n_fit, everyone.at(rest))


def _p_good(outcomes: RecordedOutcomes, fitting: npt.NDArray[np.intp]) -> Array:
    """Success probability of every stage's answer given it, those before and the prompt's length, (n, K)."""
    n = len(outcomes.prompts)
    length = np.log1p([[len(prompt)] for prompt in outcomes.prompts])
    columns = []
    for k in range(len(outcomes.stages)):
        rows = np.hstack([length, outcomes.answers[:, : k + 1].reshape(n, -1)])
        head = fit_logistic(rows[fitting], outcomes.scores[fitting, k], strength=1.0)
        columns.append(1.0 / (1.0 + np.exp(-head.logits(rows))))
    return np.column_stack(columns)


def _walk(outcomes: RecordedOutcomes, p: Array, threshold: float) -> tuple[Array, Array]:
    """Score and cost of every row: the first stage whose probability reaches the threshold, or the last."""
    stops = p >= threshold
    stops[:, -1] = True
    last = stops.argmax(axis=1)
    rows = np.arange(len(last))
    return outcomes.scores[rows, last], outcomes.costs.cumsum(axis=1)[rows, last]
