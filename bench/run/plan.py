"""What a run would do, told without doing it: ids, memory, placement, and a time estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from asd.measurement.timing import Budget
from asd.types import Usage
from bench.run.matrix import N_PASSES, Matrix
from bench.run.split import describe_split

__all__ = ["describe_plan", "estimate_minutes"]

TYPICAL_CALL = Usage(n_prompt=24, n_decoded=16, n_passes=16)


def describe_plan(matrix: Matrix, test_ids: Sequence[str]) -> str:
    """The plan as text."""
    return "\n".join(
        [
            f"ladder {matrix.ladder.name} on {matrix.hardware.slug}",
            f"{len(matrix.datasets)} datasets x {matrix.n_items} items, {len(matrix.lams)} lambdas",
            f"{matrix.n_timed} items of each dataset are timed {_times(matrix.passes)}",
            *describe_split(matrix),
            f"time: {_time(matrix)}",
            *test_ids,
        ]
    )


def estimate_minutes(matrix: Matrix) -> float | None:
    """At the ladder's prices; None where they are not milliseconds.

    Collecting counts every stage on every item; the live passes count the largest stage, and every arm as
    half of it.
    """
    if matrix.ladder.price_unit != "ms":
        return None
    calls = [stage.prices.cost(TYPICAL_CALL) for stage in matrix.ladder.stages]
    arms = 1 + 0.5 * (len(matrix.lams) + 1)
    per_dataset = matrix.n_items * sum(calls) + matrix.n_timed * N_PASSES * arms * calls[-1]
    return len(matrix.datasets) * per_dataset / 60_000


def _times(passes: Budget) -> str:
    limit = f", {passes.least} where that would take more than {passes.seconds:g} s"
    return f"{passes.most} times" + (limit if math.isfinite(passes.seconds) else "")


def _time(matrix: Matrix) -> str:
    minutes = estimate_minutes(matrix)
    if minutes is None:
        return "unknown, prices are not in ms"
    n_tokens = TYPICAL_CALL.n_decoded
    return f"about {minutes:.1f} minutes, at the ladder's prices and {n_tokens} tokens an answer"
