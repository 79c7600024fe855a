"""One hardware key, one speed: how stages made their decode steps, in this run and in the stored one.

A step that is replayed from a CUDA graph takes a fraction of one that is launched from Python, on the same
hardware with the same answers. So times of two modes are not compared, and a stage that was captured when the
baseline was recorded and is not any more, though nobody asked for that, is BELOW_TARGET.
"""

from __future__ import annotations

from collections.abc import Iterator

from asd.measurement.records import Run, RunHeader
from bench.gate.verdicts import Finding, Verdict

__all__ = ["fallen_back", "other_steps"]

CAPTURED = ("graph", "compiled")


def other_steps(here: RunHeader, there: RunHeader) -> str:
    """Which stages step in another mode than in the baseline; empty if none does."""
    moved = [
        f"{stage} {was} -> {now}"
        for stage in here.ladder.models
        if (was := there.step_mode(stage)) != (now := here.step_mode(stage))
    ]
    return f"stages make their decode steps in another mode: {', '.join(moved)}" if moved else ""


def fallen_back(run: Run, stored: Run) -> Iterator[Finding]:
    """BELOW_TARGET: on the baseline's own hardware a stage is not captured any more, unasked."""
    here, there = run.header, stored.header
    if here.hardware != there.hardware:
        return
    for stage, now in here.step_modes.items():
        was = there.step_mode(stage)
        if was in CAPTURED and now not in CAPTURED and stage not in here.asked_eager:
            note = f"stage {stage} fell back to {now} steps, the baseline's are {was}; its log says why"
            yield Finding("run", f"steps of {stage}", Verdict.BELOW_TARGET, note=note)
