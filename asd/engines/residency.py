"""Stages that do not fit into memory together take turns: loaded when asked, the longest unused one unloaded.

    residency = Residency(engines, memory_gib={"S": 15, "M": 65, "L": 145}, budget_gib=165, pinned=("S",))
    Cascade(residency.engines, policy, prices)

A cascade calls stage by stage within a round, so that one load serves every query that chose the stage. How
long loads take is measured (`loads`). A policy can be made to see what they cost: `surcharge` is the price of
a load shared by the queries it serves, for `OptimalPolicy.dearer`.

Stages write without drafters here: two would have to be in memory for one to answer.

Scope: memory is what the ladder says the weights take; nothing is measured on the device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from asd.engines import GREEDY, LOSSLESS, Acceptance, Engine, Sampling, StepMode, Verifier, alone, step_mode
from asd.engines.closing import Closing
from asd.errors import ConfigError
from asd.prices import Prices
from asd.types import Draft, Query, Verification

__all__ = ["ModelLoad", "Residency"]


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """One load: which stage, and how long it took in seconds, putting others out included."""

    stage: str
    seconds: float


class Residency:
    """Keeps what is loaded within a budget.

    Args:
        engines: One a stage, by stage name; none loaded.
        memory_gib: What the weights of each stage take.
        budget_gib: What there is.
        pinned: Stages that are never unloaded once loaded.
        clock: Seconds now.

    Attributes:
        engines: The same stages; each is made resident before it is asked.
        loads: Every load so far, in order.

    Raises:
        ConfigError: A stage's memory is not known or not positive, a pinned stage does not exist, or a stage
            does not fit beside the pinned ones.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        memory_gib: Mapping[str, float | None],
        budget_gib: float,
        pinned: Collection[str] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._memory = {stage: _known(stage, memory_gib.get(stage)) for stage in engines}
        if unknown := set(pinned) - set(engines):
            raise ConfigError(f"pinned stages {sorted(unknown)} do not exist; there are {sorted(engines)}")
        self._budget = budget_gib
        self._pinned = frozenset(pinned)
        self._check_fit()
        self._clock = clock
        self._inner = {stage: alone(engine) for stage, engine in engines.items()}
        self._resident: dict[str, None] = {}  # longest unused first
        self.loads: list[ModelLoad] = []
        self.engines: dict[str, Engine] = {
            stage: _TurningVerifier(engine, self) if isinstance(engine, Verifier) else _Turning(engine, self)
            for stage, engine in self._inner.items()
        }

    @property
    def resident(self) -> tuple[str, ...]:
        """Stages in memory, the longest unused first."""
        return tuple(self._resident)

    def holds(self, stage: str) -> bool:
        """Whether a stage is in memory; may be asked from any thread."""
        return stage in self._resident

    @property
    def filled(self) -> float:
        """Share of the budget that is in use."""
        return sum(self._memory[stage] for stage in self.resident) / self._budget

    @property
    def turning(self) -> frozenset[str]:
        """Stages that may have to be loaded again: none where all fit together, and no pinned ones."""
        fits = sum(self._memory.values()) <= self._budget
        return frozenset() if fits else frozenset(self._memory) - self._pinned

    def surcharge(
        self, prices: Mapping[str, Prices], queries_per_load: float, unit: float
    ) -> dict[str, float]:
        """What asking each stage costs beyond its own price because it may have to be loaded, in cost units.

        Zero where all stages fit together, and for pinned ones: they are loaded once.

        Args:
            prices: With `per_load`, by stage name.
            queries_per_load: How many queries share a load: those of a batch that go to the stage.
            unit: One cost unit in the unit of the prices (`PolicyArtifact.ladder.unit()`), positive.

        Raises:
            ConfigError: `queries_per_load` is not positive, or a load that will be paid has no price.
        """
        if not 0 < queries_per_load < math.inf:
            raise ConfigError(f"queries_per_load must be a positive number, not {queries_per_load}")
        turning = self.turning
        return {
            stage: _load_price(stage, prices[stage]) / queries_per_load / unit if stage in turning else 0.0
            for stage in self._memory
        }

    def admit(self, stage: str) -> None:
        """Make a stage resident, putting out the longest unused ones that are not pinned.

        Raises:
            EngineError: It cannot be loaded; what was unloaded for it stays out.
        """
        if stage not in self._resident:
            start = self._clock()
            for other in [s for s in self._resident if s not in self._pinned]:
                if self._used() + self._memory[stage] <= self._budget:
                    break
                self.evict(other)
            self._inner[stage].load()
            self.loads.append(ModelLoad(stage, self._clock() - start))
        self._resident.pop(stage, None)
        self._resident[stage] = None

    def evict(self, stage: str) -> None:
        """Put a stage out; one that is not in memory stays so."""
        self._resident.pop(stage, None)
        self._inner[stage].unload()

    def _used(self) -> float:
        return sum(self._memory[stage] for stage in self._resident)

    def _check_fit(self) -> None:
        fixed = sum(self._memory[stage] for stage in self._pinned)
        for stage, memory in self._memory.items():
            needed = fixed + (0.0 if stage in self._pinned else memory)
            if not needed <= self._budget:
                raise ConfigError(
                    f"stage {stage!r} takes {memory:g} GiB, with the pinned stages {sorted(self._pinned)} "
                    f"{needed:g}; the budget is {self._budget:g}: pin fewer, or give more"
                )


class _Turning(Closing):
    """An engine that is made resident before it is asked."""

    def __init__(self, engine: Engine, residency: Residency) -> None:
        self._engine = engine
        self._residency = residency

    @property
    def stage_name(self) -> str:
        return self._engine.stage_name

    @property
    def step_mode(self) -> StepMode | None:
        return step_mode(self._engine)

    @property
    def is_resident(self) -> bool:
        return self._residency.holds(self.stage_name)

    def gauges(self) -> dict[str, float]:
        return {"memory": self._residency.filled}

    def load(self) -> None:
        self._residency.admit(self.stage_name)

    def unload(self) -> None:
        self._residency.evict(self.stage_name)

    def synchronise(self) -> None:
        self._engine.synchronise()

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        self.load()
        return self._engine.generate(queries, sampling)


class _TurningVerifier(_Turning):
    _engine: Verifier

    def verify(
        self, queries: Sequence[Query], drafts: Sequence[Draft], acceptance: Acceptance = LOSSLESS
    ) -> list[Verification]:
        self.load()
        return self._engine.verify(queries, drafts, acceptance)

    def continue_(
        self,
        queries: Sequence[Query],
        verifications: Sequence[Verification],
        acceptance: Acceptance = LOSSLESS,
    ) -> list[Draft]:
        self.load()
        return self._engine.continue_(queries, verifications, acceptance)


def _known(stage: str, memory: float | None) -> float:
    if memory is None or not 0 < memory < math.inf:
        raise ConfigError(f"stages that take turns need a positive memory_gib; that of {stage!r} is {memory}")
    return memory


def _load_price(stage: str, prices: Prices) -> float:
    if prices.per_load is None:
        raise ConfigError(f"stage {stage!r} has no price of a load; give it per_load in its prices")
    return prices.per_load
