"""Recorded queries: what the simulator decides and charges is what the cascade itself does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asd.cascade import Cascade
from asd.engines.replay import ReplayEngine
from asd.errors import ConfigError, DataError
from asd.evidence import Evidence, Judgement
from asd.ladder import Ladder, Stage
from asd.operations.control.deciders import Decider, Remembered
from asd.operations.demand import call_rates, call_seconds
from asd.operations.population import Population, Step
from asd.operations.simulator import Simulator
from asd.operations.stations import StageServer
from asd.operations.traffic import Fixed, Open
from asd.policies import FixedStage, Lossless, Policy
from asd.prices import Prices
from asd.types import NO_CALL, Draft, Outcome, Query, Trace, Verification
from tests.queues import TICK, query
from tests.queues import ladder as timed_ladder
from tests.worlds import fitted_verified, ladder, sample, verified

STEPS = {2: 1.5, 4: 1.8}
"""Seconds of a decode step, by rows open."""
TIMED = replace(ladder(), price_unit="s")


def world(n: int = 60) -> list[Trace]:
    rng = np.random.default_rng(11)
    return verified(sample(n, rng)[0], rng)


def walk(decider: Decider, population: Population, row: int) -> list[Step]:
    """Every step of one query."""
    situation, steps = population.queries[row], []
    while True:
        step = decider.step(situation, frozenset())
        assert step is not None
        steps.append(step)
        if step.after is None:
            return steps
        situation = step.after


@pytest.mark.parametrize("policy", [fitted_verified().policy(8.0), FixedStage("L"), Lossless(("S", "L"))])
def test_walks_are_those_of_the_cascade(policy: Policy) -> None:
    """Actions, answer, score and priced cost of every query, verified and adopted drafts included."""
    traces = world()
    population = Population(traces, TIMED, unit=10.0)
    engines = {stage: ReplayEngine(stage, traces) for stage in "SL"}
    completions = Cascade(engines, policy, TIMED.prices_at(1)).run([t.query for t in traces])
    decider = Decider(population, policy)
    for row, completion in enumerate(completions):
        *steps, last = walk(decider, population, row)
        assert [step.action for step in steps] == [d.action for d in completion.decisions[:-1]]
        assert last.answer == completion.stage
        assert last.score == traces[row].outcomes[completion.stage].score
        assert sum(step.cost for step in steps) == pytest.approx(completion.cost / 10.0)


@dataclass
class Counted:
    """Evidence that counts how often it is asked."""

    evidence: Evidence
    asked: list[str] = field(default_factory=list)

    def judge(
        self, query: Query, drafts: Mapping[str, Draft], verification: Verification | None = None
    ) -> Judgement:
        self.asked.append(query.id)
        return self.evidence.judge(query, drafts, verification)


def test_every_state_is_judged_once() -> None:
    """Walking a query again, or with another lam, asks the evidence nothing new about old states."""
    traces = world(20)
    counted = Counted(fitted_verified().evidence())
    seen = Remembered(counted)
    population = Population(traces, TIMED, unit=10.0)
    first = replace(fitted_verified().optimal(8.0), evidence=seen)
    walks = [walk(Decider(population, first), population, row) for row in range(20)]
    n_asked = len(counted.asked)
    assert n_asked == sum(map(len, walks))
    again = replace(fitted_verified().optimal(8.0), evidence=seen)
    assert [walk(Decider(population, again), population, row) for row in range(20)] == walks
    assert len(counted.asked) == n_asked


@dataclass(frozen=True)
class Reads:
    """Evidence that tells which draft was verified, and by whom."""

    def judge(
        self,
        query: Query,  # noqa: ARG002
        drafts: Mapping[str, Draft],  # noqa: ARG002
        verification: Verification | None = None,
    ) -> Judgement:
        read = None if verification is None else f"{verification.drafter} by {verification.stage}"
        return Judgement(read or "nothing", 0, None, {}, 1.0)


def test_judgements_of_different_drafts_are_kept_apart() -> None:
    """With the same drafts in hand, whose draft was verified and who verified it matter."""
    [trace] = world(1)
    draft = trace.outcomes["S"].draft
    drafts, seen = {"S": draft, "M": draft}, Remembered(Reads())
    read = [("S", "M"), ("S", "L"), ("M", "L")]
    for _ in range(2):
        for drafter, stage in read:
            verification = Verification(stage, drafter, (), (), 0, NO_CALL, 0.0)
            assert seen.judge(trace.query, drafts, verification).node == f"{drafter} by {stage}"
        assert seen.judge(trace.query, drafts).node == "nothing"


def test_a_stage_out_of_reach_is_done_without() -> None:
    """The policy is solved again without it; where nothing is left, there is no step."""
    population = Population(world(5), TIMED, unit=10.0)
    decider = Decider(population, fitted_verified().optimal(50.0))
    for situation in population.queries:
        step = decider.step(situation, frozenset({"L"}))
        assert step is not None
        assert step.stage == "S"
        assert decider.step(situation, frozenset({"S", "L"})) is None


def test_a_call_lasts_as_long_as_the_prices_say() -> None:
    """Of two batch sizes measured, those between are on the line of whole calls; beyond, shares stay."""
    prices = {1: Prices(4.0, 0.0, 1.0), 4: Prices(2.0, 0.0, 0.5)}
    calls = [n * rates for n, rates in enumerate(call_rates(prices, 8), start=1)]
    assert [call[0] for call in calls] == pytest.approx([4, 16 / 3, 20 / 3, 8, 10, 12, 14, 16])
    assert [call[3] for call in calls] == pytest.approx([1, 4 / 3, 5 / 3, 2, 2.5, 3, 3.5, 4])


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0.8, 3.0))
def test_a_call_of_unequal_answers_takes_what_its_open_rows_take(lengths: list[int], ragged: float) -> None:
    """Step by step, whatever the calls were that were measured; of one query, its price alone."""
    calls = {
        size: Prices(3.0 / size, 0.0, ragged * step / size, ragged=ragged) for size, step in STEPS.items()
    }
    stage = Stage("S", "made-up/S", Prices(3.0, 0.0, 1.0), batched=calls)
    traces = [query(i, ["S"], {"S": TICK * n}) for i, n in enumerate(lengths)]
    population = Population(traces, Ladder("made-up", (stage,), "s", "never: made up for a test"), 1.0, 6)
    demands = [
        walk(Decider(population, FixedStage("S")), population, row)[0].demand for row in range(len(traces))
    ]
    n_open = [sum(n > step for n in lengths) for step in range(max(lengths))]
    expected = 3.0 + sum(
        np.interp(n_open, [1, 2, 4], [1.0, *STEPS.values()]) * np.maximum(1, np.array(n_open) / 4)
    )
    besides = 3.0 * max(1.0, len(lengths) / 4)
    assert call_seconds([demand for demand in demands if demand]) == pytest.approx(expected - 3.0 + besides)


def test_a_full_call_in_a_run() -> None:
    """Four queries that wait together take what four shares take."""
    traces = [query(i, ["S"], {"S": 1.0}) for i in range(5)]
    population = Population(traces, timed_ladder("S", {4: 0.5}), 1.0, 4)
    traffic = Open([0.0, 0.1, 0.2, 0.3, 0.4], range(5))
    sim = Simulator(population, {"S": StageServer(1, 4)}, Fixed(FixedStage("S")), traffic, 0)
    ends: list[float] = []
    sim.on_end = lambda _, now: ends.append(now)
    list(sim.run(10.0))
    assert ends == pytest.approx([1.0, 3.0, 3.0, 3.0, 3.0])
    assert sim.books.total().cost == pytest.approx(1.0)


def untimed(trace: Trace) -> Trace:
    outcomes = {s: replace(o, draft=replace(o.draft, seconds=0.0)) for s, o in trace.outcomes.items()}
    read = {pair: replace(found, seconds=0.0) for pair, found in trace.verifications.items()}
    return replace(trace, outcomes=outcomes, verifications=read)


def test_prices_that_are_no_times_need_seconds_of_calls_of_one_query() -> None:
    with pytest.raises(ConfigError, match=r"prices in 'declared' are no service times, and no seconds"):
        Population([untimed(trace) for trace in world(2)], ladder(), 1.0, 1)
    with pytest.raises(ConfigError, match=r"calls of one query, not of 16: give --batch 1"):
        Population(world(2), ladder(), 1.0)


def test_calls_take_their_recorded_seconds_where_prices_are_no_times() -> None:
    """Answers and readings as recorded; what continues a draft, its part; by counts what has no seconds."""
    rows = [
        replace(
            trace,
            outcomes={
                s: replace(o, draft=replace(o.draft, seconds=0.02 * o.draft.usage.n_passes * f))
                for (s, o), f in zip(trace.outcomes.items(), (1.0, 5.0), strict=True)
            },
            verifications={pair: replace(v, seconds=0.1) for pair, v in trace.verifications.items()},
        )
        for trace in world(40)
    ]
    unseen = untimed(rows[0])
    population = Population([unseen, *rows[1:]], ladder(), 10.0, 1)
    decider = Decider(population, Lossless(("S", "L")))
    n_continued = 0
    for row, trace in enumerate([unseen, *rows[1:]]):
        first, reading, *continued = [step for step in walk(decider, population, row) if step.demand]
        own = {stage: trace.outcomes[stage].draft.usage.n_passes for stage in "SL"}
        assert first.demand is not None
        assert first.demand.share == pytest.approx((0.02 * own["S"],), rel=1e-6)
        assert reading.demand is not None
        if row:
            assert reading.demand.share == (0.1,)
        for step in continued:
            assert step.demand is not None
            left = own["L"] - trace.verifications["S>L"].n_accepted - 1  # the reading has decoded one
            assert step.demand.share == pytest.approx((0.1 * left,))
            n_continued += 1
    assert n_continued > 5
    assert population.load_s("L") is None


def test_every_stage_must_have_a_score() -> None:
    [whole, other] = world(2)
    unscored = replace(other, outcomes={**other.outcomes, "L": Outcome(other.outcomes["L"].draft, None)})
    for trace in (unscored, replace(other, outcomes={"S": other.outcomes["S"]})):
        with pytest.raises(DataError, match=f"query {other.query.id!r} .* no score of stage 'L'"):
            Population([whole, trace], TIMED, unit=1.0)
    with pytest.raises(DataError, match="no queries to draw from"):
        Population([], TIMED, unit=1.0)
