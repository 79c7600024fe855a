"""What every request of a server shares: engines, settings, the books, and room for so many at a time.

    run = await service.open(asked, key, arrived)     # taken on, or refused by an error

What becomes of it then is `asd.serving.endpoint.runs`'. No HTTP here: that is
`asd.serving.endpoint.application`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from msgspec import structs

from asd.cascade import Cascade
from asd.dispatch import Dispatcher
from asd.engines import LOSSLESS, Acceptance, Engine, Sampling, Verifier, accepted
from asd.engines.closing import close_all
from asd.errors import DataError, StorageError
from asd.evidence.prompt.taxonomy import classify, left_out
from asd.ladder import Ladder
from asd.operations.control.floor import Floored
from asd.operations.live import Booked, Meter
from asd.operations.traffic import Controller, LoadAware
from asd.policies import FixedStage
from asd.resilience import FAILURES, Health
from asd.serving.admission import Accounts, Admission, RequestFacts
from asd.serving.endpoint.bodies import ParsedRequest
from asd.serving.endpoint.controls import Controls, Priority
from asd.serving.endpoint.past.history import History
from asd.serving.endpoint.refusals import RequestError
from asd.serving.endpoint.runs import ActiveRequest
from asd.serving.endpoint.settings import RequestSettings, SettingCache
from asd.serving.endpoint.walks import Allowance, Walk
from asd.serving.monitoring.monitor import UNWATCHED, Monitor, MonitorSettings
from asd.serving.monitoring.shadow import Shadow
from asd.serving.monitoring.vitals import Vitals
from asd.serving.tariff import MICRO, Tariff, prompt_bound
from asd.types import AnswerForm, AnswerKind

if TYPE_CHECKING:
    from asd.serving.endpoint.past.tracing import Tracing

__all__ = ["Capacity", "Service", "load", "tariff_of"]

_LOG = logging.getLogger(__name__)

Steers = Callable[[Mapping[str, tuple[int, int]]], Controller]
"""Makes a controller for stages with so many replicas and queries a call."""

PLACES: dict[Priority, float] = {"low": 0.5, "normal": 1.0, "high": 1.2}
"""Share of `Capacity.open` up to which requests of a priority are taken; above half of it in a hurry."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a server takes on.

    Attributes:
        open: Requests at a time, those that wait for a stage included; further ones are refused (429).
        batch: Most queries in one call of an engine that does not batch by itself.
        seconds: Most that a request may take; one that names a later deadline gets this one.
    """

    open: int = 256
    batch: int = 16
    seconds: float = 600.0


class Service:
    """A cascade that many ask, on the event loop that is running.

    Args:
        engines: One a stage, by stage name.
        ladder: Their stages and prices.
        settings: Which policy a request gets.
        forms: Kinds of answers that the policy was fitted on, the usual one first.
        admission: Decides who is served, and keeps the books.
        capacity: How many, how long, how much.
        watching: How it is watched.

    Attributes:
        history: What became of the latest requests.
        monitor: Is told of every request that ends.
        shadow: Stages that answer besides, now and then.
        tariff: What calls cost and can cost.
        draining: No request is taken any more; those that were continue.
        tracing: Sends a trace of every request; None: nobody does.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        ladder: Ladder,
        settings: SettingCache,
        forms: tuple[AnswerKind, ...],
        admission: Admission,
        capacity: Capacity,
        watching: MonitorSettings = UNWATCHED,
    ) -> None:
        self.ladder = ladder
        self._stages = tuple(stage.name for stage in ladder.stages)
        self.admission = admission
        self.capacity = capacity
        self.history = History()
        self.health = Health()
        self.dispatcher = Dispatcher(engines, capacity.batch)
        meter = Meter(self.dispatcher, self._stages, engines=engines)
        self.monitor = Monitor(self.vitals, meter, self._stages, watching)
        self._controller: Controller | None = None
        self.draining = False
        self.tracing: Tracing | None = None
        self.tariff = tariff_of(ladder, engines)
        self._engines = engines
        self._settings = settings
        self._forms = forms
        self._rng = np.random.default_rng()
        self._cascades: WeakKeyDictionary[RequestSettings, Cascade] = WeakKeyDictionary()
        self._background: set[asyncio.Task[None]] = set()
        self._n_open = 0
        alone = {name: self._new_cascade(_alone(name), LOSSLESS) for name in self._stages}
        shadow = watching.shadow_of(self._stages)
        self.shadow = Shadow(watching.share, shadow, alone.__getitem__, self.dispatcher, self._rng)

    @property
    def n_open(self) -> int:
        """Requests that were taken and for which work may still run."""
        return self._n_open

    @property
    def setting(self) -> RequestSettings:
        """Of requests that name none."""
        return self._settings.default

    def steering(self) -> dict[str, float]:
        """What weighs quality against cost at that setting, by name; empty where nothing is weighed."""
        of = self._controller or self.setting.policy
        return {name: float(getattr(of, name)) for name in ("lam", "mu", "budget_scale") if hasattr(of, name)}

    def gauges(self) -> dict[str, Mapping[str, float]]:
        """What engines told of themselves last, by stage."""
        return {name: load.gauges for name, load in self.monitor.meter.loads.latest.items()}

    def vitals(self) -> Vitals:
        """How the server is now."""
        stages = {name: self.monitor.meter.now(name) for name in self._stages}
        health = self.health
        return Vitals(
            self._n_open,
            self.capacity.open,
            self.draining,
            stages,
            self.dispatcher.places,
            health.resting(),
            health.counts,
        )

    def steer_by(self, steering: Steers) -> None:
        """Let this controller choose the policy of requests that name nothing; before any has come."""
        run = {name: (self.dispatcher.width(name), self.dispatcher.batch(name)) for name in self._stages}
        self._controller = steering(run)
        if isinstance(self._controller, LoadAware):
            self._controller.watch(self.monitor.meter.gauges)
        self._settings.steer(self._controller.policy(None))
        self._tell(self._controller)

    async def steer(self) -> None:
        """Let the controller look at the state again and again, until cancelled."""
        while self._controller is not None:
            await asyncio.sleep(self._controller.interval_s)
            try:
                await self.look(self._controller)
            except (DataError, StorageError) as error:
                _LOG.warning("the controller sees no books, settings stay as they are: %s", error)

    async def look(self, controller: Controller) -> None:
        """Let it look at the state once, the books included, and answer by the policy that it returns."""
        state = self.monitor.meter.state(self._n_open, await self._booked(), self.health.resting())
        self._settings.steer(await asyncio.to_thread(controller.policy, state))
        self._tell(controller)

    def _tell(self, controller: Controller) -> None:
        """What it cannot hold, to whoever watches."""
        if isinstance(controller, Floored):
            self.monitor.unheld = controller.unheld

    async def _booked(self) -> Booked | None:
        if not isinstance(self.admission, Accounts):
            return None
        spent = await self.admission.spent()
        return Booked(spent.now_s, spent.today / MICRO, spent.ever / MICRO)

    async def open(self, asked: ParsedRequest, key: str, arrived: float) -> ActiveRequest:
        """Take a request on.

        Args:
            asked: What it asks.
            key: Alias of the client's key.
            arrived: When it came, by the event loop's clock.

        Raises:
            RequestError: It cannot be answered here or now.
            AdmissionError: The client may not ask, or not now.
        """
        self._check_open(asked.controls)
        controls, temperature = self._possible(asked), asked.sampling.temperature
        self._check_domain(asked.query.prompt, controls)
        setting = await self._settings.of(controls, temperature, verify=not asked.query.needs)
        query = replace(asked.query, form=AnswerForm(self._form(asked)))
        self._check_open(controls)
        shadow = self.shadow.drawn() if controls.is_own and temperature == 0 else ()
        if controls.is_own and self._is_crowded(controls):
            setting, shadow = setting if setting.guaranteed else self._settings.hurried, ()
        cascade = self._cascade(setting, asked.sampling)
        facts = RequestFacts(
            id=query.id,
            key=key,
            model=asked.model,
            stages=setting.stages,
            n_prompt=prompt_bound(query),
            max_new_tokens=query.max_new_tokens,
            shadow=shadow,
            budget=None if asked.controls.budget is None else int(asked.controls.budget * MICRO),
        )
        self._n_open += 1
        try:
            ticket = await self.admission.admit(facts)
        except BaseException:
            self._n_open -= 1
            raise
        allowed = Allowance(self.tariff, facts, arrived, self._seconds(asked))
        return ActiveRequest(self, asked, setting, ticket, Walk(self.dispatcher, cascade, query, allowed))

    def _possible(self, asked: ParsedRequest) -> Controls:
        """The request's controls; where it needs what not all stages accept, with those that do."""
        needs, named = asked.query.needs, asked.controls.stages
        if not needs:
            return asked.controls
        able = [name for name in self._stages if needs <= accepted(self._engines[name])]
        allowed = tuple(name for name in able if named is None or name in named)
        if not allowed:
            what = " and ".join(sorted(needs))
            whose = "of this server" if named is None else f"among {', '.join(named)}"
            raise RequestError(
                400,
                f"{what}: not supported, no stage {whose} accepts it (accepts = [...] in the ladder's "
                "options.openai); ask for it in the prompt",
                param=min(needs),
                code="unsupported_value",
            )
        return structs.replace(asked.controls, stages=allowed)

    def _check_domain(self, prompt: str, controls: Controls) -> None:
        """Refuse a request whose allowed stages are all for other domains than its prompt's."""
        if controls.stages is not None and left_out(self.ladder.only, prompt) >= set(controls.stages):
            raise RequestError(
                400,
                f"stages: {', '.join(controls.stages)} are for other domains than this prompt's, "
                f"{classify(prompt).domain}; allow a stage without `only` too",
                param="stages",
                code="unsupported_value",
            )

    def _seconds(self, asked: ParsedRequest) -> float:
        return min(asked.controls.deadline_s or self.capacity.seconds, self.capacity.seconds)

    def _check_open(self, asked: Controls) -> None:
        if self.draining:
            raise RequestError(503, "the server is shutting down", code="draining", retry_after_s=5)
        priority = asked.priority or "normal"
        if self._n_open >= PLACES[priority] * self.capacity.open:
            raise RequestError(
                429,
                f"{self._n_open} requests are open, as many as may be at priority {priority}",
                code="overloaded",
                retry_after_s=1,
            )

    def _is_crowded(self, asked: Controls) -> bool:
        """Whether a request that says nothing of quality gets a cheap answer, so that later ones get any."""
        return self._n_open >= PLACES[asked.priority or "normal"] * self.capacity.open / 2

    def _form(self, asked: ParsedRequest) -> AnswerKind:
        kind = asked.controls.answers or self._forms[0]
        if kind not in self._forms:
            known = ", ".join(self._forms)
            raise RequestError(
                400, f"the policy was fitted on answers of kind {known}, not {kind}", param="answers"
            )
        return kind

    def _cascade(self, setting: RequestSettings, sampling: Sampling) -> Cascade:
        """One a setting, so that its way round failing stages is solved once; one a request that samples."""
        if sampling.temperature > 0:
            drawn = sampling if sampling.rng else replace(sampling, rng=self._rng)
            return self._new_cascade(setting, Acceptance(drawn))
        if setting not in self._cascades:
            self._cascades[setting] = self._new_cascade(setting, LOSSLESS)
        return self._cascades[setting]

    def _new_cascade(self, setting: RequestSettings, acceptance: Acceptance) -> Cascade:
        prices, only = self.ladder.prices_at(1), self.ladder.only
        return Cascade(self._engines, setting.policy, prices, self.health, acceptance, only=only)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that is done even if the request's own task is cancelled."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def closed(self) -> None:
        """One request less is open."""
        self._n_open -= 1

    async def drained(self) -> None:
        """Until every request that was taken has ended and is settled."""
        self.draining = True
        while self._n_open or self._background:
            await asyncio.sleep(0.02)

    def close(self) -> None:
        """Give threads and engines back."""
        self.dispatcher.close()
        close_all(self._engines.values())


def _alone(stage: str) -> RequestSettings:
    return RequestSettings(FixedStage(stage), (stage,))


def tariff_of(ladder: Ladder, engines: Mapping[str, Engine]) -> Tariff:
    """What the stages cost as they are served: one query a call, verified by those that can."""
    verifiers = {name for name, engine in engines.items() if isinstance(engine, Verifier)}
    return Tariff(ladder, verifiers=verifiers)


def load(engines: Mapping[str, Engine]) -> None:
    """Bring every stage into memory; one that fails is logged, and asked again when a request needs it.

    Raises:
        Exception: What the last stage failed with, where all of them fail.
    """
    failed: dict[str, Exception] = {}
    for name, engine in engines.items():
        try:
            engine.load()
        except FAILURES as error:
            _LOG.warning("stage %s cannot be loaded now: %s", name, error)
            failed[name] = error
    if failed.keys() == engines.keys():
        raise failed.popitem()[1]
