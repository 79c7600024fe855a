"""Which settings are named: the cheapest that keep a share of the largest stage's quality.

Settings are chosen on the even items of all datasets together, among the lambdas of the sweep and a few
between the cheapest good one and the next lower; what they are worth is told on the odd items. If no lambda
is good enough the setting is the largest stage alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.replays import Replay

__all__ = ["SHARES", "cheapest_lam", "pooled"]

Array = NDArray[np.float64]

SHARES = (0.95, 0.99)
"""Of the largest stage's quality, that a named setting must keep."""

N_HALVINGS = 3
"""Lambdas tried between two of the sweep."""


def cheapest_lam(
    replays_at: Callable[[float], Sequence[Replay]],
    lams: Sequence[float],
    largest: Sequence[Replay],
    share: float,
) -> float | None:
    """The lambda of least cost on even items that keeps the share there; None where none does.

    Args:
        replays_at: The adaptive policy at a lambda, one replay a dataset.
        lams: The sweep, ascending.
        largest: The largest stage alone, one replay a dataset.
        share: Of the largest stage's quality on even items.
    """
    wanted = share * pooled(largest, lambda replay: replay.quality[0::2])
    good: dict[float, float] = {}

    def is_good(lam: float) -> bool:
        replays = replays_at(lam)
        if pooled(replays, lambda replay: replay.quality[0::2]) < wanted:
            return False
        good[lam] = pooled(replays, lambda replay: replay.cost[0::2])
        return True

    verdicts = [is_good(lam) for lam in lams]
    if not good:
        return None
    first = verdicts.index(True)
    low, high = (lams[first - 1], lams[first]) if first else (lams[0], lams[0])
    for _ in range(N_HALVINGS if low < high else 0):
        middle = math.sqrt(low * high) if low > 0.0 else high / 2.0
        low, high = (low, middle) if is_good(middle) else (middle, high)
    return min(good, key=good.__getitem__)


def pooled(replays: Sequence[Replay], per_item: Callable[[Replay], Array]) -> float:
    """Mean over the items of all datasets."""
    return float(np.concatenate([per_item(replay) for replay in replays]).mean())
