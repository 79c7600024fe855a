"""Prices from a clock: exact where the clock is, refused where they cannot be told apart."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from asd.engines import GREEDY
from asd.engines.timing import time_stages
from asd.errors import ConfigError, RefusedError
from asd.evaluation.pricing import measure_batches, measure_prices, plan_block
from asd.prices import Prices
from asd.testing import FakeClock
from asd.types import Query, Usage, Verification
from tests.priced import PricedEngine

TRUE = {"S": Prices(0.5, 0.01, 1.0), "L": Prices(2.0, 0.2, 12.0, per_verified=0.7)}
QUERIES = [Query(id=str(n), dataset="d", prompt="x" * (7 * n % 31 + 3)) for n in range(1, 25)]


def _engines(clock):
    return {name: PricedEngine(name, prices, clock) for name, prices in TRUE.items()}


def test_prices_are_recovered():
    """A stage that takes what its price table says is priced so."""
    clock = FakeClock()
    measured = measure_prices(_engines(clock), QUERIES, clock=clock)
    for name, prices in TRUE.items():
        assert measured[name].per_call == pytest.approx(prices.per_call, abs=1e-4)
        assert measured[name].per_prompt_token == pytest.approx(prices.per_prompt_token, abs=1e-4)
        assert measured[name].per_decoded_token == pytest.approx(prices.per_decoded_token, abs=1e-4)
    assert measured["S"].per_verified is None  # there is nothing that the smallest stage could read
    assert measured["L"].per_verified == pytest.approx(0.7, abs=1e-4)


def test_engines_that_cannot_verify_are_priced_all_the_same():
    """Their drafts are read by nobody, and a verified token has no price of its own."""

    class Generator:
        """A stage with nothing but what every engine has."""

        def __init__(self, stage):
            for name in ("stage_name", "load", "unload", "synchronise", "generate"):
                setattr(self, name, getattr(stage, name))

    clock = FakeClock()
    engines = {name: Generator(engine) for name, engine in _engines(clock).items()}
    assert {p.per_verified for p in measure_prices(engines, QUERIES, clock=clock).values()} == {None}


@pytest.mark.parametrize("batch", [1, 2])
def test_queries_that_a_stage_refuses_are_left_out(batch: int, caplog: pytest.LogCaptureFixture):
    """Whichever stage it is, in whatever company; prices are those of the other queries."""

    class Picky(PricedEngine):
        def generate(self, queries, sampling=GREEDY):
            if any(query.id in {"3", "17"} for query in queries):
                raise RefusedError("not that one")
            return super().generate(queries, sampling)

    clock = FakeClock()
    engines = _engines(clock) | {"L": Picky("L", TRUE["L"], clock)}
    asked = [*QUERIES, *(replace(query, dataset="e") for query in QUERIES)]
    answered = [query for query in asked if query.id not in {"3", "17"}]
    found = measure_prices(engines, asked, clock=clock, batch=batch)
    assert found == measure_prices(engines, answered, clock=clock, batch=batch)
    assert "4 of 48 queries are refused" in caplog.text
    with pytest.raises(ConfigError, match="11 queries cannot tell"):
        measure_prices(engines, QUERIES[:12], clock=clock)


def test_prices_are_never_negative():
    """A part that the seconds do not show costs nothing rather than less than nothing."""
    clock = FakeClock()
    engines = {"S": PricedEngine("S", Prices(0.0, 0.0, 1.0), clock)}
    prices = measure_prices(engines, QUERIES, clock=clock)["S"]
    assert (prices.per_call, prices.per_prompt_token) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_what_cannot_be_told_apart_is_refused():
    """Too few queries, or lengths that are all the same, cannot give three prices."""
    clock = FakeClock()
    with pytest.raises(ConfigError, match="5 queries"):
        measure_prices(_engines(clock), QUERIES[:5], clock=clock)
    same = [Query(id="4", dataset="d", prompt="xxxx") for _ in range(20)]
    with pytest.raises(ConfigError, match="one length"):
        measure_prices(_engines(clock), same, clock=clock)


def test_stages_are_timed_query_by_query():
    """Seconds come back by stage, pass and query, whatever order the stages took turns in."""
    clock = FakeClock()
    timings = time_stages(_engines(clock), QUERIES, n_passes=2, clock=clock)
    for name, prices in TRUE.items():
        expected = [(prices.per_call + prices.per_prompt_token * len(q.prompt)) / 1e3 for q in QUERIES]
        decoded = [prices.per_decoded_token * int(q.id) / 1e3 for q in QUERIES]
        want = [a + b for a, b in zip(expected, decoded, strict=True)]
        assert timings.seconds[name] == pytest.approx(np.array([want, want]))


class SharedCall(PricedEngine):
    """A stage whose call takes as long as its longest answer, and is begun once for all its queries."""

    def generate(self, queries, sampling=GREEDY):  # noqa: ARG002
        drafts = [self._draft(query) for query in queries]
        passes = max(draft.usage.n_passes for draft in drafts)
        self.clock.advance((self.prices.per_call + self.prices.per_decoded_token * passes) / 1e3)
        return drafts


def test_prices_in_a_batch_are_a_query_s_share():
    """What a call of four takes is shared out among four, all told: priced cost adds up to the seconds."""
    clock = FakeClock()
    engine = SharedCall("L", Prices(8.0, 0.0, 1.0), clock)
    queries = [Query(id=str(n), dataset="d", prompt="x" * (7 * n % 31 + 3)) for n in range(1, 97)]
    alone = measure_prices({"L": engine}, queries, clock=clock)["L"]
    shared = measure_prices({"L": engine}, queries, clock=clock, batch=4)["L"]
    assert (alone.per_call, alone.per_decoded_token) == pytest.approx((8.0, 1.0), rel=1e-3)
    costs = [sum(p.cost(d.usage) for d in engine.generate(queries)) for p in (alone, shared)]
    assert costs[0] == pytest.approx(8.0 * 96 + sum(range(1, 97)), rel=1e-3)
    assert costs[1] < 0.5 * costs[0]


def test_calls_of_queries_as_they_come_take_longer_than_of_like_prompts():
    """The longest answer decides about a call; here long prompts have long answers."""
    clock = FakeClock()
    engine = SharedCall("L", Prices(0.0, 0.0, 1.0), clock)
    queries = [Query(id=str(n), dataset="d", prompt="x" * (n + n % 3)) for n in range(1, 97)]

    def cost(*, mixed: bool) -> float:
        prices = measure_prices({"L": engine}, queries, clock=clock, batch=4, mixed=mixed)["L"]
        return sum(prices.cost(draft.usage) for draft in engine.generate(queries))

    assert cost(mixed=False) == pytest.approx(sum(range(4, 97, 4)), rel=0.1)
    assert cost(mixed=True) > 1.3 * cost(mixed=False)


class OpenRows(PricedEngine):
    """A stage whose steps take 1 ms with one row open, and a quarter more for each other."""

    def generate(self, queries, sampling=GREEDY):  # noqa: ARG002
        drafts = [self._draft(query) for query in queries]
        passes = [draft.usage.n_passes for draft in drafts]
        for step in range(max(passes)):
            self.clock.advance(1e-3 + 0.25e-3 * (sum(n > step for n in passes) - 1))
        self.clock.advance(self.prices.per_call / 1e3)
        return drafts


def test_a_step_is_priced_by_the_rows_that_are_open():
    """What ragged calls take beyond full steps is in the share, and told beside it."""
    clock = FakeClock()
    engine = OpenRows("L", Prices(8.0, 0.0, 1.0), clock)
    queries = [Query(id=str(n), dataset="d", prompt="x" * (7 * n % 31 + 3)) for n in range(1, 97)]
    asked = {8: queries, 1: queries[::8], 4: queries}
    found = {size: rows["L"] for size, rows in measure_batches({"L": engine}, asked, clock=clock).items()}
    alone, four, eight = found[1], found[4], found[8]
    assert alone.ragged is None
    assert (alone.per_call, alone.per_decoded_token) == pytest.approx((8.0, 1.0), rel=1e-3)
    for prices, size, step in ((four, 4, 1.75), (eight, 8, 2.75)):
        assert size * prices.per_call == pytest.approx(8.0, rel=1e-3)
        assert size * prices.of_full_steps.per_decoded_token == pytest.approx(step, rel=1e-3)
    assert min(four.ragged, eight.ragged) > 1.1
    began = clock()
    for i in range(0, 96, 4):
        engine.generate([queries[j] for j in np.random.default_rng(i).permutation(96)[:4]])
    took = 1e3 * (clock() - began)
    priced = 24 / 96 * 4 * sum(four.cost(engine._draft(query).usage) for query in queries)
    assert priced == pytest.approx(took, rel=0.1)  # in the mean; the prompts of its calls were alike


def test_of_one_batch_size_alone_nothing_is_known_of_fewer_rows():
    """The share is that of the calls measured, and how ragged they were is not told."""
    clock = FakeClock()
    queries = [Query(id=str(n), dataset="d", prompt="x" * (7 * n % 31 + 3)) for n in range(1, 97)]
    engine = OpenRows("L", Prices(8.0, 0.0, 1.0), clock)
    assert measure_prices({"L": engine}, queries, clock=clock, batch=4)["L"].ragged is None


def test_a_batch_size_needs_as_many_more_queries():
    """Twelve calls tell prices apart, which at 4 a call are 48 queries; what fills no call is left out."""
    clock = FakeClock()
    with pytest.raises(ConfigError, match="24 queries cannot tell prices at batch 4 apart; give at least 48"):
        measure_prices(_engines(clock), QUERIES, clock=clock, batch=4)
    with pytest.raises(ConfigError, match="give at least 24"):
        measure_prices(_engines(clock), QUERIES[:23], clock=clock, batch=2)
    measured = measure_prices(_engines(clock), QUERIES, clock=clock, batch=2)
    assert measured["L"].per_decoded_token == pytest.approx(TRUE["L"].per_decoded_token, abs=1e-3)


class Disturbed(PricedEngine):
    """A stage that is three times as slow from some call on."""

    n_calls = 0

    def generate(self, queries, sampling=GREEDY):
        self.n_calls += 1
        before = self.clock()
        drafts = super().generate(queries, sampling)
        if self.n_calls > 80:
            self.clock.advance(2.0 * (self.clock() - before))
        return drafts


def test_batch_sizes_take_turns_so_that_a_slow_minute_moves_no_price():
    """It is the last pass of each; where one size comes after the other, it is every pass of the last."""
    queries = {1: QUERIES[:20], 2: QUERIES}
    clock, told = FakeClock(), []
    found = measure_batches({"S": Disturbed("S", TRUE["S"], clock)}, queries, clock=clock, tell=told.append)
    assert told[:3] == ["pass 1 of 3, batch 1", "pass 1 of 3, batch 2", "pass 2 of 3, batch 1"]
    clock = FakeClock()
    engines = {"S": Disturbed("S", TRUE["S"], clock)}
    alone = [measure_prices(engines, queries[size], clock=clock, batch=size)["S"] for size in (1, 2)]
    true = TRUE["S"].per_decoded_token
    assert [found[size]["S"].per_decoded_token for size in (1, 2)] == pytest.approx([true, true], abs=1e-3)
    assert alone[1].per_decoded_token > 2.0 * true


class Assisted(PricedEngine):
    """A stage that writes four tokens a pass, all of them drafted."""

    def __init__(self, stage_name, prices, clock):
        super().__init__(stage_name, prices, clock)
        self.alone = PricedEngine(stage_name, prices, clock)

    def _draft(self, query):
        draft = super()._draft(query)
        n = len(draft.tokens)
        n_passes = -(-n // 4)
        return replace(draft, usage=Usage(len(query.prompt), n, n_passes, 0, n, n - n_passes))


@pytest.mark.parametrize(("true", "measured"), [(1.5, 1.5), (20.0, None)])
def test_a_drafted_token_has_a_price_where_drafting_is_faster(true, measured):
    """What drafting adds is told by drafted token; where it is no faster there is no price."""
    clock = FakeClock()
    engines = _engines(clock) | {
        "L": Assisted("L", msgspec.structs.replace(TRUE["L"], per_drafted=true), clock)
    }
    found = measure_prices(engines, QUERIES, clock=clock)
    assert found["L"].per_drafted == pytest.approx(measured, abs=1e-3)
    assert found["L"].per_decoded_token == pytest.approx(TRUE["L"].per_decoded_token, abs=1e-4)
    assert found["S"].per_drafted is None


def test_the_block_follows_prices_and_acceptance() -> None:
    """A cheap drafter that is mostly right gets a long block, a dear or wrong one none."""
    large = Prices(0.0, 0.25, 9.2)
    right, wrong = _verification(9, 10), _verification(0, 10)
    assert 6 <= plan_block(Prices(0.0, 0.01, 0.83), large, [right] * 9 + [wrong]) <= 12
    assert plan_block(Prices(0.0, 0.01, 9.0), large, [right]) == 0
    assert plan_block(Prices(0.0, 0.01, 0.83), large, [wrong]) == 0
    assert plan_block(Prices(0.0, 0.01, 0.83), Prices(0.0, 0.25, 9.2, per_verified=9.0), [right]) == 0
    with pytest.raises(ConfigError, match="cost nothing"):
        plan_block(large, Prices(1.0, 0.0, 0.0), [right])


def _verification(n_accepted: int, n: int) -> Verification:
    return Verification("L", "S", (7,) * n, (-0.1,) * n, n_accepted, Usage(5, 0, 1, n), 0.1)
