"""Lines over the last quarter of an hour, as SVG that takes its colours from the page's style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

__all__ = ["lines"]

WIDTH, HEIGHT = 600, 216
LEFT, RIGHT, TOP, BOTTOM = 82, 8, 14, 36
MOST = 4
"""Lines that can be told apart."""

Points = Sequence[float | None]


def lines(series: Mapping[str, Points], unit: str = "") -> Markup:
    """A chart of values over time, oldest first; None is a gap.

    Args:
        series: By what the line is called; `MOST` at most are drawn.
        unit: Of the numbers on the axis.
    """
    shown = dict(list(series.items())[:MOST])
    values = [value for points in shown.values() for value in points if value is not None]
    top = _above(max(values, default=0.0))
    body = [_grid(top, unit)]
    for i, (name, points) in enumerate(shown.items()):
        body += [
            Markup('<polyline class="line s{}" points="{}"><title>{}</title></polyline>').format(i, run, name)
            for run in _runs(points, top)
        ]
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, ", ".join(shown), Markup("").join(body)
    )


def _grid(top: float, unit: str) -> Markup:
    found = []
    for share in (0.0, 0.5, 1.0):
        y = _y(share)
        found.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            LEFT, WIDTH - RIGHT, y, y))  # fmt: skip
        found.append(Markup('<text class="axis" text-anchor="end" x="{}" y="{}">{}</text>').format(
            LEFT - 8, y + 6, _short(share * top) + unit))  # fmt: skip
    for x, anchor, text in ((LEFT, "start", "-15 min"), (WIDTH - RIGHT, "end", "now")):
        found.append(Markup('<text class="axis" text-anchor="{}" x="{}" y="{}">{}</text>').format(
            anchor, x, HEIGHT - 6, text))  # fmt: skip
    return Markup("").join(found)


def _runs(points: Points, top: float) -> list[str]:
    """The points of a line, interrupted at gaps; a point alone becomes a short dash."""
    runs: list[list[str]] = [[]]
    step = (WIDTH - LEFT - RIGHT) / max(len(points) - 1, 1)
    for i, value in enumerate(points):
        if value is None:
            runs.append([])
            continue
        x, y = LEFT + i * step, _y(min(value / top, 1.0))
        runs[-1].append(f"{x:.1f},{y:.1f}")
    return [" ".join(run if len(run) > 1 else [run[0], run[0]]) for run in runs if run]


def _short(value: float) -> str:
    """A number in four characters or so."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _y(share: float) -> float:
    return round(TOP + (1.0 - share) * (HEIGHT - TOP - BOTTOM), 1)


def _above(value: float) -> float:
    """A round number that is not below."""
    if value <= 0.0:
        return 1.0
    magnitude = 10.0 ** len(str(int(value))) / 10.0 if value >= 1.0 else 1.0
    while magnitude > value:
        magnitude /= 10.0
    return next(m * magnitude for m in (1.0, 2.0, 5.0, 10.0) if m * magnitude >= value)
