"""One request that was taken on, from there until its books are closed.

    try:
        delivered = await run.end()
    finally:
        run.close()                                   # what ran is booked, and told to whoever watches

Whatever becomes of its client, the request is settled once no stage works for it any more, and those of the
shadow are done too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from asd.serving.admission import Ticket, calls_of
from asd.serving.endpoint.bodies import ParsedRequest
from asd.serving.endpoint.past.feedback import catch_up
from asd.serving.endpoint.settings import RequestSettings
from asd.serving.endpoint.walks import Delivered, Walk
from asd.serving.monitoring.decisions import from_the_prompt, trace_of
from asd.serving.monitoring.events import Ended, Outcome
from asd.serving.monitoring.shadow import Shadowed

if TYPE_CHECKING:
    from asd.serving.endpoint.past.tracing import RequestSpan
    from asd.serving.endpoint.service import Service

__all__ = ["ActiveRequest"]

_LOG = logging.getLogger(__name__)


class ActiveRequest:
    """One request that was taken on; `close` it however it ends.

    Attributes:
        asked: What it asks.
        setting: How it is answered.
        walk: Its way through the cascade.
        span: Of its trace; None: it has none.
    """

    def __init__(
        self, service: Service, asked: ParsedRequest, setting: RequestSettings, ticket: Ticket, walk: Walk
    ) -> None:
        self.asked = asked
        self.setting = setting
        self.walk = walk
        self.span: RequestSpan | None = None
        self._service = service
        self._key = walk.allowed.facts.key
        self._ticket = ticket
        self._n_inside = service.n_open - 1
        self._taken_s = service.monitor.taken()
        self._outcome: Outcome = "left"
        self._delivered: Delivered | None = None
        self._error: Exception | None = None
        self._first_text_s: float | None = None

    async def end(self) -> Delivered:
        """Answer; cancelling it takes the query out of the cascade. Raises as `Walk.end`."""
        try:
            delivered = await self.walk.end()
        except Exception as error:
            self._outcome, self._error = "failed", error
            raise
        self._outcome = "answered" if delivered.in_time else "late"
        self._delivered = delivered
        self._service.history.keep(self.asked, self._key, self.setting, delivered)
        return delivered

    def shows_text(self) -> None:
        """The client is sent some of the answer now."""
        if self._first_text_s is None:
            self._first_text_s = self._seconds

    def close(self) -> None:
        """Settle the books, in the background: once no stage works for the request any more."""
        self._service.in_background(self._settle())

    async def _settle(self) -> None:
        seconds = self._seconds
        try:
            await self.walk.settled()
            ended = self._ended(seconds)
            self._tell(lambda: self._service.monitor.ended(ended))
            shadow = await self._in_shadow(ended)
            self._tell(lambda: self._keep(ended, shadow))
            self._tell(lambda: self._trace(ended, shadow))
            calls, uncounted = [*ended.calls, *shadow.calls], [*self.walk.uncounted, *shadow.uncounted]
            await self._ticket.settle(calls, uncounted)
        except Exception as error:
            _LOG.error("the books of request %s are open", self.asked.query.id, exc_info=error)
        finally:
            self._service.closed()

    async def _in_shadow(self, ended: Ended) -> Shadowed:
        """Let further stages answer, where the request was drawn for that and has an answer to compare."""
        service = self._service
        if not self._ticket.shadow or ended.completion is None or service.draining:
            return Shadowed()
        known, seconds = from_the_prompt(ended.bought), service.capacity.seconds
        return await service.shadow.run(ended.completion.query, self._ticket.shadow, known, seconds)

    def _keep(self, ended: Ended, shadow: Shadowed) -> None:
        """Compare, log and remember what there is now."""
        service, query, compared = self._service, self.walk.state.query, None
        if shadow.drafts:
            micros = sum(map(service.tariff.micros, shadow.calls))
            compared = service.monitor.shadowed(query, ended, shadow.drafts, shadow.calls, micros)
        logged = service.monitor.write(trace_of(query, ended, shadow.drafts))
        kept = service.history.complete(query.id, shadow.drafts, compared, logged)
        if kept is not None:
            catch_up(service.monitor, kept)

    def _trace(self, ended: Ended, shadow: Shadowed) -> None:
        if self.span is not None:
            self.span.ended(self.asked, self.setting, ended, self._delivered, shadow.dispatched)

    def _tell(self, whoever_watches: Callable[[], None]) -> None:
        """What goes wrong there breaks no books."""
        try:
            whoever_watches()
        except Exception as error:
            _LOG.error("request %s is not seen as a whole", self.asked.query.id, exc_info=error)

    @property
    def _seconds(self) -> float:
        """Since the request arrived."""
        return asyncio.get_running_loop().time() - self.walk.allowed.arrived

    def _ended(self, seconds: float) -> Ended:
        """The request as those see it who watch."""
        delivered, calls = self._delivered, calls_of(self.walk.bought)
        return Ended(
            key=self._key,
            outcome=self._outcome,
            arrived_at=time.time() - self._seconds,
            taken_s=self._taken_s,
            seconds=seconds if delivered is None else delivered.seconds,
            n_inside=self._n_inside,
            bought=tuple(self.walk.bought),
            calls=tuple(calls),
            micros=sum(map(self._service.tariff.micros, calls)),
            completion=None if delivered is None else delivered.completion,
            p_good=None if delivered is None else delivered.p_good,
            first_text_s=self._first_text_s,
            guaranteed=self.setting.guaranteed and not self.setting.note,
            dispatched=tuple(self.walk.calls),
            error=self._error,
        )
