"""A quality floor that the queues cannot break: worst cases, certified settings, and control among them."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asd.errors import ConfigError
from asd.evidence.prompt.taxonomy import left_out
from asd.guarantee.certificate import Promise
from asd.guarantee.p_values import kept, n_passed
from asd.operations.contenders import Contenders
from asd.operations.control.backlog import BacklogPolicy, BacklogTable, Solved
from asd.operations.control.floor import Certificate, Floored, certify, worst_scores
from asd.operations.population import Lookup, Population, Situation
from tests.test_operations_backlog import TIMED, Queue, busy, contenders, state  # noqa: F401  (a fixture)

LAM, MUS = 50.0, (0.0, 1.0, 5.0, 20.0, 100.0, 500.0)


def tables(contenders: Contenders) -> list[Solved]:  # noqa: F811
    return [contenders.steering.tables(LAM, 0.7)(mu) for mu in MUS]


def certified(contenders: Contenders, keep: float = 0.9) -> Certificate:  # noqa: F811
    solve = contenders.steering.tables(LAM, 0.7)
    promise, rng = Promise(delta=0.1, keep=keep), np.random.default_rng(1)
    return certify(contenders.population, contenders.evidence, solve, MUS, promise, rng)


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
    made = Floored("floored", found, contenders.evidence, LAM, 0.2)
    seen = state(S=busy(0.9, call_s=0.011), L=busy(0.95, 2, call_s=0.055))
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
    made = Floored("floored", found, contenders.evidence, LAM, 0.2)
    seen = state(S=busy(0.9, call_s=0.011), L=busy(0.95, 2, call_s=0.055))
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
        Floored("floored", certified(contenders).certified, contenders.evidence, LAM, 0.0)
