"""The interval between two looks that theory predicts for a controller, from its own loop.

A look answers what it sees: the mean over the T seconds before. The answer stands for T more, and queues
follow it in the time tau in which they forget how they were. With g, the share of a deviation that one answer
takes back, a loop settles while

    gain x delay = g / T * (T + tau) < 1,      that is, for T > T* = tau g / (1 - g).

T* is the optimum: a shorter interval answers again before the queues have followed, a longer one answers
older states. A g of 0 moves nothing, whatever T; a negative one adds to the deviation and one of 1 or more
overshoots at every T. Both are read off simulated runs in which the loop is cut: what it believes is fixed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from asd.errors import ConfigError
from asd.operations.books import StageWindow, Summary
from asd.operations.control.backlog import QueueAware
from asd.operations.control.published import PublishedOptimizer
from asd.operations.runs import RunsHeader, run
from asd.operations.state import StageState, SystemState
from asd.operations.traffic import Controller, Fixed
from asd.research.load.shop import Shop
from asd.research.study.record import Value
from asd.schema import msgspec

__all__ = ["FeedbackLoop", "acting", "loop_of", "relaxation_s"]

FACTORS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
"""Of the rate at which the largest stage alone is in use 85 % of the time: loads at which a loop is tried."""
SECONDS = 300.0
"""Of a run that a loop is read off."""
BELIEFS = (0.75, 1.25)
"""Queries a call that a queue-aware policy is made to believe, as shares of what they are."""
DEAD_BAND = 1.2
"""Mean latency over its target from which on the published optimiser answers it."""


class FeedbackLoop(NamedTuple):
    """What a controller's looks do: share of a deviation that one takes back, seconds that queues need."""

    gain: float
    relaxation_s: float

    @property
    def optimum(self) -> Value:
        """T* in seconds, or why there is none."""
        if self.gain == 0.0:
            return "any: moves nothing"
        if self.gain < 0.0:
            return "none: adds to what it answers"
        if self.gain >= 1.0:
            return "none: overshoots"
        if math.isinf(self.relaxation_s):
            return "none: the queues only grow"
        return self.relaxation_s * self.gain / (1.0 - self.gain)


def acting(shop: Shop, text: str) -> float | None:
    """The least of `FACTORS` at which the looks of a controller change what is decided; None: at none."""
    return next((factor for factor in FACTORS if loop_of(shop, text, factor).gain), None)


def at(shop: Shop, factor: float, seconds: float = SECONDS) -> RunsHeader:
    """A run at such a multiple of the rate of `Shop.rate`."""
    asked = shop.short(arrivals=f"poisson:{factor * shop.rate():g}")
    seconds = min(seconds, asked.seconds)
    return msgspec.structs.replace(asked, seconds=seconds, window_s=seconds)


def loop_of(shop: Shop, text: str, factor: float) -> FeedbackLoop:
    """Of a queue-aware policy, or of the published optimiser, at that load."""
    asked, made = at(shop, factor), shop.controller(shop.asked, text)
    total = _run(shop, asked, made)
    if isinstance(made, QueueAware):
        gain = _queue_aware(shop, asked, text, total)
    elif isinstance(made, PublishedOptimizer):
        gain = _published(shop, asked, text, made)
    else:
        raise ConfigError(f"{text!r} has no loop that is known here")
    return FeedbackLoop(gain, relaxation_s(asked, total))


def relaxation_s(asked: RunsHeader, total: Summary) -> float:
    """E[S] / (1 - load)^2, load in full calls, of the slowest stage; infinite where the load is 1 or more."""
    return max((_relaxation_s(asked, total, name) for name in total.stages), default=0.0)


def _relaxation_s(asked: RunsHeader, total: Summary, name: str) -> float:
    if not total.stages[name].n_calls:
        return 0.0
    state, left = _state(asked, total, name), 1.0 - _load(asked, total.stages[name], name)
    assert state.call_s is not None
    return state.call_s / state.replicas / left**2 if left > 0.0 else math.inf


def _load(asked: RunsHeader, whole: StageWindow, name: str) -> float:
    """Share of what full calls could do, as `asd.operations.control.backlog` reckons it."""
    return whole.utilisation * whole.n_visits / whole.n_calls / asked.servers[name][1]


def _state(asked: RunsHeader, total: Summary, name: str) -> StageState:
    """What a look of a controller at the whole run would be told of a stage."""
    whole, replicas = total.stages[name], asked.servers[name][0]
    n = whole.n_calls
    call_s = whole.utilisation * total.seconds * replicas / n if n else None
    return StageState(replicas, 0.0, 0, whole.utilisation, None, call_s, whole.n_visits / n if n else None)


def _queue_aware(shop: Shop, asked: RunsHeader, text: str, total: Summary) -> float:
    """How much less load comes of believing in more, at the slowest stage, in the part that a look renews."""
    slowest = max(total.stages, key=lambda name: _relaxation_s(asked, total, name))
    states = {name: _state(asked, total, name) for name in total.stages}
    if (per_call := states[slowest].per_call) is None:
        return 0.0
    loads, memory = [], 0.0
    for share in BELIEFS:
        made = shop.controller(asked, text)
        assert isinstance(made, QueueAware)
        memory, made.memory, made.interval_s = made.memory, 0.0, math.inf
        believed = states | {slowest: replace(states[slowest], per_call=share * per_call)}
        made.policy(SystemState(0.0, total.seconds, believed, 0, 0.0, 0.0, None, None))
        found = _run(shop, asked, made).stages[slowest]
        loads.append(_load(asked, found, slowest) if found.n_calls else 0.0)
    if min(loads) <= 0.0:
        return 1.0
    return (1.0 - memory) * math.log(loads[0] / loads[1]) / math.log(BELIEFS[1] / BELIEFS[0])


def _published(shop: Shop, asked: RunsHeader, text: str, moved: PublishedOptimizer) -> float:
    """How much latency a look's step takes away, in units of the band in which it does not answer."""
    n_looks = int(asked.seconds // moved.interval_s)
    first = shop.controller(asked, text)
    before, after = (_run(shop, asked, Fixed(one.policy(None))).latency_s for one in (first, moved))
    if not n_looks or not before or not after:
        return 0.0
    return math.log(before / after) / n_looks / math.log(DEAD_BAND)


def _run(shop: Shop, asked: RunsHeader, controller: Controller) -> Summary:
    return run(replace(shop.scenario, asked=asked), controller, shop.seed, lambda _: None).total
