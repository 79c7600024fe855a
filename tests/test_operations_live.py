"""The state of a cascade that answers: gauges of the moment, and what adds up between two looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from threading import Event, get_ident
from typing import TypeVar

import pytest

from asd.cascade import Cascade
from asd.dispatch import Dispatcher
from asd.engines import GREEDY, Sampling
from asd.journey import Journey
from asd.operations.control.backlog import BacklogPolicy, level_of
from asd.operations.control.contenders import Contenders
from asd.operations.live import Booked, EngineLoad, Meter
from asd.policies import FixedStage
from asd.prices import Prices
from asd.types import Completion, Draft, Query, Usage
from tests.test_operations_backlog import contenders  # noqa: F401  (a fixture)

T = TypeVar("T")
CALL_S = 0.1


class Timed:
    """A stage whose every call takes a tenth of a second."""

    stage_name = "S"

    def load(self) -> None: ...

    unload = synchronise = load

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:  # noqa: ARG002
        time.sleep(CALL_S)
        return [Draft("S", "x", (7,), (-0.1,), True, Usage(1, 1, 1), CALL_S) for _ in queries]


class Wide(Timed):
    """Takes two calls at a time."""

    concurrency = 2


def run(test: Callable[[Cascade, Dispatcher], Awaitable[T]], batch: int, engine: type[Timed] = Timed) -> T:
    async def main() -> T:
        engines = {"S": engine()}
        dispatcher = Dispatcher(engines, batch)
        try:
            return await test(Cascade(engines, FixedStage("S"), {"S": Prices(1, 0, 0)}), dispatcher)
        finally:
            dispatcher.close()

    return asyncio.run(main())


def walk(cascade: Cascade, dispatcher: Dispatcher, i: int) -> asyncio.Task[Completion]:
    async def one() -> Completion:
        journey = Journey(Query(f"q{i}", "d", "?"))
        await dispatcher.walk(cascade, journey)
        return cascade.completed([journey])[0]

    return asyncio.create_task(one())


def test_gauges_are_read_at_the_moment() -> None:
    """One is called for and four wait: with two in a call, a backlog of three calls; then nobody is there."""

    async def test(cascade: Cascade, dispatcher: Dispatcher) -> None:
        gauge = Meter(dispatcher, ["S"]).gauges["S"]
        assert level_of(gauge) == 0
        tasks = [walk(cascade, dispatcher, i) for i in range(5)]
        await asyncio.sleep(CALL_S / 2)
        n_in_flight = dispatcher.n_in_flight("S")
        assert (gauge.n_calls, n_in_flight, gauge.n_waiting) in {(1, 1, 4), (1, 2, 3)}
        assert level_of(gauge) == 2
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)
        assert (gauge.n_calls, gauge.n_waiting) == (0, 0)

    run(test, 2)


def test_a_state_is_what_happened_since_the_last_look() -> None:
    """Rates, errors and latencies of the interval; use and size of calls by samples; seconds of calls."""
    now = [100.0]

    async def test(cascade: Cascade, dispatcher: Dispatcher) -> None:
        meter = Meter(dispatcher, ["S"], lambda: now[0])
        meter.sample()  # at rest
        tasks = []
        for i in range(4):
            meter.arrived()
            tasks.append(walk(cascade, dispatcher, i))
        await asyncio.sleep(CALL_S / 2)
        meter.sample()  # at work
        done = await asyncio.gather(*tasks)
        for completion in done[:3]:
            meter.ended(completion, 0.3)
        meter.arrived()
        meter.ended(None, 9.0)
        now[0] += 10.0
        state = meter.state(1)
        assert (state.seconds, state.request_rate, state.n_inside) == (10.0, 0.5, 1)
        assert state.error_rate == 0.25
        assert state.latency_s == pytest.approx(0.3)
        assert state.p95_s is None
        stage = state.stages["S"]
        assert stage.utilisation == 0.5
        assert stage.call_s == pytest.approx(CALL_S)
        assert stage.per_call in {1.0, 4.0}
        adopted = replace(done[0], drafts=(replace(done[0].drafts[0], seconds=0.0),))
        meter.ended(adopted, 0.3)  # an answer that took no call says nothing of calls
        assert meter.state(0).stages["S"].call_s is None
        again = meter.state(0)
        assert (again.request_rate, again.latency_s, again.stages["S"].call_s) == (0.0, None, None)
        for _ in range(59):
            meter.arrived()
            meter.ended(done[0], 0.2)
        assert meter.state(0).p95_s == pytest.approx(0.2)

    run(test, 4)


def test_what_was_spent_is_what_the_books_have_more_than_at_the_last_look() -> None:
    """The first reading tells nothing of an interval; the time is that of the books."""

    async def test(_: Cascade, dispatcher: Dispatcher) -> None:
        meter = Meter(dispatcher, ["S"], lambda: 7.0)
        found = [
            meter.state(0),
            meter.state(0, Booked(100.0, 2.0, 50.0)),
            meter.state(0, Booked(130.0, 0.5, 51.5)),
        ]
        assert [(s.now_s, s.spent, s.spent_today) for s in found] == [
            (7.0, None, None),
            (100.0, None, 2.0),
            (130.0, 1.5, 0.5),
        ]

    run(test, 1)


def test_the_simulated_controller_steers_a_live_cascade(contenders: Contenders) -> None:  # noqa: F811
    """The policy object of the simulator, on live gauges: with a long queue at S it goes straight to L."""

    async def test(cascade: Cascade, dispatcher: Dispatcher) -> list[str]:
        meter = Meter(dispatcher, ["S"])
        controller = contenders.of("queue:20:30")
        gauges = {stage: meter.gauges["S"] if stage == "S" else Rest() for stage in "SL"}
        controller.watch(gauges)  # type: ignore[attr-defined]
        policy = controller.policy(None)
        assert isinstance(policy, BacklogPolicy)
        query = contenders.population.queries[0].trace.query
        found = [policy.decide(query, {}).action.stage]
        tasks = [walk(cascade, dispatcher, i) for i in range(40)]
        await asyncio.sleep(CALL_S / 2)
        found.append(policy.decide(query, {}).action.stage)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return found

    assert run(test, 1) == ["S", "L"]


class Rest:
    """A stage at rest."""

    n_waiting = n_calls = 0
    replicas = batch = 1
    is_resident = True


def test_calls_at_a_time_are_several_of_their_size() -> None:
    """Two calls of one query each, not one of two."""

    async def test(cascade: Cascade, dispatcher: Dispatcher) -> None:
        meter = Meter(dispatcher, ["S"])
        tasks = [walk(cascade, dispatcher, i) for i in range(2)]
        while dispatcher.n_in_flight("S") < 2:
            await asyncio.sleep(0.001)
        meter.sample()
        await asyncio.gather(*tasks)
        stage = meter.state(0).stages["S"]
        assert (stage.replicas, stage.utilisation, stage.per_call) == (2, 1.0, 1.0)

    run(test, 1, Wide)


class Told(Wide):
    """Its server is asked by others too; `gauges` says how busy it is."""

    def __init__(self) -> None:
        self.told: dict[str, float] | Exception = {}
        self.threads: list[int] = []
        self.until = Event()
        self.until.set()

    def gauges(self) -> dict[str, float]:
        self.threads.append(get_ident())
        self.until.wait(10.0)
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


def metered(test: Callable[[Meter, Told, list[float]], Awaitable[T]]) -> T:
    """At rest, with a clock that stands."""
    now, engine = [100.0], Told()

    async def main() -> T:
        dispatcher = Dispatcher({"S": engine})
        try:
            return await test(Meter(dispatcher, ["S"], lambda: now[0], {"S": engine}), engine, now)
        finally:
            dispatcher.close()

    return asyncio.run(main())


async def read(meter: Meter, engine: Told) -> None:
    """Ask it once."""
    n = len(engine.threads)
    meter.sample()
    async with asyncio.timeout(10):
        while len(engine.threads) == n or meter.loads._asking:
            await asyncio.sleep(0.001)


def test_what_an_engine_tells_enters_the_state_and_the_gauge() -> None:
    """Requests of others, memory; those that are held back stand before ours, by Little's law."""

    async def test(meter: Meter, engine: Told, _: list[float]) -> None:
        gauge = meter.gauges["S"]
        unknown = meter.state(0).stages["S"]
        assert (unknown.memory, unknown.n_others, gauge.n_waiting, gauge.n_calls) == (None, None, 0, 0)
        engine.told = {"running": 6.0, "waiting": 0.0, "kv cache in use": 0.5}
        await read(meter, engine)
        assert (meter.now("S").n_others, meter.now("S").memory) == (6.0, 0.5)
        assert level_of(gauge) == 0  # they run beside ours
        engine.told = {"running": 6.0, "waiting": 18.0, "kv cache in use": 0.99}
        await read(meter, engine)
        assert (meter.state(0).stages["S"].n_others, meter.now("S").memory) == (24.0, 0.99)
        assert (gauge.n_calls, gauge.n_waiting) == (2, 0.75 * 2)
        assert level_of(gauge) == 2  # 1 + 1.5 calls
        engine.told = {}
        await read(meter, engine)
        assert (meter.now("S").n_others, meter.now("S").memory, level_of(gauge)) == (None, None, 0)

    metered(test)


def test_a_wait_at_a_server_is_what_little_s_law_says() -> None:
    """A server of 4 lanes and calls of 1 s, 12 in line: 3 s, whatever share of it we may have."""
    load = EngineLoad({"running": 4.0, "waiting": 12.0})
    call_s = 1.0 + 12 / 4  # as it is measured there: the line and the call
    for width in (1, 4, 16):
        assert load.held * width * call_s / width == pytest.approx(3.0)
    assert EngineLoad({}).held == EngineLoad({"waiting": 0.0}).held == 0.0
    assert EngineLoad({"waiting": 2.0}).held == 1.0


def test_nobody_waits_for_an_engine_that_tells_late() -> None:
    """It is asked in a thread, once at a time; what it told before stands until then."""

    async def test(meter: Meter, engine: Told, _: list[float]) -> None:
        engine.told = {"memory": 0.25}
        await read(meter, engine)
        engine.until.clear()
        began = time.monotonic()
        for _ in range(3):
            meter.sample()
            assert meter.state(0).stages["S"].memory == 0.25
        await asyncio.sleep(0.02)
        assert time.monotonic() - began < 1.0
        assert len(engine.threads) == 2
        assert get_ident() not in engine.threads
        engine.until.set()

    metered(test)


@pytest.mark.parametrize("told", [{}, RuntimeError("no such thing")])
def test_an_engine_that_tells_nothing_is_asked_once_a_minute(told: dict[str, float] | Exception) -> None:
    async def test(meter: Meter, engine: Told, now: list[float]) -> list[int]:
        engine.told = told
        asked = []
        for seconds in (0.0, 30.0, 29.0, 1.0):
            now[0] += seconds
            meter.sample()
            while meter.loads._asking:
                await asyncio.sleep(0.001)
            asked.append(len(engine.threads))
        return asked

    assert metered(test) == [1, 1, 1, 2]


def test_our_own_requests_are_not_those_of_others() -> None:
    """Two of ours run at its server, which has three."""
    engine = Told()
    engine.told = {"running": 3.0, "waiting": 0.0}

    async def main() -> float | None:
        engines = {"S": engine}
        dispatcher = Dispatcher(engines)
        cascade = Cascade(engines, FixedStage("S"), {"S": Prices(1, 0, 0)})
        meter = Meter(dispatcher, ["S"], engines=engines)
        tasks = [walk(cascade, dispatcher, i) for i in range(2)]
        while dispatcher.n_in_flight("S") < 2:
            await asyncio.sleep(0.001)
        await read(meter, engine)
        found = meter.now("S").n_others
        await asyncio.gather(*tasks)
        dispatcher.close()
        return found

    assert asyncio.run(main()) == 1.0
