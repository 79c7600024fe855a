"""Which predictor of success decides best? Every one on the same folds of the same outcomes, in one table.

Two kinds of row: `prompt` (the 31 published features, known before a stage is asked) and `prompt + answer`
(the same with what the answer so far says about itself). Predictions are out of fold, calibrated per stage.
Beside the usual measures stands the **decision regret**: once stage i has answered, stop if

    lam * p_i >= lam * p_K(prompt) - mean cost of K,

else ask the largest stage K; regret is what foresight would have gained over that, in runs of the largest
stage, divided by 1 + lam and averaged over stages and lams. Scope: experiments on recorded outcomes;
provenance is `replayed`, nothing here is used by a running cascade.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from asd.evidence import calibration
from asd.evidence.crossfit import assign_folds
from asd.evidence.metrics import Reliability, reliability
from asd.evidence.prompt.ensemble import MEMBERS, Ensemble, EnsembleModel, to_logits
from asd.evidence.prompt.predictors import FITS, Fit, stacked
from asd.evidence.prompt.published import published_features
from asd.evidence.prompt.semantics import Projection, fit_semantics
from asd.research.recordings.outcomes import RecordedOutcomes

__all__ = ["LAMS", "PredictorComparison", "best", "compare", "decision_regret", "r_squared"]

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
Known = Literal["prompt", "prompt + answer"]

LAMS = (0.5, 1.0, 2.0, 5.0, 10.0)
N_FOLDS = 3
BASE_RATE = "base rate of the stage"


@dataclass(frozen=True, slots=True)
class PredictorComparison:
    """One predictor on held-out rows.

    Attributes:
        known: What it saw.
        name: Of the predictor.
        r_squared: Share of the variance of scores that is explained, over all stages.
        reliability: AUROC, Brier, log-loss, calibration error over all stages.
        regret: Decision regret, see above.
    """

    known: Known
    name: str
    r_squared: float
    reliability: Reliability
    regret: float


def compare(
    outcomes: RecordedOutcomes, *, seed: int, lams: Sequence[float] = LAMS, fits: Mapping[str, Fit] = FITS
) -> list[PredictorComparison]:
    """All predictors, from the prompt alone and with the answer so far.

    Raises:
        DataError: Too few prompts, or too much alike, for the semantic dimensions.
    """
    folds = assign_folds(outcomes.prompts, N_FOLDS, seed)
    asked = _predict(outcomes, folds, seed, fits, with_answers=False)
    answered = _predict(outcomes, folds, seed, fits, with_answers=True)
    tables: tuple[tuple[Known, Mapping[str, Array]], ...] = (("prompt", asked), ("prompt + answer", answered))
    return [
        PredictorComparison(
            known,
            name,
            r_squared(p, outcomes.scores),
            reliability(p.ravel(), outcomes.scores.ravel()),
            float(np.mean([decision_regret(p, asked[name], outcomes, lam) / (1.0 + lam) for lam in lams])),
        )
        for known, table in tables
        for name, p in table.items()
    ]


def best(comparisons: Sequence[PredictorComparison], known: Known) -> PredictorComparison:
    """The predictor with the least decision regret among those that can be fitted and kept (`FITS`)."""
    return min((c for c in comparisons if c.known == known and c.name in FITS), key=lambda c: c.regret)


def r_squared(p: Array, scores: Array) -> float:
    """`1 - sum of squared errors / sum of squared deviations from the overall mean`."""
    return float(1.0 - np.sum((p - scores) ** 2) / np.sum((scores - scores.mean()) ** 2))


def decision_regret(p_answered: Array, p_asked: Array, outcomes: RecordedOutcomes, lam: float) -> float:
    """What foresight gains over the decisions "stop or ask the largest stage", mean over rows and stages.

    Args:
        p_answered: Probability that each stage's answer so far is good, shape (n, K).
        p_asked: The same from the prompt alone, shape (n, K); its last column values going on.
        outcomes: What really happened.
        lam: Runs of the largest stage that one fully right answer is worth.
    """
    going = lam * outcomes.scores[:, -1:] - outcomes.costs[:, -1:]
    stopping = lam * outcomes.scores[:, :-1]
    stops = lam * p_answered[:, :-1] >= lam * p_asked[:, -1:] - outcomes.costs[:, -1].mean()
    return float(np.mean(np.maximum(stopping, going) - np.where(stops, stopping, going)))


def _predict(
    outcomes: RecordedOutcomes, folds: IntArray, seed: int, fits: Mapping[str, Fit], *, with_answers: bool
) -> dict[str, Array]:
    """Calibrated out-of-fold probabilities by predictor, each of shape (n, K)."""
    n, k = outcomes.scores.shape
    logits: dict[str, Array] = {}
    for fold in np.unique(folds):
        out = folds == fold
        for name, predicted in _fit_and_predict(
            outcomes, ~out, seed, fits, with_answers=with_answers
        ).items():
            logits.setdefault(name, np.empty((n, k)))[out] = predicted
    return {name: _calibrate(of, outcomes.scores, folds) for name, of in logits.items()}


def _calibrate(logits: Array, scores: Array, folds: IntArray) -> Array:
    maps = [calibration.choose(logits[:, k], scores[:, k], folds) for k in range(scores.shape[1])]
    return np.column_stack([chosen.p_out_of_fold for chosen in maps])


def _fit_and_predict(
    outcomes: RecordedOutcomes,
    seen: npt.NDArray[np.bool_],
    seed: int,
    fits: Mapping[str, Fit],
    *,
    with_answers: bool,
) -> dict[str, Array]:
    """Log-odds for the rows not seen, by predictor, each of shape (rows not seen, K)."""
    k = len(outcomes.stages)
    prompts = np.array(outcomes.prompts, dtype=object)
    project = Projection(fit_semantics(prompts[seen].tolist(), seed=seed))
    rows, fresh = (
        _rows(published_features(prompts[part].tolist(), project), outcomes.answers[part], with_answers)
        for part in (seen, ~seen)
    )
    scores = outcomes.scores[seen].T.ravel()
    groups = np.tile(np.arange(int(seen.sum())), k)
    rates = to_logits(outcomes.scores[seen].mean(axis=0))
    logits = {BASE_RATE: np.repeat(rates, int((~seen).sum()))}
    for name, fit in fits.items():
        model = fit(rows, scores, groups, seed)
        logits[name] = model.open().logits(fresh)
        if isinstance(model, EnsembleModel):
            logits |= _members(model.open(), fresh)
    return {name: flat.reshape(k, -1).T for name, flat in logits.items()}


def _members(ensemble: Ensemble, rows: Array) -> dict[str, Array]:
    """Log-odds of each of the five alone."""
    members = ensemble.predict(rows).members
    return {f"- {name}": to_logits(members[:, i]) for i, name in enumerate(MEMBERS)}


def _rows(features: Array, answers: Array, with_answers: bool) -> Array:
    rows = stacked(features, answers.shape[1])
    return np.hstack([rows, np.concatenate(list(answers.transpose(1, 0, 2)))]) if with_answers else rows
