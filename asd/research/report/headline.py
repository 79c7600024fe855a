"""What a reader wants to know first: quality, cost and seconds beside the largest stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from asd.research.report.cells import spread
from asd.research.report.reading import has, kinds
from asd.research.study.methods import DRAFTED
from asd.research.study.record import Study, StudyTable, Value

__all__ = ["HeadlineFigure", "headline", "under_study"]


@dataclass(frozen=True, slots=True)
class HeadlineFigure:
    """One number of the headline: what it is, the number with its interval, and what it rests on."""

    label: str
    number: str
    basis: str


def under_study(study: Study) -> str:
    """Name of the policy that a study is about: the one that verifies drafts where there is one."""
    return next(n for n in ("optimal-verified", "optimal") if n in kinds(study.table("methods"), "method"))


def headline(study: Study) -> list[HeadlineFigure]:
    """Quality and cost from the table differences, the speed-up from latency; what was not made is absent.

    Against the largest stage alone, and against it with its own drafter where it has one: the policy has
    drafters too, and only the second figure is free of what they give.
    """
    found = []
    if has(study, ["methods", "differences"]):
        table = study.table("differences")
        largest, *others = kinds(table, "reference")
        against = [("quality", largest), ("cost", largest), *(("cost", n) for n in others if n == DRAFTED)]
        for metric, reference in against:
            row = _row(table, method=under_study(study), reference=reference, metric=metric)
            ends = [row["percent"], row["low_percent"], row["high_percent"]]
            found.append(
                HeadlineFigure(f"{metric} against {reference}, per cent", spread(*ends), _basis(table))
            )
    if has(study, ["methods", "latency"]):
        table = study.table("latency")
        row = _row(table, method=under_study(study))
        for column, reference in (("speed_up", "alone"), ("speed_up_drafted", "with its own drafter")):
            ends = [row.get(f"{column}{end}") for end in ("", "_low", "_high")]
            if ends[0] is not None:
                found.append(
                    HeadlineFigure(
                        f"times as fast as the largest stage {reference}", spread(*ends), _basis(table)
                    )
                )
    return found


def _basis(table: StudyTable) -> str:
    return f"{table.provenance}, n = {table.n}"


def _row(table: StudyTable, **key: str) -> Mapping[str, Value]:
    return next(row for row in _named(table) if all(row[name] == value for name, value in key.items()))


def _named(table: StudyTable) -> Iterator[dict[str, Value]]:
    return (dict(zip(table.columns, row, strict=True)) for row in table.rows)
