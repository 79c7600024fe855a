"""Live passes: the largest stage alone and every distinct policy of the sweep, taking turns on each item.

Two lambdas whose policies take the same way on all timed items are one arm. Along run the largest stage's own
answers drafted by smaller ones ("lossless"), and the oracle of the largest lambda: with foresight, the
cheapest stage that is right. Every arm goes through the same loop, so that what is compared is the policies.
Provenance `measured`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from asd.cascade import Cascade
from asd.engines import Engine, Verifier
from asd.ladder import Ladder
from asd.measurement.timing import Clock, interleave, warm_up
from asd.study.walks import Contender, Replay, walk_of
from asd.types import Completion, Query

__all__ = ["Live", "Timed", "run_live"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of one arm and of the largest stage alone, of shape (passes, units), in the same passes.

    `agreement` is the share of items whose answer and actions equal the replayed ones; `completions` are
    those of the last pass, one an item.
    """

    contender: Contender
    seconds: Array
    largest: Array
    agreement: float
    completions: tuple[Completion, ...]

    @property
    def speedups(self) -> Array:
        """Total seconds of the largest stage over total seconds of the arm, one a pass."""
        return np.asarray(self.largest.sum(axis=1) / self.seconds.sum(axis=1))


@dataclass(frozen=True, slots=True)
class Live:
    """Everything timed on one dataset, by (policy name, lambda); equal ways share their seconds."""

    timed: Mapping[tuple[str, float | None], Timed]
    n_arms: int


def run_live(
    ladder: Ladder,
    engines: Mapping[str, Engine],
    replays: Sequence[Replay],
    items: Sequence[int],
    *,
    batch: int,
    n_passes: int,
    clock: Clock,
) -> Live:
    """Time the contenders of these replays, the largest stage alone among them.

    Args:
        ladder: Supplies the prices.
        engines: One a stage.
        replays: Of the contenders to time, all on one dataset; the first is the largest stage alone.
        items: Positions of the items to time.
        batch: Queries per unit of work.
        n_passes: Walks over all units.
        clock: Reads seconds.
    """
    arms = {str(walks): replay for replay in reversed(replays) if (walks := _walks(replay, items))}
    queries = [replays[0].completions[i].query for i in items]
    units = [queries[start : start + batch] for start in range(0, len(queries), batch)]
    run = {name: _arm(ladder, engines, replay, batch) for name, replay in arms.items()}

    def synchronise() -> None:
        for engine in engines.values():
            engine.synchronise()

    for unit in (units[0], max(units, key=lambda unit: max(len(query.prompt) for query in unit))):
        for call in _warming(engines, unit):
            warm_up(call, synchronise=synchronise, clock=clock)
    timings = interleave(run, units, n_passes, synchronise=synchronise, clock=clock)
    largest = timings.seconds[str(_walks(replays[0], items))]
    timed = {}
    for replay in replays:
        name = str(_walks(replay, items))
        answers = [completion for unit in timings.results[name] for completion in unit]
        timed[replay.contender.name, replay.contender.lam] = Timed(
            replay.contender,
            timings.seconds[name],
            largest,
            _agreement(answers, replay, items),
            tuple(answers),
        )
    return Live(timed, len(arms))


def _warming(engines: Mapping[str, Engine], unit: list[Query]) -> Iterator[Callable[[], object]]:
    """Every kind of call that a policy may make."""
    smallest = next(iter(engines.values()))
    for engine in engines.values():
        yield partial(engine.generate, unit)
        if engine is not smallest and isinstance(engine, Verifier):
            yield partial(engine.verify, unit, smallest.generate(unit))


def _walks(replay: Replay, items: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    return tuple(replay.walks[i] for i in items)


def _arm(
    ladder: Ladder, engines: Mapping[str, Engine], replay: Replay, batch: int
) -> Callable[[list[Query]], list[Completion]]:
    prices = {stage.name: stage.prices for stage in ladder.stages}
    cascade = Cascade(engines, replay.contender.policy, prices)
    return partial(cascade.run, batch_size=batch)


def _agreement(answers: Sequence[Completion], replay: Replay, items: Sequence[int]) -> float:
    expected = [replay.completions[i] for i in items]
    same = [a.text == e.text and walk_of(a) == walk_of(e) for a, e in zip(answers, expected, strict=True)]
    return float(np.mean(same))
