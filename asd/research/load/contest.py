"""Policies under load on the same devices at equal quality, each tuned and placed by itself.

Queries are split in four: evidence and kernels are fitted on two quarters, settings and placement (replicas
of every stage on the devices) are tuned on the third, and the fourth is judged; days go round the quarters
and each has traffic of its own. A load of rho is the rate that keeps the largest stage alone, on all devices,
busy for that share of the time. Of a policy's settings that one of least P95 is taken whose quality is at
least `keep` times the largest stage's, on the tuning traffic, by the lower bound of `CONFIDENCE` over its
queries: a setting chosen because it just reaches the floor there falls short elsewhere. A policy that has
none is out. Two have foresight, and are shown beside: ours as it would best have been set for the judged day
itself, and the oracle, which knows every answer. Everything is `simulated`, with recorded outcomes and
seconds of real models.

Days of a quarter share tuning and queries: an interval is Student's over the means of quarters (Ibragimov and
Mueller 2010, "t-statistic based correlation and heterogeneity robust inference", J. Bus. Econ. Stat. 28(4)).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from asd.errors import ConfigError
from asd.measurement.files import read_record, write_record
from asd.measurement.records import Record
from asd.operations.arrivals import POISSON, Client, bursts, poisson, read_clients
from asd.operations.books import Summary
from asd.operations.control.contenders import Contenders
from asd.operations.control.deciders import Remembered
from asd.operations.population import Population
from asd.operations.runs import Mean, mean_of
from asd.operations.simulator import Simulator
from asd.operations.sizing import placements
from asd.operations.stations import Request, StageServer
from asd.operations.traffic import Controller, Fixed, Open, RunSettings
from asd.policies import Oracle
from asd.policy.artifact import CONFIDENCE, PolicyArtifact
from asd.policy.fit import fit
from asd.research.load.recorded import priced_ladder
from asd.types import Trace

__all__ = [
    "FORESIGHT",
    "LARGEST",
    "OURS",
    "RIVALS",
    "SETTINGS",
    "ContestFile",
    "ContestHeader",
    "Day",
    "LoadCell",
    "Tuned",
    "over_quarters",
    "placed",
    "quarters_in",
    "run_contest",
]

LARGEST, OURS = "always", "queue"
_QUARTERS = 4
_TUNING_SHARE, _FINALISTS = 0.3, 6
"""Every setting is tried on this share of a day's requests, and the best few on all of them."""
_TUNING_SEED = 1_000_000
_LAMS, _MUS = (20, 40, 80, 160), (0.1, 0.3, 1, 3, 10)
SETTINGS: dict[str, tuple[str, ...]] = {
    "static": tuple(f"static:{p}" for p in (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)),
    "published": tuple(f"published:{lam}" for lam in (0.1, 0.2, 0.5, 1)),
    "router": tuple(f"router:{lam}:{p}" for lam in (1, 5) for p in (0.75, 0.8, 0.85, 0.9)),
    "price": tuple(f"price:{lam}:{mu}" for lam in _LAMS for mu in _MUS),
    "gears": tuple(f"gears:{lam}" for lam in (3, 5, 8, 12, 20, 40)),
    "one step": tuple(f"queue:{lam}:{mu}:0" for lam in _LAMS for mu in _MUS),
    OURS: tuple(f"queue:{lam}:{mu}:{ahead}" for lam in _LAMS for mu in _MUS for ahead in (0, 0.5, 1)),
}
"""By name, the settings of every contender; "one step" is ours without the recursion."""
RIVALS = ("static", "published", "router", "price", "gears")
"""Those without foresight that are not ours."""
FORESIGHT = {
    "hindsight": SETTINGS[OURS],
    "oracle": tuple(f"oracle:{lam}" for lam in (0.1, 0.2, 0.5, 1, 2, 5, 100)),
}
"""By name, the settings of those that are tuned on the judged day itself: ours, and `asd.policies.Oracle`."""


class ContestHeader(Record, frozen=True, kw_only=True):
    """What a contest is about; a file is gone on from only if it is equal.

    Attributes:
        stages: In ladder order.
        devices: That a replica of each stage takes.
        total: Devices there are.
        loads: Shares of the largest stage's capacity on all devices.
        arrivals: `POISSON`, or a file of recorded clients.
        keep: Share of the largest stage's quality.
        n_requests: Of a day.
        n_queries: Recorded queries.
    """

    stages: tuple[str, ...]
    devices: tuple[int, ...]
    total: int
    loads: tuple[float, ...]
    arrivals: tuple[str, ...]
    keep: float
    n_requests: int
    n_queries: int


class LoadCell(Record, frozen=True, kw_only=True):
    """One load and kind of arrivals."""

    rho: float
    arrivals: str


class Tuned(Record, frozen=True, kw_only=True):
    """What a policy was tuned to for one quarter; `text` "" where nothing reached the quality."""

    cell: LoadCell
    quarter: int
    name: str
    text: str
    replicas: tuple[int, ...]


class Day(Record, frozen=True, kw_only=True):
    """One policy on one held-out day; None: its setting of that quarter does not reach the quality."""

    cell: LoadCell
    day: int
    name: str
    total: Summary | None


class ContestFile(Record, frozen=True, kw_only=True):
    """The file."""

    format: Literal["asd-contest"] = "asd-contest"
    schema_version: Literal[2] = 2
    provenance: Literal["simulated"] = "simulated"
    asked: ContestHeader
    tuned: tuple[Tuned, ...] = ()
    days: tuple[Day, ...] = ()

    def totals(self, cell: LoadCell, name: str) -> dict[int, Summary]:
        """A policy's days in a cell, where it was run."""
        return {d.day: d.total for d in self.days if d.cell == cell and d.name == name and d.total}

    def best_rival(self, cell: LoadCell) -> dict[int, Summary]:
        """By day, whichever of `RIVALS` had the least P95 on it; who it will be is not known beforehand."""
        runs = [self.totals(cell, name) for name in RIVALS]
        days = sorted({day for totals in runs for day in totals})
        return {day: min((t[day] for t in runs if day in t), key=lambda t: t.p95_s or 0.0) for day in days}

    @property
    def cells(self) -> list[LoadCell]:
        """All of them, in order."""
        return [LoadCell(rho=rho, arrivals=a) for a in self.asked.arrivals for rho in self.asked.loads]


class _Traffic(NamedTuple):
    """When requests come, and which queries they are."""

    instants: list[float]
    queries: list[int]


class _Setting(NamedTuple):
    """How a policy is set and placed; `text` "": no way reaches the quality."""

    text: str
    replicas: tuple[int, ...]


class _Quarter(NamedTuple):
    fitted: PolicyArtifact
    tuning: Population
    judged: Population
    evidence: Remembered


def placed(devices: Sequence[int], total: int) -> list[tuple[int, ...]]:
    """Replicas of every stage, at least one of each, that leave no room for another of the first stage."""
    found = [each for spare in range(devices[0]) for each in placements(devices, total - spare)]
    return sorted(found, key=lambda replicas: replicas[::-1])


def quarters_in(days: Iterable[int]) -> int:
    """How many quarters of the queries these days are judged on."""
    return len({day % _QUARTERS for day in days})


def over_quarters(values: Mapping[int, float]) -> Mean:
    """Mean over the means of quarters, of a value by day; with its 95 % interval, 0 of one quarter."""
    quarters: defaultdict[int, list[float]] = defaultdict(list)
    for day, value in values.items():
        quarters[day % _QUARTERS].append(value)
    return mean_of([float(np.mean(quarter)) for quarter in quarters.values()])


@dataclass(slots=True, eq=False)
class _ContestRun:
    """One run of the contest.

    Attributes:
        asked: What is asked for.
        traces: Recorded queries, in an order of chance.
    """

    asked: ContestHeader
    traces: Sequence[Trace]
    _quarters: dict[int, _Quarter]
    _clients: dict[str, list[Client]]

    def quarter(self, number: int) -> _Quarter:
        """What is fitted and drawn from for the days of a quarter."""
        if number not in self._quarters:
            parts = [list(self.traces[(number + i) % _QUARTERS :: _QUARTERS]) for i in range(_QUARTERS)]
            rows = parts[0] + parts[1]
            ladder = priced_ladder(rows, self.asked.stages)
            fitted = fit(rows, ladder, fitted_at="in a contest")
            unit = fitted.ladder.unit()
            tuning, judged = (Population(part, ladder, unit, 1, clocked=True) for part in parts[2:])
            self._quarters[number] = _Quarter(fitted, tuning, judged, Remembered(fitted.evidence()))
        return self._quarters[number]

    def run(
        self,
        place: _Quarter,
        judged: Population,
        setting: _Setting,
        traffic: _Traffic,
        on_end: Callable[[Request, float], None] | None = None,
    ) -> Summary:
        """What a setting comes to on some traffic; `on_end` as the simulator has it."""
        made = {s: StageServer(n, 1) for s, n in zip(self.asked.stages, setting.replicas, strict=True)}
        controller = self._controller(place, judged, setting)
        seconds = traffic.instants[-1] + 1e-6
        sim = Simulator(
            judged, made, controller, Open(traffic.instants, traffic.queries), 0, RunSettings(seconds)
        )
        sim.on_end = on_end
        for _ in sim.run(seconds):
            pass
        return sim.books.total()

    def _controller(self, place: _Quarter, judged: Population, setting: _Setting) -> Controller:
        name, _, lam = setting.text.partition(":")
        if name == "oracle":
            traces = [query.trace for query in judged.queries]
            return Fixed(Oracle.from_traces(traces, judged.prices, judged.unit, float(lam)))
        sizes = {stage: (n, 1) for stage, n in zip(self.asked.stages, setting.replicas, strict=True)}
        return Contenders(place.fitted, place.tuning, sizes, 1, place.evidence).of(setting.text)

    def traffic(self, cell: LoadCell, judged: Population, seed: int, n: int) -> _Traffic:
        """The requests of a day: the same for every policy."""
        largest = self.asked.stages[-1]
        mean_s = float(np.mean([q.trace.outcomes[largest].draft.seconds for q in judged.queries]))
        rate = cell.rho * (self.asked.total // self.asked.devices[-1]) / mean_s
        rng = np.random.default_rng([seed, round(1000 * cell.rho)])
        queries = rng.integers(len(judged.queries), size=n).tolist()
        if cell.arrivals == POISSON:
            return _Traffic(list(islice(poisson(rate, rng), n)), queries)
        if cell.arrivals not in self._clients:
            self._clients[cell.arrivals] = read_clients(cell.arrivals)
        return _Traffic(bursts(self._clients[cell.arrivals], rate, n, rng), queries)

    def tuned(self, cell: LoadCell, number: int, name: str) -> Tuned:
        """The setting and placement of least P95 that reach the quality on the tuning traffic."""
        place = self.quarter(number)
        text, replicas = self._best(
            place,
            place.tuning,
            SETTINGS[name],
            CONFIDENCE,
            lambda n: self.traffic(cell, place.tuning, _TUNING_SEED + number, n),
        )
        return Tuned(cell=cell, quarter=number, name=name, text=text, replicas=replicas)

    def foreseen(self, cell: LoadCell, day: int, name: str) -> _Setting:
        """The same for the judged traffic of a day itself, whose quality is then known."""
        place = self.quarter(day % _QUARTERS)
        return self._best(
            place, place.judged, FORESIGHT[name], 0.5, lambda n: self.traffic(cell, place.judged, day, n)
        )

    def _best(
        self,
        place: _Quarter,
        drawn: Population,
        texts: Sequence[str],
        confidence: float,
        traffic: Callable[[int], _Traffic],
    ) -> _Setting:
        """All settings on a share of the requests, then the fastest on all until a few keep the quality."""
        tries = [_Setting(t, r) for t in texts for r in placed(self.asked.devices, self.asked.total)]
        n = self.asked.n_requests
        first = self._tried(place, drawn, tries, confidence, traffic(int(_TUNING_SHARE * n)))
        ranked = [setting for _, setting in sorted(first)]
        last = self._tried(place, drawn, ranked, confidence, traffic(n))
        return min(islice(last, _FINALISTS), default=(0.0, _Setting("", ())))[1]

    def _tried(
        self,
        place: _Quarter,
        drawn: Population,
        tries: Sequence[_Setting],
        confidence: float,
        traffic: _Traffic,
    ) -> Iterator[tuple[float, _Setting]]:
        for setting in tries:
            margins: defaultdict[str, list[float]] = defaultdict(list)
            total = self.run(place, drawn, setting, traffic, partial(self._note, margins))
            by_query = [float(np.mean(values)) for values in margins.values()]
            if total.p95_s is not None and _lower_bound(by_query, confidence) >= 0.0:
                yield total.p95_s, setting

    def _note(self, margins: defaultdict[str, list[float]], request: Request, _: float) -> None:
        """How far an answer is above the share that is kept of the largest stage's."""
        trace = request.situation.trace
        reference = trace.outcomes[self.asked.stages[-1]].score
        assert request.step is not None  # nothing fails: no stage is ever down
        assert reference is not None
        margins[f"{trace.query.dataset} {trace.query.id}"].append(
            request.step.score - self.asked.keep * reference
        )


def _lower_bound(values: Sequence[float], confidence: float) -> float:
    """Of their mean, one-sided: Student's."""
    from asd.evaluation.statistics import student_interval  # noqa: PLC0415  (scipy takes a second)

    return student_interval(values, 2.0 * confidence - 1.0)[0]


def run_contest(
    asked: ContestHeader,
    traces: Sequence[Trace],
    days: Sequence[int],
    path: str | Path | None = None,
    tell: Callable[[], object] = lambda: None,
) -> ContestFile:
    """Tune every policy in every cell and quarter, and run it on every day; kept in a file as it goes.

    Args:
        asked: What is asked for.
        traces: Of every stage, with seconds and scores.
        days: Seeds of the days.
        path: Gone on from, and written after every tuning and every day; None: nothing is kept.
        tell: Called after every policy's day.

    Raises:
        ConfigError: The file holds another contest, or there is no placement.
        DataError: The file cannot be read, or there are too few queries.
    """
    if not placed(asked.devices, asked.total):
        raise ConfigError(f"{asked.total} devices do not hold a replica of every stage: {asked.devices}")
    found = ContestFile(asked=asked)
    if path is not None and Path(path).exists():
        found = read_record(path, ContestFile)
        if found.asked != asked:
            raise ConfigError(f"{path} holds another contest ({found.asked}); choose another file")
    order = np.random.default_rng(0).permutation(len(traces))
    play = _ContestRun(asked, [traces[i] for i in order], {}, {})
    for day in days:
        for cell in found.cells:
            for name in (LARGEST, *SETTINGS, *FORESIGHT):
                found = _step(play, found, cell, day, name, tell)
                if path is not None:
                    write_record(path, found)
    return found


def _step(
    play: _ContestRun, found: ContestFile, cell: LoadCell, day: int, name: str, tell: Callable[[], object]
) -> ContestFile:
    """One policy on one day, tuned before if it has not been."""
    if any(d.cell == cell and d.day == day and d.name == name for d in found.days):
        tell()
        return found
    place = play.quarter(day % _QUARTERS)
    found, best = _set(play, found, cell, day, name)
    traffic = play.traffic(cell, place.judged, day, play.asked.n_requests)
    total = play.run(place, place.judged, best, traffic) if best.text else None
    tell()
    done = Day(cell=cell, day=day, name=name, total=total)
    return ContestFile(asked=found.asked, tuned=found.tuned, days=(*found.days, done))


def _set(
    play: _ContestRun, found: ContestFile, cell: LoadCell, day: int, name: str
) -> tuple[ContestFile, _Setting]:
    """How a policy is set and placed on a day, and the file with what its quarter was tuned to."""
    if name == LARGEST:
        return found, _Setting(f"{LARGEST}:{play.asked.stages[-1]}", _alone(play.asked))
    if name in FORESIGHT:
        return found, play.foreseen(cell, day, name)
    number = day % _QUARTERS
    kept = [t for t in found.tuned if (t.cell, t.quarter, t.name) == (cell, number, name)]
    tuned = kept[0] if kept else play.tuned(cell, number, name)
    if not kept:
        found = ContestFile(asked=found.asked, tuned=(*found.tuned, tuned), days=found.days)
    return found, _Setting(tuned.text, tuned.replicas)


def _alone(asked: ContestHeader) -> tuple[int, ...]:
    """All devices for the largest stage; the others have a replica that is never called."""
    return (*(1 for _ in asked.stages[:-1]), asked.total // asked.devices[-1])
