"""The simulator beside queueing theory and beside simpy, and the laws that every window is held to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pytest
import simpy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asd.errors import ConfigError, SimulationError
from asd.operations.arrivals import poisson
from asd.operations.occupancy import Occupancy
from asd.operations.population import Population
from asd.operations.simulator import Simulator
from asd.operations.stations import Request, StageServer
from asd.operations.traffic import Fixed, Open, RunSettings, Users
from tests.queues import Planned, ladder, one_stage, query

PLANNED = Fixed(Planned())
Walks = Sequence[Sequence[str]]
Seconds = Sequence[Mapping[str, float]]


def erlang_c(servers: int, load: float) -> float:
    """Probability of waiting in M/M/c with `load` Erlangs."""
    terms = [load**k / math.factorial(k) for k in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


def latency(population: Population, server: StageServer, rate: float, n: int, seed: int = 1) -> float:
    arrivals = poisson(rate, np.random.default_rng(seed))
    sim = Simulator(population, {"S": server}, PLANNED, Open(arrivals), seed)
    for _ in sim.run(n / rate):
        pass
    return sim.books.total().latency_s


@pytest.mark.slow
def test_m_m_c() -> None:
    """Mean time in the system within 2 % of Erlang's formula."""
    seconds = -np.log1p(-(np.arange(4000) + 0.5) / 4000)  # exponential, mean 1
    servers, load = 3, 1.8
    exact = 1.0 + erlang_c(servers, load) / (servers - load)
    assert latency(one_stage(seconds), StageServer(servers, 1), load, 120_000) == pytest.approx(
        exact, rel=0.02
    )


@pytest.mark.slow
def test_m_g_1() -> None:
    """Mean time in the system within 2 % of Pollaczek and Khinchine, for a service time of two points."""
    seconds = np.array([0.2] * 75 + [3.4] * 25)
    rate = 0.5
    exact = seconds.mean() + rate * (seconds**2).mean() / (2 * (1 - rate * seconds.mean()))
    assert latency(one_stage(seconds), StageServer(1, 1), rate, 150_000) == pytest.approx(exact, rel=0.02)


def bulk_service(rate: float, batch: int) -> float:
    """Mean time in M/D[1,b]/1 with calls of one second: the embedded chain at the ends of calls, solved."""
    n = 200
    arrivals = [math.exp(-rate) * rate**k / math.factorial(k) for k in range(60)]
    move = np.zeros((n, n))
    for waiting in range(n):
        left = max(0, max(waiting, 1) - batch)
        for k, p in enumerate(arrivals):
            move[waiting, min(left + k, n - 1)] += p
    at_end = np.linalg.matrix_power(move, 2**14)[0]
    inside = sum(p * (max(waiting, 1) + rate / 2) for waiting, p in enumerate(at_end))
    return float(inside / (1.0 + at_end[0] / rate)) / rate


@pytest.mark.slow
def test_bulk_service() -> None:
    """Mean time in the system within 2 % of the exact one where a call takes as long whatever its size."""
    population = one_stage(np.ones(1), {4: 0.25}, 4)
    assert latency(population, StageServer(1, 4), 2.8, 100_000) == pytest.approx(
        bulk_service(2.8, 4), rel=0.02
    )


class BySimpy:
    """Requests and replicas as processes of simpy, which share nothing with the simulator.

    Attributes:
        ended: When every request was answered.
    """

    def __init__(self, servers: Mapping[str, StageServer], walks: Walks, seconds: Seconds) -> None:
        self.env = simpy.Environment()
        self.ended: dict[int, float] = {}
        self._walks, self._seconds = walks, seconds
        self._queues: dict[str, list[tuple[int, simpy.Event]]] = {stage: [] for stage in servers}
        self._sleeping: dict[str, list[simpy.Event]] = {stage: [] for stage in servers}
        for stage, server in servers.items():
            for _ in range(server.replicas):
                self.env.process(self._replica(stage, server.batch))

    def answer(self, arrivals: list[float]) -> dict[int, float]:
        for i, at in enumerate(arrivals):
            self.env.process(self._request(i, at))
        self.env.run()
        return self.ended

    def _replica(self, stage: str, size: int) -> simpy.events.ProcessGenerator:
        queue = self._queues[stage]
        while True:
            while not queue:
                woken = self.env.event()
                self._sleeping[stage].append(woken)
                yield woken
            batch = [queue.pop(0) for _ in range(min(size, len(queue)))]
            yield self.env.timeout(sum(self._seconds[i][stage] for i, _ in batch))
            for _, done in batch:
                done.succeed()
            yield self.env.timeout(0)

    def _request(self, i: int, at: float) -> simpy.events.ProcessGenerator:
        yield self.env.timeout(at)
        for stage in self._walks[i]:
            done = self.env.event()
            self._queues[stage].append((i, done))
            if self._sleeping[stage]:
                self._sleeping[stage].pop(0).succeed()
            yield done
        self.ended[i] = self.env.now


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
@example(seed=113)
def test_simpy_event_for_event(seed: int) -> None:
    """Every request is answered at the instant that an independent simulation says."""
    rng = np.random.default_rng(seed)
    n = 30
    servers = {"S": StageServer(int(rng.integers(1, 3)), 1), "L": StageServer(int(rng.integers(1, 4)), 1)}
    arrivals = np.sort(rng.random(n) * 20).tolist()
    walks = [["S", "L"] if rng.random() < 0.5 else [str(rng.choice(["S", "L"]))] for _ in range(n)]
    seconds = [
        {"S": 1e-3 + round(float(rng.exponential(0.5)), 4), "L": 1e-3 + round(float(rng.exponential(1.5)), 4)}
        for _ in range(n)
    ]
    traces = [query(i, walks[i], seconds[i]) for i in range(n)]
    sim = Simulator(Population(traces, ladder("SL"), 1.0), servers, PLANNED, Open(arrivals, range(n)), 0)
    ended: dict[int, float] = {}

    def note(request: Request, now: float) -> None:
        ended[int(request.situation.trace.query.id[1:])] = now

    sim.on_end = note
    list(sim.run(1000.0))
    expected = BySimpy(servers, walks, seconds).answer(arrivals)
    assert ended == pytest.approx(expected, abs=1e-9)
    assert len(ended) == n


def test_simpy_batches() -> None:
    """Calls are filled from the queue as an independent simulation fills them."""
    rng = np.random.default_rng(3)
    n = 60
    arrivals = np.sort(rng.random(n) * 20).tolist()
    seconds = [{"S": 1e-3 + round(float(rng.exponential(0.6)), 4)} for _ in range(n)]
    traces = [query(i, ["S"], seconds[i]) for i in range(n)]
    servers = {"S": StageServer(2, 4)}
    sim = Simulator(Population(traces, ladder("S"), 1.0, 4), servers, PLANNED, Open(arrivals, range(n)), 0)
    ended: dict[int, float] = {}
    sim.on_end = lambda request, now: ended.update({int(request.situation.trace.query.id[1:]): now})
    list(sim.run(1000.0))
    assert ended == pytest.approx(BySimpy(servers, [["S"]] * n, seconds).answer(arrivals), abs=1e-9)


def small(controller: Fixed = PLANNED, seed: int = 0, **how: object) -> Simulator:
    rng = np.random.default_rng(7)
    traces = [
        query(i, ["S", "L"] if rng.random() < 0.4 else ["S"], {"S": 0.3, "L": 1.1}, float(i % 2))
        for i in range(40)
    ]
    population = Population(traces, ladder("SL", {4: 0.5}), 2.0, 4)
    traffic = Open(poisson(3.0, np.random.default_rng(5)))
    servers = {"S": StageServer(1, 4), "L": StageServer(1, 4)}
    return Simulator(population, servers, controller, traffic, seed, RunSettings(window_s=10.0, **how))


def test_windows_add_up_to_the_run() -> None:
    """What arrived was answered or is inside; means of the run are those of its windows."""
    sim = small()
    windows = list(sim.run(300.0))
    total = sim.books.total()
    assert len(windows) == 30
    assert total.n_arrived == sum(w.n_arrived for w in windows) == total.n_answered + total.n_inside
    assert [w.start_s for w in windows] == [10.0 * k for k in range(30)]
    answered = sum(w.latency_s * w.n_answered for w in windows) / total.n_answered
    assert total.latency_s == pytest.approx(answered)
    assert total.mean_inside == pytest.approx(np.mean([w.mean_inside for w in windows]))
    assert sum(stage.share_answered for stage in total.stages.values()) == pytest.approx(1.0)
    assert 0.3 < total.quality < 0.7


def test_the_same_seed_is_the_same_run() -> None:
    first, second, other = small(seed=1), small(seed=1), small(seed=2)
    runs = [list(sim.run(100.0)) for sim in (first, second, other)]
    assert runs[0] == runs[1] != runs[2]


class Late(Occupancy):
    """Writes down a departure for a moment too early."""

    def leave(self, now: float, entered: float) -> None:
        super().leave(now, entered + 1e-6)


class Double(Occupancy):
    """Counts everybody twice."""

    def enter(self, now: float) -> None:
        super().enter(now)
        super().enter(now)


@pytest.mark.parametrize("wrong", [Late, Double])
@pytest.mark.parametrize("what", ["visits", "calls"])
def test_a_wrong_book_breaks_a_law(wrong: type[Occupancy], what: str) -> None:
    """A microsecond or a head that is missing is found at the end of its window, by name of the stage."""
    sim = small()
    setattr(sim.stations["S"], what, wrong())
    with pytest.raises(SimulationError, match="stage S"):
        list(sim.run(100.0))


def test_closed_loop() -> None:
    """X (R + Z) = N within 1 %: throughput, latency and think time as measured."""
    traces = [query(i, ["S"], {"S": 0.2 + 0.01 * i}) for i in range(20)]
    users = Users(10, 1.5)
    sim = Simulator(Population(traces, ladder("S"), 1.0), {"S": StageServer(2, 1)}, PLANNED, users, 4)
    list(sim.run(2000.0))
    total = sim.books.total()
    assert total.rate * (total.latency_s + users.think_s) == pytest.approx(users.n, rel=0.01)
    assert total.n_inside <= users.n


def test_refusals_are_counted() -> None:
    """Requests beyond the limit are refused, and nobody else."""
    sim = small(most_inside=3)
    windows = list(sim.run(100.0))
    total = sim.books.total()
    assert total.n_refused > 0
    assert max(w.n_inside for w in windows) <= 3
    assert total.n_arrived == total.n_answered + total.n_refused + total.n_inside
    assert total.error_rate == pytest.approx(total.n_refused / (total.n_answered + total.n_refused))


def test_the_state_is_what_happened() -> None:
    """Rates, latencies and utilisation since the last look, against the window of the same time."""
    sim = small()
    [window] = Simulator.run(sim, 10.0)
    state = sim.state()
    assert state.request_rate == pytest.approx(window.n_arrived / 10.0)
    assert state.latency_s == pytest.approx(window.latency_s)
    assert (
        state.n_inside == window.n_inside == sum(s.n_waiting + s.n_in_flight for s in state.stages.values())
    )
    assert state.stages["S"].utilisation == pytest.approx(window.stages["S"].utilisation, abs=0.06)
    assert state.quality == pytest.approx(window.quality)


def test_bad_servers_are_refused() -> None:
    population = one_stage(np.ones(1))
    traffic = Users(1, 1.0)
    with pytest.raises(ConfigError, match=r"servers are given for \['X'\]"):
        Simulator(population, {"X": StageServer(1, 1)}, PLANNED, traffic, 0)
    with pytest.raises(ConfigError, match="hold 16 queries"):
        Simulator(population, {"S": StageServer(1, 16)}, PLANNED, traffic, 0)
    with pytest.raises(ConfigError, match="at least one replica"):
        StageServer(0, 1)


def test_a_dead_stage_loses_its_calls() -> None:
    """Without its only replica a stage fails whom it holds; the cascade goes on, and takes it in again."""
    sim = small()
    list(sim.run(20.0))
    sim.resize("L", 0)
    before = sim.books.total().n_answered
    list(sim.run(20.0))
    total = sim.books.total()
    assert sim.stations["L"].visits.n == 0
    assert total.n_answered > before
    sim.resize("L", 1)
    windows = list(sim.run(200.0))
    assert windows[-1].stages["L"].utilisation > 0.0
    assert [a.start_s < b.start_s for a, b in pairwise(windows)] == [True] * (len(windows) - 1)


def test_a_lost_call_is_made_again_first() -> None:
    """Of two replicas one goes: whoever it worked for is called for before those who waited."""
    seconds = [1.0, 1.0, 0.1, 0.1]
    traces = [query(i, ["S"], {"S": s}) for i, s in enumerate(seconds)]
    traffic = Open([0.0, 0.1, 0.2, 0.3], range(4))
    sim = Simulator(Population(traces, ladder("S"), 1.0), {"S": StageServer(2, 1)}, PLANNED, traffic, 0)
    ended: dict[str, float] = {}
    sim.on_end = lambda request, now: ended.update({request.situation.trace.query.id: round(now, 6)})
    list(sim.run(0.5))
    sim.resize("S", 1)
    list(sim.run(10.0))
    assert ended == {"q0": 1.0, "q1": 2.0, "q2": 2.1, "q3": 2.2}


def test_the_percentiles_of_a_run_are_those_of_its_latencies() -> None:
    """Beside numpy's of every answered request, which lie far apart."""
    found: list[float] = []
    rng = np.random.default_rng(8)
    sim = Simulator(one_stage(rng.exponential(1.0, 200)), {"S": StageServer(1, 1)}, Fixed(Planned()),
                    Open(poisson(0.6, rng)), 0)  # fmt: skip
    sim.on_end = lambda request, now: found.append(now - request.arrived)
    list(sim.run(6000.0))
    total = sim.books.total()
    expected = np.quantile(found, [0.5, 0.95, 0.99])
    assert [total.p50_s, total.p95_s, total.p99_s] == pytest.approx(expected, rel=0.02)
