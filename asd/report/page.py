"""One self-contained page from a study: headline, claims, then every table and figure with what it rests on.

No script, no font and no picture is loaded from elsewhere: figures are inlined as SVG, the style is in the
page. Wide tables scroll inside their own box, so the page itself fits a telephone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from asd.study.record import Study, Table, Value

__all__ = ["Figure", "render_page"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: file name, the caption with n and interval, and the picture as SVG."""

    name: str
    caption: str
    svg: str


def render_page(study: Study, figures: Sequence[Figure]) -> str:
    """The page as HTML text; the study's first table is the headline."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = _shown
    template = files("asd.report").joinpath("page.html").read_text(encoding="utf8")
    return environment.from_string(template).render(
        study=study,
        tables=[(table, _is_numeric(table)) for table in study.tables],
        figures=[(figure, Markup(_inline(figure))) for figure in figures],  # noqa: S704 - our own SVG
    )


def _shown(value: Value) -> str:
    """Four significant digits; a dash for what is not defined."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_numeric(table: Table) -> tuple[bool, ...]:
    """Columns that are set flush right."""
    return tuple(
        any(isinstance(value, int | float) for value in table.column(name)) for name in table.columns
    )


def _inline(figure: Figure) -> str:
    """The SVG element alone, its ids made unique to the figure so that two figures cannot mix clip paths."""
    svg = figure.svg[figure.svg.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{figure.name}-', svg)
    return re.sub(r'(href="|url\()#', rf"\1#{figure.name}-", svg)
