"""Stages that answer in the shadow: nobody waits for them, and they keep an eye on quality.

A share of the requests at the server's own setting is drawn by lot before anything of them is decided. Greedy
ones only: another draw of the same stage would differ from itself. While the server is crowded none is drawn.
The runs are paid for by whoever asked, covered by the hold at admission and booked as what they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from asd.cascade import Cascade
from asd.dispatch import Dispatcher
from asd.errors import AsdError, CallCancelledError, ConfigError
from asd.journey import DispatchedCall, Journey
from asd.serving.admission import Call, calls_of
from asd.types import Draft, Query

__all__ = ["Shadow", "Shadowed"]

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Shadowed:
    """What ran in the shadow of one request.

    Attributes:
        drafts: Answers by stage, those that were there already among them.
        calls: What was called for them.
        uncounted: Stages of calls that ended before anybody knew what they took.
        dispatched: The calls as they were made.
    """

    drafts: dict[str, Draft] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)
    dispatched: list[DispatchedCall] = field(default_factory=list)


class Shadow:
    """The shadow of one server.

    Args:
        share: Of the requests that are drawn.
        stages: Those that answer.
        cascade: A stage alone.
        dispatcher: Calls it.
        rng: Draws.

    Raises:
        ConfigError: The share is none.
    """

    def __init__(
        self,
        share: float,
        stages: tuple[str, ...],
        cascade: Callable[[str], Cascade],
        dispatcher: Dispatcher,
        rng: np.random.Generator,
    ) -> None:
        if not 0.0 <= share <= 1.0:
            raise ConfigError(f"the share of requests in the shadow lies between 0 and 1, not {share:g}")
        self._share = share
        self._stages = stages
        self._cascade = cascade
        self._dispatcher = dispatcher
        self._rng = rng

    def drawn(self) -> tuple[str, ...]:
        """Stages that are to answer a request in the shadow; mostly none."""
        return self._stages if self._rng.random() < self._share else ()

    async def run(
        self, query: Query, stages: tuple[str, ...], known: Mapping[str, Draft], seconds: float
    ) -> Shadowed:
        """Let stages answer that have not done so; what fails is missing from what comes back."""
        found = Shadowed({stage: known[stage] for stage in stages if stage in known})
        for stage in stages:
            if stage not in known:
                await self._answer(query, stage, found, seconds)
        return found

    async def _answer(self, query: Query, stage: str, found: Shadowed, seconds: float) -> None:
        journey = Journey(query)
        try:
            async with asyncio.timeout(seconds):
                await self._dispatcher.walk(self._cascade(stage), journey)
        except (AsdError, TimeoutError) as error:
            _LOG.warning("stage %s did not answer in the shadow: %s", stage, error)
        await self._dispatcher.settled(journey)
        found.drafts |= journey.drafts
        found.calls += calls_of(journey.drafts.values(), shadow=True)
        found.dispatched += journey.calls
        kind = CallCancelledError.__name__
        found.uncounted += [failure.stage for failure in journey.failures if failure.kind == kind]
