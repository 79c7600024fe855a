"""The controllers that are compared, by name and setting, and their comparison at equal quality.

optimal:LAM          backward induction at every load
queue:LAM:MU[:AHEAD] the same with the queues of the moment; AHEAD 0 looks one step ahead
target:LAM:P95       the same, MU learned so that P95 is held
price:LAM:MU         routes once, from the prompt, at the same prices of waiting (after RouteBalance)
router:LAM:P         the published router for the largest stage, else the static walk
gears:LAM            settings up to LAM, chosen by the rate of arrivals
published:LAM        the published optimiser
static:P             climb until the answer is likely enough to be right
always:STAGE         one stage
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from asd.errors import ConfigError
from asd.operations.control.backlog import Problem, QueueAware
from asd.operations.control.gears import Gears, gears_of
from asd.operations.control.published import Published, Router
from asd.operations.control.target import P95Target
from asd.operations.population import Population, Remembered
from asd.operations.runs import Runs, Scenario, runs_of
from asd.operations.state import StageState
from asd.operations.traffic import Controller, Fixed
from asd.policies import FixedStage, OptimalPolicy, StaticWalk
from asd.policy.artifact import PolicyArtifact
from asd.stopping.graph import Graph

__all__ = ["Contenders", "cheapest_in_time"]

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
    """

    fitted: PolicyArtifact
    population: Population
    servers: Mapping[str, tuple[int, int]]
    batch: int
    evidence: Remembered

    def of(self, text: str) -> Controller:
        """The controller that the text names, in a fresh state.

        Raises:
            ConfigError: It names none.
        """
        name, *settings = text.strip().split(":")
        makers: dict[str, Callable[..., Controller]] = {
            "optimal": lambda lam: Fixed(self._optimal(float(lam))),
            "queue": lambda lam, mu, ahead="1": self._queue_aware(float(lam), float(mu), float(ahead)),
            "target": lambda lam, p95: self._target(float(lam), float(p95)),
            "price": lambda lam, mu: self._price(float(lam), float(mu)),
            "router": lambda lam, p: self._router(float(lam), float(p)),
            "gears": lambda lam: self._gears(float(lam)),
            "published": lambda lam: self._published(float(lam)),
            "static": lambda p: Fixed(StaticWalk(self.population.stages, float(p), self.evidence)),
            "always": lambda stage: Fixed(FixedStage(self._checked(stage))),
        }
        try:
            return makers[name](*settings)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{text!r} is no policy; write optimal:LAM, queue:LAM:MU, queue:LAM:MU:AHEAD, "
                "target:LAM:P95, price:LAM:MU, router:LAM:P, gears:LAM, published:LAM, static:P or "
                "always:STAGE"
            ) from error

    def _checked(self, stage: str) -> str:
        if stage not in self.population.stages:
            raise ConfigError(f"there is no stage {stage!r}, only {', '.join(self.population.stages)}")
        return stage

    def _optimal(self, lam: float) -> OptimalPolicy:
        return replace(self.fitted.optimal(lam, batch=self.batch), evidence=self.evidence)

    def _queue_aware(self, lam: float, mu: float, ahead: float) -> QueueAware:
        name = f"queue-aware(lam={lam:g},mu={mu:g},ahead={ahead:g})"
        return self._steered(name, self.fitted.graph(batch=self.batch), lam, mu, ahead)

    def _target(self, lam: float, p95_s: float) -> P95Target:
        return P95Target(self._queue_aware(lam, 0.0, 1.0), p95_s)

    def _price(self, lam: float, mu: float) -> QueueAware:
        graph = self.fitted.graph(batch=self.batch)
        routes = Graph(graph.nodes, graph.outgoing(graph.root.name), graph.start)
        return self._steered(f"latency-price(lam={lam:g},mu={mu:g})", routes, lam, mu, 0.0)

    def _steered(self, name: str, graph: Graph, lam: float, mu: float, ahead: float) -> QueueAware:
        usage = {(e.source, e.action): np.array(e.usage) for e in self.fitted.problem.edges}
        problem = Problem(graph, usage, self.population.rates, scaled=self.fitted.fit.scaled)
        expected = {
            stage: StageState(replicas, 0, 0, 0.0, None, self.population.mean_call_s(stage), 1.0)
            for stage, (replicas, _) in self.servers.items()
        }
        return QueueAware(name, problem, self.evidence, lam, mu, self._sizes, expected, ahead)

    def _router(self, lam: float, p: float) -> Router:
        walk = StaticWalk(self.population.stages, p, self.evidence)
        return Router(walk, self.population.stages[-1], lam)

    def _gears(self, lam: float) -> Gears:
        policies = [self._optimal(lam * share) for share in _LIGHTER]
        return Gears(f"gears(lam={lam:g})", gears_of(self.population, policies, self.servers))

    def _published(self, lam: float) -> Published:
        costs = [p.cost(self.population.mean_usage(s)) for s, p in self.population.prices.items()]
        return Published(self.population.stages, tuple(costs), lam, self.evidence)

    @property
    def _sizes(self) -> dict[str, int]:
        return {stage: size for stage, (_, size) in self.servers.items()}


def cheapest_in_time(
    scenario: Scenario, contenders: Contenders, texts: Sequence[str], quality: float, seed: int
) -> list[str]:
    """Of the settings of every name, the one of least P95 whose quality is reached, on one run of each.

    Args:
        scenario: Where they are tried, on other traffic than they are judged on.
        contenders: Makes them.
        texts: As `Contenders.of` reads them; several settings a name.
        quality: Least mean score.
        seed: Of the tried traffic.

    Raises:
        ConfigError: No setting of any name reaches the quality.
    """
    best: dict[str, tuple[float, str]] = {}
    for text in texts:
        tried: Runs = runs_of(scenario, [partial(contenders.of, text)], [seed])
        total, name = tried.runs[0].total, text.partition(":")[0]
        if total.quality >= quality and total.p95_s is not None:
            best[name] = min(best.get(name, (total.p95_s, text)), (total.p95_s, text))
    if not best:
        raise ConfigError(f"no setting of {', '.join(texts)} reaches quality {quality:g}; ask for less")
    return [text for _, text in best.values()]
