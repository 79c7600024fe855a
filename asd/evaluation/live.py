"""Live passes: the largest stage alone and every distinct policy of the sweep, taking turns on each item.

Two lambdas whose policies take the same way on all timed items are one arm. Along run the largest stage's own
answers drafted by smaller ones ("lossless"), and the oracle of the largest lambda: with foresight, the
cheapest stage that is right. Every arm goes through the same loop, so that what is compared is the policies.
At batch 1 queries come one at a time; where a call holds several, `QUEUED` calls' worth of them wait at once,
because a stage that every fourth query reaches would never see a full call otherwise. Provenance `measured`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from asd.cascade import Cascade
from asd.engines import Drafted, Engine, Verifier, alone
from asd.evaluation.replay import Contender, Replay, walk_of
from asd.ladder import Ladder
from asd.measurement.timing import Clock, interleave, warm_up
from asd.types import Completion, Query

__all__ = ["N_SPARE", "Live", "Timed", "run_live", "unit_size"]

Array = NDArray[np.float64]

N_SPARE = 2
"""Further passes at most, while the calmest do not agree (`asd.measurement.timing.interleave`)."""

QUEUED = 4
"""Full calls' worth of queries that wait at once, where calls hold several."""


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
        batch: Most queries a call; a unit of work holds `unit_size` of them.
        n_passes: Walks over all units; up to `N_SPARE` more where the machine is not calm.
        clock: Reads seconds.
    """
    arms = {_arm_name(replay, items): replay for replay in reversed(replays)}
    queries = [replays[0].completions[i].query for i in items]
    size = unit_size(batch)
    units = [queries[start : start + size] for start in range(0, len(queries), size)]
    run = {name: _arm(ladder, engines, replay, batch) for name, replay in arms.items()}

    def synchronise() -> None:
        for engine in engines.values():
            engine.synchronise()

    calls = [queries[start : start + batch] for start in range(0, len(queries), batch)]
    for asked in (calls[0], max(calls, key=lambda asked: max(query.n_characters for query in asked))):
        for call in _warming(engines, asked):
            warm_up(call, synchronise=synchronise, clock=clock)
    timings = interleave(run, units, n_passes, n_spare=N_SPARE, synchronise=synchronise, clock=clock)
    largest = timings.seconds[_arm_name(replays[0], items)]
    timed = {}
    for replay in replays:
        name = _arm_name(replay, items)
        answers = [completion for unit in timings.results[name] for completion in unit]
        timed[replay.contender.name, replay.contender.lam] = Timed(
            replay.contender,
            timings.seconds[name],
            largest,
            _agreement(answers, replay, items),
            tuple(answers),
        )
    return Live(timed, len(arms))


def unit_size(batch: int) -> int:
    """Queries in one unit of work, at most `batch` of them a call."""
    return batch if batch == 1 else QUEUED * batch


def _warming(engines: Mapping[str, Engine], unit: list[Query]) -> Iterator[Callable[[], object]]:
    """Every kind of call that a policy may make."""
    smallest = next(iter(engines.values()))
    for engine in engines.values():
        yield partial(engine.generate, unit)
        if isinstance(engine, Drafted):
            yield partial(engine.alone.generate, unit)
        if engine is not smallest and isinstance(engine, Verifier):
            yield partial(engine.verify, unit, smallest.generate(unit))


def _arm_name(replay: Replay, items: Sequence[int]) -> str:
    """The same for contenders that do the same."""
    return str((replay.contender.drafter, [replay.walks[i] for i in items]))


def _arm(
    ladder: Ladder, engines: Mapping[str, Engine], replay: Replay, batch: int
) -> Callable[[list[Query]], list[Completion]]:
    if not replay.contender.drafter:
        engines = {name: alone(engine) for name, engine in engines.items()}
    cascade = Cascade(engines, replay.contender.policy, ladder.prices_at(batch))
    return partial(cascade.run, batch_size=batch)


def _agreement(answers: Sequence[Completion], replay: Replay, items: Sequence[int]) -> float:
    expected = [replay.completions[i] for i in items]
    same = [a.text == e.text and walk_of(a) == walk_of(e) for a, e in zip(answers, expected, strict=True)]
    return float(np.mean(same))
