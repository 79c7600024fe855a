"""Replicas that follow their use: when one comes, when one goes, and what is counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from asd.errors import ConfigError
from asd.operations.control.scaling import ByUtilisation, scale
from asd.operations.population import Population
from asd.operations.runs import RunsHeader, Scenario, run
from asd.operations.simulator import Simulator
from asd.operations.stations import StageServer
from asd.operations.traffic import Fixed, Open, RunSettings
from asd.policies import FixedStage
from asd.schema import msgspec
from tests.queues import ladder, one_stage, query

ALWAYS = Fixed(FixedStage("S"))

ASKED = RunsHeader(
    ladder="x",
    sources={},
    n_queries=50,
    servers={"S": (1, 1)},
    arrivals="poisson:3",
    users=None,
    seconds=2000.0,
    window_s=50.0,
    scale=("S:1:4:20",),
)


def scaled(seconds: float, arrivals: list[float], replicas: int, scaler: ByUtilisation) -> Simulator:
    servers, settings = {"S": StageServer(replicas, 1)}, RunSettings(window_s=10.0)
    sim = Simulator(one_stage(np.array([seconds])), servers, ALWAYS, Open(arrivals), 0, settings)
    scale(sim, "S", scaler)
    return sim


def test_a_replica_serves_after_its_load_time_and_goes_when_it_is_not_used() -> None:
    """Ordered at 30 s, up from 40 s on, gone at 130 s; device time counts from the order to the end."""
    sim = scaled(0.9, [0.6 * i for i in range(int(100 / 0.6))], 1, ByUtilisation(1, 2, 10.0))
    up = []
    for _ in range(20):
        up += [(window.stages["S"].utilisation, sim.stations["S"].replicas) for window in sim.run(10.0)]
    assert [n for _, n in up] == [1] * 3 + [2] * 9 + [1] * 8
    assert [use for use, _ in up[1:7]] == pytest.approx([1.0] * 6, abs=1e-3)
    assert [use for use, _ in up[8:10]] == pytest.approx([0.75] * 2, abs=0.05)
    assert sim.replica_s["S"] == pytest.approx(30.0 + 100.0 * 2 + 70.0)
    assert sim.busy_s("S") == pytest.approx(0.9 * int(100 / 0.6))


def test_no_replica_goes_that_makes_a_call() -> None:
    """At 30 s both work, though hardly used till then; at 60 s one goes, and no call was made twice."""
    sim = scaled(5.0, [29.0, 29.5], 2, ByUtilisation(1, 2, 10.0))
    windows = list(sim.run(31.0))
    assert sim.stations["S"].replicas == 2
    windows += sim.run(40.0)
    assert sim.stations["S"].replicas == 1
    assert sum(window.stages["S"].n_calls for window in windows) == 2
    assert sum(window.n_answered for window in windows) == 2


def test_the_rule() -> None:
    rule = ByUtilisation(2, 4, 1.0)
    assert [rule.replicas(3, use) for use in (0.39, 0.4, 0.8, 0.81)] == [2, 3, 3, 4]
    assert rule.replicas(4, 0.9) == 4
    assert rule.replicas(2, 0.1) == 2
    for bad in ((0, 1, 1.0), (3, 2, 1.0), (1, 2, -1.0), (1, 2, float("nan")), (1, 2, 1.0, 0.5, 0.8)):
        with pytest.raises(ConfigError):
            ByUtilisation(*bad)


def scenario(**changed: object) -> Scenario:
    population = one_stage(np.random.default_rng(1).uniform(0.1, 0.9, 50))
    return Scenario(population, msgspec.structs.replace(ASKED, **changed))


def test_every_window_holds_with_a_mix_lost_calls_and_a_scaled_stage() -> None:
    """A load that one replica cannot bear is answered by more, whose time is counted; a seed decides it."""
    asked = {"mix": "0,0,100", "faults": ("loss:S:300:900:0.2:2", "slow:S:600:100:2")}
    found = run(scenario(**asked), ALWAYS, 3, lambda _: None)
    assert found == run(scenario(**asked), ALWAYS, 3, lambda _: None)
    assert found.replica_s is not None
    assert 1.5 * 2000.0 < found.replica_s["S"] < 4 * 2000.0
    assert found.total.n_answered > 0.98 * found.total.n_arrived
    assert run(scenario(scale=()), ALWAYS, 3, lambda _: None).replica_s is None


def test_loads_take_what_they_are_priced_at() -> None:
    """Where the text does not say it, in the unit of the prices."""
    priced = ladder(["S"])
    [stage] = priced.stages
    stage = replace(stage, prices=msgspec.structs.replace(stage.prices, per_load=12.0))
    population = Population([query(0, ["S"], {"S": 0.9})], replace(priced, stages=(stage,)), 1.0, 1)
    asked = msgspec.structs.replace(ASKED, scale=("S:1:2",), arrivals="poisson:3")
    sim = Scenario(population, asked).simulator(ALWAYS, 1)
    list(sim.run(41.9))
    assert sim.stations["S"].replicas == 1
    list(sim.run(0.2))
    assert sim.stations["S"].replicas == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scale": ("S:1:2",)}, "no price says how long a load takes; write S:1:2:SECONDS"),
        ({"scale": ("S:1",)}, r"write STAGE:MIN:MAX\[:LOAD_SECONDS\]"),
        ({"scale": ("S:1:2:3:4",)}, r"write STAGE:MIN:MAX\[:LOAD_SECONDS\]"),
        ({"scale": ("S:1:2:x",)}, r"write STAGE:MIN:MAX\[:LOAD_SECONDS\]"),
        ({"scale": ("S:1:2:nan",)}, "loads in a number of seconds"),
        ({"scale": ("X:1:2:3",)}, r"name each stage of \['S'\] once"),
        ({"scale": ("S:1:2:3", "S:1:2:3")}, r"name each stage of \['S'\] once"),
        ({"scale": ("S:2:3:4",)}, "begins with 1 replicas; give --replicas S=N with N from 2 to 3"),
        ({"faults": ("down:S:1:1",)}, "cannot both fail and follow their use"),
        ({"mtbf": {"S": (10.0, 10.0)}}, "cannot both fail and follow their use"),
    ],
)
def test_what_cannot_be_scaled_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scenario(**changed).simulator(ALWAYS, 1)
