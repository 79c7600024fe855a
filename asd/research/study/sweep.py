"""The policy under study over lambda: what quality costs, and by which stages, in all and by data set.

On one stopping problem quality and cost never fall as lambda grows (the optimum's slope in lambda is its
quality). On held-out questions that is an expectation, not a law: a row that falls below the one before is
flagged, whatever the reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from asd.evaluation.replay import Replay
from asd.research.study.material import Material
from asd.research.study.methods import pooled, swept
from asd.research.study.record import StudyTable, Value

__all__ = ["flagged", "lambda_tables", "means", "mix"]


def lambda_tables(material: Material) -> tuple[StudyTable, StudyTable]:
    """Over all data sets, and by data set."""
    shares = tuple(f"share_{stage}" for stage in material.stages)
    return (
        StudyTable(
            name="lambda",
            title="Over lambda: cost, quality, stage mix",
            provenance="replayed",
            measured_on=material.measured_on,
            n=material.n,
            columns=("lambda", "quality", "cost", "efficiency", *shares, "flag"),
            rows=tuple(_rows(material)),
            note=f"Policy {swept(material.fitted)}. Efficiency: quality per cost. A flag names what fell "
            "below the row before, which theory rules out on the fitted problem, not on held-out questions.",
        ),
        StudyTable(
            name="lambda_datasets",
            title="Over lambda, by data set",
            provenance="replayed",
            measured_on=material.measured_on,
            n=min(len(outcomes.traces) for outcomes in material.test),
            columns=("lambda", "dataset", "quality", "cost", *shares),
            rows=tuple(
                (lam, replay.outcomes.dataset, *means([replay]), *mix([replay], material.stages))
                for lam, replays in material.sweep.items()
                for replay in replays
            ),
        ),
    )


def _rows(material: Material) -> list[tuple[Value, ...]]:
    rows: list[tuple[Value, ...]] = []
    before = (0.0, 0.0)
    for lam, replays in material.sweep.items():
        now = means(replays)
        rows.append((lam, *now, now[0] / now[1], *mix(replays, material.stages), flagged(now, before)))
        before = now
    return rows


def flagged(now: tuple[float, float], before: tuple[float, float]) -> str:
    """Names what of quality and cost is lower than before; empty where nothing is."""
    fell = [name for name, x, y in zip(("quality", "cost"), now, before, strict=True) if x < y]
    return f"{' and '.join(fell)} fell" if fell else ""


def means(replays: Sequence[Replay]) -> tuple[float, float]:
    """Quality and cost."""
    return pooled(replays, lambda replay: replay.quality), pooled(replays, lambda replay: replay.cost)


def mix(replays: Sequence[Replay], stages: Sequence[str]) -> list[float]:
    """Share of the questions answered by each stage."""
    returned = [completion.stage for replay in replays for completion in replay.completions]
    return [returned.count(stage) / len(returned) for stage in stages]
