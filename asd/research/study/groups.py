"""The policy under study by what the data sets say of their questions: difficulty and subject.

Levels and domains are tags that a data set gives its questions, never a guess of ours; questions without one
are left out of that table. The policy reads neither.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from asd.research.study.material import Material
from asd.research.study.methods import DRAFTED, swept
from asd.research.study.record import StudyTable, Value
from asd.types import Query

__all__ = ["LEVEL", "group_tables"]

LEVEL = "level"
"""The tag that says how hard a question is."""

DOMAINS = ("family", "subject", "category", "topic", "task")
"""Tags that say what a question is about; a data set has one of them at most."""


@dataclass(frozen=True, slots=True)
class _ComparedQuestion:
    """One question under the policy and under the largest stage, alone and with its drafter if it has one."""

    stage: str
    quality: float
    cost: float
    largest: float
    cost_largest: float
    cost_drafted: float | None


def group_tables(material: Material) -> list[StudyTable]:
    """By level and by domain where any question has one, and by data set."""
    by = (
        ("levels", "By level of difficulty", "level", lambda query: query.tags.get(LEVEL)),
        ("domains", "By domain", "domain", _domain),
        ("datasets", "By data set", "dataset", lambda query: query.dataset),
    )
    tables = (_table(material, *what) for what in by)
    return [table for table in tables if table is not None]


def _domain(query: Query) -> str | None:
    return next((f"{query.dataset}: {query.tags[tag]}" for tag in DOMAINS if tag in query.tags), None)


def _table(
    material: Material, name: str, title: str, column: str, label: Callable[[Query], str | None]
) -> StudyTable | None:
    groups = _groups(material, label)
    if not groups:
        return None
    return StudyTable(
        name=name,
        title=title,
        provenance="replayed",
        measured_on=material.measured_on,
        n=max(map(len, groups.values())),
        columns=(
            *(column, "n", "preferred_stage", "quality", "quality_largest", "success", "cost"),
            *("cost_largest", "cost_drafted"),
            *(f"share_{stage}" for stage in material.stages),
        ),
        rows=tuple((key, *_row(groups[key], material.stages)) for key in sorted(groups, key=_order)),
        note=f"Policy {swept(material.fitted)} at its setting. preferred_stage answers most of them; "
        "success: share of questions answered wholly right; quality_largest, "
        "cost_largest: of the largest stage alone; cost_drafted: of it with its own drafter.",
    )


def _groups(material: Material, label: Callable[[Query], str | None]) -> dict[str, list[_ComparedQuestion]]:
    found: dict[str, list[_ComparedQuestion]] = defaultdict(list)
    largest = material.walks[f"always-{material.stages[-1]}"]
    for i, (replay, alone) in enumerate(zip(material.walks[swept(material.fitted)], largest, strict=True)):
        drafted = (
            material.walks[DRAFTED][i].cost.tolist()
            if DRAFTED in material.walks
            else [None] * len(replay.completions)
        )
        numbers = (values.tolist() for values in (replay.quality, replay.cost, alone.quality, alone.cost))
        for completion, *known in zip(replay.completions, *numbers, drafted, strict=True):
            key = label(completion.query)
            if key is not None:
                found[key].append(_ComparedQuestion(completion.stage, *known))
    return found


def _row(group: Sequence[_ComparedQuestion], stages: Sequence[str]) -> tuple[Value, ...]:
    counts = Counter(answered.stage for answered in group)
    quality = np.array([answered.quality for answered in group])
    drafted = [answered.cost_drafted for answered in group if answered.cost_drafted is not None]
    return (
        len(group),
        max(stages, key=lambda stage: counts[stage]),
        float(quality.mean()),
        float(np.mean([answered.largest for answered in group])),
        float((quality == 1.0).mean()),
        float(np.mean([answered.cost for answered in group])),
        float(np.mean([answered.cost_largest for answered in group])),
        float(np.mean(drafted)) if drafted else None,
        *(counts[stage] / len(group) for stage in stages),
    )


def _order(key: str) -> tuple[float, str]:
    """Numbers by size, then names."""
    return (float(key), "") if key.replace(".", "", 1).isdigit() else (float("inf"), key)
