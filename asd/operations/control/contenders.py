"""The controllers that are compared, by name and setting, and their comparison at equal quality.

optimal:LAM          backward induction at every load
queue, target, price, paced, floored
                     what sees the queues (`asd.operations.control.steering`)
router:LAM:P         the published router for the largest stage, else the static walk
gears:LAM            settings up to LAM, chosen by the rate of arrivals
published:LAM        the published optimiser
static:P             climb until the answer is likely enough to be right
always:STAGE         one stage
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from asd.errors import ConfigError
from asd.operations.control.deciders import Remembered
from asd.operations.control.floor_record import FloorRecord
from asd.operations.control.gears import Gears, gears_of
from asd.operations.control.published import PublishedOptimizer, Router
from asd.operations.control.steering import STEERED, Steering, named
from asd.operations.population import Population
from asd.operations.runs import Runs, Scenario, runs_of
from asd.operations.traffic import Controller, Fixed
from asd.policies import FixedStage, OptimalPolicy, StaticWalk
from asd.policy.artifact import PolicyArtifact

__all__ = ["Contenders", "cheapest_in_time"]

_KNOWN = f"optimal:LAM, router:LAM:P, gears:LAM, published:LAM, static:P, always:STAGE, {STEERED}:BUDGET"
_LIGHTER = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
"""Settings of the gears, as shares of the largest lam."""


@dataclass(frozen=True, slots=True)
class Contenders:
    """Makes controllers for one scenario.

    Attributes:
        fitted: What `asd fit` made.
        population: Recorded queries, from which gears are worked out.
        servers: Replicas and largest call, by stage.
        batch: Queries a call that policies are solved for.
        evidence: Judges every state once.
        floor: Settings that were certified, for `floored`; None: there are none.
        load_s: Seconds of a load, by stage, where stages take turns in memory.
    """

    fitted: PolicyArtifact
    population: Population
    servers: Mapping[str, tuple[int, int]]
    batch: int
    evidence: Remembered
    floor: FloorRecord | None = None
    load_s: Mapping[str, float] = field(default_factory=dict)

    def of(self, text: str) -> Controller:
        """The controller that the text names, in a fresh state.

        Raises:
            ConfigError: It names none.
        """
        makers: dict[str, Callable[..., Controller]] = {
            **self.steering.makers,
            "optimal": lambda lam: Fixed(self._optimal(float(lam))),
            "router": lambda lam, p: self._router(float(lam), float(p)),
            "gears": lambda lam: self._gears(float(lam)),
            "published": lambda lam: self._published(float(lam)),
            "static": lambda p: Fixed(StaticWalk(self.population.stages, float(p), self.evidence)),
            "always": lambda stage: Fixed(FixedStage(self._checked(stage))),
        }
        return named(text, makers, _KNOWN)

    @property
    def steering(self) -> Steering:
        """Makes those that see the queues."""
        call_s = {stage: self.population.mean_call_s(stage) for stage in self.population.stages}
        return Steering(
            self.fitted,
            self.population.rates,
            call_s,
            self.servers,
            self.batch,
            self.evidence,
            floor=self.floor,
            load_s=self.load_s,
        )

    def _checked(self, stage: str) -> str:
        if stage not in self.population.stages:
            raise ConfigError(f"there is no stage {stage!r}, only {', '.join(self.population.stages)}")
        return stage

    def _optimal(self, lam: float) -> OptimalPolicy:
        return replace(self.fitted.optimal(lam, batch=self.batch), evidence=self.evidence)

    def _router(self, lam: float, p: float) -> Router:
        walk = StaticWalk(self.population.stages, p, self.evidence)
        return Router(walk, self.population.stages[-1], lam)

    def _gears(self, lam: float) -> Gears:
        policies = [self._optimal(lam * share) for share in _LIGHTER]
        return Gears(f"gears(lam={lam:g})", gears_of(self.population, policies, self.servers))

    def _published(self, lam: float) -> PublishedOptimizer:
        costs = [p.cost(self.population.mean_usage(s)) for s, p in self.population.prices.items()]
        return PublishedOptimizer(self.population.stages, tuple(costs), lam, self.evidence)


def cheapest_in_time(
    scenario: Scenario, contenders: Contenders, texts: Sequence[str], keep: float, seed: int
) -> list[str]:
    """Of the settings of every name, the one of least P95 that keeps the quality, on one run of each.

    Args:
        scenario: Where they are tried, on other traffic than they are judged on.
        contenders: Makes them.
        texts: As `Contenders.of` reads them; several settings a name.
        keep: Least share of what the largest stage scores on the very queries of the run.
        seed: Of the tried traffic.

    Raises:
        ConfigError: No setting of any name keeps it.
    """
    best: dict[str, tuple[float, str]] = {}
    for text in texts:
        tried: Runs = runs_of(scenario, [partial(contenders.of, text)], [seed])
        total, name = tried.runs[0].total, text.partition(":")[0]
        if total.keeps(keep) and total.p95_s is not None:
            best[name] = min(best.get(name, (total.p95_s, text)), (total.p95_s, text))
    if not best:
        raise ConfigError(
            f"no setting of {', '.join(texts)} keeps {keep:g} of the largest stage's quality; ask for less"
        )
    return [text for _, text in best.values()]
