"""A small study to conduct on made-up traces, so that every table can be checked in seconds: two stages.

The larger one has the smaller as its drafter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asd.engines.replay import ReplayEngine
from asd.evaluation.replay import Outcomes
from asd.evidence.prompt.predictors import FITS
from asd.research.predictors.explained import predictors_table
from asd.research.study.latency import latency_tables
from asd.research.study.material import Material
from asd.research.study.record import Study
from asd.research.study.run import STEPS, Step
from asd.research.theory.learners import regret_tables
from asd.research.theory.samples import sample_tables
from asd.types import Trace
from tests import worlds

DATASETS = ("fields", "hills")
N = 70

QUICK: Mapping[str, Step] = {
    **STEPS,
    "latency": lambda m, _: latency_tables(m, n_timed=31, n_passes=2),
    "regret": lambda m, _: regret_tables(m, n_rounds=1500, n_seeds=3),
    "samples": lambda m, _: sample_tables(m, n_draws=3, n_fit_draws=0),
    "predictors": lambda m, _: [predictors_table(m, dict.fromkeys(("mlp", "ensemble"), FITS["logistic"]))],
}
"""The steps of a study, the long ones shortened; a logistic fit stands in for the published predictors."""


class Conducted(NamedTuple):
    """A finished study: its folder, and its record as read back from there."""

    out: Path
    study: Study


def traces(name: str, n: int, seed: int) -> tuple[Trace, ...]:
    """Scored, verified and drafted, with levels and families."""
    rng = np.random.default_rng(seed)
    found = worlds.drafted(worlds.verified(worlds.sample(n, rng, name)[0], rng))
    return tuple(
        replace(trace, query=replace(trace.query, tags={"level": str(1 + i % 3), "family": f"f{i % 2}"}))
        for i, trace in enumerate(found)
    )


def material(seed: int = 0) -> Material:
    """The same at every call; its clock ticks by itself, a little unevenly."""
    ladder, fitted = worlds.drafting_ladder(), worlds.fitted_drafting()
    unit = fitted.ladder.unit()

    def outcomes(first: int, n: int) -> tuple[Outcomes, ...]:
        return tuple(Outcomes(d, ladder, traces(d, n, first + i), unit) for i, d in enumerate(DATASETS))

    calibration, test = outcomes(10, N // 2), outcomes(20, N)
    known = [trace for part in test for trace in part.traces]
    engines = {stage.name: ReplayEngine(stage.name, known) for stage in ladder.stages}
    ticks = itertools.count()
    return Material(
        ladder, fitted, engines, calibration, test, seed, "played back",
        clock=lambda: (k := next(ticks)) + 0.1 * math.sin(k),
    )  # fmt: skip
