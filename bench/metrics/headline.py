"""The headline: how much faster than always using the largest stage, at (nearly) its quality.

The named settings over all datasets: the adaptive policy at the lambda that kept a share of the largest
stage's quality on the fitting rows, out of fold; "lossless", the largest stage's own answers drafted by
smaller stages; and the oracle, with foresight the cheapest stage that is right, which is no upper bound where
drafts are reused. Quality and cost are told on all items of this run, none of which chose anything; the
speed-up is that of the live passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asd.evaluation.live import TimedPasses
from asd.evaluation.replay import Replay
from asd.measurement.timing import Turns
from bench.metrics.ties import Ties, ties_of
from bench.run.session import Session, Setting

__all__ = ["Headline", "headline", "live_of", "live_turns", "side_by_side"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Headline:
    """One setting over all datasets.

    Attributes:
        name: Of the setting.
        seconds: Of the live passes, shape (passes, units of all datasets).
        largest: Of the largest stage alone, likewise.
        quality: Of every item of all datasets.
        reference: What the largest stage's answers are worth, likewise.
        costs: Likewise, in runs of the largest stage.
        timed: The live answers, by dataset.
        ties: Answers that differ from the replayed ones, by dataset; empty in float32, where none may.
    """

    name: str
    seconds: Array
    largest: Array
    quality: Array
    reference: Array
    costs: Array
    timed: tuple[TimedPasses, ...]
    ties: tuple[Ties, ...] = ()


def headline(session: Session, name: str) -> Headline:
    """One named setting, as far as it has been timed."""
    setting = session.settings[name]
    timed = live_of(session, setting)
    replays = _everywhere(session, setting)
    largest = _everywhere(session, session.largest)
    return Headline(
        name=name,
        seconds=side_by_side([one.seconds for one in timed]),
        largest=side_by_side([one.largest for one in timed]),
        quality=_pooled(replays, lambda replay: replay.quality),
        reference=_pooled(largest, lambda replay: replay.quality),
        costs=_pooled(replays, lambda replay: replay.cost),
        timed=timed,
        ties=() if session.matrix.is_exact else _ties(session, timed),
    )


def live_of(session: Session, setting: Setting) -> tuple[TimedPasses, ...]:
    """The live passes of a setting, by dataset."""
    return tuple(session.live(dataset).timed[setting] for dataset in session.matrix.datasets)


def live_turns(session: Session) -> list[Turns[Any, Any]]:
    """What a number over all datasets is made of."""
    return [session.live(dataset).turns for dataset in session.matrix.datasets]


def side_by_side(parts: Sequence[Array]) -> Array:
    """Seconds of several datasets, shape (passes, units of all): the passes that all of them have made."""
    n_passes = min(len(part) for part in parts)
    return np.concatenate([part[:n_passes] for part in parts], axis=1)


def _ties(session: Session, timed: Sequence[TimedPasses]) -> tuple[Ties, ...]:
    """In the order of the datasets."""
    dtype = session.matrix.hardware.dtype
    return tuple(
        ties_of(one, session.outcomes[name].traces[: len(one.completions)], session.engines, dtype)
        for name, one in zip(session.matrix.datasets, timed, strict=True)
    )


def _everywhere(session: Session, setting: Setting) -> list[Replay]:
    return [session.replay(dataset, *setting) for dataset in session.matrix.datasets]


def _pooled(replays: Sequence[Replay], per_item: Callable[[Replay], Array]) -> Array:
    return np.concatenate([per_item(replay) for replay in replays])
