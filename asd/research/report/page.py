"""One self-contained page from a study: headline, claims, then every table and figure with what it rests on.

No script, no font and no picture is loaded from elsewhere: figures are inlined as SVG, the style is in the
page. Wide tables and figures scroll inside their own box, so the page itself fits a telephone; long tables
are folded. Scope: order and looks; numbers are the study's, pictures are `asd.research.report.figures`'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from asd.research.report.cells import sheet
from asd.research.report.figures import left_out
from asd.research.report.headline import headline, under_study
from asd.research.report.reading import has
from asd.research.report.style import Figure
from asd.research.study.record import Study, StudyTable

__all__ = ["LONG", "render_page"]

LONG = 30
"""Tables of more rows are folded until they are asked for."""

_PARTS: dict[str, tuple[str, ...]] = {
    "Published claims": ("claims",),
    "Methods side by side": ("methods", "latency", "differences", "differences_seconds"),
    "What lambda buys": ("overview", "lambda", "lambda_latency", "lambda_datasets", "thresholds"),
    "By kind of question": ("levels", "levels_latency", "datasets"),
    "Ladders of other models": ("recorded", "recorded_lambda"),
    "Does it hold up": ("folds", "sensitivity"),
    "Learning while answering": ("regret", "regret_simulated", "regret_course", "regret_course_simulated"),
    "How much data, how much time": ("samples", "sample_slopes", "exactness", "solving"),
    "Evidence": ("reliability", "predictors"),
    "Under load": (
        *("operations", "production", "hours", "devices", "before_after", "intervals", "categories", "users"),
        *("published_users", "load", "runs", "run_stages", "windows"),
    ),
    "Drafts and training": ("acceptance", "acceptance_shares", "training"),
}
"""Parts of the page, and the figures and tables of each by name."""

_REST = "Further tables"


@dataclass(frozen=True, slots=True)
class _PageSection:
    """One part of the page."""

    title: str
    figures: tuple[Figure, ...]
    tables: tuple[StudyTable, ...]

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower())


def render_page(
    study: Study,
    figures: Sequence[Figure],
    missing: Sequence[str] | None = None,
    *,
    with_files: bool = True,
) -> str:
    """The page as HTML text; figures that could not be drawn are named in it.

    Args:
        study: Whatever tables it holds.
        figures: As `asd.research.report.figures.draw` makes them.
        missing: Figures that are named as left out; None: those of a study that lack their tables.
        with_files: Whether every table has a file of its own beside the page, which it names.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["sheet"] = sheet
    environment.filters["inline"] = _inline
    template = files("asd.research.report").joinpath("page.html").read_text(encoding="utf8")
    return environment.from_string(template).render(
        study=study,
        findings=headline(study),
        policy=under_study(study) if has(study, ["methods"]) else None,
        parts=list(_parts(study, figures)),
        left_out=left_out(study) if missing is None else list(missing),
        long=LONG,
        with_files=with_files,
    )


def _parts(study: Study, figures: Sequence[Figure]) -> Iterator[_PageSection]:
    """The parts that hold anything; what no part names comes last."""
    named = {name for names in _PARTS.values() for name in names}
    others = (table.name for table in study.tables)
    rest = tuple(name for name in (*others, *(figure.name for figure in figures)) if name not in named)
    for title, names in {**_PARTS, _REST: rest}.items():
        drawn = tuple(figure for figure in figures if figure.name in names)
        tables = tuple(study.table(name) for name in dict.fromkeys(names) if has(study, [name]))
        if drawn or tables:
            yield _PageSection(title, drawn, tables)


def _inline(figure: Figure) -> Markup:
    """The SVG element alone, its ids made unique to the figure so that two figures cannot mix clip paths."""
    svg = figure.svg[figure.svg.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{figure.name}-', svg)
    return Markup(re.sub(r'(href="|url\()#', rf"\1#{figure.name}-", svg))  # noqa: S704 - our own picture
