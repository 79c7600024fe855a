"""Mixes of easy, medium and hard queries: what a query is, how many come, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from asd.errors import ConfigError
from asd.operations.arrivals import Pattern, poisson
from asd.operations.population import Population
from asd.operations.simulator import Simulator
from asd.operations.stations import Request, StageServer
from asd.operations.traffic import Fixed, Mix, Open, Users
from asd.types import Trace
from tests.queues import Planned, ladder, query

SCORES = ((1, 0, 1), (0.5, 1, 1), (0, 0.5, 0), (0.4, 1, 1), (0, 0, 1), (0.2, 0.4, 0.3))
"""Of the stages S, M, L: two easy queries, two medium ones, two hard ones."""


def scored(i: int, scores: tuple[float, ...]) -> Trace:
    made = query(i, ["S"], dict.fromkeys("SML", 0.01))
    outcomes = {
        stage: replace(outcome, score=score)
        for (stage, outcome), score in zip(made.outcomes.items(), scores, strict=True)
    }
    return replace(made, outcomes=outcomes)


def population(*kept: int) -> Population:
    traces = [scored(i, SCORES[i]) for i in kept or range(len(SCORES))]
    return Population(traces, ladder("SML"), 1.0, 1)


def shares(positions: Iterator[int], n: int = 20_000) -> list[float]:
    counts = Counter(position // 2 for position in islice(positions, n))
    return [100.0 * counts[i] / n for i in range(3)]


def test_how_difficult_a_query_is() -> None:
    """The smallest stage with a score of a half or more; the largest stage's own makes no difference."""
    assert Mix((70, 25, 5)).classes(population()) == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("closed", [False, True])
def test_a_run_has_the_shares(closed: bool) -> None:
    """Of an open and of a closed loop; within a class all queries come alike, and every window is checked."""
    mix = Mix((70, 25, 5))
    rng = np.random.default_rng(1)
    traffic = Users(20, 1.0, mix) if closed else Open(poisson(20.0, rng), mix=mix)
    servers = {stage: StageServer(2, 1) for stage in "SML"}
    sim = Simulator(population(), servers, Fixed(Planned()), traffic, 1)
    ended: Counter[int] = Counter()

    def count(request: Request, _: float) -> None:
        ended[int(request.situation.trace.query.id[1:])] += 1

    sim.on_end = count
    n = sum(window.n_answered for window in sim.run(1000.0))
    assert n == ended.total() > 15_000
    found = [100.0 * ended[i] / n for i in range(6)]
    assert found == pytest.approx([35, 35, 12.5, 12.5, 2.5, 2.5], abs=1.5)


def test_without_a_mix_queries_are_drawn_as_ever() -> None:
    servers = {stage: StageServer(1, 1) for stage in "SML"}
    sim = Simulator(population(), servers, Fixed(Planned()), Open(iter(())), 5)
    due = np.random.default_rng(5).integers(6, size=8192)[:50].tolist()
    assert [next(sim._drawn) for _ in range(50)] == due


def test_the_bias_follows_the_hour_and_keeps_the_day() -> None:
    """Noon has 4.5 times the medium and hard requests of ten at night; the published day has the shares."""
    mix, minutes = Mix((70, 25, 5), biased=True), 60.0 * np.arange(1440) + 30.0
    biases = mix.biases()
    assert np.average(biases, weights=Pattern().rate(minutes)) == pytest.approx(1.0, abs=1e-12)
    assert biases[12 * 60] / biases[22 * 60] == pytest.approx(0.9 / 0.2, rel=0.01)
    for hour in (8, 12, 22, 24 + 12):
        factor = biases[60 * (hour % 24)]
        drawn = mix.draws(population(), np.random.default_rng(hour), lambda at=3600.0 * hour: at)
        due = [100.0 - 30.0 * factor, 25.0 * factor, 5.0 * factor]
        assert shares(drawn) == pytest.approx(due, abs=1.5)


def test_a_class_without_a_share_may_be_empty() -> None:
    """And is never drawn, not even at the ends of the unit interval."""
    mix = Mix.parse("95,0,5")
    drawn = mix.draws(population(0, 1, 4), np.random.default_rng(0), lambda: 0.0)
    assert Counter(islice(drawn, 5000)).keys() == {0, 1, 2}
    easy = Mix.parse("100,0,0").draws(population(0), np.random.default_rng(0), lambda: 0.0)
    assert set(islice(easy, 5000)) == {0}


def test_an_empty_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="5 % of requests are to be hard, but none of the 3 recorded"):
        Mix((70, 25, 5)).draws(population(0, 1, 2), np.random.default_rng(0), lambda: 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("70,25", "write EASY,MEDIUM,HARD"),
        ("70,25,x", "write EASY,MEDIUM,HARD"),
        ("70,25,6", "add up to 100"),
        ("110,-10,0", "add up to 100"),
        ("nan,50,50", "add up to 100"),
        ("70,25,5:", "may stand bias, not ''"),
        ("70,25,5:skew", "may stand bias, not 'skew'"),
        ("10,80,10:bias", "at some hour: give a mix of more than 10 % easy"),
    ],
)
def test_what_is_no_mix_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mix.parse(text)
    assert Mix.parse("70,25,5:bias") == Mix((70, 25, 5), biased=True)
