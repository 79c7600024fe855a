"""Reading a frontier: the hull of measured points, and what quality costs on it.

The hull is the least non-decreasing concave function above all points (cost, quality): what can be had by
mixing settings. RouterBench (arXiv 2403.12031) calls the area below it, over the range of single models'
costs, AIQ, and the hull of the single models alone the Zero router. RouteLLM (arXiv 2406.18665) measures two
stages by the share of calls to the strong one: PGR(x) = (q(x) - q_weak) / (q_strong - q_weak) on the hull,
APGR its mean over x in [0, 1], CPT(y) the least x at which PGR reaches y. Scope: means in, numbers out.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

__all__ = ["Hull", "aiq", "apgr", "call_share_at"]

Array = npt.NDArray[np.float64]
Point = tuple[float, float]


class Hull:
    """Upper hull of points (cost, quality); left of the cheapest there is nothing."""

    def __init__(self, points: Iterable[Point]) -> None:
        corners: list[Point] = []
        for point in sorted(points, key=lambda p: (p[0], -p[1])):
            if corners and point[1] <= corners[-1][1]:
                continue
            while len(corners) > 1 and _is_below(corners[-2], corners[-1], point):
                corners.pop()
            corners.append(point)
        if not corners:
            raise ValueError("a hull needs at least one point")
        self.costs, self.qualities = np.transpose(np.array(corners, dtype=np.float64))

    def cost_at(self, quality: float) -> float | None:
        """Least cost of this quality; None where no mix reaches it."""
        if quality > self.qualities[-1]:
            return None
        return float(np.interp(quality, self.qualities, self.costs))

    def quality_at(self, costs: npt.ArrayLike) -> Array:
        """Most quality for these costs; the cheapest point's left of it, the best one's right of it."""
        return np.asarray(np.interp(np.asarray(costs, dtype=np.float64), self.costs, self.qualities))


def aiq(hull: Hull, least: float, most: float) -> float | None:
    """Mean height of the hull between two costs; None where they are equal."""
    if not most > least:
        return None
    inside = hull.costs[(hull.costs > least) & (hull.costs < most)]
    corners = np.concatenate([[least], inside, [most]])
    return float(np.trapezoid(hull.quality_at(corners), corners) / (most - least))


def apgr(points: Iterable[Point], weak: float, strong: float) -> float | None:
    """Mean performance gap recovered over the share of calls; points are (share, quality)."""
    if not strong > weak:
        return None
    area = aiq(_by_share(points, weak, strong), 0.0, 1.0)
    return None if area is None else (area - weak) / (strong - weak)


def call_share_at(points: Iterable[Point], weak: float, strong: float, recovered: float) -> float | None:
    """Least share of calls to the strong stage that recovers this much of the gap."""
    if not strong > weak:
        return None
    return _by_share(points, weak, strong).cost_at(weak + recovered * (strong - weak))


def _by_share(points: Iterable[Point], weak: float, strong: float) -> Hull:
    return Hull([*points, (0.0, weak), (1.0, strong)])


def _is_below(a: Point, b: Point, c: Point) -> bool:
    """`b` lies on or below the line from `a` to `c`."""
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])
