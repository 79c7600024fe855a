"""Queues at other loads than the present one, and the plan of the page that is made of them."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest

from asd.operations.state import StageState
from asd.policies import FixedStage
from asd.serving.monitoring.page.plan import CapacityPlan, capacity_plan
from asd.serving.monitoring.timeline import Bin
from asd.serving.monitoring.vitals import Vitals
from asd.serving.monitoring.waiting import DeviceLoad
from tests.endpoint import STAGES, OnePolicy, scripted, serve


def erlang(load: float, width: int) -> float:
    """Requests that wait in M/M/c."""
    terms = [(width * load) ** n / math.factorial(n) for n in range(width)]
    last = (width * load) ** width / math.factorial(width) / (1.0 - load)
    return last / (sum(terms) + last) * load / (1.0 - load)


def waiting(load: float, cv: float, n: int = 400_000) -> float:
    """Requests that wait, on average, before one server with gamma calls: Lindley's recursion."""
    rng = np.random.default_rng(1)
    steps = rng.gamma(1.0 / cv**2, load * cv**2, n) - rng.exponential(1.0, n)
    walk = np.concatenate([[0.0], np.cumsum(steps)])
    return float(np.mean(walk - np.minimum.accumulate(walk)))


@pytest.mark.parametrize(("width", "load"), list(product((1, 2, 8), (0.3, 0.6, 0.9))))
def test_a_queue_grows_as_that_of_exponential_calls_does(width: int, load: float) -> None:
    """Erlang's formula, as a sum."""
    found = DeviceLoad(0.5, erlang(0.5, width), width).at(load / 0.5)
    assert found.n_waiting == pytest.approx(erlang(load, width), rel=1e-9)
    assert found.utilisation == pytest.approx(load)


@pytest.mark.parametrize("cv", [0.5, 2.0])
def test_what_unlike_calls_do_to_a_queue_is_read_off_it(cv: float) -> None:
    """Simulated at 40 % use, foretold for 80 %, simulated there."""
    found = DeviceLoad(0.4, waiting(0.4, cv)).at(2.0).n_waiting
    assert found == pytest.approx(waiting(0.8, cv), rel=0.1)


def test_a_device_that_cannot_keep_up_has_a_queue_without_end() -> None:
    assert DeviceLoad(0.5, 0.4).at(2.0).n_waiting == math.inf
    assert DeviceLoad(1.0, 30.0).at(1.2).n_waiting == math.inf
    assert 0.0 < DeviceLoad(1.0, 30.0).at(0.5).n_waiting < 1.0


def test_a_queue_that_nobody_has_seen_is_reckoned_all_the_same() -> None:
    """Too little use says nothing of bursts; and no queue seen is at least one of equal calls."""
    assert DeviceLoad(0.01, 0.3).at(50.0).n_waiting == pytest.approx(0.5)
    assert DeviceLoad(0.25, 0.0).at(2.0).n_waiting == pytest.approx(0.25)


def seen(devices: list[tuple[str, ...]], busy: float = 0.2, queue: float = 0.2) -> tuple[Vitals, list[Bin]]:
    """Two requests a second for five seconds, every stage as busy and waited for, and three refused."""
    state = StageState(1, 0, 0, busy, None, None, None)
    looks = {f"{what} {name}": n for name in STAGES for what, n in (("busy", busy), ("waiting", queue))}
    one = Bin(0.0, Counter({"answered": 9, "left": 1, "refused": 3}), looks=looks, n_looks=1)
    return Vitals(0, 9, False, dict.fromkeys(STAGES, state), devices, (), {}), [one]


def column(plan: CapacityPlan, at: int) -> dict[str, str]:
    return {row[0]: row[at] for row in plan.rows()}


def test_stages_that_take_turns_fill_one_device() -> None:
    """The device is busy for the sum of them; refused requests are no load."""
    plan = capacity_plan(*seen([STAGES]), 5.0, [])
    assert (plan.rate, plan.expected) == (2.0, None)
    assert plan.room == pytest.approx(2.0 * 0.7 / 0.6)
    assert column(plan, 1) == {
        "requests/s": "2", "busy: S + M + L": "60%", "waiting for S": "0.20", "waiting for M": "0.20",
        "waiting for L": "0.20", "wait of a request": "300 ms", "servers like this one": "1",
    }  # fmt: skip
    assert set(column(plan, 2).values()) == {"-"}
    assert column(plan, 3)["busy: S + M + L"] == "70%"
    apart = capacity_plan(*seen([(name,) for name in STAGES]), 5.0, [])
    assert apart.room == pytest.approx(2.0 * 0.7 / 0.2)


def test_the_next_hour_has_its_queues_and_servers() -> None:
    """At the load that is predicted from the hours before, in proportion."""
    plan = capacity_plan(*seen([STAGES]), 5.0, [3.0 * 3600])
    assert DeviceLoad(0.6, 0.6).at(1.5).n_waiting == pytest.approx(5.4)
    there = column(plan, 2)
    assert (there["requests/s"], there["busy: S + M + L"]) == ("3", "90%")
    assert (there["waiting for L"], there["wait of a request"]) == ("1.80", "1.8 s")
    assert there["servers like this one"] == "2"
    flooded = column(capacity_plan(*seen([STAGES]), 5.0, [4.0 * 3600]), 2)
    assert (flooded["waiting for S"], flooded["wait of a request"]) == ("no end", "no end")
    now, bins = seen([STAGES])
    bins[0].looks["waiting S"] = 0.0
    assert column(capacity_plan(now, bins, 5.0, [4.0 * 3600]), 2)["waiting for S"] == "0.00"


def test_a_server_that_nobody_asks_has_a_plan_without_numbers() -> None:
    now, _ = seen([STAGES])
    plan = capacity_plan(now, [Bin(0.0)], 5.0, [36.0])
    assert plan.room is None
    assert column(plan, 2)["requests/s"] == "0.01"
    assert column(plan, 2)["busy: S + M + L"] == "-"


def test_a_server_knows_which_of_its_stages_take_turns() -> None:
    """Engines that name no device share one; a server by itself has its own."""

    async def places(app: Any) -> list[tuple[str, ...]]:
        return list(app.service.vitals().devices)

    assert serve(scripted(), OnePolicy(FixedStage("S")), places) == [STAGES]
    engines = scripted()
    engines["L"].concurrency = 4  # type: ignore[attr-defined]  # as a server says it
    assert serve(engines, OnePolicy(FixedStage("S")), places) == [("S", "M"), ("L",)]
