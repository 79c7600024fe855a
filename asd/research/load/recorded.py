"""Recorded outcomes of foreign models as traces on a ladder whose prices are their recorded seconds.

A line of a recording has, by model, `score`, `response`, `confidence`, `latency_ms`, `tokens_in` and
`tokens_out` (`asd.research.recordings.recording`). A model's prices are the least-squares fit, without
negative ones, of its seconds by call, prompt token and answered token, weighted by how long a query took; the
simulator itself takes each call's own recorded seconds. Scope: one call at a time; nobody recorded batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asd.errors import DataError
from asd.ladder import Ladder, Stage
from asd.measurement.files import Paths
from asd.prices import Prices
from asd.research.recordings.recording import prompt_of, read_queries
from asd.types import Draft, Outcome, Query, Trace, Usage

__all__ = ["priced_ladder", "read_timed"]

_NEEDED = ("score", "latency_ms", "tokens_in", "tokens_out")
_LOWEST = -50.0
"""A confidence that is null where others are log-probabilities: lower than any of them."""


def read_timed(paths: Paths, stages: Sequence[str]) -> list[Trace]:
    """The queries that every stage answered, with scores, seconds and token counts.

    Raises:
        DataError: A file cannot be read, or no query has all of these of every stage.
    """
    rows = read_queries(paths)
    timed = [row for row in rows if all(_is_timed(row["outputs"].get(stage)) for stage in stages)]
    if not timed:
        raise DataError(
            f"none of {len(rows)} queries has {', '.join(_NEEDED)} of all of {', '.join(stages)}; "
            "give recordings with seconds and token counts"
        )
    return [_trace(row, stages) for row in timed]


def priced_ladder(traces: Sequence[Trace], stages: Sequence[str], devices: Sequence[int] = ()) -> Ladder:
    """Stages with prices in milliseconds, fitted on these rows; `ConfigError` where they are out of order.

    Args:
        traces: As `read_timed` reads them.
        stages: The largest last.
        devices: That a replica of each takes; none: one each.
    """
    made = tuple(
        Stage(name, f"recorded/{name}", _prices(traces, name), tensor_parallel=n)
        for name, n in zip(stages, devices or [1] * len(stages), strict=True)
    )
    return Ladder("recorded", made, "ms", f"fitted to the recorded seconds of {len(traces)} calls a stage")


def _is_timed(output: Mapping[str, Any] | None) -> bool:
    return output is not None and all(output.get(name) is not None for name in _NEEDED)


def _trace(row: dict[str, Any], stages: Sequence[str]) -> Trace:
    outcomes = {stage: _outcome(stage, row["outputs"][stage]) for stage in stages}
    return Trace(Query(str(row["id"]), str(row["dataset"]), prompt_of(row)), outcomes)


def _outcome(stage: str, output: Mapping[str, Any]) -> Outcome:
    n = max(1, int(output["tokens_out"]))
    confidence = output.get("confidence")
    draft = Draft(
        stage=stage,
        text=str(output.get("response") or ""),
        tokens=(),
        logprobs=(),
        finished=True,
        usage=Usage(n_prompt=int(output["tokens_in"]), n_decoded=n, n_passes=n),
        seconds=output["latency_ms"] / 1e3,
        signals={"confidence": _LOWEST if confidence is None else float(confidence)},
    )
    return Outcome(draft, float(output["score"]))


def _prices(traces: Sequence[Trace], stage: str) -> Prices:
    from scipy.optimize import nnls  # noqa: PLC0415  (scipy takes a second)

    drafts = [trace.outcomes[stage].draft for trace in traces]
    counts = np.array([(1, draft.usage.n_prompt, draft.usage.n_passes) for draft in drafts], dtype=np.float64)
    weight = np.array([max(draft.seconds, 1e-3) for draft in drafts]) ** -0.5
    found, _ = nnls(counts * weight[:, None], 1e3 / weight)
    return Prices(*found.tolist())
