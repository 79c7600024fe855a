"""Queries that come and go: the same answers as in rounds, without waiting for each other."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.cascade import Cascade
from asd.dispatch import Dispatcher
from asd.engines import GREEDY, Acceptance, Sampling
from asd.errors import ConfigError, EngineError, NoStageLeftError
from asd.journey import Journey
from asd.policies import FixedStage
from asd.policies.routing import ComplexityRule, Routed
from asd.resilience import Health
from asd.testing import ScriptedEngine
from asd.types import Completion, Draft, Query
from tests.test_cascade import PRICES, STAGES, Itinerary, engines, queries


class Gate(ScriptedEngine):
    """A stage that answers when it is let; `entered` says that a call has begun."""

    def __init__(self, engine: ScriptedEngine) -> None:
        vars(self).update(vars(engine))
        self.entered, self.open = threading.Event(), threading.Event()

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        self.entered.set()
        assert self.open.wait(30)
        return super().generate(queries, sampling)


class Wide(Gate):
    """One that takes several calls at once."""

    concurrency = 3


@contextmanager
def opened(*gates: Gate) -> Iterator[None]:
    """Opens the gates at the end, so that a test that fails ends."""
    try:
        yield
    finally:
        for gate in gates:
            gate.open.set()


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 30)


def same_but_for_time(completions: Sequence[Completion]) -> list[object]:
    """A verification and a draft say how long they took, which depends on who was called with them."""
    return [
        (c.query, c.stage, c.text, c.cost, [d.action for d in c.decisions], [d.text for d in c.drafts])
        for c in completions
    ]


@pytest.mark.slow
@given(st.data())
def test_answers_are_those_of_rounds(data: st.DataObject) -> None:
    """Whatever way each query takes, and however many are called together."""
    asked = queries(data.draw(st.integers(1, 8)))
    ways = st.permutations(STAGES).flatmap(lambda order: st.integers(1, 3).map(lambda n: order[:n]))
    stops = {query.id: (way := data.draw(ways), data.draw(st.sampled_from(way))) for query in asked}
    cascade = Cascade(engines(asked), Itinerary(stops), PRICES)

    async def together() -> list[Completion]:
        return list(await asyncio.gather(*map(cascade.answer, asked)))

    assert same_but_for_time(asyncio.run(together())) == same_but_for_time(cascade.run(asked))
    cascade.close()


def test_nobody_waits_for_a_stage_that_he_does_not_need() -> None:
    """One query is held up in the largest stage of another device; a later one is answered meanwhile."""
    asked = queries(2)
    all_of_them = engines(asked)
    slow = Gate(all_of_them["L"])
    slow.device = "cuda:7"
    cascade = Cascade(all_of_them | {"L": slow}, Itinerary({"0": (["L"], "L"), "1": (["S"], "S")}), PRICES)

    async def main() -> None:
        with opened(slow):
            held_up = asyncio.ensure_future(cascade.answer(asked[0]))
            await until(slow.entered)
            assert (await cascade.answer(asked[1])).stage == "S"
            assert not held_up.done()
            slow.open.set()
            assert (await held_up).stage == "L"

    asyncio.run(main())


def test_who_waits_for_the_same_stage_is_called_together() -> None:
    """While the first call runs the others gather; then they go in as few calls as there may be."""
    asked = queries(20)
    slow = Gate(engines(asked)["S"])
    cascade = Cascade({"S": slow}, FixedStage("S"), {"S": PRICES["S"]})

    async def main() -> list[Completion]:
        with opened(slow):
            first = asyncio.ensure_future(cascade.answer(asked[0]))
            await until(slow.entered)
            others = [asyncio.ensure_future(cascade.answer(query)) for query in asked[1:]]
            await asyncio.sleep(0)
            slow.open.set()
            return await asyncio.gather(first, *others)

    assert [completion.query for completion in asyncio.run(main())] == asked
    assert [len(call) for call in slow.calls] == [1, 16, 3]


def test_an_engine_that_batches_by_itself_gets_what_it_takes() -> None:
    """Three calls of one query each run at the same time, the fourth waits."""
    asked = queries(4)
    inside = threading.Barrier(3)

    class Server(ScriptedEngine):
        concurrency = 3

        def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
            if queries[0].id != "3":
                inside.wait(30)  # passes only when three calls are here at once
            return super().generate(queries, sampling)

    server = engines(asked)["S"]
    server.__class__ = Server
    cascade = Cascade({"S": server}, FixedStage("S"), {"S": PRICES["S"]})

    async def main() -> list[Completion]:
        return list(await asyncio.gather(*map(cascade.answer, asked)))

    assert len(asyncio.run(main())) == 4
    assert sorted(len(call) for call in server.calls) == [1, 1, 1, 1]


def test_stages_of_one_device_take_turns() -> None:
    """The second stage's call begins when the first one's has ended."""
    asked = queries(2)
    both = {name: Gate(engine) for name, engine in engines(asked, ("S", "L")).items()}
    prices = {name: PRICES[name] for name in both}
    cascade = Cascade(both, Itinerary({"0": (["S"], "S"), "1": (["L"], "L")}), prices)

    async def main() -> None:
        with opened(*both.values()):
            tasks = [asyncio.ensure_future(cascade.answer(asked[0]))]
            await until(both["S"].entered)
            tasks.append(asyncio.ensure_future(cascade.answer(asked[1])))
            await asyncio.sleep(0.05)
            assert not both["L"].entered.is_set()
            for gate in both.values():
                gate.open.set()
            await asyncio.gather(*tasks)

    asyncio.run(main())


def test_who_leaves_while_waiting_is_not_asked_for() -> None:
    """A cancelled query that was not called yet never is; the others get their answers."""
    asked = queries(3)
    slow = Gate(engines(asked)["S"])
    cascade = Cascade({"S": slow}, FixedStage("S"), {"S": PRICES["S"]})

    async def main() -> None:
        with opened(slow):
            tasks = [asyncio.ensure_future(cascade.answer(asked[0]))]
            await until(slow.entered)
            tasks += [asyncio.ensure_future(cascade.answer(query)) for query in asked[1:]]
            await asyncio.sleep(0)
            tasks[1].cancel()
            slow.open.set()
            assert (await tasks[2]).query == asked[2]
            with pytest.raises(asyncio.CancelledError):
                await tasks[1]

    asyncio.run(main())
    assert [query for call in slow.calls for query in call] == ["0", "2"]


def test_a_failure_is_that_of_who_was_called() -> None:
    """Without `health` it is raised to them, and the stage goes on; with it, other stages answer."""
    asked = queries(2)

    class Broken(ScriptedEngine):
        def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
            if any(query.id == "0" for query in queries):
                raise EngineError("no such luck")
            return super().generate(queries, sampling)

    broken = engines(asked)["S"]
    broken.__class__ = Broken
    alone = Cascade({"S": broken}, FixedStage("S"), {"S": PRICES["S"]})

    async def main() -> None:
        with pytest.raises(EngineError, match="no such luck"):
            await alone.answer(asked[0])
        assert (await alone.answer(asked[1])).stage == "S"
        healthy = Cascade({"S": broken}, FixedStage("S"), {"S": PRICES["S"]}, Health())
        with pytest.raises(NoStageLeftError, match="no such luck"):
            await healthy.answer(asked[0])

    asyncio.run(main())


def test_completions_come_as_they_are_done() -> None:
    """The quick one first, although it was asked last."""
    asked = queries(2)
    all_of_them = engines(asked)
    slow = Gate(all_of_them["L"])
    slow.device = "cuda:7"
    stops = {"0": (["L"], "L"), "1": (["S"], "S")}
    cascade = Cascade(all_of_them | {"L": slow}, Itinerary(stops), PRICES)

    async def main() -> list[str]:
        seen = []
        async for completion in cascade.as_completed(asked):
            seen.append(completion.stage)
            slow.open.set()
        return seen

    assert asyncio.run(main()) == ["S", "L"]
    slow.open.clear()
    assert asyncio.run(main()) == ["S", "L"]  # a second event loop gets a dispatcher of its own


def test_a_batch_holds_somebody() -> None:
    """A size below one is refused."""

    async def main() -> None:
        with pytest.raises(ConfigError, match="batch_size must be at least 1, not 0"):
            Dispatcher(engines(queries(1)), 0)

    asyncio.run(main())


def test_cascades_that_share_engines_are_called_together_where_they_choose_tokens_alike() -> None:
    """One dispatcher, two policies, and a third that samples: it has a call of its own."""
    asked = queries(4)
    slow = Gate(engines(asked)["S"])
    parts = {"S": slow}
    greedy, other = (Cascade(parts, FixedStage("S"), {"S": PRICES["S"]}) for _ in range(2))
    hot = Cascade(parts, FixedStage("S"), {"S": PRICES["S"]}, acceptance=Acceptance(Sampling(1.0)))

    async def main() -> None:
        dispatcher = Dispatcher(parts)
        steered = zip((greedy, greedy, hot, other), map(Journey, asked), strict=True)
        with opened(slow):
            walks = [asyncio.create_task(dispatcher.walk(*pair)) for pair in steered]
            await until(slow.entered)
            slow.open.set()
            await asyncio.gather(*walks)
        dispatcher.close()

    asyncio.run(main())
    assert [sorted(call) for call in slow.calls] == [["0"], ["1", "3"], ["2"]]


def test_what_a_running_call_brings_to_a_query_that_was_left_is_there_once_it_has_settled() -> None:
    """It was paid for; a query that only waited has bought nothing."""
    asked = queries(2)
    slow = Gate(engines(asked)["S"])
    cascade = Cascade({"S": slow}, FixedStage("S"), {"S": PRICES["S"]})

    async def main() -> None:
        dispatcher = Dispatcher(cascade.engines)
        called, waiting = (Journey(query) for query in asked)
        with opened(slow):
            walks = [asyncio.create_task(dispatcher.walk(cascade, each)) for each in (called, waiting)]
            await until(slow.entered)
            for walk in walks:
                walk.cancel()
            await asyncio.wait(walks)
            await dispatcher.settled(waiting)
            assert not called.drafts
            slow.open.set()
            await dispatcher.settled(called)
        assert list(called.drafts) == ["S"]
        assert not waiting.drafts
        dispatcher.close()

    asyncio.run(main())
    assert slow.calls == [("0",)]


def test_whatever_ends_a_call_ends_the_wait() -> None:
    """What is no `Exception`, too: nobody waits for ever."""

    class Quits(BaseException):
        pass

    class Quitting(ScriptedEngine):
        def generate(self, *_: object) -> list[Draft]:
            raise Quits

    asked = queries(1)
    engine = engines(asked)["S"]
    engine.__class__ = Quitting
    cascade = Cascade({"S": engine}, FixedStage("S"), {"S": PRICES["S"]})

    async def main() -> None:
        await asyncio.wait_for(cascade.answer(asked[0]), 10)

    with pytest.raises(Quits):
        asyncio.run(main())


def test_the_gauge_reads_the_calls_that_run() -> None:
    """Of the three that the stage takes at once; none before the first query and after the last."""
    asked = queries(2)
    slow = Wide(engines(asked)["S"])
    cascade = Cascade({"S": slow}, FixedStage("S"), {"S": PRICES["S"]})

    async def main() -> None:
        with opened(slow):
            answers = [asyncio.ensure_future(cascade.answer(query)) for query in asked]
            await until(slow.entered)
            assert cascade.utilisation("S") == pytest.approx(2 / 3)
        await asyncio.gather(*answers)
        assert cascade.utilisation("S") == 0.0

    assert cascade.utilisation("S") == 0.0
    asyncio.run(main())


def test_load_moves_the_bar_of_the_complexity_rule() -> None:
    """The same prompt is for the largest stage while that is idle, and for the smallest while it works."""
    asked = [Query(name, "d", "Prove the theorem") for name in ("first", "second")]
    slow = Gate(ScriptedEngine("L", {"Prove the theorem": ("by L", (-0.1,))}))
    slow.device = "cuda:7"
    small = ScriptedEngine("S", {"Prove the theorem": ("by S", (-0.1,))})
    rule = ComplexityRule("L", 1.0, 0.8, lambda: cascade.utilisation("L"))
    cascade = Cascade(
        {"S": small, "L": slow}, Routed(rule, FixedStage("S"), "L"), {"S": PRICES["S"], "L": PRICES["L"]}
    )

    async def main() -> list[Completion]:
        with opened(slow):
            held_up = asyncio.ensure_future(cascade.answer(asked[0]))
            await until(slow.entered)
            later = await cascade.answer(asked[1])
        return [await held_up, later]

    idle, busy = asyncio.run(main())
    assert (idle.text, busy.text) == ("by L", "by S")
    assert idle.cost > busy.cost


class Timed(ScriptedEngine):
    """A stage whose every call takes so long."""

    def __init__(self, engine: ScriptedEngine, seconds: float) -> None:
        vars(self).update(vars(engine))
        self.seconds = seconds

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        time.sleep(self.seconds)
        return super().generate(queries, sampling)


def test_a_batch_is_formed_when_its_device_is_free() -> None:
    """Not when its stage is: who asks while another stage computes on the same device is called together."""
    asked = queries(6)
    all_of_them = engines(asked)
    gate = Gate(all_of_them["L"])
    stages = {**all_of_them, "L": gate}
    stops = {str(i): (["S"], "S") for i in range(5)} | {"5": (["L"], "L")}
    cascade = Cascade(stages, Itinerary(stops), PRICES)

    async def main() -> None:
        busy = asyncio.create_task(cascade.answer(asked[5]))
        await until(gate.entered)
        others = [asyncio.create_task(cascade.answer(query)) for query in asked[:5]]
        await asyncio.sleep(0.05)
        gate.open.set()
        await asyncio.gather(busy, *others)

    with opened(gate):
        asyncio.run(main())
    assert [sorted(call) for call in all_of_them["S"].calls] == [list("01234")]


def test_of_two_stages_on_a_device_the_one_that_was_waited_for_longest_by_all_together_comes_first() -> None:
    """Three that wait count thrice; one that waits alone comes first once it has waited for as long."""
    asked = queries(6)
    all_of_them = engines(asked)
    gate = Gate(all_of_them["L"])
    order: list[str] = []
    noted = {name: Noted(all_of_them[name], order) for name in ("S", "M")}
    stops = {
        "5": (["L"], "L"),
        "0": (["S"], "S"),
        **{str(i): (["M"], "M") for i in (1, 2, 3)},
        "4": (["S"], "S"),
    }
    cascade = Cascade({**all_of_them, **noted, "L": gate}, Itinerary(stops), PRICES)

    async def turns(first: Sequence[int], pause: float, then: Sequence[int]) -> list[str]:
        order.clear()
        gate.entered.clear()
        gate.open.clear()
        busy = asyncio.create_task(cascade.answer(asked[5]))
        await until(gate.entered)
        tasks = [asyncio.create_task(cascade.answer(asked[i])) for i in first]
        await asyncio.sleep(pause)
        tasks += [asyncio.create_task(cascade.answer(asked[i])) for i in then]
        await asyncio.sleep(0.02)
        gate.open.set()
        await asyncio.gather(busy, *tasks)
        return list(order)

    async def main() -> None:
        assert await turns([0], 0.0, [1, 2, 3]) == ["M", "S"]
        assert await turns([0], 0.4, [1, 2, 3]) == ["S", "M"]

    with opened(gate):
        asyncio.run(main())


class Noted(ScriptedEngine):
    """Says when it is called."""

    def __init__(self, engine: ScriptedEngine, order: list[str]) -> None:
        vars(self).update(vars(engine))
        self.order = order

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        self.order.append(self.stage_name)
        return super().generate(queries, sampling)


def test_clients_that_come_back_after_a_call_are_called_together_again() -> None:
    """The first of them does not go alone; a query that comes to an idle stage later goes at once."""
    asked = queries(5)
    stage = Timed(engines(asked)["S"], 0.4)
    cascade = Cascade({"S": stage}, FixedStage("S"), {"S": PRICES["S"]})

    async def client(query: Query, pause: float) -> None:
        await cascade.answer(query)
        await asyncio.sleep(pause)
        await cascade.answer(query)

    async def main() -> None:
        first = asyncio.create_task(cascade.answer(asked[4]))
        await asyncio.sleep(0.1)
        await asyncio.gather(first, *(client(query, 0.002 * i) for i, query in enumerate(asked[:4])))
        await asyncio.sleep(0.1)
        start = time.perf_counter()
        await cascade.answer(asked[0])
        assert time.perf_counter() - start < 0.5

    asyncio.run(main())
    assert [len(call) for call in stage.calls] == [1, 4, 4, 1]


def test_a_call_does_not_wait_for_those_who_do_not_come_back() -> None:
    """Longer than a small share of what the last one took."""
    asked = queries(3)
    stage = Timed(engines(asked)["S"], 0.2)
    cascade = Cascade({"S": stage}, FixedStage("S"), {"S": PRICES["S"]})

    async def main() -> float:
        await asyncio.gather(*(cascade.answer(query) for query in asked))
        start = time.perf_counter()
        await cascade.answer(asked[0])
        return time.perf_counter() - start

    assert 0.2 < asyncio.run(main()) < 0.3


def test_a_timer_that_is_early_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some event loops call a millisecond before the time."""
    asked = queries(4)
    stage = Timed(engines(asked)["S"], 0.2)
    cascade = Cascade({"S": stage}, FixedStage("S"), {"S": PRICES["S"]})

    async def main() -> None:
        loop = asyncio.get_running_loop()
        call_at = loop.call_at
        monkeypatch.setattr(loop, "call_at", lambda when, *rest, **how: call_at(when - 0.002, *rest, **how))
        first = asyncio.create_task(cascade.answer(asked[3]))
        await asyncio.sleep(0.05)
        await asyncio.gather(first, *(cascade.answer(query) for query in asked[:3]))
        monkeypatch.undo()
        await asyncio.wait_for(cascade.answer(asked[0]), 5)

    asyncio.run(main())
    assert [len(call) for call in stage.calls] == [1, 3, 1]
