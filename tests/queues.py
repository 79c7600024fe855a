"""Cascades for tests of the simulator: made-up queries whose walks and service times are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from asd.ladder import Ladder, Stage
from asd.operations.population import Population
from asd.prices import Prices
from asd.types import STOP, Action, Decision, Draft, Outcome, Query, Trace, Usage, Verification

TICK = 1e-4
"""Seconds of one decoded token."""


@dataclass(frozen=True)
class Planned:
    """Walks every query as its tag says, and returns the last answer."""

    name: str = "planned"

    def decide(
        self,
        query: Query,
        drafts: Mapping[str, Draft],
        verification: Verification | None = None,  # noqa: ARG002
    ) -> Decision:
        walk = query.tags["walk"].split(",")
        answer = walk[len(drafts) - 1] if drafts else None
        return Decision(STOP if len(drafts) == len(walk) else Action.draft(walk[len(drafts)]), answer)


def ladder(stages: Sequence[str], batched: Mapping[int, float] | None = None) -> Ladder:
    """Stages that cost `TICK` seconds a token alone, and by batch size the given share of that."""
    sizes = {size: Prices(0.0, 0.0, TICK * share) for size, share in (batched or {}).items()}
    made = tuple(Stage(name, f"made-up/{name}", Prices(0.0, 0.0, TICK), batched=sizes) for name in stages)
    return Ladder("made-up", made, "s", "never: made up for a test")


def query(i: int, walk: Sequence[str], seconds: Mapping[str, float], score: float = 1.0) -> Trace:
    """A query whose call at a stage takes so long alone."""
    outcomes = {}
    for stage, duration in seconds.items():
        n = round(duration / TICK)
        outcomes[stage] = Outcome(Draft(stage, "x", (), (), True, Usage(1, n, n), 0.0), score)
    return Trace(Query(f"q{i}", "made-up", "?", tags={"walk": ",".join(walk)}), outcomes)


def one_stage(seconds: np.ndarray, batched: Mapping[int, float] | None = None, batch: int = 1) -> Population:
    """Queries that one stage answers, with these service times."""
    traces = [query(i, ["S"], {"S": float(s)}) for i, s in enumerate(seconds)]
    return Population(traces, ladder(["S"], batched), 1.0, batch)
