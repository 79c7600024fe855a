"""The whole pipeline, refitted in every fold: evidence, kernels, policy and the choice of lambda.

Folds are dealt within each data set, so that every fold has the same mix. Nothing of a held-out question
enters its own fold's fit.
"""

from __future__ import annotations

import numpy as np

from asd.evaluation.replay import Contender, Outcomes
from asd.policies import FixedStage
from asd.policy.fit import fit
from asd.research.folds import deal
from asd.research.study.material import Material
from asd.research.study.methods import KEPT, LAMS
from asd.research.study.record import StudyTable, Value
from asd.research.study.sweep import means, mix
from asd.types import Trace

__all__ = ["N_FOLDS", "folds_table"]

N_FOLDS = 5


def folds_table(material: Material) -> StudyTable:
    """Held-out quality and cost of every fold, and their mean and standard deviation."""
    rows = [_row(material, fold) for fold in range(N_FOLDS)]
    numbers = np.array([row[3:] for row in rows], dtype=float)
    summary: list[tuple[Value, ...]] = [
        ("mean", None, None, *numbers.mean(axis=0).tolist()),
        ("sd", None, None, *numbers.std(axis=0, ddof=1).tolist()),
    ]
    return StudyTable(
        name="folds",
        title=f"{N_FOLDS}-fold cross-validation of the whole pipeline",
        provenance="replayed",
        measured_on=material.measured_on,
        n=material.n,
        columns=(
            *("fold", "lambda", "n", "quality", "quality_largest", "relative_quality", "cost", "saving"),
            *(f"share_{stage}" for stage in material.stages),
        ),
        rows=(*rows, *summary),
        note=f"Evidence, kernels, policy and lambda (the cheapest to keep {KEPT:.0%} of the largest stage's "
        "quality, out of fold on the fitting rows; none: the largest stage alone) are refitted without the "
        "fold. saving: of the cost of the largest stage alone on the fold.",
    )


def _row(material: Material, fold: int) -> tuple[Value, ...]:
    split = [_split(outcomes, fold) for outcomes in material.test]
    fitted = fit(
        [trace for fitting, _ in split for trace in fitting],
        material.ladder,
        fitted_at=f"fold {fold}",
        lams=LAMS,
        seed=material.seed,
    )
    lam = fitted.cheapest_lam(KEPT)
    largest = FixedStage(material.stages[-1])
    policy = largest if lam is None else fitted.policy(lam)
    held_out = [
        Outcomes(outcomes.dataset, material.ladder, tuple(rest), fitted.ladder.unit())
        for outcomes, (_, rest) in zip(material.test, split, strict=True)
    ]
    own, reference = (
        [outcomes.walk(Contender("fold", lam, walked)) for outcomes in held_out]
        for walked in (policy, largest)
    )
    (quality, cost), (best, dearest) = means(own), means(reference)
    n = sum(len(outcomes.traces) for outcomes in held_out)
    head = (str(fold + 1), lam, n, quality, best, quality / best, cost, 1.0 - cost / dearest)
    return (*head, *mix(own, material.stages))


def _split(outcomes: Outcomes, fold: int) -> tuple[list[Trace], list[Trace]]:
    """What fits, and what is held out."""
    folds = deal(len(outcomes.traces), N_FOLDS)
    fitting, held_out = (
        [trace for trace, keep in zip(outcomes.traces, mask, strict=True) if keep]
        for mask in (folds != fold, folds == fold)
    )
    return fitting, held_out
