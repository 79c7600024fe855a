"""What a request costs at most, against every way through the cascade; and what its calls cost, exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asd.cascade import Cascade
from asd.errors import ConfigError
from asd.ladder import Drafter, Ladder, Stage
from asd.policies import Policy
from asd.prices import Prices
from asd.serving.admission import Call, RequestFacts, calls_of
from asd.serving.tariff import Tariff
from asd.testing import Script, ScriptedEngine
from asd.types import NO_CALL, STOP, Action, Decision, Draft, Query, Usage, Verification

prices = st.floats(0, 20, allow_nan=False, allow_subnormal=False)
tables = st.builds(
    Prices,
    per_call=st.floats(0.001, 20),
    per_prompt_token=prices,
    per_decoded_token=prices,
    per_verified=st.none() | prices,
)
with_drafter = st.builds(
    Prices,
    per_call=st.floats(0.001, 20),
    per_prompt_token=prices,
    per_decoded_token=prices,
    per_drafted=prices,
)


def ladder_of(tables: Sequence[Prices], block: int = 0) -> Ladder:
    """Stages a, b, c, cheapest first; the last has a drafter if `block` is not 0."""
    by_cost = sorted(tables, key=lambda p: p.cost(Usage(100, 100, 100)))
    stages = [Stage(name, name, p) for name, p in zip("abcd", by_cost, strict=False)]
    if block:
        stages[-1] = replace(stages[-1], drafter=Drafter(stages[0].name, block))
    return Ladder("any", tuple(stages), "declared", "by hand")


@dataclass(frozen=True)
class Dearest:
    """The oracle's dearest answer of a stage from the prompt, after a verification, and dearest reading."""

    writing: Fraction
    continuing: Fraction
    reading: Fraction | None


def dearest_of(table: Prices, n_prompt: int, room: int, *, verifies: bool, block: int = 0) -> Dearest:
    """Every call of the stage at all of its possible counts."""
    written = [Usage(n_prompt, n, n) for n in range(1, room + 1)]
    written += [_drafted(n_prompt, rounds) for rounds in _rounds(room, block)]
    continued = []
    for accepted in range(room):
        left = room - accepted
        continued += [Usage(0, left, left - 1), Usage(n_prompt + accepted, left, left)]
        continued += [_drafted(n_prompt + accepted, [(0, 0), *rounds]) for rounds in _rounds(left - 1, block)]
    read = [
        Usage(n_prompt, 0, n_passes, n_verified=n_verified)
        for length in range(1, room + 1)
        for n_passes, n_verified in ((1, length), (2, 2 * length - 1), (2, 2 * length))
    ]
    costs = [max(exact(table, usage) for usage in usages) for usages in (written, continued, read)]
    return Dearest(costs[0], costs[1], costs[2] if verifies else None)


def _rounds(room: int, block: int) -> Iterator[list[tuple[int, int]]]:
    """Ways to write so many tokens: (drafted, accepted) of every round, which adds one of its own."""
    if room == 0:
        yield []
        return
    drafted = min(block, room - 1)
    for accepted in {0, drafted}:
        for rest in _rounds(room - accepted - 1, block):
            yield [(drafted, accepted), *rest]


def _drafted(n_prompt: int, rounds: Sequence[tuple[int, int]]) -> Usage:
    n_drafted, n_saved = sum(n for n, _ in rounds), sum(n for _, n in rounds)
    return Usage(n_prompt, len(rounds) + n_saved, len(rounds), n_drafted=n_drafted, n_saved=n_saved)


def dearest_way(
    costs: Mapping[str, Dearest], answered: frozenset[str] = frozenset(), read: tuple[str, ...] = ()
) -> Fraction:
    """Most that can still be spent where these stages have answered and these have verified since then."""
    best = Fraction(0)
    for stage in costs.keys() - answered:
        of = costs[stage]
        answer = of.continuing if read and read[-1] == stage else of.writing
        best = max(best, answer + dearest_way(costs, answered | {stage}))
        if answered and of.reading is not None and stage not in read:
            best = max(best, of.reading + dearest_way(costs, answered, (*read, stage)))
    return best


def exact(prices: Prices, usage: Usage) -> Fraction:
    """Price of a call in rational numbers of what is written in the ladder file."""
    rates = [Fraction(repr(rate)) for rate in prices.rates]
    return sum((rate * n for rate, n in zip(rates, usage.counts, strict=True)), Fraction(0))


def facts_of(stages: Sequence[str], n_prompt: int, room: int) -> RequestFacts:
    return RequestFacts("r", "alice", "asd", tuple(stages), n_prompt, room)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(tables, min_size=1, max_size=3),
    st.integers(0, 30),
    st.integers(1, 5),
    st.sets(st.sampled_from("abc")),
)
def test_the_bound_is_what_the_dearest_way_costs(
    tables: list[Prices], n_prompt: int, room: int, verifiers: set[str]
):
    """Neither less nor, but for the rounding of each call, more: any order, verifications, continuations."""
    ladder = ladder_of(tables)
    costs = {
        name: dearest_of(table, n_prompt, room, verifies=name in verifiers)
        for name, table in ladder.prices_at().items()
    }
    bound = Tariff(ladder, verifiers=verifiers).bound(facts_of(list(costs), n_prompt, room))
    dearest = dearest_way(costs) * 10**6
    assert dearest <= bound < dearest + 7  # three answers and three verifications at most


@settings(max_examples=30, deadline=None)
@given(with_drafter, st.integers(0, 30), st.integers(1, 6), st.integers(1, 4))
def test_drafted_blocks_are_within_the_bound(large: Prices, n_prompt: int, room: int, block: int):
    """Rejected to the last token, or accepted whole."""
    ladder = ladder_of([Prices(0.001, 0, 0), large], block)
    costs = {
        name: dearest_of(table, n_prompt, room, verifies=True, block=block if name == "b" else 0)
        for name, table in ladder.prices_at().items()
    }
    assert dearest_way(costs) * 10**6 <= Tariff(ladder).bound(facts_of("ab", n_prompt, room))


LADDER = ladder_of([Prices(1, 0.1, 2), Prices(3, 0.2, 9), Prices(5, 0.5, 30)])
FACTS = facts_of("abc", 10, 8)


def test_fewer_stages_cost_less():
    """A request may be admitted on fewer stages where a cap is near; a stage named twice answers once."""
    tariff = Tariff(LADDER)
    alone = tariff.bound(facts_of("a", 10, 8))
    assert alone == (1 + 10 * 0.1 + 8 * 2) * 10**6
    assert alone < tariff.bound(facts_of("ab", 10, 8)) < tariff.bound(FACTS)
    assert tariff.bound(facts_of("aab", 10, 8)) == tariff.bound(facts_of("ab", 10, 8))


def test_the_bound_does_not_depend_on_the_order_in_which_stages_are_named():
    """The stage that verifies most expensively may do so last, wherever it stands."""
    dear_reader = ladder_of([Prices(1, 0, 1, per_verified=50), Prices(2, 0, 2), Prices(3, 0, 3)])
    bounds = {Tariff(dear_reader).bound(facts_of(names, 10, 8)) for names in ("abc", "bca", "cab", "cba")}
    answers = 1 + 8 + (2 + 16) + (3 + 24)
    assert bounds == {(answers + 1 * (3 + 2 * 3) + 2 * (1 + 2 * 1 + 16 * 50)) * 10**6}


def test_shadow_runs_and_attempts_are_held_too():
    """A stage in the shadow answers once more; every call may be made as often as it is tried."""
    tariff = Tariff(LADDER)
    shadow = tariff.bound(replace(FACTS, shadow=("c",)))
    assert shadow - tariff.bound(FACTS) == (5 + 10 * 0.5 + 8 * 30) * 10**6
    assert tariff.bound(replace(FACTS, shadow=("c",), attempts=3)) == 3 * shadow


def test_stages_without_a_price_are_refused():
    """Among the allowed, in the shadow, and when a call is charged."""
    tariff = Tariff(LADDER)
    with pytest.raises(ConfigError, match="'x' has no price"):
        tariff.bound(facts_of("ax", 1, 1))
    with pytest.raises(ConfigError, match="'x' has no price"):
        tariff.bound(replace(FACTS, shadow=("x",)))
    with pytest.raises(ConfigError, match="'x' has no price"):
        tariff.micros(Call("x", Usage(1, 1, 1)))


@given(tables, st.integers(0, 10**6), st.integers(1, 10**4))
def test_calls_are_charged_to_the_next_micro_unit(table: Prices, n_prompt: int, n_decoded: int):
    """Never less than their exact price, and less than two micro-units more."""
    usage = Usage(n_prompt, n_decoded, n_decoded)
    charged = Tariff(ladder_of([table])).micros(Call("a", usage))
    assert charged - 2 < exact(table, usage) * 10**6 <= charged


def test_prices_as_they_are_written_are_charged_exactly():
    """Where binary numbers are a little more than the decimal: 3 x 0.1 is not 0.30000000000000004."""
    tariff = Tariff(ladder_of([Prices(0, 0.1, 0.2)]))
    assert tariff.micros(Call("a", Usage(3, 1, 1))) == 500_000
    assert tariff.micros(Call("a", NO_CALL)) == 0


def test_saved_passes_are_worth_what_passes_cost():
    """With a drafter, only passes that were made and tokens that were drafted are charged."""
    tariff = Tariff(ladder_of([Prices(0, 0, 0.1), Prices(0, 0, 0.35, per_drafted=0.01)], block=4))
    usage = Usage(5, 9, 3, n_drafted=8, n_saved=6)
    assert tariff.micros(Call("b", usage)) == 1_130_000


class Wanderer:
    """A policy that does what it is told to: the next of these that is open."""

    name = "wanderer"

    def __init__(self, wishes: Sequence[str]) -> None:
        self._wishes = list(wishes)
        self._read: list[str] = []

    def decide(
        self,
        query: Query,  # noqa: ARG002
        drafts: Mapping[str, Draft],
        verification: Verification | None,  # noqa: ARG002
    ) -> Decision:
        answer = next(reversed(drafts), None)
        while self._wishes:
            wish = self._wishes.pop(0)
            action = Action.parse(wish)
            verifies = action.kind == "verify"
            if action.stage in drafts or (wish in self._read) or (verifies and not drafts):
                continue
            self._read = [*self._read, wish] if verifies else []
            return Decision(action, answer)
        return Decision(STOP, answer) if drafts else Decision(Action.draft("a"), None)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(tables, min_size=3, max_size=3),
    st.lists(st.sampled_from(["a", "b", "c", ">a", ">b", ">c"]), max_size=12),
    st.lists(st.text("xy", min_size=1, max_size=6), min_size=3, max_size=3),
)
def test_no_walk_of_the_cascade_costs_more_than_its_bound(
    tables: list[Prices], wishes: list[str], texts: list[str]
):
    """The cascade itself, under policies that wander, on engines that disagree."""
    ladder = ladder_of(tables)
    engines = {
        name: ScriptedEngine(name, {"2+2=": Script(text, (-0.1,) * len(text))})
        for name, text in zip("abc", texts, strict=True)
    }
    policy: Policy = Wanderer(wishes)
    [completion] = Cascade(engines, policy, ladder).run([Query("q", "d", "2+2=", max_new_tokens=6)])
    tariff = Tariff(ladder)
    spent = sum(tariff.micros(call) for call in calls_of(completion.bought))
    assert spent == pytest.approx(completion.cost * 10**6, abs=7)
    assert spent <= tariff.bound(facts_of("abc", 1, 6))
