"""The methods side by side: quality, cost and seconds, each with its interval and its test."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from asd.research.report.reading import around, basis, has, kinds, milliseconds_around, numbers
from asd.research.report.style import Figure, finished, line, panels
from asd.research.study.record import Study, StudyTable

__all__ = ["contest", "mark"]

METRICS = (
    ("methods", "quality", "Quality, mean score"),
    ("methods", "cost", "Cost, runs of the largest stage"),
    ("latency", "mean_ms", "Latency, mean ms a question"),
)


def contest(study: Study) -> Figure:
    """Needs the tables methods and differences; latency and differences_seconds where there are any."""
    shown = [metric for metric in METRICS if has(study, [metric[0]])]
    reference = _largest(study.table("differences"))
    names = kinds(study.table("methods"), "method")
    with panels(1, len(shown), 0.9 + 0.27 * len(names)) as (canvas, axes):
        for panel, (table, column, title) in zip(axes, shown, strict=True):
            _dots(panel, study.table(table), column, title, names)
            _marks(panel, _tests(study, "seconds" if column == "mean_ms" else column, reference), names)
        for panel in axes[1:]:
            panel.set_yticklabels([])
        return finished("methods", _caption(reference, study), canvas)


def _caption(reference: str, study: Study) -> str:
    timed = "Latency is left out: nothing was timed."
    if has(study, ["latency"]):
        timed = f"Latency, with the 95 % bootstrap interval of its speed-up: {basis(study.table('latency'))}"
    return (
        f"Methods, quality and cost with 95 % BCa intervals. Stars: difference to {reference}, paired by "
        "question, p after Holm over all comparisons of its table, *** below 0.001, ** below 0.01, * below "
        f"0.05, ns otherwise. {timed} Quality and cost: {basis(study.table('methods'))}"
    )


def _largest(differences: StudyTable) -> str:
    return kinds(differences, "reference")[0]


def _dots(axes: Axes, table: StudyTable, column: str, title: str, names: list[str]) -> None:
    at = {name: i for i, name in enumerate(names)}
    rows = np.array([at[name] for name in map(str, table.column("method"))])
    values = numbers(table, column)
    spread = milliseconds_around(table) if column == "mean_ms" else around(table, column)
    axes.errorbar(values, rows, xerr=spread, capsize=2, **(line(0) | {"linestyle": "none"}))
    axes.set_yticks(range(len(names)), names)
    axes.set(title=title, ylim=(len(names) - 0.5, -0.5))
    axes.margins(x=0.18)


def _tests(study: Study, metric: str, reference: str) -> dict[str, float]:
    """Adjusted p-value of every method's difference to the reference in one metric."""
    name = "differences_seconds" if metric == "seconds" else "differences"
    if not has(study, [name]):
        return {}
    table = study.table(name)
    columns = (table.column(column) for column in ("method", "reference", "metric", "p_holm"))
    return {
        str(method): float(p)
        for method, against, what, p in zip(*columns, strict=True)
        if against == reference and what == metric and p is not None
    }


def _marks(axes: Axes, tests: dict[str, float], names: list[str]) -> None:
    """Stars at the right edge."""
    for i, name in enumerate(names):
        if name in tests:
            where = axes.get_yaxis_transform()
            axes.text(1.0, i, mark(tests[name]), transform=where, ha="right", va="center")


def mark(p: float) -> str:
    """Stars of an adjusted p-value."""
    limits = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
    return next((stars for limit, stars in limits if p < limit), "ns")
