"""The headline: how much faster than always using the largest stage, at (nearly) its quality.

The cheapest lambda of the sweep whose quality on the even items is at least a share of the largest stage's
there is chosen, one for all datasets; quality and cost are then told on the odd items, and the speed-up is
that of the live passes. If no lambda is good enough the setting is the largest stage alone, with a speed-up
of 1. The oracle's setting runs beside it: with foresight, the cheapest stage that is right; it is no upper
bound where drafts are reused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asd.errors import DataError
from bench.live import Timed
from bench.replays import Replay
from bench.session import Session

__all__ = ["SHARES", "Headline", "headlines"]

Array = NDArray[np.float64]

SHARES = (0.95, 0.99)
"""Of the largest stage's quality, that a setting must keep."""


@dataclass(frozen=True, slots=True)
class Headline:
    """One setting over all datasets; seconds have shape (passes, units of all datasets)."""

    name: str
    seconds: Array
    largest: Array
    relative_quality: float
    cost: float


def headlines(session: Session) -> list[Headline]:
    """The adaptive policy at each share of `SHARES`, and the oracle of the largest lambda."""
    lams, largest = session.matrix.lams, f"always-{session.matrix.ladder.stages[-1].name}"
    settings: dict[str, tuple[str, float | None]] = {
        f"optimal@{share:g}": _cheapest(session, share, lams, largest) for share in SHARES
    }
    settings["oracle"] = ("oracle", lams[-1])
    return [_headline(session, name, setting, largest) for name, setting in settings.items()]


def _cheapest(
    session: Session, share: float, lams: Sequence[float], largest: str
) -> tuple[str, float | None]:
    wanted = share * _mean(_all(session, largest, None), _even_quality)
    good = [
        (_mean(replays, _even_cost), lam)
        for lam in lams
        if _mean(replays := _all(session, "optimal", lam), _even_quality) >= wanted
    ]
    return ("optimal", min(good)[1]) if good else (largest, None)


def _headline(session: Session, name: str, setting: tuple[str, float | None], largest: str) -> Headline:
    timed: list[Timed] = [session.live(dataset).timed[setting] for dataset in session.matrix.datasets]
    replays = _all(session, *setting)
    reference = _mean(_all(session, largest, None), _odd_quality)
    if reference == 0:
        raise DataError("the largest stage answers nothing right, so no quality is relative to it")
    return Headline(
        name=name,
        seconds=np.concatenate([one.seconds for one in timed], axis=1),
        largest=np.concatenate([one.largest for one in timed], axis=1),
        relative_quality=_mean(replays, _odd_quality) / reference,
        cost=_mean(replays, _odd_cost),
    )


def _all(session: Session, policy: str, lam: float | None) -> list[Replay]:
    return [session.replay(dataset, policy, lam) for dataset in session.matrix.datasets]


def _mean(replays: Sequence[Replay], per_item: Callable[[Replay], Array]) -> float:
    return float(np.concatenate([per_item(replay) for replay in replays]).mean())


def _even_quality(replay: Replay) -> Array:
    return replay.quality[0::2]


def _even_cost(replay: Replay) -> Array:
    return replay.cost[0::2]


def _odd_quality(replay: Replay) -> Array:
    return replay.quality[1::2]


def _odd_cost(replay: Replay) -> Array:
    return replay.cost[1::2]
