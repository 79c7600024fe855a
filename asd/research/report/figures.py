"""All figures of a study: which tables each is drawn from, and which are left out for want of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from asd.measurement.files import write_atomically
from asd.research.report import theory
from asd.research.report.contest import contest
from asd.research.report.overview import overview
from asd.research.report.reading import has
from asd.research.report.style import Figure
from asd.research.study.record import Study

__all__ = ["FIGURES", "Figure", "draw", "left_out", "write_figures"]

FIGURES: dict[str, tuple[Callable[[Study], Figure], tuple[str, ...]]] = {
    "overview": (overview, ("lambda", "lambda_datasets", "levels", "methods")),
    "methods": (contest, ("methods", "differences")),
    "regret": (theory.regret, ("regret_course_simulated", "regret_course")),
    "thresholds": (theory.thresholds, ("thresholds",)),
    "samples": (theory.samples, ("samples",)),
    "reliability": (theory.reliability, ("reliability",)),
    "acceptance": (theory.acceptance, ("acceptance", "acceptance_shares")),
    "training": (theory.training, ("training",)),
}
"""By name, in the order they are shown: how it is drawn, and from which tables."""


def draw(study: Study) -> list[Figure]:
    """Every figure that the study holds the tables of; `left_out` names the others."""
    return [make(study) for make, tables in FIGURES.values() if has(study, tables)]


def left_out(study: Study) -> list[str]:
    """Names of the figures that could not be drawn, each with the tables it lacks."""
    held = {table.name for table in study.tables}
    lacking = {name: [t for t in tables if t not in held] for name, (_, tables) in FIGURES.items()}
    return [f"{name} (no table {', '.join(missing)})" for name, missing in lacking.items() if missing]


def write_figures(figures: Sequence[Figure], folder: str | Path) -> None:
    """`<name>.svg` and `<name>.png` of every figure.

    Raises:
        StorageError: A file could not be written.
    """
    folder = Path(folder)
    for figure in figures:
        write_atomically(folder / f"{figure.name}.svg", figure.svg)
        write_atomically(folder / f"{figure.name}.png", figure.png)
