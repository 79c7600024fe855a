"""The policy under study by what the data sets say of their questions: difficulty and subject.

Levels and domains are tags that a data set gives its questions, never a guess of ours; questions without one
are left out of that table. The policy reads neither.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from asd.study.material import Material
from asd.study.methods import swept
from asd.study.record import Table, Value
from asd.types import Query

__all__ = ["LEVEL", "group_tables"]

LEVEL = "level"
"""The tag that says how hard a question is."""

DOMAINS = ("family", "subject", "category", "topic", "task")
"""Tags that say what a question is about; a data set has one of them at most."""


@dataclass(frozen=True, slots=True)
class _Answered:
    """One question under the policy, and whether the largest stage alone is right."""

    stage: str
    quality: float
    cost: float
    largest: float


def group_tables(material: Material) -> list[Table]:
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
) -> Table | None:
    groups = _groups(material, label)
    if not groups:
        return None
    return Table(
        name=name,
        title=title,
        provenance="replayed",
        measured_on=material.measured_on,
        n=max(map(len, groups.values())),
        columns=(
            *(column, "n", "preferred_stage", "quality", "quality_largest", "success", "cost"),
            *(f"share_{stage}" for stage in material.stages),
        ),
        rows=tuple((key, *_row(groups[key], material.stages)) for key in sorted(groups, key=_order)),
        note=f"Policy {swept(material.fitted)} at its setting. preferred_stage answers most of them; "
        "success: share of questions answered wholly right; quality_largest: of the largest stage alone.",
    )


def _groups(material: Material, label: Callable[[Query], str | None]) -> dict[str, list[_Answered]]:
    found: dict[str, list[_Answered]] = defaultdict(list)
    largest = material.walks[f"always-{material.stages[-1]}"]
    for replay, reference in zip(material.walks[swept(material.fitted)], largest, strict=True):
        per_item = zip(replay.completions, replay.quality, replay.cost, reference.quality, strict=True)
        for completion, *numbers in per_item:
            key = label(completion.query)
            if key is not None:
                found[key].append(_Answered(completion.stage, *map(float, numbers)))
    return found


def _row(group: Sequence[_Answered], stages: Sequence[str]) -> tuple[Value, ...]:
    counts = Counter(answered.stage for answered in group)
    quality = np.array([answered.quality for answered in group])
    return (
        len(group),
        max(stages, key=lambda stage: counts[stage]),
        float(quality.mean()),
        float(np.mean([answered.largest for answered in group])),
        float((quality == 1.0).mean()),
        float(np.mean([answered.cost for answered in group])),
        *(counts[stage] / len(group) for stage in stages),
    )


def _order(key: str) -> tuple[float, str]:
    """Numbers by size, then names."""
    return (float(key), "") if key.replace(".", "", 1).isdigit() else (float("inf"), key)
