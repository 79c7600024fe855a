"""A served cascade whose policy sees the queues: the simulator's controller behind the real endpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TypeVar

import numpy as np
import pytest
from click.testing import CliRunner

from asd.api import policy_of
from asd.cli import main
from asd.engines import GREEDY, Sampling
from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.operations.control.backlog import BacklogPolicy, QueueAware
from asd.operations.control.steering import STEERED, named, steering_of
from asd.operations.traffic import Controller
from asd.policy.artifact import PolicyArtifact
from asd.policy.fit import fit
from asd.serving.endpoint.application import Application
from asd.serving.endpoint.service import Capacity, Service
from asd.serving.endpoint.settings import SettingCache
from asd.serving.loopback import Loopback
from asd.types import Draft, Query
from tests.endpoint import application, chat, post
from tests.test_operations_backlog import TIMED, Queue, busy, state
from tests.worlds import sample

T = TypeVar("T")
CALL_S = 0.05
EASY = next(
    trace
    for trace, truth in zip(*sample(100, np.random.default_rng(1)), strict=True)
    if (truth.kind, truth.small, truth.large) == (1, 2, 2)
)
"""A query that S answers, and looks sure of it."""


@cache
def timed_policy() -> PolicyArtifact:
    return fit(sample(400, np.random.default_rng(7))[0], TIMED, fitted_at="2026-01-01")


class Timed:
    """A stage that answers that query, on a device of its own; every call takes a while."""

    def __init__(self, stage_name: str, device: str) -> None:
        self.stage_name, self.device = stage_name, device

    def load(self) -> None: ...

    unload = synchronise = load

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:  # noqa: ARG002
        time.sleep(CALL_S)
        return [replace(EASY.outcomes[self.stage_name].draft, seconds=CALL_S) for _ in queries]


def served(
    controller: str, test: Callable[[Application, Controller], Awaitable[T]], devices: str = "SL"
) -> T:
    """With calls of one query, so that a queue is as many calls."""

    async def run() -> T:
        fitted = timed_policy()
        settings = SettingCache(fitted, TIMED)
        engines = {stage: Timed(stage, device) for stage, device in zip("SL", devices, strict=True)}
        service = Service(engines, TIMED, settings, fitted.model.forms, Loopback(), Capacity(batch=1))
        made: list[Controller] = []

        def steering(servers: Mapping[str, tuple[int, int]]) -> Controller:
            made.append(named(controller, steering_of(fitted, TIMED, servers).makers, STEERED))
            return made[0]

        service.steer_by(steering)
        try:
            return await test(application(service), made[0])
        finally:
            await asyncio.wait_for(service.drained(), 30)
            service.close()

    return asyncio.run(run())


async def stage_of(app: Application, model: str = "asd") -> str:
    """The stage whose answer comes back."""
    reply = await post(app, chat(EASY.query.prompt, model=model))
    assert reply.status == 200, reply.body
    return str(reply.json["asd"]["stage"])


async def until(so: Callable[[], bool]) -> None:
    """Wait for it, half a minute at most."""
    async with asyncio.timeout(30):
        while not so():
            await asyncio.sleep(0.005)


async def beside_a_queue(app: Application, controller: Controller) -> list[str]:
    """Who answers at rest, while many requests wait for S, and when they have gone."""
    found = [await stage_of(app)]
    queue = [asyncio.create_task(stage_of(app, "asd/always-S")) for _ in range(14)]
    await until(lambda: app.service.dispatcher.n_waiting("S") >= 10)
    found.append(await stage_of(app))
    for task in queue:
        task.cancel()
    await asyncio.gather(*queue, return_exceptions=True)
    await until(lambda: not app.service.n_open)
    return [*found, await stage_of(app)]


def test_a_queue_changes_who_answers() -> None:
    """An easy query is S's at rest and again afterwards; while many wait for S it goes straight to L."""
    assert served("queue:20:30", beside_a_queue) == ["S", "L", "S"]


def test_what_steers_is_not_hurried_by_a_crowd() -> None:
    """It sees the queues itself: with half of the places taken, its policy still answers."""

    async def test(app: Application, controller: Controller) -> None:
        app.service.capacity = Capacity(open=2, batch=1)
        beside = asyncio.create_task(stage_of(app, "asd/always-S"))
        await until(lambda: app.service.n_open == 1)
        reply = await post(app, chat(EASY.query.prompt))
        assert reply.json["asd"]["policy"] == controller.name
        await beside

    served("queue:20:0", test)


def test_a_second_that_is_worth_nothing_changes_nothing() -> None:
    assert served("queue:20:0", beside_a_queue) == ["S", "S", "S"]


def test_stages_of_one_device_wait_for_the_same_calls() -> None:
    """A queue at S is one at L too where they take turns: nothing is gained by asking the dearer stage."""
    assert served("queue:20:30", beside_a_queue, "XX") == ["S", "S", "S"]


@pytest.mark.parametrize(("devices", "calls"), [("XX", 1), ("SL", 0)])
def test_a_call_of_another_stage_stands_before_one_of_the_same_device(devices: str, calls: int) -> None:
    async def test(app: Application, _: Controller) -> None:
        asked = asyncio.create_task(stage_of(app, "asd/always-L"))
        await until(lambda: app.service.dispatcher.n_in_flight("L") == 1)
        assert app.service.monitor.meter.gauges["S"].n_calls == calls
        await asked

    served("queue:20:0", test, devices)


def test_the_table_is_solved_again_for_what_was_seen() -> None:
    """The controller looks at arrivals, latencies and calls of the server; the page shows its mu."""

    async def test(app: Application, controller: Controller) -> None:
        assert isinstance(controller, QueueAware)
        service, before = app.service, controller.stages["S"].call_s
        assert service.steering() == {"lam": 20.0, "mu": 30.0}
        controller.interval_s = 0.3
        steering = asyncio.create_task(service.steer())
        await asyncio.gather(*(stage_of(app) for _ in range(3)))
        service.monitor.meter.sample()
        await until(lambda: controller.n_solved >= 2)
        steering.cancel()
        after = controller.stages["S"].call_s
        assert before is not None
        assert after is not None
        assert before < after <= CALL_S

    served("queue:20:30", test)


def test_a_reply_names_what_steers() -> None:
    """Not the worth of a second that it began with."""

    async def test(app: Application, controller: Controller) -> None:
        reply = await post(app, chat(EASY.query.prompt))
        assert reply.json["asd"]["policy"] == controller.name == "p95-target(lam=20,p95=0.5)"

    served("target:20:0.5", test)


def test_a_call_is_expected_to_take_what_one_query_takes() -> None:
    """However many a stage takes at once; what larger calls take is the table's to know."""
    ladder = Ladder.load("tiny")
    fitted = policy_of(ladder)
    alone, many = (steering_of(fitted, ladder, dict.fromkeys("SML", (1, size))).call_s for size in (1, 16))
    assert alone == many
    assert 0.0 < alone["S"] < alone["M"] < alone["L"]


def test_a_ladder_in_money_is_steered_by_the_seconds_of_its_fitting_rows() -> None:
    """A call takes what those calls took on average; prices decide about cost, as they did."""
    in_money = replace(TIMED, price_unit="usd", name="priced")
    traces = sample(400, np.random.default_rng(7))[0]
    fitted = fit(traces, in_money, fitted_at="2026-01-01")
    alone = {"S": (1, 1), "L": (8, 1)}
    made = steering_of(fitted, in_money, alone)
    for stage in "SL":
        recorded = np.mean([trace.outcomes[stage].draft.seconds for trace in traces])
        assert made.call_s[stage] == pytest.approx(recorded, rel=0.05)
    controller = named("queue:20:30", made.makers, STEERED)
    assert isinstance(controller, QueueAware)
    free, waiting = ({"S": Queue(n, n and 1), "L": Queue()} for n in (0, 40))
    found = []
    for gauges in (free, waiting):
        controller.watch(gauges)
        found.append(controller.policy(None).decide(EASY.query, {}).action.stage)
    assert found == ["S", "L"]
    with pytest.raises(ConfigError, match="calls of one query, not of 16: give --batch 1"):
        steering_of(fitted, in_money, {"S": (1, 16), "L": (1, 1)})


def test_a_policy_without_seconds_cannot_steer_a_ladder_in_money() -> None:
    in_money = replace(TIMED, price_unit="usd")
    with pytest.raises(ConfigError, match=r"prices in 'usd' are no service times.*asd fit"):
        steering_of(timed_policy(), in_money, {"S": (1, 1), "L": (1, 1)})


def test_a_policy_of_fewer_stages_follows_the_controller() -> None:
    """The way round a stage that is out looks up what was solved last, as the policy itself does."""
    servers = {"S": (1, 1), "L": (1, 1)}
    controller = steering_of(timed_policy(), TIMED, servers).queue_aware(20.0, 5.0, 1.0)
    policy = controller.policy(None)
    assert isinstance(policy, BacklogPolicy)
    around = policy.without({"L"})
    controller.policy(state(S=busy(0.9, call_s=0.5), L=busy(0.1, call_s=0.5)))
    assert around.table.solved is policy.table.solved


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--controller queue:5", "'queue:5' is no policy; write queue:LAM:MU"),
        ("--controller gears:5", "'gears:5' is no policy"),
        ("--controller queue:5:-1", "mu is at least 0"),
        ("--controller target:5:inf", "a target (finite)"),
        ("--controller queue:5:1 --lam 3", "leave --lam, --quality and --certified out"),
        ("--controller queue:5:1 --quality 0.9", "leave --lam, --quality and --certified out"),
    ],
)
def test_what_steers_nothing_is_refused(line: str, said: str) -> None:
    found = CliRunner().invoke(main, ["serve", *line.split()])
    assert found.exit_code == 2
    assert said in found.output
