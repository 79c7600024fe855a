"""What rate of arrivals is borne: by hand, by the live loop, and where a simulated queue settles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.operations.arrivals import poisson
from asd.operations.control.backlog import LEVELS, BacklogPolicy, BacklogTable, Solved, level_of
from asd.operations.control.bearing import Bearing, Demand, bearing_of, demand_of, gauge_at
from asd.operations.control.contenders import Contenders
from asd.operations.control.deciders import Decider
from asd.operations.simulator import Simulator
from asd.operations.stations import StageServer
from asd.operations.traffic import Fixed, Open
from tests.test_operations_backlog import busy, contenders  # noqa: F401  (a fixture)

N = len(LEVELS) - 1
APART = [("S",), ("L",)]
BOTH = {"S": 1, "L": 1}
seconds = st.lists(st.tuples(st.floats(1e-3, 1.0), st.floats(1e-3, 1.0)), min_size=N * N, max_size=N * N)


def bearing(taken: Sequence[Sequence[float]], visits: float = 1.0, alone_s: float = 0.1) -> Bearing:
    """Of calls of one second."""
    demands = [Demand(each, each, (visits, visits), alone_s) for each in taken]
    return Bearing(("S", "L"), (1, 1), (1.0, 1.0), demands)


@pytest.mark.parametrize("level", range(N))
def test_a_gauge_stays_at_its_level(level: int) -> None:
    assert level_of(gauge_at(level)) == level


def test_a_rate_without_a_target_is_that_of_the_fullest_device() -> None:
    """All combinations take .2 s of S and .4 s of L but one, which takes .3 s of each."""
    taken = [(0.2, 0.4)] * (N * N)
    taken[1] = (0.3, 0.3)
    found = bearing(taken)
    assert found.rate(BOTH, APART) == pytest.approx(0.8 / 0.3)
    assert found.rate({"S": 1, "L": 2}, APART) == pytest.approx(0.8 / 0.2)
    assert found.rate(BOTH, [("S", "L")]) == pytest.approx(0.8 / 0.6)
    assert found.rate({"S": 1, "L": 0}, APART) == 0.0
    taken[2] = (0.7, 0.0)
    assert bearing(taken).rate({"S": 1, "L": 0}, APART) == pytest.approx(0.8 / 0.7)
    assert bearing([(0.0, 0.0)] * (N * N)).rate(BOTH, APART) == math.inf


def test_calls_that_take_twice_as_long_bear_half() -> None:
    """With a target twice as far away; where only S is slow, what L bears at any P95 stays."""
    taken = [(0.2, 0.4)] * (N * N)
    found = bearing(taken)
    slow = found.slowed({"S": 2.0, "L": 2.0})
    assert slow.rate(BOTH, APART, 6.0) == pytest.approx(found.rate(BOTH, APART, 3.0) / 2.0)
    assert found.slowed({"S": 1.5, "L": 1.0}).rate(BOTH, APART) == pytest.approx(0.8 / 0.4)
    assert found.slowed({"S": 4.0, "L": 1.0}).rate(BOTH, APART) == pytest.approx(0.8 / 0.8)
    assert found.slowed({"S": 4.0, "L": 1.0}).demands[0].alone_s == pytest.approx(0.1 * (0.8 + 0.4) / 0.6)


@pytest.mark.parametrize(("n", "priced"), [(1.0, 0.2), (4.0, 0.5), (2.5, 0.35)])
def test_a_slowdown_by_hand(n: float, priced: float) -> None:
    """Half of the requests visit S, for .2 s in a call of one query and for .5 s in one of four; none L."""
    demand = Demand((0.5 * 0.5 / 4, 0.0), (0.5 * 0.2, 0.0), (0.5, 0.0), 0.1)
    found = Bearing(("S", "L"), (4, 4), (1.0, 1.0), [demand] * (N * N))
    seen = busy(0.5, call_s=3.0 * priced, per_call=n)
    assert found.slowdown("S", seen) == pytest.approx(3.0)
    assert found.slowdown("L", seen) is None
    assert found.slowdown("S", replace(seen, call_s=None)) is None


def test_one_queue_has_one_backlog() -> None:
    """A combination that stages of one device cannot be in bears nothing there."""
    taken = [(1.0, 1.0)] * (N * N)
    taken[1] = (0.1, 0.1)  # nobody waits for S, one call is ahead at L
    assert bearing(taken).rate(BOTH, APART) == pytest.approx(8.0)
    assert bearing(taken).rate(BOTH, [("S", "L")]) == pytest.approx(0.4)


@pytest.mark.parametrize(("visits", "tail"), [(1.0, 20.0), (0.5, 10.0), (0.04, 1.0)])
def test_a_rate_for_a_target_by_hand(visits: float, tail: float) -> None:
    """M/M/1: 5 % wait longer than ln 20 rho / (1 - rho) where all wait; ln 10 of it where a half does, and
    nothing where fewer than 5 % do. S takes nothing.
    """
    found = bearing([(0.0, 0.5)] * (N * N), visits)
    target_s = 3.0
    wait = math.log(tail)
    rho = 1.0 if wait == 0.0 else (target_s - 0.1) / (wait + target_s - 0.1)
    assert found.rate(BOTH, APART, target_s) == pytest.approx(0.8 * rho / 0.5, rel=1e-6)
    assert found.rate(BOTH, APART, 0.09) == pytest.approx(0.0, abs=1e-9)


@given(seconds, st.integers(1, 4), st.floats(0.2, 20.0))
def test_more_replicas_and_more_time_bear_no_less_and_one_device_no_more(
    taken: list[tuple[float, float]], n: int, target_s: float
) -> None:
    found, replicas = bearing(taken), {"S": n, "L": n}
    bears = found.rate(replicas, APART, target_s)
    least = bears * (1.0 - 1e-9)
    assert found.rate({"S": n + 1, "L": n}, APART, target_s) >= least
    assert found.rate({"S": n, "L": n + 1}, APART, target_s) >= least
    assert found.rate(replicas, APART, 2.0 * target_s) >= least
    assert found.rate(replicas, [("S", "L")], target_s) <= bears * (1.0 + 1e-9)


def solved(contenders: Contenders, mu: float) -> Solved:  # noqa: F811
    return contenders.steering.tables(50.0, 0.7)(mu)


@pytest.mark.parametrize("levels", [(0, 0), (0, 3), (4, 0), (4, 4)])
def test_seconds_are_what_the_live_policy_would_take(
    contenders: Contenders,  # noqa: F811
    levels: tuple[int, int],
) -> None:
    """By the cascade's own loop, which decides about every state anew."""
    population, servers, table = contenders.population, contenders.servers, solved(contenders, 5.0)
    found = bearing_of(population, contenders.evidence, table, servers)
    gauges = [gauge_at(level) for level in levels]
    live = BacklogPolicy("live", contenders.evidence, BacklogTable(table, gauges))
    taken = demand_of(population, Decider(population, live).walk, servers)
    assert found.demands[levels[0] * N + levels[1]] == taken
    walked = list(Decider(population, live).walk(population.queries[0]))
    alone = sum(step.demand.share[0] for step in walked if step.demand)
    assert 0.0 < alone <= 3.0 * taken.alone_s


@pytest.mark.slow
def test_a_rate_that_is_borne_is_borne(contenders: Contenders) -> None:  # noqa: F811
    """At it few are inside at the end; at twice what the stages can take at most they pile up."""
    table = solved(contenders, 5.0)
    servers = {name: StageServer(*server) for name, server in contenders.servers.items()}
    found = bearing_of(contenders.population, contenders.evidence, table, contenders.servers)
    bears = found.rate({"S": 1, "L": 2}, APART)

    def inside(rate: float) -> int:
        sees = Watching(BacklogPolicy("table", contenders.evidence, BacklogTable(table)))
        arrivals = poisson(rate, np.random.default_rng(3))
        sim = Simulator(contenders.population, servers, sees, Open(arrivals), 3)
        return list(sim.run(600.0))[-1].n_inside

    assert inside(bears) < 50
    assert inside(2.0 * bears / found.share) > 1000


class Watching(Fixed):
    """One table, at every load."""

    def watch(self, gauges: dict[str, object]) -> None:
        self.always.table.gauges = [gauges[stage] for stage in "SL"]  # type: ignore[attr-defined]
