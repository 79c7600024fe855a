"""Runs of several controllers and seeds on one scenario, kept in a file that later runs continue."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from asd.errors import ConfigError, DataError
from asd.measurement.files import read_record, write_record
from asd.measurement.records import Record
from asd.operations.arrivals import (
    WINDOW_S,
    Pattern,
    clients,
    merged,
    poisson,
    read_clients,
    read_instants,
    rows_of,
)
from asd.operations.books import Summary
from asd.operations.control.backlog import QueueAware
from asd.operations.control.budget import Paced
from asd.operations.control.deciders import Lookup
from asd.operations.control.floor import Floored
from asd.operations.control.scaling import ByUtilisation, scale
from asd.operations.control.scaling import parse as parse_scaler
from asd.operations.faults import Fault, drawn, overloads, parse, plan
from asd.operations.population import Population
from asd.operations.simulator import Simulator
from asd.operations.stations import StageServer
from asd.operations.traffic import ALIKE, Cap, Controller, Mix, Open, QueryDraw, RunSettings, Users
from asd.schema import msgspec

__all__ = ["Effort", "Mean", "Runs", "RunsHeader", "Scenario", "SimulatedRun", "mean_of", "run", "runs_of"]

_DEVICE = "the device"
"""That of stages that take turns in its memory."""


class RunsHeader(Record, frozen=True, kw_only=True):
    """What a file of runs is about; runs share a file only if it is equal.

    Attributes:
        ladder: Its fingerprint.
        sources: Hashes of the files that it depends on, by what they are.
        n_queries: Recorded queries drawn from.
        servers: Replicas and largest call by stage.
        arrivals: Where requests come from, as `arrivals_of` reads it; "" in a closed loop.
        users: Number and mean think time in seconds; None in an open loop.
        seconds: Length of every run.
        window_s: Length of a window.
        faults: Forced ones, as `faults.parse` reads them.
        mtbf: By stage, mean seconds between failures of a replica and to its repair.
        most_inside: Beyond which requests are refused; None: never.
        mix: Of easy, medium and hard queries, as `Mix.parse` reads it; "": all are drawn alike.
        scale: Stages whose replicas follow their use, each as `STAGE:MIN:MAX[:LOAD_SECONDS]`.
        resident: Stages of one device that fit into its memory together, as `N[:LOAD_SECONDS]`; "": every
            stage has devices of its own.
    """

    ladder: str
    sources: dict[str, str]
    n_queries: int
    servers: dict[str, tuple[int, int]]
    arrivals: str
    users: tuple[int, float] | None
    seconds: float
    window_s: float
    faults: tuple[str, ...] = ()
    mtbf: dict[str, tuple[float, float]] = {}
    most_inside: int | None = None
    mix: str = ""
    scale: tuple[str, ...] = ()
    resident: str = ""


class Effort(Record, frozen=True, kw_only=True):
    """What deciding from tables took.

    Attributes:
        n_decisions: Look-ups.
        decision_s: Processor seconds of one.
        n_solved: Times that the tables were solved.
        solve_s: Mean processor seconds of one.
    """

    n_decisions: int
    decision_s: float
    n_solved: int
    solve_s: float


class SimulatedRun(Record, frozen=True, kw_only=True):
    """One controller with one seed.

    `effort` is there where it decides from tables, `replica_s` (seconds of all replicas by stage, those that
    load among them) where stages are scaled, `unheld` (share of its looks that warned of its target) where it
    keeps a certified floor.
    """

    controller: str
    seed: int
    total: Summary
    windows: tuple[Summary, ...]
    effort: Effort | None = None
    replica_s: dict[str, float] | None = None
    unheld: float | None = None


class Runs(Record, frozen=True, kw_only=True):
    """The file."""

    format: Literal["asd-simulation"] = "asd-simulation"
    schema_version: Literal[1] = 1
    provenance: Literal["simulated"] = "simulated"
    asked: RunsHeader
    runs: tuple[SimulatedRun, ...] = ()

    def of(self, controller: str) -> list[SimulatedRun]:
        """The runs of one controller."""
        return [run for run in self.runs if run.controller == controller]

    def has(self, controller: str, seed: int) -> bool:
        """Whether that run is there."""
        return any(run.seed == seed for run in self.of(controller))


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is run: queries, and what was asked for."""

    population: Population
    asked: RunsHeader

    def halves(self) -> tuple[Scenario, Scenario]:
        """The same on one half of the queries each: one to choose on, one to report on."""
        first, second = map(self._on, self.population.halves())
        return first, second

    def without(self, rows: Collection[str]) -> Scenario:
        """The same on the other queries (`asd.operations.population.row_name`)."""
        return self._on(self.population.without(rows))

    def _on(self, part: Population) -> Scenario:
        return Scenario(part, msgspec.structs.replace(self.asked, n_queries=len(part.queries)))

    @property
    def load_s(self) -> dict[str, float]:
        """Seconds of a load, by stage, where stages take turns in the memory of one device; empty: none do.

        Raises:
            ConfigError: `resident` is not `N[:LOAD_SECONDS]`, no price says how long a load takes, or there
                are replicas, which are on several devices.
        """
        asked, (room, stated) = self.asked, _room(self.asked.resident)
        if room is None:
            return {}
        if asked.scale or any(n > 1 for n, _ in asked.servers.values()):
            raise ConfigError(f"resident {asked.resident!r}: stages of one device have no further replicas")
        loads = {name: stated or self.population.load_s(name) for name in asked.servers}
        if unknown := [name for name, seconds in loads.items() if seconds is None]:
            raise ConfigError(
                f"resident {asked.resident!r}: no price says how long a load of {', '.join(unknown)} takes; "
                f"write {asked.resident}:SECONDS"
            )
        return {name: seconds for name, seconds in loads.items() if seconds is not None}

    def simulator(self, controller: Controller, seed: int, cap: Cap | None = None) -> Simulator:
        """A run that has not begun; a seed is the same traffic and the same faults for every controller.

        A budget that a controller spreads is a cap too, as in a server's ledger.
        """
        asked = self.asked
        if cap is None and isinstance(controller, Paced):
            cap = Cap(controller.day.amount, self.population.dearest_cost())
        rng = np.random.default_rng([seed, 0])
        faults = _faults(asked, rng)
        mix: QueryDraw = Mix.parse(asked.mix) if asked.mix else ALIKE
        traffic: Open | Users
        if asked.users is not None:
            traffic = Users(*asked.users, mix)
        else:
            stream = arrivals_of(asked.arrivals, np.random.default_rng([seed, 1]), asked.seconds)
            traffic = Open(merged(stream, *overloads(faults, rng)), mix=mix)
        loads = self.load_s
        servers = {
            name: StageServer(*server, _DEVICE if loads else None, loads.get(name, 0.0))
            for name, server in asked.servers.items()
        }
        settings = RunSettings(asked.window_s, asked.most_inside, cap, _room(asked.resident)[0])
        sim = Simulator(self.population, servers, controller, traffic, seed, settings)
        plan(sim, faults)
        for stage, scaler in _scalers(asked, self.population, faults).items():
            scale(sim, stage, scaler)
        return sim


def arrivals_of(text: str, rng: np.random.Generator, until: float = 0.0) -> Iterator[float]:
    """`poisson:RATE`, `day` or `day:SCALE`, `bursts` or `bursts:SCALE`, `FILE.csv.gz` or `FILE:RATE`.

    The day is the published one; in `bursts` a twentieth of its minutes have its surges. A recording begins
    at 0. A file of clients is thinned by whole clients to the rate; recorded instants come as much faster as
    the rate asks for.

    Args:
        text: As above.
        rng: Draws what is not recorded.
        until: Seconds of the run.

    Raises:
        ConfigError: It is none of them.
        DataError: The file cannot be read, or its recording ends before the run.
    """
    name, _, number = text.partition(":")
    try:
        value = float(number) if number else None
    except ValueError as error:
        raise ConfigError(f"arrivals {text!r}: {number!r} is no number") from error
    if name == "poisson" and value is not None:
        return poisson(value, rng)
    if name in {"day", "bursts"}:
        scale = 1.0 if value is None else value
        return Pattern(p_burst=0.05 if name == "bursts" else 0.0, scale=scale).draw(rng)
    if not Path(name).suffix:
        raise ConfigError(f"arrivals {text!r} are none; write poisson:12, day, bursts or FILE.csv.gz:RATE")
    return _recorded(name, value, rng, until)


def _recorded(path: str, rate: float | None, rng: np.random.Generator, until: float) -> Iterator[float]:
    if rate is not None and not 0.0 < rate < math.inf:
        raise ConfigError(f"arrivals of {path} are brought to a positive rate a second, not {rate:g}")
    rows = rows_of(path)
    if rows and {"client", "rate_rps"} <= rows[0].keys():
        recorded = read_clients(path)
        starts = [client.start_s for client in recorded]
        _check_lasts(path, max(starts) + WINDOW_S - min(starts), until)
        return clients(recorded, rng, rate=rate, start_s=min(starts))
    instants = read_instants(path)
    if rate is not None:
        if not instants[-1]:
            raise DataError(
                f"{path} holds a single instant of arrival, which has no rate; leave {rate:g} out"
            )
        instants = [instant * (len(instants) / instants[-1]) / rate for instant in instants]
    _check_lasts(path, instants[-1], until)
    return iter(instants)


def _check_lasts(path: str, end: float, until: float) -> None:
    """What is empty since nothing was recorded is no load."""
    if end < until:
        hours = math.floor(end / 0.36) / 1e4
        raise DataError(
            f"the recording {path} ends after {end:.5g} s, the run after {until:.5g} s: nothing would arrive "
            f"in between; run at most {hours:.4f} hours of it"
        )


def run(
    scenario: Scenario, controller: Controller, seed: int, progress: Callable[[Summary], object]
) -> SimulatedRun:
    """One run from its beginning to its end; `progress` is told of every window."""
    sim, windows = scenario.simulator(controller, seed), []
    for window in sim.run(scenario.asked.seconds):
        windows.append(window)
        progress(window)
    return SimulatedRun(
        controller=controller.name,
        seed=seed,
        total=sim.books.total(),
        windows=tuple(windows),
        effort=_effort(sim, controller),
        replica_s=sim.replica_s if scenario.asked.scale else None,
        unheld=controller.n_unheld / max(1, controller.n_looks) if isinstance(controller, Floored) else None,
    )


def _effort(sim: Simulator, controller: Controller) -> Effort | None:
    decider = sim.decider
    if not (isinstance(controller, QueueAware) and isinstance(decider, Lookup)):
        return None
    return Effort(
        n_decisions=controller.policy(None).table.n_decisions,
        decision_s=decider.seconds_per_step(),
        n_solved=controller.n_solved,
        solve_s=controller.solving_s / controller.n_solved,
    )


def runs_of(
    scenario: Scenario,
    controllers: Sequence[Callable[[], Controller]],
    seeds: Sequence[int],
    path: str | Path | None = None,
    progress: Callable[[Summary], object] = lambda _: None,
) -> Runs:
    """Every controller with every seed; in a file, each run is kept as soon as it ends, and none made twice.

    Raises:
        ConfigError: The file holds runs of another scenario.
        DataError: The file cannot be read.
    """
    found = Runs(asked=scenario.asked)
    if path is not None and Path(path).exists():
        found = read_record(path, Runs)
        if found.asked != scenario.asked:
            raise ConfigError(f"{path} holds runs of another scenario ({found.asked}); choose another file")
    for seed in seeds:
        for make in controllers:
            controller = make()  # what it has learned of one run is of no use in the next
            if not found.has(controller.name, seed):
                done = run(scenario, controller, seed, progress)
                found = Runs(asked=found.asked, runs=(*found.runs, done))
                if path is not None:
                    write_record(path, found)
    return found


class Mean(NamedTuple):
    """A mean over runs with the half width of its 95 % interval (Student's t over seeds); 0 of one run."""

    value: float
    half: float

    def __str__(self) -> str:
        return f"{self.value:.3g}" + (f" ± {self.half:.2g}" if self.half else "")


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and interval of one number a seed."""
    if len(values) < 2:
        return Mean(float(np.mean(values)), 0.0)
    from scipy.stats import t  # noqa: PLC0415  (scipy takes a second)

    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Mean(float(np.mean(values)), float(t.ppf(0.975, len(values) - 1)) * error)


def _room(text: str) -> tuple[int | None, float | None]:
    """How many stages fit, and the seconds of a load, as far as they are said."""
    if not text:
        return None, None
    number, colon, seconds = text.partition(":")
    try:
        found = int(number), float(seconds) if colon else None
    except ValueError as error:
        raise ConfigError(f"resident {text!r}: write N[:LOAD_SECONDS], as in 2:10") from error
    if found[0] < 1 or (found[1] is not None and not 0.0 < found[1] < math.inf):
        raise ConfigError(f"resident {text!r}: at least one stage fits, and a load takes more than 0 s")
    return found


def _scalers(asked: RunsHeader, population: Population, faults: Sequence[Fault]) -> dict[str, ByUtilisation]:
    found = {}
    for text in asked.scale:
        stage = text.partition(":")[0]
        if stage not in asked.servers or stage in found:
            raise ConfigError(f"scale {text!r}: name each stage of {sorted(asked.servers)} once at most")
        if any(fault.kind == "down" and fault.stage == stage for fault in faults):
            raise ConfigError(f"replicas of {stage!r} cannot both fail and follow their use; choose one")
        scaler = found[stage] = parse_scaler(text, population.load_s(stage))
        if not scaler.least <= asked.servers[stage][0] <= scaler.most:
            raise ConfigError(
                f"scale {text!r}: {stage} begins with {asked.servers[stage][0]} replicas; give --replicas "
                f"{stage}=N with N from {scaler.least} to {scaler.most}"
            )
    return found


def _faults(asked: RunsHeader, rng: np.random.Generator) -> list[Fault]:
    found = [parse(text) for text in asked.faults]
    for stage, (between, repair) in asked.mtbf.items():
        if stage not in asked.servers:
            raise ConfigError(f"failures of {stage!r}: there is no such stage, only {sorted(asked.servers)}")
        found += drawn(stage, asked.servers[stage][0], between, repair, asked.seconds, rng)
    return found
