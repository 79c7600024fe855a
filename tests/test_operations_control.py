"""Controllers: prices of waiting from state, the loop they close, and what they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from asd.errors import ConfigError
from asd.operations.arrivals import poisson
from asd.operations.contenders import Contenders, cheapest_in_time
from asd.operations.control import (
    Gear,
    Gears,
    Price,
    PricedWait,
    Published,
    gears_of,
    on_grid,
    price_of,
    repriced,
    wait,
)
from asd.operations.population import Population, Remembered
from asd.operations.runs import Asked, Scenario
from asd.operations.simulator import Simulator
from asd.operations.state import StageState, SystemState
from asd.operations.stations import Server
from asd.operations.traffic import Open
from asd.policies import FixedStage, OptimalPolicy, Policy
from tests.queues import one_stage
from tests.worlds import fitted_verified, ladder, sample, verified

TIMED = replace(ladder(), price_unit="ms")
"""A decoded token takes 1 ms at S and 5 ms at L: about 11 and 55 ms an answer."""


def stage(use: float = 0.5, waiting: int = 0, replicas: int = 1, call_s: float | None = 1.0) -> StageState:
    per_call = None if call_s is None else 1.0
    return StageState(replicas, waiting, 0, use, None, call_s, per_call)


def state(rate: float = 1.0, latency_s: float | None = 0.1, **stages: StageState) -> SystemState:
    return SystemState(10.0, 5.0, stages, 0, rate, 0.0, latency_s, None)


def test_the_wait_of_one_queue() -> None:
    """One replica: W = rho S / (1 - rho), and W + lambda dW/dlambda beside the call itself."""
    for rho in (0.1, 0.5, 0.8):
        assert wait(stage(rho), 1) == pytest.approx(rho / (1 - rho))
        price = price_of(stage(rho), 1, mu=2.0)
        marginal = rho / (1 - rho) + rho / (1 - rho) ** 2
        assert price.visit + price.second == pytest.approx(2.0 * (1.0 + marginal))
        assert price.visit == pytest.approx(2.0 * rho / (1 - rho))


def test_the_wait_grows_with_the_backlog() -> None:
    """Seven in the queue of two replicas wait for three and a half calls; full batches are one call each."""
    assert wait(stage(1.0, waiting=100), 1) == pytest.approx(100.0)
    assert wait(stage(0.5, waiting=7, replicas=2), 1) == pytest.approx(3.5)
    assert wait(stage(0.5, waiting=64), 16) == pytest.approx(4.0)
    assert wait(stage(0.5, call_s=None), 1) == wait(stage(0.5, replicas=0), 1) == 0.0
    assert price_of(stage(0.5, call_s=None), 1, 3.0) == (0.0, 3.0)


def test_the_wait_is_that_of_a_simulated_queue() -> None:
    """Beside the mean wait of a run of M/M/2, on the state of that run."""
    seconds = -np.log1p(-(np.arange(500) + 0.5) / 500)
    sim = Simulator(
        one_stage(seconds), {"S": Server(2, 1)}, Held(), Open(poisson(1.4, np.random.default_rng(3))), 1
    )
    [summary] = Simulator.run(sim, 600.0)
    list(sim.run(20_000.0))
    seen = sim.state().stages["S"]
    waited = sim.books.total().latency_s - seconds.mean()
    assert wait(replace(seen, n_waiting=0), 1) == pytest.approx(waited, rel=0.15)
    assert summary.n_arrived > 0


class Held:
    """Always the one stage."""

    name = "held"
    interval_s = float("inf")

    def policy(self, state: SystemState | None) -> Policy:  # noqa: ARG002
        return ONLY


ONLY = FixedStage("S")


def test_prices_are_on_a_grid() -> None:
    """Neighbours are a factor apart, the nearest is taken, and there is an end to it."""
    found = sorted({on_grid(price) for price in np.geomspace(1e-4, 1e6, 5000).tolist()})
    assert found[0] == 0.0
    assert found[1] == pytest.approx(0.01)
    assert np.diff(np.log(found[1:])) == pytest.approx(np.log(1.5))
    assert found[-1] == pytest.approx(0.01 * 1.5**23)  # the nearest to 100
    assert on_grid(0.01) == 0.01
    assert all(abs(np.log(on_grid(p) / p)) <= np.log(1.5) / 2 + 1e-9 for p in (0.02, 0.5, 3.0, 77.0))


def priced(mu: float = 1.0, memory: float = 0.5) -> tuple[PricedWait, list[Mapping[str, Price]]]:
    asked: list[Mapping[str, Price]] = []

    def solve(prices: Mapping[str, Price]) -> Policy:
        asked.append(dict(prices))
        return FixedStage("S")

    return PricedWait("priced", solve, mu, {"S": 1, "L": 1}, memory=memory), asked


def test_a_load_seen_before_is_not_solved_again() -> None:
    controller, asked = priced()
    free = controller.policy(None)
    busy = controller.policy(state(S=stage(0.2), L=stage(0.9)))
    assert controller.policy(state(S=stage(0.2), L=stage(0.9))) is busy is not free
    assert controller.n_solved == len(asked) == 2
    assert asked[0] == {"S": (0.0, 0.0), "L": (0.0, 0.0)}
    assert asked[1]["L"].visit > 10 * asked[1]["S"].visit > 0.0


def test_the_state_is_smoothed() -> None:
    """With memory m, a step of the load is followed by 1 - m a look; a stage that rests keeps its call."""
    controller, asked = priced(memory=0.8)
    controller.policy(state(S=stage(0.0), L=stage(0.0)))
    controller.policy(state(S=stage(0.0), L=stage(0.0, waiting=50)))
    assert asked[-1]["L"] == (on_grid(0.2 * 50.0), on_grid(1.0))
    controller.policy(state(S=stage(0.0), L=stage(0.0, call_s=None)))
    assert asked[-1]["L"] == (on_grid(0.8 * 0.2 * 50.0), on_grid(1.0))
    with pytest.raises(ConfigError, match="memory in"):
        priced(memory=1.0)
    with pytest.raises(ConfigError, match="mu is at least 0"):
        priced(mu=-1.0)


def test_the_published_optimiser_as_printed() -> None:
    """Each rule by itself, and the bounds of the multipliers."""

    def fresh() -> Published:
        return Published(("S", "M", "L"), (1.0, 2.0, 4.0), 1.0, fitted_verified().evidence())

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
        Published(("S",), (1.0,), 11.0, fitted_verified().evidence())


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


def test_edges_are_charged_their_visit_and_their_seconds() -> None:
    """Every edge pays the stage that works for it: to join the queue, and by how long it works."""
    graph = fitted_verified().graph()
    seconds = {(edge.source, edge.action): np.arange(len(edge.cost)) * 0.1 for edge in graph.edges}
    dearer = repriced(graph, seconds, {"S": Price(2.0, 3.0), "L": Price(5.0, 7.0)})
    for before, after in zip(graph.edges, dearer.edges, strict=True):
        visit, second = (5.0, 7.0) if after.action.removeprefix(">") == "L" else (2.0, 3.0)
        expected = before.cost + visit + second * seconds[before.source, before.action]
        assert after.cost == pytest.approx(expected)
        assert (after.kernel == before.kernel).all()


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
    asked = Asked(
        ladder="made-up", sources={}, n_queries=150, servers=dict(contenders.servers), arrivals=arrivals,
        users=None, seconds=seconds, window_s=100.0,
    )  # fmt: skip
    return Scenario(contenders.population, asked)


def test_waiting_is_priced_into_the_recursion(contenders: Contenders) -> None:
    """Near saturation latency falls by a third at the same quality; prices one step ahead do not do it."""
    runs = {}
    for text in ("optimal:50", "queue:50:10", "price:50:10"):
        sim = scenario(contenders, "poisson:62").simulator(contenders.of(text), 1)
        list(sim.run(200.0))
        runs[text] = sim.books.total()
    blind, aware, one_step = runs.values()
    assert aware.latency_s < 0.67 * blind.latency_s
    assert aware.latency_s < one_step.latency_s
    assert aware.quality == pytest.approx(blind.quality, abs=0.01)


def test_a_price_of_zero_changes_nothing(contenders: Contenders) -> None:
    """With mu = 0 the controller is the optimal policy: the same answers at the same times."""
    totals = []
    for text in ("optimal:20", "queue:20:0"):
        sim = scenario(contenders, "poisson:30").simulator(contenders.of(text), 2)
        list(sim.run(100.0))
        totals.append(sim.books.total())
    assert totals[0] == totals[1]


def test_the_live_class_decides(contenders: Contenders) -> None:
    """What a controller returns is the class that serves, and a new price is a new solution of it."""
    controller = contenders.of("queue:20:1")
    first = controller.policy(None)
    second = controller.policy(state(S=stage(0.1, call_s=0.01), L=stage(0.9, waiting=99, call_s=0.05)))
    assert isinstance(first, OptimalPolicy)
    assert isinstance(second, OptimalPolicy)
    dearest = second.solution.graph.outgoing("root")[-1].cost - first.solution.graph.outgoing("root")[-1].cost
    assert (dearest > 1.0).all()


@pytest.mark.parametrize("text", ["queue:5", "best:1", "gears:x", "static", "optimal:5:5", "always:X", ""])
def test_what_names_no_controller_is_refused(contenders: Contenders, text: str) -> None:
    with pytest.raises(ConfigError):
        contenders.of(text)


def test_settings_are_compared_at_equal_quality(contenders: Contenders) -> None:
    """Of every name the fastest setting that reaches the quality is left, and none that misses it."""
    place = scenario(contenders, "poisson:1", 300.0)
    texts = ["always:S", "always:L", "static:0.2", "static:0.8"]
    easy = cheapest_in_time(place, contenders, texts, 0.0, seed=0)
    assert easy == ["always:S", "static:0.2"]
    hard = cheapest_in_time(place, contenders, ["always:S", "always:L"], 0.6, seed=0)
    assert hard == ["always:L"]
    with pytest.raises(ConfigError, match="no setting of always:S reaches quality"):
        cheapest_in_time(place, contenders, ["always:S"], 0.99, seed=0)
