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
from asd.measurement.timing import Budget, Clock, Turns, warm_up
from asd.types import Completion, Query

__all__ = ["Live", "TimedPasses", "run_live", "unit_size"]

Array = NDArray[np.float64]

QUEUED = 4
"""Full calls' worth of queries that wait at once, where calls hold several."""


@dataclass(frozen=True, slots=True)
class TimedPasses:
    """Seconds of one arm and of the largest stage alone, of shape (passes, units), in the same passes.

    `completions` are those of the last pass, one an item; `expected` are the replayed ones.
    """

    contender: Contender
    seconds: Array
    largest: Array
    completions: tuple[Completion, ...]
    expected: tuple[Completion, ...]

    @property
    def agreement(self) -> float:
        """Share of items whose answer and actions equal the replayed ones."""
        pairs = zip(self.completions, self.expected, strict=True)
        return float(np.mean([a.text == b.text and walk_of(a) == walk_of(b) for a, b in pairs]))


@dataclass(frozen=True, slots=True)
class Live:
    """Everything that takes turns on one dataset; equal ways share their seconds.

    Attributes:
        replays: Of the contenders; the first is the largest stage alone.
        items: Positions of the items that are timed.
        turns: What is timed, by the name of the arm; further passes may be asked of it.
    """

    replays: tuple[Replay, ...]
    items: tuple[int, ...]
    turns: Turns[list[Query], list[Completion]]

    @property
    def n_arms(self) -> int:
        """Different ways among the contenders."""
        return len(self.turns.arms)

    @property
    def timed(self) -> dict[tuple[str, float | None], TimedPasses]:
        """By policy name and lambda, over all passes so far."""
        return {(r.contender.name, r.contender.lam): self._timed(r) for r in self.replays}

    def _timed(self, replay: Replay) -> TimedPasses:
        timings, name = self.turns.timings, _arm_name(replay, self.items)
        return TimedPasses(
            contender=replay.contender,
            seconds=timings.seconds[name],
            largest=timings.seconds[_arm_name(self.replays[0], self.items)],
            completions=tuple(completion for unit in timings.results[name] for completion in unit),
            expected=tuple(replay.completions[i] for i in self.items),
        )


def run_live(
    ladder: Ladder,
    engines: Mapping[str, Engine],
    replays: Sequence[Replay],
    items: Sequence[int],
    *,
    batch: int,
    passes: Budget,
    clock: Clock,
) -> Live:
    """Time the contenders of these replays, the largest stage alone among them.

    Args:
        ladder: Supplies the prices.
        engines: One a stage.
        replays: Of the contenders to time, all on one dataset; the first is the largest stage alone.
        items: Positions of the items to time.
        batch: Most queries a call; a unit of work holds `unit_size` of them.
        passes: Walks over all units.
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
    turns = Turns(run, units, synchronise=synchronise, clock=clock)
    turns.walk_within(passes)
    return Live(tuple(replays), tuple(items), turns)


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
    cascade = Cascade(engines, replay.contender.policy, ladder.prices_at(batch), only=ladder.only)
    return partial(cascade.run, batch_size=batch)
