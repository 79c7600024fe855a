"""How much of the quality of answers can be foretold: the published predictors on this study's questions.

The published baseline is one network on what the prompt shows (31 features, stage and its cost among them),
the published improvement an ensemble of five models; beside them the same with the answer so far, which is
what a cascade decides on. Predictions are out of fold. Scope: which predictor a policy uses is decided
by `asd evidence compare`; this is its table in a study.
"""

from __future__ import annotations

from collections.abc import Mapping

from asd.evidence.prompt.predictors import FITS, Fit
from asd.research.predictors.predictors import PredictorComparison, compare
from asd.research.recordings.outcomes import from_traces
from asd.research.study.material import Material
from asd.research.study.record import StudyTable, Value

__all__ = ["predictors_table"]


def predictors_table(material: Material, fits: Mapping[str, Fit] = FITS) -> StudyTable:
    """R^2, AUROC, Brier score, calibration error and decision regret of every predictor.

    Args:
        material: What is studied.
        fits: By name, how a predictor is fitted.

    Raises:
        DataError: The prompts are too much alike to tell them apart by their words.
    """
    traces = [trace for outcomes in material.test for trace in outcomes.traces]
    found = compare(from_traces(traces, material.ladder), seed=material.seed, fits=fits)
    return StudyTable(
        name="predictors",
        title="Predictors of quality",
        provenance="replayed",
        measured_on=material.measured_on,
        n=len(traces),
        columns=("known", "predictor", "r_squared", "auroc", "brier", "calibration_error", "regret"),
        rows=tuple(_row(comparison) for comparison in found),
        note="Out of fold, over all stages' answers, calibrated by stage; a dash before a name: a member of "
        "the ensemble alone. regret: what foresight gains over stopping or asking the largest stage by the "
        "predictions, in runs of the largest stage per (1 + lambda).",
    )


def _row(comparison: PredictorComparison) -> tuple[Value, ...]:
    told = comparison.reliability
    return (
        *(comparison.known, comparison.name, comparison.r_squared),
        *(told.auroc, told.brier, told.calibration_error, comparison.regret),
    )
