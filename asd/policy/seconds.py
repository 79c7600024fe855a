"""What calls take where prices are no times: seconds of their counts, fitted to recorded seconds of calls.

    seconds of a call ~ counts . seconds of a count

by least squares over seconds, none negative, scaled so that together they take what was recorded.
They have to be those of calls of one query: of a stage behind a server, or collected with `--batch 1`; what
is recorded of a larger call is of all its queries. Scope: nothing is timed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from asd.policy.problem import Counts
from asd.types import NO_CALL, Draft, Trace, Verification

__all__ = ["recorded_seconds"]

_ALONE = 4
"""Counts without a drafter (`Usage.counts`): calls, prompt tokens, verified tokens, passes."""
_LEAST_S = 1e-3
"""Shorter calls weigh as this one does."""


def recorded_seconds(traces: Sequence[Trace], stages: Sequence[str]) -> dict[str, Counts]:
    """Seconds that every count (`Usage.counts`) adds to a call of one query, by stage.

    Empty where no call of some stage has any.
    """
    found = {}
    for stage in stages:
        calls = [call for trace in traces for call in _calls(trace, stage) if call.seconds > 0.0]
        if not calls:
            return {}
        found[stage] = _fitted(calls)
    return found


def _calls(trace: Trace, stage: str) -> Iterator[Draft | Verification]:
    """What a stage did for a query; answers from a store took no call."""
    outcome = trace.outcomes.get(stage)
    if outcome is not None and outcome.draft.usage != NO_CALL and not outcome.draft.cached:
        yield outcome.draft
    yield from (read for read in trace.verifications.values() if read.stage == stage)


def _fitted(calls: Sequence[Draft | Verification]) -> Counts:
    from scipy.optimize import nnls  # noqa: PLC0415  (scipy takes a second)

    counts = np.array([call.usage.alone.counts[:_ALONE] for call in calls], dtype=np.float64)
    seconds = np.array([call.seconds for call in calls])
    weight = np.maximum(seconds, _LEAST_S) ** -0.5
    found, _ = nnls(counts * weight[:, None], seconds * weight)
    found *= seconds.sum() / (counts @ found).sum()  # calls that took less than usual weigh more
    return (*found.tolist(), 0.0, 0.0)
