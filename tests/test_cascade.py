"""The loop against a query-at-a-time walk written from the protocol, and against cases worked by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.cascade import Cascade
from asd.engines import GREEDY, Sampling
from asd.errors import ConfigError, EngineError
from asd.ladder import Prices
from asd.policies import FixedStage
from asd.testing import ScriptedEngine
from asd.types import STOP, Decision, Draft, Query

STAGES = ("S", "M", "L")
PRICES = {"S": Prices(1.0, 0.1, 0.5), "M": Prices(2.0, 0.2, 1.0), "L": Prices(4.0, 0.4, 2.0)}


@dataclass(frozen=True)
class Itinerary:
    """A policy that runs the stages listed for each query, then returns the answer of the one named."""

    stops: Mapping[str, tuple[Sequence[str], str]]
    name: str = "itinerary"

    def decide(self, query: Query, drafts: Mapping[str, Draft], verification: object) -> Decision:  # noqa: ARG002
        route, answer = self.stops[query.id]
        if len(drafts) == len(route):
            return Decision(STOP, answer)
        return Decision(route[len(drafts)], answer if answer in drafts else None)


@dataclass(frozen=True)
class Stubborn:
    """A policy that says the same in every state."""

    decision: Decision
    name: str = "stubborn"

    def decide(self, query: Query, drafts: Mapping[str, Draft], verification: object) -> Decision:  # noqa: ARG002
        return self.decision


def queries(n: int) -> list[Query]:
    return [Query(str(i), "d", prompt=" ".join(["word"] * (1 + (i * 7) % 5)) + f" {i}") for i in range(n)]


def engines(asked: Sequence[Query], stages: Sequence[str] = STAGES) -> dict[str, ScriptedEngine]:
    return {
        stage: ScriptedEngine(
            stage, {q.prompt: (f"{stage} on {q.id}", (-0.1,) * (1 + int(q.id) % 3)) for q in asked}
        )
        for stage in stages
    }


@st.composite
def itineraries(draw: st.DrawFn) -> dict[str, tuple[tuple[str, ...], str]]:
    routes = st.lists(st.sampled_from(STAGES), min_size=1, max_size=3, unique=True).flatmap(
        lambda route: st.tuples(st.just(tuple(route)), st.sampled_from(route))
    )
    return {str(i): draw(routes) for i in range(draw(st.integers(0, 12)))}


@given(itineraries(), st.integers(1, 5))
def test_every_query_goes_its_own_way(stops: dict[str, tuple[tuple[str, ...], str]], batch_size: int) -> None:
    """Batched or not, each query visits exactly its stages in order and returns the answer it chose.

    Nothing is lost, repeated or reordered; no call exceeds the batch size; the cost is the sum over calls.
    """
    asked = queries(len(stops))
    fleet = engines(asked)
    completions = Cascade(fleet, Itinerary(stops), PRICES).run(asked, batch_size)
    assert [c.query for c in completions] == asked
    for query, completion in zip(asked, completions, strict=True):
        route, answer = stops[query.id]
        alone = [fleet[stage].generate([query])[0] for stage in route]
        assert list(completion.drafts) == alone
        assert (completion.stage, completion.text) == (answer, f"{answer} on {query.id}")
        assert [d.action for d in completion.decisions] == [*route, STOP]
        assert completion.cost == pytest.approx(sum(PRICES[d.stage].cost(d.usage) for d in alone))


@given(itineraries(), st.integers(1, 5))
def test_calls_are_grouped_by_stage(stops: dict[str, tuple[tuple[str, ...], str]], batch_size: int) -> None:
    """In each round a stage is called as rarely as the batch size allows, never with more than that."""
    asked = queries(len(stops))
    fleet = engines(asked)
    Cascade(fleet, Itinerary(stops), PRICES).run(asked, batch_size)
    for stage, engine in fleet.items():
        rounds = [sum(route[i : i + 1] == (stage,) for route, _ in stops.values()) for i in range(3)]
        assert len(engine.calls) == sum(-(-n // batch_size) for n in rounds)
        assert all(len(call) <= batch_size for call in engine.calls)


def test_cost_by_hand() -> None:
    """Two calls on a prompt of three tokens: S with 2 decoded tokens 1 + .3 + 1, L with 1: 4 + 1.2 + 2."""
    query = Query("q", "d", "one two three")
    fleet = {
        "S": ScriptedEngine("S", {query.prompt: ("small", (-0.1, -0.2))}),
        "L": ScriptedEngine("L", {query.prompt: ("large", (-0.1,))}),
    }
    policy = Itinerary({"q": (("S", "L"), "S")})
    [completion] = Cascade(fleet, policy, {"S": PRICES["S"], "L": PRICES["L"]}).run([query])
    assert (completion.stage, completion.text) == ("S", "small")
    assert completion.cost == pytest.approx(2.3 + 7.2)


def test_batches_hold_prompts_of_similar_length() -> None:
    """Queries of one round are batched by prompt length, and answered in the order they were given."""
    asked = [Query(name, "d", "x" * length) for name, length in [("a", 9), ("b", 1), ("c", 8), ("d", 2)]]
    engine = ScriptedEngine("S", {q.prompt: (q.id, (-0.1,)) for q in asked})
    completions = Cascade({"S": engine}, FixedStage("S"), {"S": PRICES["S"]}).run(asked, batch_size=2)
    assert engine.calls == [("b", "d"), ("c", "a")]
    assert [c.text for c in completions] == ["a", "b", "c", "d"]


def test_nothing_asked_nothing_answered() -> None:
    """No queries, no completions, no calls."""
    fleet = engines([])
    assert Cascade(fleet, FixedStage("S"), PRICES).run([]) == []
    assert all(engine.calls == [] for engine in fleet.values())


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        (Decision("XL", None), "action 'XL'.*stages left to run \\['S', 'M', 'L'\\]"),
        (Decision("S", None), "action 'S'.*answered so far are \\['S'\\]"),
        (Decision(STOP, None), "action 'stop' with answer None"),
        (Decision(STOP, "S"), "action 'stop' with answer 'S'"),
    ],
)
def test_a_policy_that_breaks_its_protocol_is_an_error(decision: Decision, message: str) -> None:
    """Unknown or repeated stages and answers never bought are refused, naming policy and query."""
    asked = queries(1)
    with pytest.raises(ConfigError, match=f"(?s)policy 'stubborn' chose {message}"):
        Cascade(engines(asked), Stubborn(decision), PRICES).run(asked)


def test_engines_and_prices_must_match() -> None:
    """A stage without a price, a price without a stage and an empty cascade are refused."""
    fleet = engines([])
    for wrong in ({}, {"S": PRICES["S"]}, PRICES | {"XL": PRICES["L"]}):
        with pytest.raises(ConfigError, match="an engine and a price for every stage"):
            Cascade(fleet, FixedStage("S"), wrong)
    with pytest.raises(ConfigError, match="an engine and a price"):
        Cascade({}, FixedStage("S"), {})


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_must_be_positive(batch_size: int) -> None:
    """Zero or fewer queries a call is refused before anything runs."""
    asked = queries(1)
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        Cascade(engines(asked), FixedStage("S"), PRICES).run(asked, batch_size)


def test_an_engine_that_drops_a_query_is_an_error() -> None:
    """Fewer drafts than queries end the run: no query is lost silently."""

    class Forgetful(ScriptedEngine):
        def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
            return super().generate(queries, sampling)[1:]

    asked = queries(2)
    engine = Forgetful("S", {q.prompt: ("", (-0.1,)) for q in asked})
    with pytest.raises(EngineError, match="stage 'S' returned 1 results for 2 queries"):
        Cascade({"S": engine}, FixedStage("S"), {"S": PRICES["S"]}).run(asked)
