"""A quality floor that no load can break: policies certified beforehand, and control that stays among them.

A setting is a table solved at one worth of a second, mu, for stages at a load that is fixed beforehand; which
of its rows decides depends on the queues. What it scores on a calibration row is taken at its worst: the
least score that any course of the queues could lead to. Settings are tested in ascending mu (which is fixed
beforehand too) by the package's own test (`asd.guarantee.p_values`) for a share of the largest stage's
quality, up to the first that does not pass. So with probability 1 - delta the mean quality of queries drawn
like the calibration rows keeps the floor, whatever the queues do and however control moves among the
settings that passed, as long as all stages can be asked.

P95 is held by dual ascent on mu, projected on the certified settings: where that is not enough, the floor is
kept, and `unheld` says that the target is not. It says so beforehand where more requests arrive than the
settings bear (`asd.operations.control.bearing`), and else at the look at which P95 shows it. Where a stage
cannot be asked, it says that the floor is not certified.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from asd.errors import ConfigError
from asd.evidence import Evidence
from asd.evidence.prompt.taxonomy import left_out
from asd.guarantee.certificate import Promise
from asd.guarantee.p_values import kept, n_passed
from asd.operations.control.backlog import BacklogPolicy, BacklogTable, Solved
from asd.operations.control.bearing import Bearing
from asd.operations.control.target import ascended
from asd.operations.demand import Array
from asd.operations.population import Population, Situation
from asd.operations.state import SystemState
from asd.operations.traffic import Gauge
from asd.types import Decision

__all__ = ["Certificate", "FloorSetting", "Floored", "certify", "worst_scores"]

_LOG = logging.getLogger(__name__)


class FloorSetting(NamedTuple):
    """One table.

    Attributes:
        mu: Cost units that a second is worth in it.
        solved: The table.
        worst: Mean score of the calibration rows whatever the queues do.
        p_value: Of "the floor is not kept".
    """

    mu: float
    solved: Solved
    worst: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was tested.

    Attributes:
        settings: All of them, mu ascending.
        n_passed: Those before are certified.
        keep: Share of the largest stage's quality.
        floor: The same in mean score on the calibration rows.
        delta: Probability that the promise is wrong.
    """

    settings: Sequence[FloorSetting]
    n_passed: int
    keep: float
    floor: float
    delta: float

    @property
    def certified(self) -> Sequence[FloorSetting]:
        """Settings that control may use.

        Raises:
            ConfigError: There are none.
        """
        if not self.n_passed:
            first = self.settings[0]
            raise ConfigError(
                f"no setting surely keeps {self.keep:g} of the largest stage's quality: at mu {first.mu:g} "
                f"the worst case scores {first.worst:.3f} (p = {first.p_value:.2g}); raise lam, or give more "
                "rows"
            )
        return self.settings[: self.n_passed]


def worst_scores(population: Population, evidence: Evidence, solved: Solved) -> Array:
    """The least score of every query over all courses that the queues can take, every stage in reach.

    Stages that are for other domains than a query's (`only`) are never asked about it, as it is live.
    """

    def least(situation: Situation) -> float:
        journey = situation.journey
        out = left_out(population.only, journey.query.prompt)
        place = solved.problem.place(evidence.judge(journey.query, journey.drafts, journey.verification))
        steps = [population.step(situation, Decision(a, place.answer)) for a in solved.choices(place, out)]
        return min(step.score if step.after is None else least(step.after) for step in steps)

    return np.array([least(situation) for situation in population.queries])


def certify(
    population: Population,
    evidence: Evidence,
    solve: Callable[[float], Solved],
    mus: Sequence[float],
    promise: Promise,
    rng: np.random.Generator,
) -> Certificate:
    """Test a grid of settings on calibration rows.

    Args:
        population: The calibration rows: none that anything was fitted on.
        evidence: Judges them.
        solve: Makes the table of a mu.
        mus: The grid.
        promise: Share of the largest stage's quality, and the probability that it is wrong.
        rng: Puts the rows in random order.

    Raises:
        ConfigError: The grid does not ascend from 0 or more, or no share is promised.
    """
    if list(mus) != sorted(set(mus)) or not mus or mus[0] < 0.0:
        raise ConfigError(f"the grid of mu ascends from 0 or more, and does not repeat itself: {list(mus)}")
    if promise.keep is None:
        raise ConfigError("a floor is a share of quality to keep")
    solved = [solve(mu) for mu in mus]
    order = rng.permutation(len(population.queries))
    quality = np.array([worst_scores(population, evidence, table) for table in solved])[:, order]
    largest = population.stages[-1]
    scores = [situation.trace.outcomes[largest].score for situation in population.queries]
    reference = np.array(scores, dtype=np.float64)[order]
    p_values = kept(quality, reference, promise.keep, promise.delta)
    settings = [
        FloorSetting(mu, table, float(row.mean()), float(p))
        for mu, table, row, p in zip(mus, solved, quality, p_values, strict=True)
    ]
    n = int(n_passed(p_values, promise.delta))
    floor = promise.keep * float(reference.mean())
    return Certificate(settings, n, promise.keep, floor, promise.delta)


@dataclass(slots=True, eq=False)
class Floored:
    """Holds P95 as far as the certified settings go.

    Attributes:
        name: As it stands in tables.
        settings: Certified, mu ascending.
        evidence: What is known about the answers so far.
        lam: That they were solved for.
        target_s: Seconds that P95 should not exceed.
        bearing: What requests take under the last of the settings.
        step: Of the ascent, in units of lam / target a look.
        forget: Share of mu that is forgotten at every look, in [0, 1).
        interval_s: Seconds between two looks.
        memory: Weight of the old slowdown in the new one, in [0, 1).
        unheld: What cannot be held, or may soon not be, and why; "": nothing.
        bears: Requests a second that the certified settings bear, as of the last look.
        slowdown: How many times as long as priced calls take, by stage, at least 1.
        n_looks: So far.
        n_unheld: Looks of them that said so.
    """

    name: str
    settings: Sequence[FloorSetting]
    evidence: Evidence
    lam: float
    target_s: float
    bearing: Bearing
    step: float = 0.2
    forget: float = 0.02
    interval_s: float = 30.0
    memory: float = 0.5
    unheld: str = ""
    bears: float = field(default=math.inf, init=False)
    slowdown: dict[str, float] = field(init=False)
    n_looks: int = 0
    n_unheld: int = 0
    _mu: float = 0.0
    _late: str = ""
    _devices: Sequence[Sequence[str]] = field(init=False)
    _policy: BacklogPolicy = field(init=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.target_s < math.inf:
            raise ConfigError(f"a target is positive and finite, not {self.target_s:g}")
        self._mu = self.settings[0].mu
        self.slowdown = dict.fromkeys(self.bearing.stages, 1.0)
        self._devices = [(stage,) for stage in self.bearing.stages]
        self._policy = BacklogPolicy(self.name, self.evidence, BacklogTable(self.settings[0].solved))

    @property
    def mu(self) -> float:
        """Cost units that a second is worth in the table that decides now."""
        return self._setting.mu

    @property
    def _setting(self) -> FloorSetting:
        """The largest certified mu up to the learned one."""
        return [setting for setting in self.settings if setting.mu <= self._mu][-1]

    def watch(self, gauges: Mapping[str, Gauge]) -> None:
        """Read the queues here from now on."""
        self._policy.table.gauges = [gauges[stage] for stage in self.settings[0].solved.problem.stages]
        together: dict[Hashable, list[str]] = {}
        for stage in self.bearing.stages:
            place = gauges[stage].place
            together.setdefault(stage if place is None else place, []).append(stage)
        self._devices = list(together.values())

    def policy(self, state: SystemState | None) -> BacklogPolicy:
        """The one policy there is, with the table of the largest certified mu up to the learned one."""
        if state is not None:
            if state.p95_s is not None:
                self._ascend(state.p95_s)
            self._tell(self._uncertified(state) or self._overloaded(state) or self._late)
        return self._policy

    def _ascend(self, p95_s: float) -> None:
        least, most = self.settings[0].mu, self.settings[-1].mu
        unit = self.lam / self.target_s
        wanted = ascended(self._mu, p95_s / self.target_s, self.step * unit, self.forget)
        self._late = ""
        if wanted > most:
            self._late = (
                f"P95 of {self.target_s:g} s cannot be held with the quality floor (it is {p95_s:.3g} s): mu "
                f"is at {most:g}, the largest that is certified"
            )
        self._mu = min(most, max(least, wanted))
        self._policy.table.solved = self._setting.solved

    def _uncertified(self, state: SystemState) -> str:
        """That stages cannot be asked, which nothing was certified without."""
        if not state.out:
            return ""
        out = ", ".join(sorted(state.out))
        return f"the quality floor is certified with every stage in reach: {out} cannot be asked now"

    def _overloaded(self, state: SystemState) -> str:
        """That more arrive than the certified settings bear, which is known before anybody has waited."""
        for name, stage in state.stages.items():
            if (ratio := self.bearing.slowdown(name, stage)) is not None:
                self.slowdown[name] = max(
                    1.0, self.memory * self.slowdown[name] + (1.0 - self.memory) * ratio
                )
        replicas = {name: stage.replicas for name, stage in state.stages.items()}
        self.bears = self.bearing.slowed(self.slowdown).rate(replicas, self._devices, self.target_s)
        if state.request_rate <= self.bears:
            return ""
        return (
            f"P95 of {self.target_s:g} s may soon not be held with the quality floor: "
            f"{state.request_rate:.3g} requests a second arrive, the certified settings bear {self.bears:.3g}"
        )

    def _tell(self, unheld: str) -> None:
        if unheld and not self.unheld:
            _LOG.warning("%s", unheld)
        self.unheld = unheld
        self.n_looks += 1
        self.n_unheld += bool(unheld)
