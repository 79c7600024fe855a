"""What tables of operations are made with: a scenario, the policies they are about, runs and their lay-out.

Scope: what is asked of the simulator; which tables there are is `asd.research.load.tables`' and `control`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from asd.guarantee.certificate import Promise
from asd.operations.books import Summary
from asd.operations.control.contenders import Contenders
from asd.operations.control.deciders import Remembered
from asd.operations.control.floor_record import FloorRecord
from asd.operations.control.target import P95Target
from asd.operations.runs import RunsHeader, Scenario, SimulatedRun, run
from asd.operations.traffic import Controller, Fixed
from asd.policy.artifact import PolicyArtifact
from asd.research.load.devices import StageMemory
from asd.research.study.record import StudyTable, Value
from asd.schema import msgspec

__all__ = ["HOUR", "Shop"]

HOUR = 3600.0
PROMISE = Promise(delta=0.1, keep=0.95)


@dataclass(frozen=True, slots=True)
class Shop:
    """Makes the tables.

    Attributes:
        scenario: The day, without faults.
        fitted: What `asd fit` made.
        ours: The policy that the tables are about, as `Contenders.of` reads it.
        blind: The same without sight of the queues.
        seed: Of the traffic.
        progress: Told of every window of every run.
        memory: What is known of the memory of stages, by name; none: nothing.
        targets: Of a day, in place of those that there are (`asd.research.load.tables.METRICS`).
        promise: Of a floor.
        certified: Told of a floor that was certified.
    """

    scenario: Scenario
    fitted: PolicyArtifact
    ours: str
    blind: str
    seed: int
    progress: Callable[[Summary], object] = lambda _: None
    memory: Mapping[str, StageMemory] = field(default_factory=dict)
    targets: Mapping[str, float] = field(default_factory=dict)
    promise: Promise = PROMISE
    certified: Callable[[FloorRecord], object] = lambda _: None

    @property
    def asked(self) -> RunsHeader:
        """Of the day."""
        return self.scenario.asked

    @property
    def largest(self) -> str:
        """The last stage."""
        return self.scenario.population.stages[-1]

    def short(self, **others: object) -> RunsHeader:
        """At most an hour at the day's mean rate, instead of the day."""
        seconds = min(HOUR, self.asked.seconds)
        changed = {"seconds": seconds, "window_s": seconds, "arrivals": f"poisson:{self.rate():g}"}
        return msgspec.structs.replace(self.asked, **(changed | others))

    def rate(self) -> float:
        """Requests a second that keep the largest stage alone at work 85 % of the time, in full calls."""
        replicas, batch = self.asked.servers[self.largest]
        return 0.85 * replicas / self.scenario.population.mean_call_s(self.largest, batch)

    def play(self, asked: RunsHeader, text: str, interval_s: float | None = None) -> SimulatedRun:
        """One run."""
        scenario = replace(self.scenario, asked=asked)
        return run(scenario, self.controller(asked, text, interval_s), self.seed, self.progress)

    def controller(self, asked: RunsHeader, text: str, interval_s: float | None = None) -> Controller:
        """What the text names; looking at other times where that is asked for."""
        made = self.contenders(asked).of(text)
        if interval_s is not None:
            _look_every(made, interval_s)
        return made

    def contenders(self, asked: RunsHeader) -> Contenders:
        """Makes controllers for these servers."""
        batch = max(size for _, size in asked.servers.values())
        return Contenders(
            self.fitted,
            self.scenario.population,
            asked.servers,
            batch if batch in self.fitted.ladder.batches else 1,
            Remembered(self.fitted.evidence()),
        )

    def table(
        self, name: str, title: str, columns: tuple[str, ...], rows: Sequence[tuple[Value, ...]], note: str
    ) -> StudyTable:
        """A table of this shop."""
        return StudyTable(
            name=name,
            title=title,
            provenance="simulated",
            measured_on=f"recorded outcomes on {len(self.scenario.population.queries)} queries",
            n=len(self.scenario.population.queries),
            columns=columns,
            rows=tuple(rows),
            note=note,
        )


def _look_every(controller: Controller, interval_s: float) -> None:
    """Those that look at all do so at these times: by their own clock, or by that of the one they steer."""
    clocked = controller.inner if isinstance(controller, P95Target) else controller
    if not isinstance(clocked, Fixed):
        clocked.interval_s = interval_s  # type: ignore[misc]  # the protocol only reads it
