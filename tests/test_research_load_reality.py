"""The simulator beside a real run: the client, the replay, the figures, and what voids them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from asd.cascade import Cascade
from asd.cli import main
from asd.cli.research.reality import answered_per_s, error_and_aim
from asd.dispatch import Dispatcher
from asd.engines import GREEDY, Sampling
from asd.errors import ConfigError, DataError, EngineError
from asd.journey import Journey
from asd.measurement.files import write_record
from asd.operations.control.deciders import Decider
from asd.operations.population import Population
from asd.operations.simulator import Simulator
from asd.operations.stations import Request, StageServer
from asd.operations.traffic import Fixed, Open
from asd.policies import FixedStage
from asd.prices import Prices, write_prices
from asd.research.load import measured, reality, replayed
from asd.research.load.client import Sent, ask_all, ask_in_turn
from asd.research.load.measured import Block, Reality, RealityHeader, ServedLadder
from asd.research.load.processes import Outage, PriceTables, measured_prices, served
from asd.research.load.ranking import ranked_pairs
from asd.research.load.reality import run_reality
from asd.research.load.replayed import AsServed, Figures, as_served, compare, price_drift
from asd.schema import msgspec
from asd.types import Draft, Query
from tests.endpoint import OnePolicy, Slow, running
from tests.queues import Planned, one_stage, query
from tests.queues import ladder as timed
from tests.worlds import fitted_verified, ladder, sample, verified

CASCADE_AT_5 = {"model": "asd", "lam": 5.0}
QUERIES = [Query("a", "d", "add 1+2", max_new_tokens=5), Query("b", "d", "add 2+2", max_new_tokens=5)]


def test_the_client_asks_when_requests_are_due() -> None:
    """Two at once and one later, whether or not the first are answered; each says what was delivered."""
    with running({"S": Slow("S", "3", 0.2)}, OnePolicy(FixedStage("S"), ("S",)), ladder=timed("S")) as server:
        sent = ask_all(server.url, CASCADE_AT_5, QUERIES, [(0.0, 0), (0.0, 1), (0.1, 0)])
    assert [s.query for s in sent] == [0, 1, 0]
    assert all(s.stage == "S" and s.calls == 1 and s.cost > 0.0 for s in sent)
    assert all(0.0 <= s.lag_s < 0.1 for s in sent)
    assert 0.15 < min(s.seconds for s in sent) < 0.4
    assert sent[2].seconds > sent[0].seconds - 0.1  # it came while the first were under way
    assert all(0.0 < s.first_s <= s.seconds for s in sent)


def test_a_refused_request_ends_the_run() -> None:
    with (
        running({"S": Slow("S", "3")}, OnePolicy(FixedStage("S"), ("S",)), ladder=timed("S")) as server,
        pytest.raises(EngineError, match="the server answered 400"),
    ):
        ask_all(server.url, {"model": "asd", "lam": -1.0}, QUERIES, [(0.0, 0)])


def test_a_server_that_is_gone_is_named_by_the_query_it_left() -> None:
    with pytest.raises(EngineError, match="query 'a' was not answered"):
        ask_all("http://127.0.0.1:9/v1", CASCADE_AT_5, QUERIES, [(0.0, 0)])


def test_a_server_that_says_much_is_not_held_up(
    place: ServedLadder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a pipe holds, and nobody reads it while the requests run."""
    server, said = tmp_path / "server", tmp_path / "said"
    server.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys, time\n"
        "print('http://127.0.0.1:9/v1', file=sys.stderr, flush=True)\n"
        "print('x' * 1_000_000, file=sys.stderr, flush=True)\n"
        f"pathlib.Path({str(said)!r}).touch()\n"
        "time.sleep(60)\n"
    )
    server.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(server))
    with served(place.name, None, 1) as url:
        assert url == "http://127.0.0.1:9/v1"
        end = time.monotonic() + 30
        while not said.exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert said.exists()


def test_the_client_pauses_as_long_as_each_answer_took() -> None:
    """One after the other, and so long a pause after each."""
    with running({"S": Slow("S", "3", 0.2)}, OnePolicy(FixedStage("S"), ("S",)), ladder=timed("S")) as server:
        sent = ask_in_turn(server.url, CASCADE_AT_5, QUERIES, [1, 0, 1])
    assert [s.query for s in sent] == [1, 0, 1]
    for before, after in pairwise(sent):
        assert after.due_s >= before.due_s + 2 * before.seconds
        assert after.seconds < 0.4


def with_probes(found: Reality, *factors: float) -> Reality:
    """The same measured again, probe by probe on a machine that takes so many times as long."""
    first, *others = (
        tuple(msgspec.structs.replace(s, seconds=s.lag_s + f * (s.seconds - s.lag_s)) for s in found.probe)
        for f in factors
    )
    blocks = tuple(msgspec.structs.replace(found.blocks[0], after=probe) for probe in others)
    return msgspec.structs.replace(found, probe=first, blocks=blocks)


def test_seconds_as_served_are_means_not_medians(place: ServedLadder) -> None:
    """One request of ten that takes much longer counts as much as it takes."""
    found = real(place, 0.003)
    slow = tuple(
        msgspec.structs.replace(sent, seconds=sent.seconds + (0.5 if n % 10 == 0 else 0.0))
        for n, sent in enumerate(found.probe)
    )
    decider, situations = replayed._decider(place, found), place.population(prices(), 1).queries
    block = msgspec.structs.replace(found.blocks[0], after=slow)
    taken = as_served(place, msgspec.structs.replace(found, probe=slow, blocks=(block,)))
    priced = sum(sum(replayed._calls(decider, situations[sent.query])) for sent in slow)
    asked = taken.slowdown * priced + taken.delay_s * sum(sent.calls for sent in slow)
    asked += taken.overhead_s * len(slow)
    assert asked == pytest.approx(sum(sent.seconds - sent.lag_s for sent in slow))


def test_the_pace_of_a_block_is_that_of_the_probes_around_it(place: ServedLadder) -> None:
    """Fitted is their mean; where they disagree the machine was not steady."""
    found = with_probes(real(place, 0.002), 1.0, 1.04, 1.3, 1.26)
    assert [found.is_steady(n) for n in range(3)] == [True, False, True]
    mean = (1.0 + 1.04 + 1.3 + 1.26) / 4
    assert [found.pace(n) for n in range(3)] == pytest.approx([1.02 / mean, 1.17 / mean, 1.28 / mean])
    taken = as_served(place, found)
    assert (taken.slowdown, taken.delay_s) == (pytest.approx(mean), pytest.approx(mean * 0.002, abs=1e-6))
    paced = taken.at(found.pace(0))
    assert (paced.slowdown, paced.delay_s) == (pytest.approx(1.02), pytest.approx(1.02 * 0.002, abs=1e-6))
    assert AsServed(1.1, 0.003, 9.0).seconds([0.1, 0.2]) == pytest.approx(0.336)


def test_an_error_is_beside_its_aim() -> None:
    """Relative ones by figure, either way; those of shares in points."""
    assert error_and_aim("mean, s", 0.2, 0.218) == ("+9.0%", "10%: met")
    assert error_and_aim("P95, s", 1.0, 0.88) == ("-12.0%", "10%: MISSED")
    assert error_and_aim("first text, s", 1.0, 0.88) == ("-12.0%", "15%: met")
    assert error_and_aim("cost", 50.0, 52.0) == ("+4.0%", "3%: MISSED")
    assert error_and_aim("share of L", 0.30, 0.319) == ("+1.9 points", "2 points: met")
    assert error_and_aim("share of S", 0.30, 0.27) == ("-3.0 points", "2 points: MISSED")


@pytest.mark.slow
def test_blocks_are_simulated_at_their_own_pace(place: ServedLadder) -> None:
    """On a machine half as fast one takes at least twice as long; alone it is as among others."""
    found = with_probes(real(place, 0.002), 1.0, 1.0, 2.0, 2.0)
    fast, slow, both = (compare(place, found, numbers, 1)[1] for numbers in ([0], [2], [0, 2]))
    assert slow.mean_s > 1.99 * fast.mean_s
    assert both.mean_s == pytest.approx((fast.mean_s + slow.mean_s) / 2)
    assert both.shares == fast.shares


@pytest.mark.slow
def test_a_simulated_stage_that_is_away_answers_nothing_until_it_is_back(place: ServedLadder) -> None:
    """The same requests, L gone from the first on, from the middle on, and after the last is answered."""
    found = real(place, 0.002)
    shares = []
    for start_s in (0.0, 6.0, 500.0):
        down = Outage(stage="L", start_s=start_s, seconds=1.0)
        away = msgspec.structs.replace(found, blocks=(msgspec.structs.replace(found.blocks[0], down=down),))
        shares.append(compare(place, away, [0], 1)[1].shares["L"])
    assert shares[0] == 0.0 < shares[1] < shares[2] == compare(place, found, [0], 1)[1].shares["L"]


@pytest.mark.slow
def test_what_a_request_takes_outside_the_stages_keeps_no_stage_busy(place: ServedLadder) -> None:
    """It is added to every latency, and no queue is longer for it."""
    found = real(place, 0.002)
    plain = compare(place, found, [0], 1)[1]
    later = [
        msgspec.structs.replace(sent, seconds=sent.seconds + 0.05, first_s=sent.first_s + 0.05)
        for sent in found.probe
    ]
    block = msgspec.structs.replace(found.blocks[0], after=tuple(later))
    found = msgspec.structs.replace(found, probe=tuple(later), blocks=(block,))
    assert as_served(place, found).overhead_s == pytest.approx(0.05, abs=2e-3)
    assert compare(place, found, [0], 1)[1].mean_s == pytest.approx(plain.mean_s + 0.05, abs=2e-3)


def test_stages_of_one_device_take_turns() -> None:
    """By hand: S and L are asked at once, and the device works for one after the other."""
    traces = [query(0, ["S"], {"S": 1.0, "L": 9.0}), query(1, ["L", "S"], {"S": 1.0, "L": 2.0})]
    servers = {stage: StageServer(1, 1, "device") for stage in "SL"}
    sim = Simulator(
        Population(traces, timed("SL"), 1.0), servers, Fixed(Planned()), Open([0.0, 0.5, 0.6], [0, 1, 0]), 0
    )
    ended: list[tuple[str, float]] = []
    sim.on_end = lambda request, now: ended.append((request.situation.trace.query.id, now))
    list(sim.run(600.0))
    assert ended == [("q0", 1.0), ("q0", pytest.approx(4.0)), ("q1", pytest.approx(5.0))]


def test_the_stage_that_has_waited_longest_in_all_is_called_next() -> None:
    """By hand: L has waited .8 s at the end of the first call, two at S .5 and .4 s: both of them first.

    They go on to L, where one waits already: three in one call, which was not begun while S worked.
    """
    traces = [
        query(0, ["S"], {"S": 1.0, "L": 9.0}),
        query(1, ["L"], {"S": 9.0, "L": 2.0}),
        query(2, ["S", "L"], {"S": 1.0, "L": 2.0}),
    ]
    servers = {stage: StageServer(1, 4, "device") for stage in "SL"}
    sim = Simulator(
        Population(traces, timed("SL", {4: 0.25}), 1.0, 4), servers, Fixed(Planned()),
        Open([0.0, 0.2, 0.5, 0.6], [0, 1, 2, 2]), 0,
    )  # fmt: skip
    ended: list[tuple[str, float]] = []
    sim.on_end = lambda request, now: ended.append((request.situation.trace.query.id, now))
    list(sim.run(600.0))
    assert ended == [("q0", 1.0), ("q1", 4.0), ("q2", 4.0), ("q2", 4.0)]


@pytest.mark.parametrize(("last", "end"), [(9.0, 3.05), (2.02, 3.02)])
def test_after_a_call_of_two_the_next_waits_for_as_many(last: float, end: float) -> None:
    """By hand: a twentieth of the call's second, as `asd.dispatch` does, or until a second one is there."""
    sim = Simulator(
        one_stage(np.ones(1), {4: 0.25}, 4), {"S": StageServer(1, 4, "device")}, Fixed(Planned()),
        Open([0.0, 0.5, 0.6, 1.5, last], [0] * 5), 0,
    )  # fmt: skip
    ended: list[float] = []
    sim.on_end = lambda _, now: ended.append(now)
    list(sim.run(600.0))
    assert ended[:4] == [1.0, 2.0, 2.0, pytest.approx(end)]


class Sleeping:
    """A stage that answers as recorded, and sleeps as long as its calls are priced at."""

    device = "the one"

    def __init__(self, population: Population, stage_name: str) -> None:
        self.stage_name = stage_name
        self._replayed, self._rates = population.engines[stage_name], population.rates[stage_name]

    def load(self) -> None: ...

    unload = synchronise = load

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:  # noqa: ARG002
        drafts = self._replayed.generate(queries)
        time.sleep(sum(float(self._rates[len(queries) - 1] @ draft.usage.counts) for draft in drafts))
        return drafts


async def dispatched(population: Population, due: Sequence[tuple[float, int]]) -> list[float]:
    """Latencies of the same requests on the dispatcher that serves."""
    engines = {name: Sleeping(population, name) for name in population.stages}
    cascade, dispatcher = Cascade(engines, Planned(), population.prices), Dispatcher(engines, 8)
    began = time.perf_counter()

    async def one(at: float, number: int) -> float:
        await asyncio.sleep(began + at - time.perf_counter())
        await dispatcher.walk(cascade, Journey(population.queries[number].trace.query))
        return time.perf_counter() - began - at

    found = await asyncio.gather(*(one(at, number) for at, number in due))
    dispatcher.close()
    return found


@pytest.mark.slow
def test_a_device_is_shared_as_the_dispatcher_shares_it() -> None:
    """The dispatcher itself, with stages that sleep: under load, half the walks take two."""
    rng = np.random.default_rng(1)
    walks = [["S"] if i % 2 else ["S", "L"] if i % 3 else ["L"] for i in range(40)]
    seconds = rng.uniform((0.02, 0.1), (0.06, 0.3), (40, 2))
    traces = [
        query(i, walk, {"S": s, "L": t}) for i, (walk, (s, t)) in enumerate(zip(walks, seconds, strict=True))
    ]
    population = Population(traces, timed("SL", {4: 0.5, 8: 0.4}), 1.0, 8)
    instants = np.cumsum(rng.exponential(1 / 8, 100)).tolist()
    due = list(zip(instants, rng.integers(40, size=100).tolist(), strict=True))
    servers = {stage: StageServer(1, 8, "device") for stage in "SL"}
    sim = Simulator(population, servers, Fixed(Planned()), Open(*zip(*due, strict=True)), 0)
    ended: list[float] = []
    sim.on_end = lambda request, now: ended.append(now - request.arrived)
    list(sim.run(600.0))
    real = asyncio.run(dispatched(population, due))
    assert 0.7 * np.mean(real) < np.mean(ended) < 1.1 * np.mean(real)  # a busy machine only ever adds


def test_a_call_lost_while_it_waits_for_the_device_lets_others_on() -> None:
    traces = [query(0, ["S"], {"S": 1.0, "L": 9.0}), query(1, ["L"], {"S": 9.0, "L": 2.0})]
    servers = {stage: StageServer(1, 1, "device") for stage in "SL"}
    sim = Simulator(
        Population(traces, timed("SL"), 1.0), servers, Fixed(Planned()), Open([0, 0.1, 2.0], [0, 1, 0]), 0
    )
    sim.agenda.at(0.5, lambda _: sim.resize("L", 0))
    ended: list[float] = []
    sim.on_end = lambda _, now: ended.append(now)
    list(sim.run(600.0))
    assert ended == [0.5, 1.0, 3.0]  # the second fails at once


def prices(factor: float = 1.0) -> dict[int, dict[str, Prices]]:
    """S 1 ms and L 5 ms a token, halved in calls of four."""
    return {
        size: {
            stage: Prices(0.0, 0.0, factor * rate / (2 if size > 1 else 1)) for stage, rate in RATES.items()
        }
        for size in (1, 4)
    }


def dear(factor: float) -> dict[int, dict[str, Prices]]:
    """The same, with L at a multiple."""
    return {size: {"S": prices()[size]["S"], "L": prices(factor)[size]["L"]} for size in (1, 4)}


RATES = {"S": 1.0, "L": 5.0}


@pytest.fixture(scope="module")
def place() -> ServedLadder:
    rng = np.random.default_rng(6)
    traces = verified(sample(120, rng)[0], rng)
    return ServedLadder("made-up", replace(ladder(), price_unit="ms"), None, fitted_verified(), traces)


def asked(**others: object) -> RealityHeader:
    parts = {
        "ladder": "x",
        "lam": 20.0,
        "batch": 4,
        "loads": (0.5,),
        "minutes": 0.2,
        "n_queries": 120,
        "block_s": 12.0,
    }
    return RealityHeader(**(parts | others))  # type: ignore[arg-type]


def real(place: ServedLadder, delay_s: float, slowdown: float = 1.0, model: str = "asd") -> Reality:
    """A "real" run made by hand from the simulator's own parts: what the comparison must reproduce."""
    population, policy = place.population(prices(), 4), place.policy_of(model, 20.0)
    servers = {stage: StageServer(1, 4, "device") for stage in population.stages}
    rng = np.random.default_rng(9)
    due = sorted((float(at), int(rng.integers(120))) for at in rng.random(200) * 12.0)
    sim = Simulator(population, servers, Fixed(policy), Open([a for a, _ in due], [n for _, n in due]), 5)
    for station in sim.stations.values():
        station.slowdown, station.delay_s = slowdown, delay_s
    sent = []

    def note(request: Request, now: float) -> None:
        number = next(i for i, s in enumerate(place.traces) if s is request.situation.trace)
        seconds, step = now - request.arrived, request.doing
        sent.append(
            Sent(
                query=number, due_s=request.arrived, lag_s=0.0, first_s=seconds, seconds=seconds,
                stage=step.answer or "", calls=1, cost=request.cost,
            )
        )  # fmt: skip

    sim.on_end = note
    list(sim.run(600.0))
    decider, idle = Decider(population, place.policy_of("asd", 20.0)), []
    for number in range(40):
        step, seconds, calls = decider.step(population.queries[number], frozenset()), 0.0, 0
        while step is not None and step.after is not None:
            seconds, calls = (
                seconds + (step.demand.share[0] if step.demand else 0.0),
                calls + bool(step.demand),
            )
            step = decider.step(step.after, frozenset())
        took = slowdown * seconds + calls * delay_s + 0.004
        seen = {"due_s": 0.0, "lag_s": 0.004, "first_s": took, "seconds": took}
        idle.append(Sent(query=number, stage="S", calls=calls, cost=1.0, **seen))
    shares = {name: stage.share_answered for name, stage in sim.books.total().stages.items()}
    assert shares == pytest.approx({name: sum(s.stage == name for s in sent) / 200 for name in shares})
    probe = tuple(idle)
    block = Block(rho=0.5, rate=200 / 12.0, seconds=12.0, sent=tuple(sent), after=probe, model=model)
    return Reality(asked=asked(), before=prices(), after=prices(), probe=probe, blocks=(block,))


@pytest.mark.slow
def test_a_run_of_the_simulator_is_replayed_exactly(place: ServedLadder) -> None:
    """Same instants, queries, prices and overhead: every figure; other runs lie around it."""
    found = real(place, 0.003, 1.3)
    taken = as_served(place, found)
    assert (taken.slowdown, taken.delay_s) == (pytest.approx(1.3), pytest.approx(0.003, abs=1e-6))
    assert taken.overhead_s == pytest.approx(0.0, abs=1e-6)
    figures, replayed, others = compare(place, found, [0], 30)
    assert replayed.mean_s == pytest.approx(figures.mean_s)
    assert replayed.p95_s == pytest.approx(figures.p95_s)
    assert replayed.shares == pytest.approx(figures.shares)
    assert replayed.cost == pytest.approx(figures.cost)
    means = [other.mean_s for other in others]
    assert min(means) < figures.mean_s < max(means)
    assert len(set(means)) == 30


def test_drift_of_prices_is_told_from_the_pace_of_the_machine(place: ServedLadder) -> None:
    """All prices by a tenth is the machine; one more than the others is no pace."""
    after = prices()
    after[4]["L"] = Prices(0.0, 0.0, 2.5 * 1.07)
    assert price_drift(prices(), prices(), place) == (0.0, 0.0)
    assert price_drift(prices(), after, place) == pytest.approx((0.0, 0.07))
    assert price_drift(prices(), prices(0.9), place) == pytest.approx((-0.1, 0.0))


@pytest.mark.slow
def test_simulated_prices_are_the_mean_of_both(place: ServedLadder) -> None:
    """L's prices that trebled are taken half-way: what S and L take beside each other has changed."""
    found = real(place, 0.0)

    def replay(before: PriceTables, after: PriceTables) -> Figures:
        changed = msgspec.structs.replace(found, before=before, after=after)
        return compare(place, changed, [0], 2)[1]

    replayed, expected = replay(prices(), dear(3.0)), replay(dear(2.0), dear(2.0))
    assert replayed.mean_s == pytest.approx(expected.mean_s)
    assert replayed.p95_s == pytest.approx(expected.p95_s)
    at_once = replay(prices(), prices())
    assert replayed.p95_s != pytest.approx(at_once.p95_s, rel=0.02)
    assert replayed.cost == pytest.approx(at_once.cost)  # the ladder's own prices are booked


def test_prices_are_those_of_calls_of_queries_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's calls are not of like prompts; sizes between 1 and 4 are measured, not drawn as a line."""
    asked: list[str] = []

    def priced(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.extend(command)
        rows = {size: {"S": Prices(1.0, 0.1, 1.0)} for size in (1, 2, 4, 8)}
        write_prices(command[command.index("--out") + 1], rows, "ms", "made up for a test")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", priced)
    assert list(measured_prices("tiny", 3)) == [1, 2, 4, 8]
    assert "--mixed" in asked
    assert asked[asked.index("--batch") + 1] == "1,2,4,8"


def test_what_was_measured_is_not_measured_again(
    place: ServedLadder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A complete file needs no server and no prices; another comparison is refused."""
    path, found = tmp_path / "reality.json", real(place, 0.001)
    write_record(path, found)
    monkeypatch.setattr(measured, "measured_prices", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(reality, "served", lambda *_: pytest.fail("served again"))
    assert run_reality(place, asked(), path, lambda _: None, 3) == found
    with pytest.raises(ConfigError, match="another comparison"):
        run_reality(place, asked(minutes=9.0), path, lambda _: None, 3)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--loads", "1.5", "between 0 and 1"),
        ("--minutes", "inf", "--minutes must be a finite number"),
        ("--minutes", "nan", "--minutes must be a finite number"),
    ],
)
def test_a_load_that_is_none_is_refused(option: str, value: str, message: str) -> None:
    found = CliRunner().invoke(main, ["reality", "traces.jsonl", option, value])
    assert found.exit_code == 2
    assert message in found.output


def test_nothing_is_measured_for_a_lam_that_is_none(
    place: ServedLadder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "measured_prices", lambda *_: pytest.fail("measured"))
    with pytest.raises(ConfigError, match="lam must be a finite number"):
        run_reality(place, asked(lam=-1.0), None, lambda _: None, 3)


def test_too_few_requests_are_not_compared(place: ServedLadder) -> None:
    """Two expected requests make no 95th percentile, and some draws of them are empty."""
    found = real(place, 0.0)
    short = Reality(asked=asked(minutes=0.002), before=prices(), probe=found.probe, blocks=found.blocks)
    with pytest.raises(ConfigError, match="are 2 requests; ask for minutes enough to expect 20"):
        compare(place, short, [0], 1)


def test_one_stage_with_a_place_of_its_own_is_as_without() -> None:
    """A device that nobody shares changes nothing."""
    ended = []
    for server in (StageServer(1, 1), StageServer(1, 1, "device")):
        sim = Simulator(
            one_stage(np.array([0.5, 1.5])), {"S": server}, Fixed(Planned()), Open([0, 0.1, 3]), 3
        )
        list(sim.run(600.0))
        ended.append(sim.books.total())
    assert ended[0] == ended[1]


def test_models_take_turns_and_outages_come_last() -> None:
    """Every load asks each model in every round; the killed stage is the first model's."""
    out = Outage(stage="L", start_s=1.0, seconds=1.0)
    wanted = asked(loads=(0.3, 0.6), minutes=0.4, models=("asd", "asd/always-L"), down=out)
    turns = [(0.3, "asd"), (0.3, "asd/always-L"), (0.6, "asd"), (0.6, "asd/always-L")]
    assert [(block.load, block.model) for block in wanted.blocks] == [*turns, *turns, (0.3, "asd")]
    assert [block.outage for block in wanted.blocks] == [None] * 8 + [out]
    assert [block.seconds for block in wanted.blocks] == [12.0] * 8 + [24.0]


def test_a_model_is_the_policy_that_the_server_would_take(place: ServedLadder) -> None:
    """By its name; only the cascade itself is told a lam beside it."""
    cascade, other = place.policy_of("asd", 20.0), place.policy_of("asd/lam-3", 20.0)
    assert (cascade.name, other.name) == tuple(place.fitted.optimal(lam).name for lam in (20.0, 3.0))
    assert place.policy_of("asd/always-L", 20.0) == FixedStage("L")
    assert asked().fields_of("asd") == {"model": "asd", "lam": 20.0}
    assert asked().fields_of("asd/lam-3") == {"model": "asd/lam-3"}


@pytest.mark.parametrize("model", ["gpt-4", "asd/always-X", "asd/quality-0.9", "asd/lam-", "asd/lam-x", ""])
def test_a_model_that_cannot_be_simulated_is_refused_before_anything_is_measured(
    place: ServedLadder, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "measured_prices", lambda *_: pytest.fail("measured"))
    with pytest.raises(ConfigError, match=r"is not asked here|lam must be a finite number"):
        run_reality(place, asked(models=("asd", model)), None, lambda _: None, 3)


@pytest.mark.slow
def test_models_are_ranked_where_the_run_tells_them_apart(place: ServedLadder) -> None:
    """L alone is slower and dearer; the same answers under exchanged names are what no replay makes."""
    cascade, alone = real(place, 0.001), real(place, 0.001, model="asd/always-L")
    blocks = (*cascade.blocks, *alone.blocks) * 3
    found = msgspec.structs.replace(cascade, blocks=blocks)
    jittered = [
        msgspec.structs.replace(sent, seconds=sent.seconds + 0.001 * number, cost=sent.cost + number)
        for number, sent in enumerate(blocks[0].sent[:50])
    ]
    found = msgspec.structs.replace(
        found,
        blocks=(msgspec.structs.replace(blocks[0], sent=(*jittered, *blocks[0].sent[50:])), *blocks[1:]),
    )
    pairs = {pair.figure: pair for pair in ranked_pairs(place, found)}
    assert set(pairs) == {"mean_s", "p95_s", "cost"}
    for pair in pairs.values():
        assert (pair.load, pair.models) == (0.5, ("asd", "asd/always-L"))
        assert pair.low < pair.real < pair.high
        assert pair.is_separated
        assert pair.agrees
    assert pairs["mean_s"].simulated == pytest.approx(pairs["mean_s"].real, rel=0.1)
    names = {"asd": "asd/always-L", "asd/always-L": "asd"}
    exchanged = tuple(msgspec.structs.replace(block, model=names[block.model]) for block in found.blocks)
    for pair in ranked_pairs(place, msgspec.structs.replace(found, blocks=exchanged)):
        assert pair.is_separated
        assert not pair.agrees


def test_one_model_has_nobody_beside_it(place: ServedLadder) -> None:
    found = real(place, 0.0)
    assert not list(ranked_pairs(place, found))
    assert not list(ranked_pairs(place, msgspec.structs.replace(found, blocks=found.blocks * 3)))


def test_recorded_clients_are_asked_at_the_rate_of_the_load(tmp_path: Path) -> None:
    """In bursts, as many requests as the rate makes; other draws are others; no more than there are."""
    path = tmp_path / "clients.csv"
    path.write_text("client,t_s,rate_rps,family,shape\n" + "".join(f"c{i},0,0.5,G,0.1\n" for i in range(40)))
    wanted = asked(arrivals=str(path))
    first, other = (wanted.due(np.random.default_rng(seed), 10.0, 30.0) for seed in (0, 1))
    assert len(first) == len(other) == 300
    assert first != other
    assert [at for at, _ in first] == sorted(at for at, _ in first)
    assert first[-1][0] == pytest.approx(30.0)
    counts = np.histogram([at for at, _ in first], bins=30)[0]
    assert counts.var() > 2.0 * counts.mean()  # a Poisson stream's are alike
    with pytest.raises(DataError, match="requests are recorded from"):
        wanted.due(np.random.default_rng(0), 1000.0, 3000.0)


def test_answers_a_second_count_until_the_last(place: ServedLadder) -> None:
    """A block that goes on answering after its last request is no faster for it."""
    block = real(place, 0.0).blocks[0]
    ends = max(sent.due_s + sent.seconds for sent in block.sent)
    assert answered_per_s([block]) == pytest.approx(200 / ends)
    assert answered_per_s([block, block]) == pytest.approx(200 / ends)


def test_each_model_is_asked_for_the_same_at_the_same_instants(
    place: ServedLadder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one round; the next round, and another load, draw their own."""
    asked_for: list[tuple[object, list[tuple[float, int]]]] = []

    def answered_at_once(due: Sequence[tuple[float, int]]) -> list[Sent]:
        common = {"lag_s": 0.0, "first_s": 0.1, "seconds": 0.1, "stage": "S", "calls": 1, "cost": 1.0}
        return [Sent(query=number, due_s=at, **common) for at, number in due]  # type: ignore[arg-type]

    def ask_all_at_once(
        _: str, fields: Mapping[str, object], __: object, due: list[tuple[float, int]]
    ) -> list[Sent]:
        asked_for.append((fields["model"], due))
        return answered_at_once(due)

    monkeypatch.setattr(reality, "busy_s", lambda *_: 0.1)
    monkeypatch.setattr(reality, "served", lambda *_: nullcontext("nowhere"))
    monkeypatch.setattr(reality, "ask_all", ask_all_at_once)
    monkeypatch.setattr(reality, "ask_in_turn", lambda *a: answered_at_once([(0.0, n) for n in a[3]]))
    monkeypatch.setattr(measured, "measured_prices", lambda *_: prices())
    models = ("asd", "asd/always-L")
    wanted = asked(loads=(0.3, 0.6), minutes=0.8, block_s=24.0, models=models)
    found = run_reality(place, wanted, None, lambda _: None, 3)
    assert [model for model, _ in asked_for] == [block.model for block in found.blocks] == [*models] * 4
    drawn = [due for _, due in asked_for]
    assert drawn[::2] == drawn[1::2]
    assert all(a != b for a, b in pairwise(drawn[::2]))


def test_arrivals_that_cannot_be_read_are_refused_before_anything_is_measured(
    place: ServedLadder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["asd.cli.research.reality"], "run_reality", lambda *_: pytest.fail("run"))
    monkeypatch.setattr(sys.modules["asd.cli.research.reality"], "read_traces", lambda _: place.traces)
    asked_for = ["reality", "traces.jsonl", "--arrivals", str(tmp_path / "absent.csv")]
    found = CliRunner().invoke(main, asked_for)
    assert found.exit_code != 0
    assert "absent.csv" in found.output
