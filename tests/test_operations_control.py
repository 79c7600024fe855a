"""What the queue-aware policy is compared with: the published rules, gears, and the comparison itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from asd.errors import ConfigError
from asd.operations.control.contenders import Contenders, cheapest_in_time
from asd.operations.control.deciders import Remembered
from asd.operations.control.gears import Gear, Gears, gears_of
from asd.operations.control.published import PublishedOptimizer, Router
from asd.operations.population import Population
from asd.operations.runs import RunsHeader, Scenario, run
from asd.operations.state import StageState, SystemState
from asd.policies import FixedStage
from tests.worlds import fitted_verified, ladder, sample, verified

TIMED = replace(ladder(), price_unit="ms")
"""A decoded token takes 1 ms at S and 5 ms at L: about 11 and 55 ms an answer."""


def stage(use: float = 0.5, waiting: int = 0, replicas: int = 1, call_s: float | None = 1.0) -> StageState:
    per_call = None if call_s is None else 1.0
    return StageState(replicas, waiting, 0, use, None, call_s, per_call)


def state(rate: float = 1.0, latency_s: float | None = 0.1, **stages: StageState) -> SystemState:
    return SystemState(10.0, 5.0, stages, 0, rate, 0.0, latency_s, None)


def test_the_published_optimiser_as_printed() -> None:
    """Each rule by itself, and the bounds of the multipliers."""

    def fresh() -> PublishedOptimizer:
        return PublishedOptimizer(("S", "M", "L"), (1.0, 2.0, 4.0), 1.0, fitted_verified().evidence())

    calm = {name: stage(0.5) for name in "SML"}
    for seen, expected in (
        (state(latency_s=0.24, **calm), [1, 1, 1]),
        (state(latency_s=0.25, **calm), [0.95, 1, 1.05]),
        (state(**{name: stage(0.86) for name in "SML"}), [1.05, 1.05, 1.05]),
        (state(**{**calm, "M": stage(0.5, waiting=11)}), [1, 1.1, 1]),
        (state(**{**calm, "M": stage(0.5, waiting=10)}), [1, 1, 1]),
    ):
        published = fresh()
        published.policy(seen)
        assert list(published.multipliers.values()) == pytest.approx(expected)
    published = fresh()
    for _ in range(200):
        chosen = published.policy(state(latency_s=9.0, **calm))
    assert list(published.multipliers.values()) == pytest.approx([0.5, 1.0, 3.0])
    assert chosen.costs == pytest.approx((0.5, 2.0, 12.0))
    with pytest.raises(ConfigError, match=r"within 0\.1 and 10"):
        PublishedOptimizer(("S",), (1.0,), 11.0, fitted_verified().evidence())


def test_the_published_router_lowers_its_bar_where_the_largest_stage_rests() -> None:
    """Target .7: at 70 % and more in use a prompt needs .6, at rest .4; lam above 2 takes a fifth off."""
    walk = FixedStage("S")
    for use, lam, bar in ((0.9, 1.0, 0.6), (0.6, 1.0, 0.5), (0.0, 1.0, 0.4), (0.9, 3.0, 0.48)):
        rule = Router(walk, "L", lam).policy(state(S=stage(0.1), L=stage(use))).rule
        assert rule.threshold() == pytest.approx(bar)  # type: ignore[attr-defined]
    router = Router(walk, "L", 1.0)
    assert router.policy(None) is router.policy(state(S=stage(0.9), L=stage(0.01)))


def test_gears_change_with_the_rate() -> None:
    light, heavy = FixedStage("L"), FixedStage("S")
    gears = Gears("gears", [Gear(2.0, light), Gear(9.0, heavy)], memory=0.0)
    assert gears.policy(None) is light
    assert gears.policy(state(rate=2.0)) is light
    assert gears.policy(state(rate=2.1)) is heavy
    assert gears.policy(state(rate=99.0)) is heavy
    slow = Gears("gears", [Gear(0.1, light), Gear(2.0, light), Gear(9.0, heavy)], memory=0.75)
    assert slow.policy(None) is light
    assert slow.policy(state(rate=8.0)) is light
    assert slow.policy(state(rate=8.0)) is heavy


@pytest.fixture(scope="module")
def contenders() -> Contenders:
    rng = np.random.default_rng(5)
    population = Population(
        verified(sample(150, rng)[0], rng), TIMED, unit=fitted_verified().ladder.unit(), largest_batch=1
    )
    fitted = fitted_verified()
    return Contenders(fitted, population, {"S": (1, 1), "L": (2, 1)}, 1, Remembered(fitted.evidence()))


def test_gears_bear_what_the_stages_can(contenders: Contenders) -> None:
    """The rate at which a stage would be in use for the target share, by hand for single stages."""
    population = contenders.population
    seconds = {
        name: np.mean([q.trace.outcomes[name].draft.usage.n_passes * price for q in population.queries])
        for name, price in (("S", 0.001), ("L", 0.005))
    }
    gears = gears_of(population, [FixedStage("L"), FixedStage("S")], contenders.servers, target=0.5)
    assert [gear.most for gear in gears] == pytest.approx([0.5 * 2 / seconds["L"], 0.5 / seconds["S"]])
    assert len(gears_of(population, [FixedStage("S"), FixedStage("L")], contenders.servers)) == 1


def scenario(contenders: Contenders, arrivals: str, seconds: float = 600.0) -> Scenario:
    asked = RunsHeader(
        ladder="made-up", sources={}, n_queries=150, servers=dict(contenders.servers), arrivals=arrivals,
        users=None, seconds=seconds, window_s=100.0,
    )  # fmt: skip
    return Scenario(contenders.population, asked)


@pytest.mark.parametrize(
    "text",
    [
        "queue:5",
        "queue:5:1:2",
        "queue:5:-1",
        "router:1",
        "best:1",
        "gears:x",
        "static",
        "optimal:5:5",
        "always:X",
        "",
    ],
)
def test_what_names_no_controller_is_refused(contenders: Contenders, text: str) -> None:
    with pytest.raises(ConfigError):
        contenders.of(text)


def test_settings_are_compared_at_equal_quality(contenders: Contenders) -> None:
    """Of every name the fastest setting that reaches the quality is left, and none that misses it."""
    place = scenario(contenders, "poisson:1", 300.0)
    texts = ["always:S", "always:L", "static:0.2", "static:0.8"]
    easy = cheapest_in_time(place, contenders, texts, 0.0, seed=0)
    assert easy == ["always:S", "static:0.2"]
    hard = cheapest_in_time(place, contenders, ["always:S", "always:L"], 0.9, seed=0)
    assert hard == ["always:L"]
    with pytest.raises(ConfigError, match=r"no setting of always:S keeps 0\.99 of the largest"):
        cheapest_in_time(place, contenders, ["always:S"], 0.99, seed=0)


def test_quality_is_a_share_of_the_largest_stage_s_on_the_queries_of_the_run(contenders: Contenders) -> None:
    """A short run draws queries that are harder than the population, or easier: L alone keeps all of itself
    on either, and no more; every window is beside its own queries.
    """
    place = scenario(contenders, "poisson:0.2", 300.0)
    of_all = np.mean([q.trace.outcomes["L"].score for q in contenders.population.queries])
    runs = [run(place, contenders.of("always:L"), seed, lambda _: None) for seed in range(8)]
    for one in runs:
        assert [w.reference for w in (*one.windows, one.total)] == [
            w.quality if w.n_answered else None for w in (*one.windows, one.total)
        ]
    harder = next(seed for seed, one in enumerate(runs) if one.total.quality < of_all - 0.02)
    easier = next(seed for seed, one in enumerate(runs) if one.total.quality > of_all + 0.02)
    assert cheapest_in_time(place, contenders, ["always:L"], 1.0, seed=harder) == ["always:L"]
    with pytest.raises(ConfigError, match=r"keeps 1\.01 of"):
        cheapest_in_time(place, contenders, ["always:L"], 1.01, seed=easier)
