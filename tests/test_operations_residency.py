"""Stages that do not fit into a device's memory together: simulated, priced, and seen where they answer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asd.cascade import Cascade
from asd.dispatch import LINGER, Dispatcher
from asd.engines.residency import Residency
from asd.errors import ConfigError
from asd.journey import Journey
from asd.ladder import Deployment
from asd.operations.control.backlog import LEVELS, BacklogPolicy, QueueAware, surcharge, with_load
from asd.operations.control.contenders import Contenders
from asd.operations.control.steering import steering_of
from asd.operations.live import Meter
from asd.operations.population import Population
from asd.operations.runs import RunsHeader, Scenario
from asd.operations.simulator import Simulator
from asd.operations.state import SystemState
from asd.operations.stations import StageServer
from asd.operations.traffic import Fixed, Open, RunSettings
from asd.policies import FixedStage
from asd.prices import Prices
from asd.schema import msgspec
from asd.stopping.recursion import solve
from asd.testing import ScriptedEngine
from asd.types import Query
from tests.queues import Planned, query
from tests.queues import ladder as timed_ladder
from tests.test_operations_backlog import (  # noqa: F401  (a fixture)
    TIMED,
    Queue,
    busy,
    charged,
    contenders,
    problem,
)
from tests.worlds import fitted_verified

LOADS = {"S": 2.0, "M": 3.0, "L": 5.0}


def turning(walks: Sequence[str], instants: Sequence[float], room: int | None, batch: int = 1) -> Simulator:
    """Calls of S, M and L take 1 s; queries go where their walks lead."""
    traces = [query(i, [*walk], dict.fromkeys("SML", 1.0)) for i, walk in enumerate(walks)]
    population = Population(traces, timed_ladder("SML"), 1.0, batch)
    servers = {stage: StageServer(1, batch, "gpu", load_s) for stage, load_s in LOADS.items()}
    traffic = Open(instants, range(len(traces)))
    return Simulator(population, servers, Fixed(Planned()), traffic, 0, RunSettings(room=room))


def ends(sim: Simulator) -> list[float]:
    found: list[float] = []
    sim.on_end = lambda _, now: found.append(now)
    list(sim.run(1000.0))  # the laws of every window are checked
    return found


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (None, [1.0, 21.0, 41.0, 61.0, 81.0]),
        (3, [3.0, 24.0, 46.0, 61.0, 81.0]),
        (2, [3.0, 24.0, 46.0, 63.0, 81.0]),
        (1, [3.0, 24.0, 46.0, 63.0, 86.0]),
    ],
)
def test_a_call_of_a_stage_that_is_not_in_memory_begins_with_its_load(
    room: int | None, expected: list[float]
) -> None:
    """S, M, L, S, L, twenty seconds apart; the longest unused one leaves."""
    assert ends(turning(["S", "M", "L", "S", "L"], [0, 20, 40, 60, 80], room)) == pytest.approx(expected)


def test_one_load_serves_all_who_wait() -> None:
    """Two for L in one call after its load; the one for S waits for both, and loads again."""
    sim = turning(["S", "L", "S", "L"], [0.0, 0.5, 0.6, 0.7], 1, batch=2)
    # S until 3; L (waited 4.8 together) loads 5 and takes 2 for two; a pause for two more of them; S loads 2
    assert ends(sim) == pytest.approx([3.0, 10.0, 10.0, 10.0 + LINGER * 7.0 + 3.0])


@settings(deadline=None, max_examples=40)
@given(st.text("SML", min_size=1, max_size=40), st.integers(1, 3))
def test_who_is_asked_last_stays(walks: str, room: int) -> None:
    """Far apart, every call takes its load where a cache of the least recently used does not have it."""
    cached: OrderedDict[str, None] = OrderedDict()
    expected = []
    for i, stage in enumerate(walks):
        expected.append(100.0 * i + 1.0 + (0.0 if stage in cached else LOADS[stage]))
        cached[stage] = None
        cached.move_to_end(stage)
        if len(cached) > room:
            cached.popitem(last=False)
    sim = turning([*walks], [100.0 * i for i in range(len(walks))], room)
    found: list[float] = []
    sim.on_end = lambda _, now: found.append(now)
    list(sim.run(100.0 * len(walks)))
    assert found == pytest.approx(expected)


def test_the_state_names_what_is_in_memory() -> None:
    """And how much of the room is taken; where all fit nothing is known of memory."""
    sim = turning(["S", "M"], [0.0, 20.0], 2)
    list(sim.run(10.0))
    state = sim.state()
    assert {name: (s.is_resident, s.memory) for name, s in state.stages.items()} == {
        "S": (True, 0.5),
        "M": (False, 0.5),
        "L": (False, 0.5),
    }
    every = turning(["S"], [0.0], None).stations["S"]
    assert every.is_resident
    assert every.place is not None
    assert every.place.filled is None


def test_a_load_is_charged_to_who_asks_and_to_who_comes_meanwhile() -> None:
    """Of 4 s at 0.5 requests a second: 4 s, and 2 requests of 2 s each."""
    charges = surcharge(busy(0.5), 1, 3.0)
    loaded = with_load(charges, 3.0, 4.0, 0.5)
    assert loaded.visit[: len(LEVELS)].tolist() == charges.visit.tolist()
    assert loaded.visit[-1] == pytest.approx(charges.visit[1] + 3.0 * (4.0 + 2 * 2.0))
    assert loaded.second[-1] == charges.second[1]


@pytest.mark.parametrize("levels", [{"S": 0, "L": 6}, {"S": 6, "L": 0}, {"S": 6, "L": 6}, {"S": 3, "L": 6}])
def test_rows_with_loads_are_the_solutions_of_their_own_problems(levels: dict[str, int]) -> None:
    """Beside a graph with that row's charges, solved by the library."""
    found = problem(scaled=False)
    found.loads, found.n_levels = True, len(LEVELS) + 1
    charges = {
        "S": with_load(surcharge(busy(0.4, call_s=0.011), 1, 15.0), 15.0, 0.02, 3.0),
        "L": with_load(surcharge(busy(0.8, call_s=0.055), 1, 15.0), 15.0, 0.3, 3.0),
    }
    exact = solve(charged(found.graph, levels, charges), [20.0]).action
    solved = found.solve(20.0, charges)
    names = found.stages
    for node, numbers in solved.actions.items():
        n_bins = found.graph.node(node).n_bins
        stages = found._remaining[node]
        grid = np.frombuffer(numbers, dtype=np.int8).reshape(*[found.n_levels] * len(stages), n_bins)
        row = grid[tuple(levels[names[i]] for i in stages)].astype(int) - 1
        assert (row == exact[node][0]).all(), node


def reckoning(made: Contenders, load_s: float) -> Contenders:
    return replace(made, servers={"S": (1, 1), "L": (1, 1)}, load_s={"S": load_s, "L": load_s})


def test_who_is_in_memory_changes_who_is_asked(contenders: Contenders) -> None:  # noqa: F811
    """A query that would go to S first goes where no load is; without a worth of seconds nothing changes."""
    here, there = Queue(), Queue(is_resident=False)
    asked: dict[str, set[str]] = {}
    for mu in (0.0, 30.0):
        controller = reckoning(contenders, 1.0).of(f"queue:20:{mu:g}")
        assert isinstance(controller, QueueAware)
        policy = controller.policy(None)
        for name, gauges in {"S": {"S": here, "L": there}, "L": {"S": there, "L": here}}.items():
            controller.watch(gauges)
            first = {
                policy.decide(q.trace.query, {}).action.stage for q in contenders.population.queries[:60]
            }
            asked[f"{name} is here, mu {mu:g}"] = first
    assert asked["S is here, mu 0"] == asked["L is here, mu 0"]
    assert asked["S is here, mu 30"] == {"S"}
    assert asked["L is here, mu 30"] == {"L"}


def test_a_policy_that_reckons_with_no_loads_does_not_look(contenders: Contenders) -> None:  # noqa: F811
    controller = contenders.of("queue:20:30")
    policy = controller.policy(None)
    assert isinstance(policy, BacklogPolicy)
    row = contenders.population.queries[0].trace.query
    found = []
    for is_resident in (True, False):
        queue = Queue(is_resident=is_resident)
        controller.watch({"S": queue, "L": queue})  # type: ignore[attr-defined]
        found.append(policy.decide(row, {}).action)
    assert found[0] == found[1]


def scenario(made: Contenders, resident: str, rate: float) -> Scenario:
    asked = RunsHeader(
        ladder="l", sources={}, n_queries=len(made.population.queries),
        servers={"S": (1, 1), "L": (1, 1)}, arrivals=f"poisson:{rate}", users=None,
        seconds=600.0, window_s=60.0, resident=resident,
    )  # fmt: skip
    return Scenario(made.population, asked)


def p95_and_loads(made: Contenders, name: str) -> tuple[float, float]:
    sim = scenario(made, "1:0.5", 2.0).simulator(made.of(name), 3)
    total = [*sim.run(600.0)] and sim.books.total()
    assert total.p95_s is not None
    return total.p95_s, sum(stage.utilisation for stage in total.stages.values())


def test_reckoning_with_loads_saves_them(contenders: Contenders) -> None:  # noqa: F811
    """The same lam and mu, room for one stage of two, loads of half a second: fewer loads, a shorter P95."""
    blind = replace(reckoning(contenders, 0.5), load_s={})
    (late, much), (soon, little) = (
        p95_and_loads(made, "queue:20:5") for made in (blind, reckoning(contenders, 0.5))
    )
    assert soon < 0.8 * late
    assert little < much


def test_a_scenario_says_what_its_loads_take(contenders: Contenders) -> None:  # noqa: F811
    whole = scenario(contenders, "", 1.0)
    assert whole.load_s == {}
    assert scenario(contenders, "1:4", 1.0).load_s == {"S": 4.0, "L": 4.0}
    with pytest.raises(ConfigError, match=r"no price says how long a load of S, L takes; write 1:SECONDS"):
        _ = scenario(contenders, "1", 1.0).load_s
    for resident, said in (("x", "write N"), ("0:3", "at least one stage"), ("1:-3", "more than 0 s")):
        with pytest.raises(ConfigError, match=said):
            _ = scenario(contenders, resident, 1.0).load_s
    several = msgspec.structs.replace(
        scenario(contenders, "1:4", 1.0).asked, servers={"S": (1, 1), "L": (2, 1)}
    )
    with pytest.raises(ConfigError, match="no further replicas"):
        _ = Scenario(contenders.population, several).load_s


def test_a_served_stage_says_whether_it_is_in_memory() -> None:
    """To the state and to the gauge that a policy reads; how full the memory is, in the background."""
    asked = [Query(f"q{i}", "d", f"prompt {i}") for i in range(4)]
    inner = {stage: ScriptedEngine(stage, {q.prompt: ("x", (-0.1,)) for q in asked}) for stage in "SL"}

    async def main() -> list[tuple[bool, bool, float | None]]:
        residency = Residency(inner, {"S": 1.0, "L": 3.0}, 3.5)
        dispatcher = Dispatcher(residency.engines)
        meter = Meter(dispatcher, ["S", "L"], engines=residency.engines)
        found = []
        for stage, one in zip("SLS", asked, strict=False):
            cascade = Cascade(residency.engines, FixedStage(stage), dict.fromkeys("SL", Prices(1, 0, 0)))
            await dispatcher.walk(cascade, Journey(one))
            meter.loads.latest.clear()
            meter.sample()
            while len(meter.loads.latest) < 2:
                await asyncio.sleep(0.001)
            now = meter.now("S")
            assert now.is_resident == meter.gauges["S"].is_resident
            found.append((now.is_resident, meter.gauges["L"].is_resident, now.memory))
        dispatcher.close()
        return found

    assert asyncio.run(main()) == [
        (True, False, pytest.approx(1 / 3.5)),
        (False, True, pytest.approx(3 / 3.5)),
        (True, False, pytest.approx(1 / 3.5)),
    ]


def test_a_served_controller_reckons_with_priced_loads() -> None:
    """Only where stages take turns; without a price it is refused."""
    fitted, servers = fitted_verified(), {"S": (1, 1), "L": (1, 1)}
    stages = [
        replace(stage, memory_gib=2.0, prices=msgspec.structs.replace(stage.prices, per_load=4000.0))
        for stage in TIMED.stages
    ]
    turns = replace(TIMED, stages=tuple(stages), deployment=Deployment(memory_gib=3.0))
    assert steering_of(fitted, turns, servers).load_s == {"S": 4.0, "L": 4.0}
    made = steering_of(fitted, turns, servers).queue_aware(20.0, 5.0, 1.0)
    assert made.problem.loads
    assert made.policy(None).table.solved.problem.n_levels == len(LEVELS) + 1
    for roomy in (
        replace(turns, deployment=Deployment(memory_gib=4.0)),
        replace(turns, deployment=Deployment()),
    ):
        assert steering_of(fitted, roomy, servers).load_s == {}
    unpriced = replace(turns, stages=(stages[0], replace(stages[1], prices=TIMED.stages[1].prices)))
    with pytest.raises(ConfigError, match=r"no price says how long a load of stage 'L' takes"):
        steering_of(fitted, unpriced, servers)


def test_loads_are_charged_by_what_comes_to_the_device(contenders: Contenders) -> None:  # noqa: F811
    """The more requests its stages take in, the dearer a load: another table."""
    controller = reckoning(contenders, 1.0).of("queue:20:5")
    assert isinstance(controller, QueueAware)
    before = controller._charges()["L"].visit[-1]
    quiet = SystemState(
        0.0, 30.0, {"S": busy(0.9, call_s=0.01), "L": busy(0.1, call_s=0.05)}, 0, 1.0, 0.0, None, None
    )
    controller.policy(quiet)
    after = controller._charges()["L"].visit[-1]
    rate = sum(controller.stages[stage].rate for stage in "SL")
    assert rate > 10.0
    assert after > before + 5.0 * 1.0 * rate / 2.0 * 0.99
