"""What a run would do, told without doing it: ids, memory, placement, and a time estimate."""

from __future__ import annotations

from collections.abc import Sequence

from asd.engines.revisions import local_directory
from asd.errors import EngineError
from asd.ladder import Stage
from asd.types import Usage
from bench.run.matrix import N_PASSES, PASSES, Matrix
from bench.run.tables import table

__all__ = ["describe_plan", "estimate_minutes"]

TYPICAL_CALL = Usage(n_prompt=24, n_decoded=16, n_passes=16)
GIB = 1 << 30


def describe_plan(matrix: Matrix, test_ids: Sequence[str]) -> str:
    """The plan as text."""
    stages = table(
        ("stage", "model", "dtype", "placement", "weights"),
        [(s.name, s.model, s.dtype, _placement(matrix, s), _memory(s)) for s in matrix.ladder.stages],
    )
    return "\n".join(
        [
            f"ladder {matrix.ladder.name} on {matrix.hardware.slug}",
            f"{len(matrix.datasets)} datasets x {matrix.n_items} items, {len(matrix.lams)} lambdas",
            f"{matrix.n_timed} items of each dataset are timed {_passes()}",
            stages,
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


def _passes() -> str:
    return f"{PASSES.most} times, {PASSES.least} where that would take more than {PASSES.seconds:g} s"


def _time(matrix: Matrix) -> str:
    minutes = estimate_minutes(matrix)
    if minutes is None:
        return "unknown, prices are not in ms"
    n_tokens = TYPICAL_CALL.n_decoded
    return f"about {minutes:.1f} minutes, at the ladder's prices and {n_tokens} tokens an answer"


def _placement(matrix: Matrix, stage: Stage) -> str:
    return matrix.device if stage.tensor_parallel == 1 else f"{stage.tensor_parallel} x {matrix.device}"


def _memory(stage: Stage) -> str:
    if stage.memory_gib is not None:
        return f"{stage.memory_gib:g} GiB"
    try:
        directory = local_directory(stage)
    except EngineError:
        return "missing"
    if directory is None:
        return "not known"
    n_bytes = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    return f"{n_bytes / GIB:.3g} GiB"
