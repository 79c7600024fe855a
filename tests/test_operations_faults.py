"""Faults: what they do while they last, that it ends, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from asd.engines.http.settings import OpenAISettings
from asd.errors import ConfigError
from asd.operations.faults import TIMEOUT_S, Fault, drawn, overloads, parse, plan
from asd.operations.population import Population
from asd.operations.simulator import Simulator
from asd.operations.stations import StageServer
from asd.operations.traffic import Fixed, Open, RunSettings
from tests.queues import Planned, ladder, query


def regular(
    *faults: str, gap: float = 1.0, replicas: int = 1, batch: int = 1, place: str | None = None
) -> Simulator:
    """A call of S of .25 s every second, and for every second request one of L too."""
    traces = [query(i, ["S", "L"][: 1 + i % 2], {"S": 0.25, "L": 0.25}) for i in range(2)]
    traffic = Open([gap * i for i in range(400)], [i % 2 for i in range(400)])
    servers = {stage: StageServer(replicas, batch, place) for stage in "SL"}
    population = Population(traces, ladder("SL"), 1.0, 4)
    sim = Simulator(population, servers, Fixed(Planned()), traffic, 0, RunSettings(window_s=100.0))
    plan(sim, [parse(fault) for fault in faults])
    return sim


def test_slow_and_delayed_calls() -> None:
    """Factors multiply, delays add, and only while they last; utilisation follows."""
    sim = regular("slow:S:100:100:2", "slow:S:150:50:1.5", "delay:S:200:100:0.1")
    use = [window.stages["S"].utilisation for window in sim.run(400.0)]
    assert use == pytest.approx([0.25, 0.625, 0.35, 0.25], abs=0.01)


def test_a_stage_that_is_down_comes_back() -> None:
    """While L is down every request ends with S's answer; then it is asked again."""
    sim = regular("down:L:100:100")
    windows = list(sim.run(400.0))
    assert [w.stages["L"].n_visits for w in windows] == pytest.approx([50, 0, 50, 50], abs=1)
    assert [w.n_failed for w in windows] == [0, 0, 0, 0]
    assert windows[1].stages["S"].share_answered == 1.0


def test_the_first_stage_down_fails_requests() -> None:
    """A policy that knows no way around a stage that is down has no answer: failed, and counted."""
    windows = list(regular("down:S:100:100").run(400.0))
    assert [w.n_failed for w in windows] == pytest.approx([0, 100, 0, 0], abs=1)
    assert windows[1].error_rate > 0.98


def test_some_replicas_down() -> None:
    """One of two gone halves what is up; both gone and back again restore it."""
    sim = regular("down:S:100:200:1", "down:S:200:50:1", replicas=2)
    use = [window.stages["S"].utilisation for window in sim.run(400.0)]
    assert use[0] == pytest.approx(0.125, abs=0.01)
    assert use[1] == pytest.approx(0.25, abs=0.01)
    assert use[3] == pytest.approx(0.125, abs=0.01)
    assert sim.stations["S"].replicas == 2


def test_memory_cuts_calls() -> None:
    """The least of several limits holds, and none after they end."""
    sim = regular("memory:S:0:200:3", "memory:S:0:100:2", batch=4)
    assert [sim.stations["S"].batch for _ in sim.run(300.0)] == [3, 4, 4]
    begun = regular("memory:S:0:200:3", "memory:S:50:10:2", batch=4)
    list(begun.run(55.0))
    assert begun.stations["S"].batch == 2


def test_lost_calls_are_made_again_and_paid() -> None:
    """One call of .25 s in five is lost, for .1 s: 1 / (1 - .2) calls, a time-out for every fourth answer.

    Every window is checked; what is paid is what the calls that were made cost.
    """
    quiet, lossy = regular(), regular("loss:S:100:200:0.2:0.1")
    calm, lost = list(quiet.run(400.0)), list(lossy.run(400.0))
    assert [w.n_answered for w in lost] == pytest.approx([100] * 4, abs=1)
    use = [window.stages["S"].utilisation for window in lost]
    assert use == pytest.approx([0.25, 0.275, 0.275, 0.25], abs=0.012)
    assert use[1] > 0.255 < use[2]
    n_lost = round((sum(use) - 4 * 0.25) * 100.0 / 0.1)
    priced = regular()
    [*_] = priced.run(0.5)
    assert lossy.spent - quiet.spent == pytest.approx(n_lost * priced.spent, rel=0.01)
    assert lost[0] == calm[0]


def test_a_network_that_loses_everything_comes_back() -> None:
    """Calls from 100 s on wait for the first repetition after it; the longest time-out of two holds."""
    sim = regular("loss:S:99.5:20:1:15", "loss:S:99.5:5:0.5:3")
    answered = [w.n_answered for w in sim.run(400.0)]
    assert answered[0] == pytest.approx(100, abs=1)
    assert sum(answered) == pytest.approx(400, abs=1)
    begun = regular("loss:S:99.5:20:1:15", "loss:S:99.5:5:0.5:3")
    list(begun.run(130.2))
    assert begun.stations["S"].n_waiting == 30
    list(begun.run(0.1))
    assert begun.stations["S"].n_waiting == 29
    assert (begun.stations["S"].p_lost, begun.stations["S"].timeout_s) == (0.0, TIMEOUT_S)


@pytest.mark.parametrize("place", [None, "gpu"])
def test_a_stage_that_goes_down_while_its_call_is_lost(place: str | None) -> None:
    """Its requests end without it, and a device that it shares is free again after the time-out."""
    sim = regular("loss:S:99.5:1:1:5", "down:S:101:1", place=place)
    windows = list(sim.run(400.0))
    assert [w.n_failed for w in windows] == [0, 2, 0, 0]
    assert sum(w.n_answered + w.n_failed for w in windows) == pytest.approx(400, abs=1)


def test_a_lost_call_is_given_up_when_a_server_is() -> None:
    assert OpenAISettings(base_url="http://127.0.0.1/v1").timeout_s == TIMEOUT_S


def test_overloads_add_requests() -> None:
    [extra] = overloads([parse("overload:10:20:5")], np.random.default_rng(0))
    instants = list(extra)
    assert len(instants) == pytest.approx(100, abs=30)
    assert 10 <= instants[0] <= instants[-1] <= 30


def test_drawn_failures_have_their_means() -> None:
    """Availability of a replica is MTBF / (MTBF + MTTR)."""
    found = drawn("L", 4, 900.0, 100.0, 500_000.0, np.random.default_rng(1))
    assert sum(fault.seconds for fault in found) / (4 * 500_000.0) == pytest.approx(0.1, rel=0.1)
    assert {fault.stage for fault in found} == {"L"}
    for between, repair in ((0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (1.0, float("nan"))):
        with pytest.raises(ConfigError, match="are positive"):
            drawn("L", 1, between, repair, 10.0, np.random.default_rng(0))
    assert drawn("L", 1, 0.4, 0.4, 10.0, np.random.default_rng(0))


@pytest.mark.parametrize(
    "text",
    ["", "down", "down:L:0", "slow:L:0:1", "slow:L:0:1:x", "fire:L:0:1:1", "slow:L:0:1:0.5", "memory:L:0:1:0",
     "down:L:-1:1", "down:L:0:0", "loss:L:0:1", "loss:L:0:1:1.1", "loss:L:0:1:0.1:0",
     "loss:L:0:1:0.1:5:5", "loss:L:0:1:nan", "loss:L:0:1:0.1:inf", "delay:L:0:1:1:5",
     "overload:L:0:1:2", "delay:L:0:1:inf", "delay:L:nan:1:1"],
)  # fmt: skip
def test_what_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


@pytest.mark.parametrize(
    ("kind", "least"),
    [("down:L", 1), ("slow:L", 1), ("memory:L", 1), ("delay:L", 0), ("loss:L", 0), ("overload", 0)],
)
def test_the_least_amount_is_accepted(kind: str, least: int) -> None:
    assert parse(f"{kind}:0:1:{least}").amount == least
    with pytest.raises(ConfigError, match=f"a number from {least} on"):
        parse(f"{kind}:0:1:{least - 0.01}")


def test_a_fault_needs_a_stage_of_the_run() -> None:
    with pytest.raises(ConfigError, match="at no stage; there are S, L"):
        regular("down:X:0:1")
    assert parse("down:L:1:2") == Fault("down", "L", 1.0, 2.0, float("inf"))


def test_faults_come_on_top_of_what_a_stage_has_of_its_own() -> None:
    """Calls that take a fifth longer than priced take twice that while the stage is slow."""
    sim = regular()
    sim.stations["S"].slowdown, sim.stations["S"].delay_s = 1.2, 0.1
    plan(sim, [parse("slow:S:100:100:2"), parse("delay:S:200:100:0.1")])
    use = [window.stages["S"].utilisation for window in sim.run(400.0)]
    assert use == pytest.approx([0.4, 0.7, 0.5, 0.4], abs=0.01)
