"""A day of a cascade in seconds: discrete events, the live policy deciding, every window checked exactly.

    requests -> decide -> queue of a stage -> call -> decide -> ... -> answered, refused or failed

At the end of every window Little's law (whole and per stage), the utilisation law and the conservation of
requests must hold to 1e-9, with edge terms; in a closed loop, thinking and waiting users must add up to all
of them, so that X (R + Z) = N. A run that breaks one raises `SimulationError`. Everything that comes out is
`simulated`: arrivals are generated or replayed, service times are prices times recorded counts.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from asd.errors import ConfigError, SimulationError
from asd.operations.books import Books, StageStay, Summary
from asd.operations.control.deciders import Decider, Lookup, decider_of
from asd.operations.occupancy import TOLERANCE, Occupancy, Stay
from asd.operations.population import Population, Step
from asd.operations.state import StageState, SystemState
from asd.operations.stations import (
    Agenda,
    EndedCalls,
    Request,
    SharedDevice,
    StageServer,
    Station,
    gauge_of,
)
from asd.operations.traffic import DAY_S, KEPT, Controller, LoadAware, Open, RunSettings, Users
from asd.policies import Policy

__all__ = ["Simulator"]

_MOST_DECIDERS = 64
"""Policies whose decisions are remembered, so that memory stays flat whatever a controller does."""

_MOST_LATENCIES = 10_000
"""Latest latencies of which a controller may know a percentile."""


class Simulator:
    """One run.

    Args:
        population: Recorded queries.
        servers: How every stage is run, by name.
        controller: Chooses the policy.
        traffic: Where requests come from.
        seed: Of the draws of queries and think times.
        settings: How the run is kept.

    Attributes:
        seed: As given.
        decider: Decides now, as the controller's policy of the moment does.
        spent: Cost units of all calls that have ended.
        replica_s: By stage, seconds of all replicas up to the last window, those that load among them.
        on_end: Told of every request that is answered or fails, and when, if anybody wants to know.

    Raises:
        ConfigError: A stage has no server, or one whose calls hold more queries than the population knows
            the service times of.
    """

    def __init__(
        self,
        population: Population,
        servers: Mapping[str, StageServer],
        controller: Controller,
        traffic: Open | Users,
        seed: int,
        settings: RunSettings = KEPT,
    ) -> None:
        _check_servers(servers, population)
        self.agenda = Agenda()
        places = {
            server.place: SharedDevice(self.agenda, settings.room)
            for server in servers.values()
            if server.place is not None
        }
        self.stations = {
            name: self._new_station(name, servers[name], places.get(servers[name].place or ""))
            for name in population.stages
        }
        self.system, self.thinking = Occupancy(), Occupancy()
        self._population, self._controller = population, controller
        self._largest = population.stages[-1]
        self.seed, self._rng = seed, np.random.default_rng(seed)
        self._users = traffic if isinstance(traffic, Users) else None
        self._arrivals = iter(traffic.arrivals) if isinstance(traffic, Open) else iter(())
        given = traffic.queries if isinstance(traffic, Open) else None
        drawn = traffic.mix.draws(population, self._rng, lambda: self.agenda.now)
        self._drawn = drawn if given is None else iter(given)
        self._thinkers: dict[object, float] = {}
        self._settings = settings
        self.on_end: Callable[[Request, float], None] | None = None
        self._deciders: dict[int, Decider | Lookup] = {}
        if isinstance(controller, LoadAware):
            controller.watch({name: gauge_of(station) for name, station in self.stations.items()})
        self.decider = self._deciding(controller.policy(None))
        self._down: frozenset[str] = frozenset()
        self._up_s = dict.fromkeys(population.stages, 0.0)
        self._resized = dict.fromkeys(population.stages, 0.0)
        self._busy_s = dict.fromkeys(population.stages, 0.0)
        self._loading = dict.fromkeys(population.stages, 0)
        self.replica_s = dict.fromkeys(population.stages, 0.0)
        self.books = Books(population.stages)
        self.spent = self._spent_before = self._day = 0.0
        self._recent = _Recent(0.0)

    def _new_station(self, name: str, server: StageServer, place: SharedDevice | None) -> Station:
        replicas, batch, load_s = server.replicas, server.batch, server.load_s
        return Station(name, self.agenda, self._worked, self._lost, replicas, batch, place, load_s)

    def run(self, seconds: float) -> Iterator[Summary]:
        """Let so much time pass; one window after the other, each checked.

        Raises:
            SimulationError: A window breaks a law.
        """
        if self.agenda.now == 0.0:
            self._begin()
        end = self.agenda.now + seconds
        while self.agenda.now < end:
            self.agenda.run(min(end, self.agenda.now + self._settings.window_s))
            yield self._close_window()

    def resize(self, stage: str, replicas: int) -> None:
        """So many replicas are up from now on; with none, the stage is out of reach."""
        self._count_up(stage)
        self._down = self._down - {stage} if replicas else self._down | {stage}
        self.stations[stage].resize(replicas)

    def load(self, stage: str, replicas: int) -> None:
        """So many replicas load from now on; they do not serve, and are counted in `replica_s`."""
        self._count_up(stage)
        self._loading[stage] = replicas

    def busy_s(self, stage: str) -> float:
        """Seconds that the calls of a stage took so far, all together."""
        return self._busy_s[stage] + self.stations[stage].calls.integral(self.agenda.now)

    def state(self) -> SystemState:
        """What a controller may know now; the next one begins here."""
        now, recent = self.agenda.now, self._recent
        seconds = now - recent.since
        latencies, n = np.array(recent.latencies), recent.n_answered
        n_ended = n + recent.n_lost
        state = SystemState(
            now_s=now,
            seconds=seconds,
            stages={name: self._stage_state(station, seconds) for name, station in self.stations.items()},
            n_inside=self.system.n,
            request_rate=recent.n_arrived / seconds,
            error_rate=recent.n_lost / n_ended if n_ended else 0.0,
            latency_s=recent.latency / n if n else None,
            p95_s=float(np.quantile(latencies, 0.95)) if len(latencies) >= 59 else None,
            quality=recent.quality / n if n else None,
            spent=self.spent - recent.spent_before,
            spent_today=self._spent_today(),
            out=self._down,
        )
        self._recent = _Recent(now, self.spent)
        return state

    def _stage_state(self, station: Station, seconds: float) -> StageState:
        ended, station.ended = station.ended, EndedCalls()
        available = seconds * station.replicas
        return StageState(
            replicas=station.replicas,
            n_waiting=station.n_waiting,
            n_in_flight=station.n_in_flight,
            utilisation=min(1.0, ended.calls_s / available) if available else 0.0,
            wait_s=ended.visits_s / ended.n_visits if ended.n_visits else None,
            call_s=ended.calls_s / ended.n_calls if ended.n_calls else None,
            per_call=ended.n_visits / ended.n_calls if ended.n_calls else None,
            memory=None if station.place is None else station.place.filled,
            is_resident=station.is_resident,
        )

    def _begin(self) -> None:
        if self._users is None:
            self._expect()
        else:
            for _ in range(self._users.n):
                self._think()
        self._look_later()

    def _look(self, _: None) -> None:
        """Let the controller choose for what it sees."""
        self.decider = self._deciding(self._controller.policy(self.state()))
        self._look_later()

    def _look_later(self) -> None:
        if self._controller.interval_s < math.inf:
            self.agenda.at(self.agenda.now + self._controller.interval_s, self._look)

    def _deciding(self, policy: Policy) -> Decider | Lookup:
        decider = self._deciders.get(id(policy))
        if decider is None:
            decider = self._deciders[id(policy)] = decider_of(self._population, policy)
            if len(self._deciders) > _MOST_DECIDERS:
                del self._deciders[next(iter(self._deciders))]
        return decider

    def _expect(self) -> None:
        """Plan the next arrival of an open loop."""
        instant = next(self._arrivals, None)
        if instant is not None:
            self.agenda.at(instant, self._arrive)

    def _think(self) -> None:
        """A user thinks, then asks."""
        assert self._users is not None
        now, user = self.agenda.now, object()
        self.thinking.enter(now)
        self._thinkers[user] = now
        self.agenda.at(now + self._rng.exponential(self._users.think_s), self._ask, user)

    def _ask(self, user: object) -> None:
        self.thinking.leave(self.agenda.now, self._thinkers.pop(user))
        self._arrive(None)

    def _arrive(self, _: None) -> None:
        if self._users is None:
            self._expect()
        self.books.now.n_arrived += 1
        self._recent.n_arrived += 1
        situation = self._population.queries[next(self._drawn)]
        if self._is_refused():
            self.books.now.n_refused += 1
            self._gone()
            return
        request = Request(self.agenda.now, situation)
        self.system.enter(self.agenda.now)
        self._go_on(request)

    def _is_refused(self) -> bool:
        """Whether there is no room, or no money, for one more."""
        most, cap = self._settings.most_inside, self._settings.cap
        if most is not None and self.system.n >= most:
            return True
        return cap is not None and self._spent_today() + (self.system.n + 1) * cap.bound > cap.amount

    def _spent_today(self) -> float:
        if (day := self.agenda.now // DAY_S) != self._day:
            self._day, self._spent_before = day, self.spent
        return self.spent - self._spent_before

    def _go_on(self, request: Request) -> None:
        """Ask the policy, and join a queue or be gone; what takes no call takes no time."""
        while True:
            out = self._down | request.lost if request.lost else self._down
            step = request.step = self.decider.step(request.situation, out)
            if step is None or step.after is None:
                self._end(request, step)
                return
            if step.demand:
                self.stations[step.stage].join(request)
                return
            request.situation = step.after

    def _worked(self, request: Request) -> None:
        step = request.doing
        assert step.after is not None
        request.situation = step.after
        cost = step.cost * request.n_calls
        request.n_calls = 1
        request.cost += cost
        self.spent += cost
        self._go_on(request)

    def _lost(self, request: Request) -> None:
        request.lost |= {request.doing.stage}
        self._go_on(request)

    def _end(self, request: Request, step: Step | None) -> None:
        now = self.agenda.now
        self.system.leave(now, request.arrived)
        if step is None:
            self.books.now.n_failed += 1
            self._recent.n_lost += 1
        else:
            seconds = now - request.arrived
            assert step.answer is not None
            reference = request.situation.trace.outcomes[self._largest].score
            assert reference is not None
            self.books.now.answer(seconds, step.answer, step.score, request.cost, reference)
            self._recent.n_answered += 1
            self._recent.latency += seconds
            self._recent.latencies.append(seconds)
            self._recent.quality += step.score
        if self.on_end is not None:
            self.on_end(request, now)
        self._gone()

    def _gone(self) -> None:
        if self._users is not None:
            self._think()

    def _count_up(self, stage: str) -> None:
        now, n = self.agenda.now, self.stations[stage].replicas
        seconds = now - self._resized[stage]
        self._up_s[stage] += n * seconds
        self.replica_s[stage] += (n + self._loading[stage]) * seconds
        self._resized[stage] = now

    def _close_window(self) -> Summary:
        now, where = self.agenda.now, f"window that ends at {self.agenda.now:g} s"
        requests = [request for station in self.stations.values() for request in station.inside()]
        system = self.system.close(now, [request.arrived for request in requests])
        system.check(where)
        stays = {name: self._close_stage(station, where) for name, station in self.stations.items()}
        self._check_whole(system, stays, where)
        return self.books.close(system, stays)

    def _close_stage(self, station: Station, where: str) -> StageStay:
        now, name = self.agenda.now, station.name
        visits = station.visits.close(now, [request.joined for request in station.inside()])
        calls = station.calls.close(now, station.calls_started())
        visits.check(f"{where}, stage {name}")
        calls.check(f"{where}, calls of stage {name}")
        self._busy_s[name] += calls.integral_s
        self._count_up(name)
        up_s, self._up_s[name] = self._up_s[name], 0.0
        return StageStay.of(visits, calls, up_s)

    def _check_whole(self, system: Stay, stays: Mapping[str, StageStay], where: str) -> None:
        """Conservation of requests; the stages hold all who are inside; users think or wait."""
        tally = self.books.now
        if system.n_entered != tally.n_arrived - tally.n_refused or system.n_left != tally.n_ended:
            raise SimulationError(
                f"{where}: {tally.n_arrived} arrivals, {tally.n_refused} refusals and {tally.n_ended} "
                f"endings are not the {system.n_entered} who entered and the {system.n_left} who left"
            )
        _check_equal(sum(stay.inside_s for stay in stays.values()), system.integral_s, f"{where}: all stages")
        for name, stay in stays.items():
            if stay.busy_s > stay.up_s * (1.0 + TOLERANCE):
                raise SimulationError(f"{where}: stage {name} worked {stay.busy_s} of {stay.up_s} s")
        if self._users is not None:
            thinking = self.thinking.close(self.agenda.now, self._thinkers.values())
            thinking.check(f"{where}, users who think")
            all_s = thinking.integral_s + system.integral_s
            _check_equal(all_s, self._users.n * system.seconds, f"{where}: X (R + Z) = N")


@dataclass(slots=True)
class _Recent:
    """What happened since the controller last looked."""

    since: float
    spent_before: float = 0.0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_LATENCIES))
    latency: float = 0.0
    n_answered: int = 0
    n_arrived: int = 0
    n_lost: int = 0
    quality: float = 0.0


def _check_servers(servers: Mapping[str, StageServer], population: Population) -> None:
    if servers.keys() != set(population.stages):
        raise ConfigError(f"servers are given for {sorted(servers)}, stages are {list(population.stages)}")
    for name, server in servers.items():
        if server.batch > population.largest_batch:
            raise ConfigError(
                f"calls of stage {name!r} hold {server.batch} queries, service times are known for up to "
                f"{population.largest_batch}; give the population a larger batch"
            )


def _check_equal(found: float, due: float, where: str) -> None:
    if abs(found - due) > TOLERANCE * max(found, due, 1.0):
        raise SimulationError(f"{where}: {found} s are not {due} s")
