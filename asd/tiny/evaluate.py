"""What the embedded ladder can do: accuracy by family, level and stage, its confidence, its speed.

Confidence is the stage's own probability of its whole answer, exp(sum of log-probabilities), as it comes out
of the model; nothing here is fitted. Averages leave `tiny-unsolvable` out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from asd.engines import Engine, alone
from asd.engines.timing import time_stages
from asd.evidence.metrics import Reliability, reliability
from asd.measurement.timing import Clock
from asd.tiny.tasks import GRADED
from asd.types import Query, Trace

__all__ = ["accuracy_by", "confidence", "ms_per_token"]

Row = dict[str, str | float]


def _graded(traces: Sequence[Trace]) -> list[Trace]:
    return [trace for trace in traces if trace.query.dataset in GRADED]


def _score(trace: Trace, stage: str) -> float:
    score = trace.outcomes[stage].score
    assert score is not None  # every embedded task has a reference
    return score


def accuracy_by(traces: Sequence[Trace], label: Callable[[Query], str]) -> list[Row]:
    """Share of right answers of every stage by a label of the query, and over all graded ones last."""
    groups: dict[str, list[Trace]] = {}
    for trace in traces:
        groups.setdefault(label(trace.query), []).append(trace)
    groups["all graded"] = _graded(traces)
    return [_row(name, group) for name, group in groups.items()]


def _row(name: str, group: Sequence[Trace]) -> Row:
    scores = {s: float(np.mean([_score(t, s) for t in group])) for s in group[0].outcomes}
    return {"": name, "n": len(group), **scores}


def confidence(traces: Sequence[Trace]) -> dict[str, Reliability]:
    """How well each stage's own probability of its answer predicts that it is right, graded tasks only."""
    graded = _graded(traces)
    return {
        stage: reliability(
            np.array([np.exp(sum(t.outcomes[stage].draft.logprobs)) for t in graded]),
            np.array([_score(t, stage) for t in graded]),
        )
        for stage in graded[0].outcomes
    }


def ms_per_token(
    engines: Mapping[str, Engine],
    queries: Sequence[Query],
    n_passes: int = 3,
    clock: Clock = time.perf_counter,
) -> dict[str, float]:
    """Milliseconds per decoded token at batch 1 (prompt included), without drafters, stages taking turns.

    Of the median pass.
    """
    timings = time_stages({name: alone(each) for name, each in engines.items()}, queries, n_passes, clock)
    return {
        name: 1e3
        * float(np.median(timings.seconds[name].sum(axis=1)))
        / sum(draft.usage.n_decoded for [draft] in timings.results[name])
        for name in engines
    }
