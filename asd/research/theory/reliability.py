"""Does a stage's calibrated probability mean what it says on fresh rows? And how was the stage trained?

Bins of equal count by predicted probability, each with the share that was right and its Wilson interval.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files

import numpy as np
import numpy.typing as npt
from statsmodels.stats.proportion import proportion_confint

from asd.research.study.material import Material
from asd.research.study.record import StudyTable, Value
from asd.research.theory.judged import judged

__all__ = ["reliability_table", "training_table"]

N_BINS = 10

Array = npt.NDArray[np.float64]


def reliability_table(material: Material) -> StudyTable:
    """Predicted and observed success of every stage's own answer, by bin, with the stage's answer alone."""
    traces = [trace for outcomes in material.test for trace in outcomes.traces]
    states = judged(material.fitted, material.ladder, traces, verify=False)
    rows = []
    for stage in material.stages:
        own = states.rows[stage]
        parts = np.array_split(np.argsort(own.p, kind="stable"), min(N_BINS, len(own.p)))
        rows += [(stage, k, *_bin(own.p[part], own.score[part])) for k, part in enumerate(parts)]
    return StudyTable(
        name="reliability",
        title="Calibration: predicted and observed success of every stage",
        provenance="replayed",
        measured_on=material.measured_on,
        n=len(traces),
        columns=("stage", "bin", "predicted", "observed", "observed_low", "observed_high", "answers"),
        rows=tuple(rows),
        note="Success probability of a stage's answer given prompt and answer, in bins of equal count; 95 % "
        "Wilson interval, a score between 0 and 1 counted as that share of a success.",
    )


def _bin(p: Array, score: Array) -> tuple[Value, ...]:
    low, high = proportion_confint(score.sum(), len(score), method="wilson")
    return float(p.mean()), float(score.mean()), float(low), float(high), len(score)


def training_table() -> StudyTable:
    """Loss of the embedded ladder's training by phase and token, from the log that ships with its weights."""
    return StudyTable(
        name="training",
        title="Training of the embedded ladder",
        provenance="measured",
        measured_on="the embedded task families; shares are of validation questions",
        n=480,
        columns=("phase", "step", "tokens", "loss", "train_seconds", "validation"),
        rows=tuple(_training_rows()),
        note="Cross-entropy of one batch, nats per token; phases train the ladder's parts in this order.",
    )


def _training_rows() -> Iterator[tuple[Value, ...]]:
    log = files("asd.tiny").joinpath("training.jsonl").read_text(encoding="utf8")
    for line in log.splitlines():
        row = json.loads(line)
        yield (
            row["phase"],
            row["step"],
            row["tokens"],
            row["loss"],
            row["seconds"],
            row["validation"]["all"],
        )
