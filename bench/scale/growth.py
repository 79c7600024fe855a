"""What runs took, how that grows, and what is too much."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

__all__ = ["Taken", "growth", "one_at_a_time", "too_much"]

MOST_DECISION_US, MOST_SOLVE_MS, MOST_STAGES, MOST_MEMORY = 10.0, 7.0, 4, 1.1
"""Of `simulate`: a decision, a solution for so many stages, memory over that of fewer requests."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one run took.

    Attributes:
        queries: Rows in the files, or requests simulated.
        models: Stages of the ladder.
        seconds: By the clock.
        cpu_seconds: Of the processor, user and system.
        peak_mb: Largest resident memory, 10^6 bytes.
        replicas: Of every stage simulated.
        decision_us: Microseconds of a decision, of `simulate`.
        solve_ms: Milliseconds of a solution, of `simulate`.
    """

    queries: int
    models: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    replicas: int = 1
    decision_us: float | None = None
    solve_ms: float | None = None


def one_at_a_time(*axes: Sequence[int]) -> list[tuple[int, ...]]:
    """The first of every axis, and what comes of it by changing one of them."""
    first = tuple(axis[0] for axis in axes)
    grown = [(*first[:i], size, *first[i + 1 :]) for i, axis in enumerate(axes) for size in axis[1:]]
    return [first, *grown]


def too_much(taken: Sequence[Taken]) -> list[str]:
    """What runs of `simulate` took that they may not take, in words."""
    found = []
    for run in taken:
        where = f"{run.queries} requests, {run.models} stages, {run.replicas} replicas"
        before = _before(taken, run, "queries", ("models", "replicas"))
        if run.decision_us is not None and run.decision_us > MOST_DECISION_US:
            found.append(
                f"{where}: a decision takes {run.decision_us:g} of {MOST_DECISION_US:g} microseconds"
            )
        if run.solve_ms is not None and run.models <= MOST_STAGES and run.solve_ms > MOST_SOLVE_MS:
            found.append(f"{where}: a solution takes {run.solve_ms:g} of {MOST_SOLVE_MS:g} ms")
        if before is not None and run.peak_mb > MOST_MEMORY * before.peak_mb:
            found.append(f"{where}: {run.peak_mb:.4g} MB, with {before.queries} {before.peak_mb:.4g} MB")
    return found


def growth(taken: Sequence[Taken], axes: Sequence[str] = ("queries", "models")) -> list[dict[str, object]]:
    """One row a run; exponents by what has grown, from the next smaller run that is equal in all else."""
    return [
        {
            **{axis: getattr(run, axis) for axis in axes},
            "seconds": run.seconds,
            "CPU seconds": run.cpu_seconds,
            "peak MB": run.peak_mb,
            **{f"exponent, {axis}": _exponent(taken, run, axis, set(axes) - {axis}) for axis in axes},
        }
        for run in taken
    ]


def _exponent(taken: Sequence[Taken], run: Taken, grown: str, same: Collection[str]) -> float | None:
    before = _before(taken, run, grown, same)
    if before is None:
        return None
    return math.log(run.seconds / before.seconds) / math.log(getattr(run, grown) / getattr(before, grown))


def _before(taken: Sequence[Taken], run: Taken, grown: str, same: Collection[str]) -> Taken | None:
    """The next smaller run; None: it is the smallest."""
    smaller = [
        other
        for other in taken
        if getattr(other, grown) < getattr(run, grown)
        and all(getattr(other, axis) == getattr(run, axis) for axis in same)
    ]
    return max(smaller, key=lambda other: int(getattr(other, grown)), default=None)
