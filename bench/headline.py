"""The headline: how much faster than always using the largest stage, at (nearly) its quality.

The named settings over all datasets: the adaptive policy at the lambda that kept a share of the largest
stage's quality on the fitting rows, out of fold; "lossless", the largest stage's own answers drafted by
smaller stages; and the oracle, with foresight the cheapest stage that is right, which is no upper bound where
drafts are reused. Quality and cost are told on all items of this run, none of which chose anything; the
speed-up is that of the live passes. Beside them stands what the ladder was planned for (`asd.tiny.bound`),
with this run's accuracies and acceptance.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asd.errors import DataError
from asd.evaluation.replay import SHARES, Replay
from asd.tiny.bound import Plan, speed_up
from asd.types import pair_name
from bench.session import Session, Setting

__all__ = ["Headline", "headlines", "planned_speed_ups"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Headline:
    """One setting over all datasets; seconds have shape (passes, units of all datasets).

    `agreement` is the share of live answers, and of the ways to them, that equal the replayed ones: of the
    lossless setting, answers that equal the largest stage's own.
    """

    name: str
    seconds: Array
    largest: Array
    relative_quality: float
    cost: float
    agreement: float


def headlines(session: Session) -> list[Headline]:
    """One a named setting."""
    return [_headline(session, name, setting) for name, setting in session.settings.items()]


def planned_speed_ups(session: Session) -> dict[float, float]:
    """By share of the largest stage's quality, what the embedded ladder's planning model allows.

    The model knows three stages of one trunk that grow more accurate, whose costs follow their layers; for
    any other ladder it says nothing.
    """
    if session.matrix.ladder.name != "tiny":
        return {}
    stages = session.matrix.ladder.stages
    small, middle, large = (
        pooled(_everywhere(session, (f"always-{stage.name}", None)), lambda replay: replay.quality)
        for stage in stages
    )
    configs = [json.loads((Path(stage.model) / "config.json").read_text()) for stage in stages]
    n_layers = [config["num_hidden_layers"] for config in configs]
    pair = pair_name(stages[0].name, stages[-1].name)
    reads = [v for outcomes in session.outcomes.values() for v in outcomes.verifications(pair)]
    n_read = sum(len(v.tokens) for v in reads)
    accepted = sum(v.n_accepted for v in reads) / n_read if n_read else 0.0
    middle = max(small, middle)  # the model's stages grow more accurate
    accuracy = (small, middle, max(middle, large))
    plan = Plan((n_layers[0], n_layers[1], n_layers[2]), accuracy, accepted=accepted)
    return {share: speed_up(plan, share) for share in SHARES}


def _headline(session: Session, name: str, setting: Setting) -> Headline:
    timed = [session.live(dataset).timed[setting] for dataset in session.matrix.datasets]
    replays = _everywhere(session, setting)
    largest = _everywhere(session, (f"always-{session.matrix.ladder.stages[-1].name}", None))
    reference = pooled(largest, lambda replay: replay.quality)
    if reference == 0:
        raise DataError("the largest stage answers nothing right, so no quality is relative to it")
    return Headline(
        name=name,
        seconds=np.concatenate([one.seconds for one in timed], axis=1),
        largest=np.concatenate([one.largest for one in timed], axis=1),
        relative_quality=pooled(replays, lambda replay: replay.quality) / reference,
        cost=pooled(replays, lambda replay: replay.cost),
        agreement=float(np.mean([one.agreement for one in timed])),
    )


def _everywhere(session: Session, setting: Setting) -> Sequence[Replay]:
    return [session.replay(dataset, *setting) for dataset in session.matrix.datasets]


def pooled(replays: Sequence[Replay], per_item: Callable[[Replay], Array]) -> float:
    """Mean over the items of all datasets."""
    return float(np.concatenate([per_item(replay) for replay in replays]).mean())
