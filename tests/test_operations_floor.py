"""A quality floor that the queues cannot break: worst cases, certified settings, and control among them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asd.errors import ConfigError
from asd.evidence.prompt.taxonomy import left_out
from asd.guarantee.certificate import Promise
from asd.guarantee.p_values import kept, n_passed
from asd.operations.arrivals import poisson
from asd.operations.control.backlog import BacklogPolicy, BacklogTable, Solved
from asd.operations.control.bearing import bearing_of
from asd.operations.control.contenders import Contenders
from asd.operations.control.deciders import Lookup
from asd.operations.control.floor import Certificate, Floored, FloorSetting, certify, worst_scores
from asd.operations.faults import Fault, plan
from asd.operations.population import Population, Situation
from asd.operations.simulator import Simulator
from asd.operations.state import SystemState
from asd.operations.stations import StageServer
from asd.operations.traffic import Gauge, Open, RunSettings
from tests.test_operations_backlog import TIMED, Queue, busy, contenders, state  # noqa: F401  (a fixture)

LAM, MUS = 50.0, (0.0, 1.0, 5.0, 20.0, 100.0, 500.0)


def tables(contenders: Contenders) -> list[Solved]:  # noqa: F811
    return [contenders.steering.tables(LAM, 0.7)(mu) for mu in MUS]


def certified(contenders: Contenders, keep: float = 0.9) -> Certificate:  # noqa: F811
    solve = contenders.steering.tables(LAM, 0.7)
    promise, rng = Promise(delta=0.1, keep=keep), np.random.default_rng(1)
    return certify(contenders.population, contenders.evidence, solve, MUS, promise, rng)


def floored(contenders: Contenders, found: Sequence[FloorSetting], target_s: float) -> Floored:  # noqa: F811
    bearing = bearing_of(contenders.population, contenders.evidence, found[-1].solved, contenders.servers)
    return Floored("floored", found, contenders.evidence, LAM, target_s, bearing)


class Course:
    """Queues that are others at every decision."""

    def __init__(self, levels: list[tuple[int, int]]) -> None:
        self.levels, self.at = levels, 0

    def gauges(self) -> list[Queue]:
        now = self.levels[self.at % len(self.levels)]
        self.at += 1
        return [Queue(0, 0) if n < 0 else Queue(n, 1) for n in now]


def looking(place: Contenders, solved: Solved) -> tuple[Lookup, BacklogTable]:
    table = BacklogTable(solved)
    return Lookup(place.population, BacklogPolicy("course", place.evidence, table)), table


def score(lookup: Lookup, table: BacklogTable, situation: Situation, course: Course) -> float:
    """Of the answer that a course of the queues leads to."""
    while True:
        table.gauges = course.gauges()
        step = lookup.step(situation, frozenset())
        assert step is not None
        if step.after is None:
            return step.score
        situation = step.after


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, len(MUS) - 1),
    st.lists(st.tuples(st.integers(-1, 20), st.integers(-1, 20)), min_size=1, max_size=6),
)
def test_no_course_of_the_queues_scores_less_than_the_worst(
    contenders: Contenders,  # noqa: F811
    which: int,
    levels: list[tuple[int, int]],
) -> None:
    solved = tables(contenders)[which]
    worst = worst_scores(contenders.population, contenders.evidence, solved)
    looks = looking(contenders, solved)
    for i, situation in enumerate(contenders.population.queries[:40]):
        assert score(*looks, situation, Course(levels)) >= worst[i]


def test_a_stage_is_not_certified_for_domains_that_it_is_not_asked_about(contenders: Contenders) -> None:  # noqa: F811
    """Where S is for one domain only, the others are L's whatever the queues do; nothing else changes."""
    small, large = TIMED.stages
    specialised = replace(TIMED, stages=(replace(small, only=("mathematical",)), large))
    known, solved = contenders.population, tables(contenders)[3]
    population = Population([one.trace for one in known.queries], specialised, known.unit, 1)
    before, after = (worst_scores(p, contenders.evidence, solved) for p in (known, population))
    elsewhere = np.array([bool(left_out(specialised.only, q.trace.query.prompt)) for q in known.queries])
    alone = np.array([q.trace.outcomes["L"].score for q in known.queries], dtype=float)
    assert 40 < elsewhere.sum() < 110
    assert after.tolist() == np.where(elsewhere, alone, before).tolist()
    assert (before != after).any()
    looks = looking(replace(contenders, population=population), solved)
    for i, situation in enumerate(population.queries[:40]):
        for course in ([(-1, -1)], [(20, 0)], [(0, 20)], [(3, 3), (0, 20)]):
            assert score(*looks, situation, Course(course)) >= after[i]


def test_the_worst_is_reached(contenders: Contenders) -> None:  # noqa: F811
    """By one of the courses of three decisions, for every query: it is no bound that is never met."""
    solved = tables(contenders)[3]
    worst = worst_scores(contenders.population, contenders.evidence, solved)
    looks, grid = looking(contenders, solved), list(product((-1, 0, 1, 3, 20), repeat=2))
    for i, situation in enumerate(contenders.population.queries[:4]):
        found = min(score(*looks, situation, Course(list(c))) for c in product(grid, repeat=3))
        assert found == worst[i]


def test_settings_are_certified_in_order_by_the_package_s_test(contenders: Contenders) -> None:  # noqa: F811
    """The worth of a second grows, the worst case falls, and behind the first that fails none is used."""
    found = certified(contenders)
    worst = np.array(
        [worst_scores(contenders.population, contenders.evidence, t) for t in tables(contenders)]
    )
    assert [s.worst for s in found.settings] == pytest.approx(worst.mean(axis=1).tolist())
    order = np.random.default_rng(1).permutation(worst.shape[1])
    largest = np.array([q.trace.outcomes["L"].score for q in contenders.population.queries], dtype=float)
    expected = int(n_passed(kept(worst[:, order], largest[order], 0.9, 0.1), 0.1))
    assert 0 < found.n_passed == expected < len(MUS)
    assert found.floor == pytest.approx(0.9 * largest.mean())
    assert [s.mu for s in found.certified] == list(MUS[:expected])


def test_a_floor_that_no_setting_keeps_is_refused(contenders: Contenders) -> None:  # noqa: F811
    with pytest.raises(ConfigError, match=r"no setting surely keeps 1 .* raise lam, or give more"):
        _ = certified(contenders, 1.0).certified


@pytest.mark.parametrize("mus", [(), (1.0, 0.0), (0.0, 0.0), (-1.0, 0.0)])
def test_grids_that_were_not_fixed_in_order_are_refused(
    contenders: Contenders,  # noqa: F811
    mus: tuple[float, ...],
) -> None:
    solve = contenders.steering.tables(LAM, 0.7)
    promise, rng = Promise(delta=0.1, keep=0.9), np.random.default_rng(1)
    with pytest.raises(ConfigError, match="grid of mu ascends"):
        certify(contenders.population, contenders.evidence, solve, mus, promise, rng)
    cap = Promise(delta=0.1, cap_cost=1.0)
    with pytest.raises(ConfigError, match="share of quality"):
        certify(contenders.population, contenders.evidence, solve, MUS, cap, rng)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(0.0, 1e6)), min_size=1, max_size=30))
def test_control_never_leaves_the_certified_settings(
    contenders: Contenders,  # noqa: F811
    p95s: list[float | None],
) -> None:
    """Whatever latencies it sees; and it has said so at the look at which it would have to."""
    found = certified(contenders).certified
    made = floored(contenders, found, 0.2)
    seen = state(S=busy(0.9, call_s=0.001), L=busy(0.95, 2, call_s=0.001))
    allowed = {id(setting.solved) for setting in found}
    assert id(made.policy(None).table.solved) in allowed
    for p95_s in p95s:
        solved = made.policy(replace(seen, p95_s=p95_s)).table.solved
        assert id(solved) in allowed
        if made.unheld:
            assert solved is found[-1].solved
            assert "cannot be held with the quality floor" in made.unheld


def test_what_cannot_be_held_is_said_once_and_taken_back(
    contenders: Contenders,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = certified(contenders).certified
    made = floored(contenders, found, 0.2)
    seen = state(S=busy(0.9, call_s=0.001), L=busy(0.95, 2, call_s=0.001))
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            made.policy(replace(seen, p95_s=0.9))
    assert made.unheld.startswith("P95 of 0.2 s cannot be held with the quality floor (it is 0.9 s)")
    assert len(caplog.records) == 1
    for _ in range(50):
        made.policy(replace(seen, p95_s=0.05))
    assert not made.unheld
    assert made.policy(None).table.solved is found[0].solved


def test_a_target_that_is_none_is_refused(contenders: Contenders) -> None:  # noqa: F811
    with pytest.raises(ConfigError, match="target is positive"):
        floored(contenders, certified(contenders).certified, 0.0)


@dataclass
class Looks:
    """Writes down what every look saw and said."""

    made: Floored
    seen: list[tuple[float, float | None, str]] = field(default_factory=list)
    bears: list[float] = field(default_factory=list)
    interval_s: float = 5.0
    name: str = "looks"

    def watch(self, gauges: Mapping[str, Gauge]) -> None:
        self.made.watch(gauges)

    def policy(self, state: SystemState | None) -> BacklogPolicy:
        policy = self.made.policy(state)
        if state is not None:
            self.seen.append((state.request_rate, state.p95_s, self.made.unheld))
            self.bears.append(self.made.bears)
        return policy


def ramp(rng: np.random.Generator, first: float, last: float, seconds: float) -> list[float]:
    """Arrivals at a rate that grows steadily: the inverse of first t + (last - first) t^2 / (2 seconds)."""
    slope, ends = (last - first) / seconds, seconds * (first + last) / 2.0
    total = np.cumsum(rng.exponential(size=round(1.1 * ends)))
    at = (np.sqrt(first**2 + 2.0 * slope * total) - first) / slope
    return [float(instant) for instant in at[at < seconds]]


APART = [("S",), ("L",)]


@pytest.mark.slow
@pytest.mark.parametrize("target_s", [0.15, 0.3, 1.0])
@pytest.mark.parametrize(("seed", "slowdown"), [(1, 1.0), (2, 1.0), (1, 1.6)])
def test_what_cannot_be_held_is_said_before_it_is_broken(
    contenders: Contenders,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
    seed: int,
    slowdown: float,
    target_s: float,
) -> None:
    """Under a load that grows steadily, at an earlier look than the first whose P95 is above the target; with
    both figures, and logged once until it is no longer so. Of rates that are borne nothing is said. So it is
    where calls take longer than they are priced at.
    """
    looks = Looks(floored(contenders, certified(contenders).certified, target_s))
    arrivals = ramp(np.random.default_rng(seed), 2.0, 120.0, 300.0)
    servers = {name: StageServer(*server) for name, server in contenders.servers.items()}
    sim = Simulator(contenders.population, servers, looks, Open(arrivals), seed, RunSettings(60.0))
    plan(sim, [Fault("slow", stage, 0.0, 300.0, slowdown) for stage in "SL" if slowdown > 1.0])
    with caplog.at_level(logging.WARNING):
        list(sim.run(300.0))
    broken = next(i for i, (_, p95_s, _) in enumerate(looks.seen) if p95_s is not None and p95_s > target_s)
    said = next(i for i, (*_, unheld) in enumerate(looks.seen) if unheld)
    assert 0 < said < broken
    rate, _, unheld = looks.seen[said]
    bears, priced = looks.bears[said], looks.made.bearing.rate({"S": 1, "L": 2}, APART, target_s)
    assert bears < rate
    assert all(rate <= bears for (rate, *_), bears in zip(looks.seen[:said], looks.bears, strict=False))
    assert bears <= priced / slowdown * 1.05
    if slowdown == 1.0:
        assert bears >= 0.75 * priced
        assert max(looks.made.slowdown.values()) < 1.1
    assert f"{rate:.3g} requests a second arrive, the certified settings bear {bears:.3g}" in unheld
    assert caplog.records[0].message == unheld
    began = [bool(b[2]) and not a[2] for a, b in pairwise(looks.seen)]
    assert len(caplog.records) == sum(began)
    assert looks.made.n_looks == len(looks.seen)
    assert looks.made.n_unheld == sum(bool(unheld) for *_, unheld in looks.seen)


def test_a_rate_is_said_without_any_latency_and_taken_back(contenders: Contenders) -> None:  # noqa: F811
    """Where nobody has been answered yet, and with replicas that are gone sooner."""
    made = floored(contenders, certified(contenders).certified, 0.2)
    calls = {"S": busy(0.5, call_s=0.001), "L": busy(0.5, 2, call_s=0.001)}
    bears = made.bearing.rate({"S": 1, "L": 2}, APART, 0.2)
    for share, told in ((0.99, False), (1.01, True), (0.99, False)):
        made.policy(replace(state(**calls), request_rate=share * bears, p95_s=None))
        assert bool(made.unheld) == told
    lost = state(S=calls["S"], L=replace(calls["L"], replicas=1))
    made.policy(replace(lost, request_rate=0.99 * bears, p95_s=None))
    assert "may soon not be held" in made.unheld


def test_stages_of_one_device_bear_less(contenders: Contenders) -> None:  # noqa: F811
    made = floored(contenders, certified(contenders).certified, 0.2)
    replicas = {"S": 1, "L": 1}
    apart, together = (made.bearing.rate(replicas, places, 0.2) for places in (APART, [("S", "L")]))
    assert together < apart
    seen = state(S=busy(0.5, call_s=0.001), L=busy(0.5, call_s=0.001))
    seen = replace(seen, request_rate=(apart + together) / 2.0)
    made.watch({"S": Queue(), "L": Queue()})
    made.policy(seen)
    assert not made.unheld
    made.watch({"S": Queue(place="one"), "L": Queue(place="one")})
    made.policy(seen)
    assert f"bear {together:.3g}" in made.unheld


def test_a_floor_that_was_certified_with_a_stage_is_not_promised_without_it(
    contenders: Contenders,  # noqa: F811
) -> None:
    """L is away for a minute in the middle of a run: said at the looks of that minute, and at no other."""
    looks = Looks(floored(contenders, certified(contenders).certified, 5.0))
    servers = {name: StageServer(*server) for name, server in contenders.servers.items()}
    arrivals = poisson(10.0, np.random.default_rng(3))
    sim = Simulator(contenders.population, servers, looks, Open(arrivals), 3, RunSettings(60.0))
    plan(sim, [Fault("down", "L", 61.0, 60.0, math.inf)])
    list(sim.run(180.0))
    said = {5.0 * (i + 1) for i, (*_, unheld) in enumerate(looks.seen) if "L cannot be asked now" in unheld}
    assert said == {65.0 + 5.0 * k for k in range(12)}
    assert not any(unheld for *_, unheld in looks.seen if "cannot be asked" not in unheld)
