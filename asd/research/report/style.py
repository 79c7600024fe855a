"""One look for all figures: readable in grey and at arm's length, the same bytes every time.

Lines differ by style and marker as well as by colour, bars by hatching. Letters are text in the SVG,
never below 12 pixels at natural size (9 points), so powers of ten are written out. A figure is at most
`WIDTH` wide, which is the page's column.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

__all__ = ["WIDTH", "Figure", "finished", "hatch", "line", "log_axis", "panels", "ticks_at", "tiles"]

WIDTH = 9.9
"""Inches: 950 pixels on a page."""

_PNG_DPI = 150

_RC: Any = {  # matplotlib types the keys as one long Literal
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "asd",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}

_COLOURS = ("#111111", "#0072b2", "#c25100", "#5b8c00", "#8a3ffc", "#7f7f7f", "#b8860b", "#00857c")
_DASHES = ("-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)), (0, (1, 1)), (0, (8, 3)), (0, (3, 1, 1, 1)))
_MARKERS = "os^Dv*PX"
_FILLS = (("#e8e8e8", ""), ("#a9c9e0", "///"), ("#1f4e79", ""), ("#d9b38c", "..."), ("#777777", "xx"))


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: file name, the caption with n and interval, and the picture as SVG and as PNG."""

    name: str
    caption: str
    svg: str
    png: bytes


@contextmanager
def panels(n_rows: int, n_columns: int, height: float) -> Iterator[tuple[Canvas, list[Axes]]]:
    """An empty figure and its panels, row by row, in the common style; height in inches."""
    with mpl.rc_context(_RC):
        canvas = Canvas(figsize=(WIDTH, height))
        FigureCanvasAgg(canvas)
        axes = canvas.subplots(n_rows, n_columns, squeeze=False)
        yield canvas, list(axes.flat)


@contextmanager
def tiles(n: int, height: float) -> Iterator[tuple[Canvas, list[Axes]]]:
    """An empty figure of n like panels, three in a row, each `height` inches high."""
    n_columns = min(n, 3)
    n_rows = -(-n // n_columns)
    with panels(n_rows, n_columns, n_rows * height) as (canvas, axes):
        for spare in axes[n:]:
            spare.remove()
        yield canvas, axes[:n]


def finished(name: str, caption: str, canvas: Canvas) -> Figure:
    """Both files of a figure, without a date; to be called within `panels`."""
    svg, png = io.StringIO(), io.BytesIO()
    canvas.savefig(svg, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    canvas.savefig(png, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    return Figure(name, caption, svg.getvalue(), png.getvalue())


def line(k: int) -> dict[str, Any]:
    """Colour, dashes and marker of the k-th line; markers are open from the ninth on."""
    colour = _COLOURS[k % len(_COLOURS)]
    return {
        "markerfacecolor": colour if k < len(_COLOURS) else "white",
        "color": colour,
        "linestyle": _DASHES[k % len(_DASHES)],
        "marker": _MARKERS[k % len(_MARKERS)],
    }


def hatch(k: int) -> dict[str, Any]:
    """Fill and hatching of the k-th kind of bar."""
    fill, pattern = _FILLS[k % len(_FILLS)]
    return {"facecolor": fill, "hatch": pattern, "edgecolor": "#222222", "linewidth": 0.6}


def log_axis(axes: Axes, *which: str, subs: Sequence[float] = (1.0,)) -> None:
    """Make axes ("x", "y") logarithmic, with plain numbers at these multiples of powers of ten."""
    for name in which:
        axis = axes.xaxis if name == "x" else axes.yaxis
        (axes.set_xscale if name == "x" else axes.set_yscale)("log")
        axis.set_major_locator(LogLocator(subs=subs, numticks=6))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(_plain))


def ticks_at(axes: Axes, values: Sequence[float]) -> None:
    """Mark these numbers of a logarithmic x axis and no others."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))


def _plain(value: float, _: object = None) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"
