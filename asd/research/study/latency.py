"""What a clock says: every method and every lambda timed in turns, batch 1, on the same questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from asd.evaluation.live import TimedPasses, run_live
from asd.evaluation.replay import calls
from asd.evaluation.statistics import samples_needed
from asd.measurement.timing import Budget
from asd.research.study.groups import LEVEL
from asd.research.study.items import seconds_table
from asd.research.study.material import Material
from asd.research.study.methods import DRAFTED, swept
from asd.research.study.record import StudyTable, Value

__all__ = ["latency_tables", "speed_up"]

Array = NDArray[np.float64]

N_TIMED, N_PASSES = 15, 2
"""Questions of each data set that are timed, and how often; four data sets give 120 samples a method."""

_COLUMNS = (
    "mean_ms", "median_ms", "p95_ms", "queries_per_s", "device_s", "speed_up", "speed_up_low",
    "speed_up_high", "speed_up_drafted", "speed_up_drafted_low", "speed_up_drafted_high", "agreement",
)  # fmt: skip


def latency_tables(
    material: Material, *, n_timed: int = N_TIMED, n_passes: int = N_PASSES
) -> list[StudyTable]:
    """Latency of every method, over lambda, by level where questions have one, and the seconds behind it.

    Args:
        material: What is studied.
        n_timed: Questions of each data set that are timed.
        n_passes: How often each is.
    """
    methods, sweep = _timed(material, n_timed, n_passes)
    rng = np.random.default_rng(material.seed)
    seconds = seconds_table(material, methods)

    def table(name: str, title: str, first: str, rows: Sequence[tuple[Value, ...]]) -> StudyTable:
        return StudyTable(
            name=name,
            title=title,
            provenance="measured",
            measured_on=f"{material.measured_on}, batch 1, {n_passes} interleaved passes",
            n=seconds.n,
            columns=(first, *_COLUMNS),
            rows=tuple(rows),
            note="P95 only from 59 questions on. device_s: seconds inside calls times the stage's devices, a "
            "query. speed_up: total seconds of the largest stage alone over the method's, with a 95 % "
            "bootstrap interval over questions; speed_up_drafted: the same of the largest stage with its own "
            "drafter, a dash where it has none. agreement: live answers and actions equal to the replayed.",
        )

    own, drafted = methods[swept(material.fitted)], methods.get(DRAFTED)
    by_method = [(name, *_row(material, parts, drafted, rng)) for name, parts in methods.items()]
    by_lambda = [(lam, *_row(material, parts, drafted, rng)) for lam, parts in sweep.items()]
    return [
        table("latency", "Methods: seconds", "method", by_method),
        table("lambda_latency", "Seconds over lambda", "lambda", by_lambda),
        *_levels_table(material, own, seconds.n),
        seconds,
    ]


def _levels_table(material: Material, own: Sequence[TimedPasses], n: int) -> list[StudyTable]:
    """Seconds of the policy under study by level; none where no question has a level."""
    tags = [done.query.tags.get(LEVEL) for part in own for done in part.completions]
    ours, largest = (
        np.concatenate([getattr(part, which).mean(axis=0) for part in own])
        for which in ("seconds", "largest")
    )
    rows = []
    for level in sorted({tag for tag in tags if tag is not None}):
        there = np.array([tag == level for tag in tags])
        mean, reference = float(ours[there].mean()), float(largest[there].mean())
        rows.append((level, int(there.sum()), mean * 1e3, reference * 1e3, reference / mean))
    if not rows:
        return []
    return [
        StudyTable(
            name="levels_latency",
            title="Seconds by level of difficulty",
            provenance="measured",
            measured_on=f"{material.measured_on}, batch 1",
            n=n,
            columns=("level", "n", "mean_ms", "mean_ms_largest", "speed_up"),
            rows=tuple(rows),
            note=f"Policy {swept(material.fitted)} at its setting, and the largest stage alone in the same "
            "passes; few questions a level, so without an interval.",
        )
    ]


def _timed(
    material: Material, n_timed: int, n_passes: int
) -> tuple[Mapping[str, list[TimedPasses]], Mapping[float, list[TimedPasses]]]:
    """By method and by lambda, one a data set; equal walks are run once."""
    methods: dict[str, list[TimedPasses]] = {name: [] for name in material.walks}
    sweep: dict[float, list[TimedPasses]] = {lam: [] for lam in material.sweep}
    for i, outcomes in enumerate(material.test):
        largest = material.walks[f"always-{outcomes.largest}"][i]
        others = [
            *(replays[i] for replays in material.walks.values()),
            *(r[i] for r in material.sweep.values()),
        ]
        live = run_live(
            material.ladder,
            material.engines,
            [largest, *others],
            range(min(n_timed, len(outcomes.traces))),
            batch=1,
            passes=Budget(n_passes),
            clock=material.clock,
        )
        for name, replays in material.walks.items():
            methods[name].append(live.timed[name, replays[i].contender.lam])
        for lam, replays in material.sweep.items():
            sweep[lam].append(live.timed[replays[i].contender.name, lam])
    return methods, sweep


def _row(
    material: Material,
    parts: Sequence[TimedPasses],
    drafted: Sequence[TimedPasses] | None,
    rng: np.random.Generator,
) -> tuple[Value, ...]:
    seconds, largest = (
        np.concatenate([getattr(part, which) for part in parts], axis=1) for which in ("seconds", "largest")
    )
    by_question = seconds.mean(axis=0)  # passes over one question are no further questions
    enough = by_question.size >= samples_needed(0.95)
    p95 = float(np.quantile(by_question, 0.95)) * 1e3 if enough else None
    mean, weights = float(seconds.mean()), [len(part.completions) for part in parts]
    agreement = float(np.average([part.agreement for part in parts], weights=weights))
    return (
        *(mean * 1e3, float(np.median(seconds)) * 1e3, p95, 1.0 / mean, _device_seconds(material, parts)),
        *speed_up(seconds.mean(axis=0), largest.mean(axis=0), rng),
        *((None, None, None) if drafted is None else _against(drafted, seconds, rng)),
        agreement,
    )


def _against(reference: Sequence[TimedPasses], seconds: Array, rng: np.random.Generator) -> tuple[float, ...]:
    """Speed-up over another method, timed in the same passes."""
    theirs = np.concatenate([part.seconds for part in reference], axis=1)
    return speed_up(seconds.mean(axis=0), theirs.mean(axis=0), rng)


def _device_seconds(material: Material, parts: Sequence[TimedPasses]) -> float:
    devices = {stage.name: stage.tensor_parallel for stage in material.ladder.stages}
    completions = [completion for part in parts for completion in part.completions]
    paid = [call for completion in completions for call in calls(completion)]
    return sum(call.seconds * devices[call.stage] for call in paid) / len(completions)


def speed_up(seconds: Array, largest: Array, rng: np.random.Generator) -> tuple[float, float, float]:
    """Of total seconds, both of shape (questions,), with a 95 % interval over questions."""
    drawn = rng.integers(len(seconds), size=(1999, len(seconds)))
    low, high = np.quantile(largest[drawn].sum(axis=1) / seconds[drawn].sum(axis=1), [0.025, 0.975])
    return float(largest.sum() / seconds.sum()), float(low), float(high)
