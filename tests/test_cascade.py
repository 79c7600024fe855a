"""The loop against a query-at-a-time walk written from the protocol, and against cases worked by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.cascade import Cascade
from asd.engines import GREEDY, Sampling
from asd.errors import ConfigError, EngineError, PolicyError
from asd.policies import FixedStage
from asd.prices import Prices
from asd.resilience import Health
from asd.testing import Script, ScriptedEngine
from asd.types import NO_CALL, STOP, Action, Decision, Draft, Query, Usage, Verification

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
        return Decision(Action.parse(route[len(drafts)]), next(iter(drafts), None))


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
        assert [str(d.action) for d in completion.decisions] == [*route, "stop"]
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


@dataclass
class Way:
    """A policy that takes one action after the other, the same for every query; it keeps count itself."""

    actions: tuple[str, ...]
    seen: dict[str, list[Verification | None]] = field(default_factory=dict)
    name: str = "way"

    def decide(
        self, query: Query, drafts: Mapping[str, Draft], verification: Verification | None = None
    ) -> Decision:
        seen = self.seen.setdefault(query.id, [])
        seen.append(verification)
        latest = next(reversed(list(drafts)), None)
        return Decision(Action.parse([*self.actions, "stop"][len(seen) - 1]), latest)


PROMPT = Query("q", "d", "one two three")


def three(small: str, middle: str, large: str) -> dict[str, ScriptedEngine]:
    """Stages that write these texts; a character is a token."""
    texts = {"S": small, "M": middle, "L": large}
    return {
        stage: ScriptedEngine(stage, {PROMPT.prompt: (text, (-0.1,) * len(text))})
        for stage, text in texts.items()
    }


def test_a_verified_draft_is_continued_from_its_accepted_prefix() -> None:
    """L reads "abx", accepts two of three tokens and decodes the rest of "abcd", the first for nothing."""
    fleet, policy = three("abx", "", "abcd"), Way(("S", ">L", "L"))
    [completion] = Cascade(fleet, policy, PRICES).run([PROMPT])
    assert (completion.stage, completion.text) == ("L", "abcd")
    [read] = completion.verifications
    assert (read.drafter, read.stage, read.n_accepted, len(read.tokens)) == ("S", "L", 2, 3)
    assert [draft.usage for draft in completion.drafts] == [Usage(3, 3, 3), Usage(0, 2, 1)]
    assert read.usage == Usage(3, 0, 1, n_verified=3)
    small, verified, rest = 1.0 + 0.3 + 1.5, 4.0 + 1.2 + 3 * 0.4 + 2.0, 4.0 + 2.0
    assert completion.cost == pytest.approx(small + verified + rest)
    assert policy.seen["q"] == [None, None, read, None]
    assert len(fleet["L"].calls) == 2


def test_a_draft_accepted_whole_is_the_verifiers_answer_without_a_call() -> None:
    """Going on is free: L is called once, to read, and its answer has the tokens as L sees them."""
    fleet = three("abc", "", "abc")
    [completion] = Cascade(fleet, Way(("S", ">L", "L")), PRICES).run([PROMPT])
    [alone] = ScriptedEngine("L", {PROMPT.prompt: ("abc", (-0.1,) * 3)}).generate([PROMPT])
    large = completion.drafts[-1]
    assert large == replace(alone, usage=NO_CALL, seconds=0.0)
    assert completion.cost == pytest.approx((1.0 + 0.3 + 1.5) + (4.0 + 1.2 + 3 * 0.4 + 2.0))
    assert len(fleet["L"].calls) == 1


def test_an_unfinished_draft_is_gone_on_with_even_if_all_of_it_stands() -> None:
    """S ran out of room where L would not have: what is accepted whole is not an answer yet."""
    fleet = three("abc", "", "abc")
    fleet["S"] = ScriptedEngine("S", {PROMPT.prompt: Script("abc", (-0.1,) * 3, finished=False)})
    Cascade(fleet, Way(("S", ">L", "L")), PRICES).run([PROMPT])
    assert len(fleet["L"].calls) == 2


def test_another_stage_forgets_what_was_verified() -> None:
    """M answers after L has read S's draft: L starts anew, and pays for all of it."""
    fleet, policy = three("abx", "aby", "abcd"), Way(("S", ">L", "M", "L"))
    [completion] = Cascade(fleet, policy, PRICES).run([PROMPT])
    assert [draft.usage.n_prompt for draft in completion.drafts] == [3, 3, 3]
    assert [seen and seen.stage for seen in policy.seen["q"]] == [None, None, "L", None, None]


def test_the_best_answer_is_the_one_that_is_read() -> None:
    """The policy names S's answer as the best in hand, so S's draft goes to L, not M's."""
    fleet = three("small", "middle", "large")
    policy = Itinerary({"q": (("S", "M"), "S")})

    class Reading(Itinerary):
        def decide(self, query: Query, drafts: Mapping[str, Draft], verification: object) -> Decision:
            decision = super().decide(query, drafts, verification)
            wants = decision.action == STOP and verification is None
            return replace(decision, action=Action.verify("L")) if wants else decision

    [completion] = Cascade(fleet, Reading(policy.stops), PRICES).run([PROMPT])
    assert [(v.drafter, v.stage) for v in completion.verifications] == [("S", "L")]
    assert completion.text == "small"


@st.composite
def ways(draw: st.DrawFn) -> tuple[str, ...]:
    """Stages in ladder order, each read first or not, and sometimes read for nothing."""
    route = draw(st.lists(st.sampled_from(STAGES), min_size=1, max_size=3, unique=True).map(sorted_by_size))
    actions = [route[0]]
    for stage in route[1:]:
        actions += [str(Action.verify(stage))] if draw(st.booleans()) else []
        actions.append(stage)
    if route[-1] != "L" and draw(st.booleans()):
        actions.append(">L")
    return tuple(actions)


def sorted_by_size(route: list[str]) -> list[str]:
    return sorted(route, key=STAGES.index)


texts = st.text("ab", min_size=1, max_size=4)


@given(ways(), texts, texts, texts, st.integers(1, 3))
def test_verification_changes_no_text_and_is_paid_for(
    actions: tuple[str, ...], small: str, middle: str, large: str, batch_size: int
) -> None:
    """Whatever is read on the way, every stage's answer is its own; the cost is the sum over the calls."""
    fleet, alone = three(small, middle, large), three(small, middle, large)
    [completion] = Cascade(fleet, Way(actions), PRICES).run([PROMPT], batch_size)
    assert [str(d.action) for d in completion.decisions] == [*actions, "stop"]
    for draft in completion.drafts:
        [own] = alone[draft.stage].generate([PROMPT])
        assert (draft.text, draft.tokens, draft.logprobs) == (own.text, own.tokens, own.logprobs)
    read = [a for a in actions if a.startswith(">")]
    assert [f">{v.stage}" for v in completion.verifications] == read
    called = [d for d in completion.drafts if d.usage != NO_CALL]
    assert sum(len(engine.calls) for engine in fleet.values()) == len(called) + len(completion.verifications)
    paid = sum(PRICES[call.stage].cost(call.usage) for call in (*called, *completion.verifications))
    assert completion.cost == pytest.approx(paid)
    for draft in completion.drafts:
        assert draft.usage.n_decoded <= len(draft.tokens)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_many_queries_are_verified_and_continued_together(batch_size: int) -> None:
    """Each gets its own verification and continuation; calls are grouped by stage and by what they do."""
    asked = queries(7)
    fleet = {
        "S": ScriptedEngine("S", {q.prompt: (f"{q.id} small", (-0.1,) * 4) for q in asked}),
        "L": ScriptedEngine("L", {q.prompt: (f"{q.id} large", (-0.1,) * 5) for q in asked}),
    }
    prices = {"S": PRICES["S"], "L": PRICES["L"]}
    completions = Cascade(fleet, Way(("S", ">L", "L")), prices).run(asked, batch_size)
    assert [c.text for c in completions] == [f"{q.id} large" for q in asked]
    assert all(c.verifications[0].n_accepted == 2 for c in completions)
    assert len(fleet["L"].calls) == 2 * -(-len(asked) // batch_size)


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
        (Decision(Action.draft("XL"), None), "chose action 'XL'.*open are \\['S', 'M', 'L'\\]"),
        (
            Decision(Action.draft("S"), None),
            "chose action 'S'.*answered so far are \\['S'\\], open are \\['M', 'L', '>M'",
        ),
        (Decision(STOP, None), "chose action 'stop' with answer None"),
        (Decision(STOP, "S"), "chose action 'stop' with answer 'S'"),
        (
            Decision(Action.verify("L"), "S"),
            "chose action '>L' with answer 'S'.*open are \\['S', 'M', 'L'\\]",
        ),
        (Decision(Action.verify("S"), None), "chose action '>S' with answer None"),
        (None, "chose None, which is no Decision"),
        (("S", None), "chose \\('S', None\\), which is no Decision"),
        (Decision(Action.draft("S"), ["S"]), "chose action 'S' with answer \\['S'\\]"),
    ],
)
@pytest.mark.parametrize("health", [None, Health()])
def test_a_policy_that_breaks_its_protocol_is_an_error(
    decision: Any, message: str, health: Health | None
) -> None:
    """Unknown or repeated stages and answers never bought are refused, naming policy, query and state."""
    asked = queries(1)
    with pytest.raises(PolicyError, match=f"(?s)policy 'stubborn' {message}.*a decision names one of"):
        Cascade(engines(asked), Stubborn(decision), PRICES, health).run(asked)


def test_an_action_in_text_is_refused() -> None:
    """A policy that still names its stage in text is told what an action is, in its own traceback."""

    class Texts(FixedStage):
        def decide(self, *_: Any) -> Decision:
            return Decision("S", None)  # type: ignore[arg-type]

    asked = queries(1)
    with pytest.raises(PolicyError, match=r"asd\.Action, got 'S'; give .*asd\.Action\.draft\(stage\)"):
        Cascade(engines(asked), Texts("S"), PRICES).run(asked)


def test_the_same_answer_is_not_read_twice_by_one_stage() -> None:
    """It would say the same: a policy that asks again would never end."""
    with pytest.raises(
        ConfigError, match=r"action '>L' with answer 'S'.*open are \['M', 'L', '>M', 'stop'\]"
    ):
        Cascade(three("a", "b", "c"), Way(("S", ">L", ">L")), PRICES).run([PROMPT])


def test_what_was_forgotten_may_be_read_again() -> None:
    """S's answer stays the best after M has answered, and L, whose reading is forgotten, reads it again."""

    class SmallIsBest(Way):
        def decide(self, *state: Any) -> Decision:
            decision = super().decide(*state)
            return replace(decision, answer="S" if decision.answer else None)

    fleet = three("a", "b", "a")
    [completion] = Cascade(fleet, SmallIsBest(("S", ">L", "M", ">L")), PRICES).run([PROMPT])
    assert [(v.drafter, v.stage) for v in completion.verifications] == [("S", "L")] * 2
    assert len(fleet["L"].calls) == 2


def test_a_stage_that_cannot_verify_is_not_asked_to() -> None:
    """An engine without `verify` serves every policy but those that name it as a verifier."""

    class Generator:
        """The part of a scripted stage that every engine has."""

        def __init__(self, stage: ScriptedEngine) -> None:
            for name in ("stage_name", "load", "unload", "synchronise", "generate"):
                setattr(self, name, getattr(stage, name))

    fleet = {name: Generator(engine) for name, engine in three("a", "b", "c").items()}
    [completion] = Cascade(fleet, Way(("S", "L")), PRICES).run([PROMPT])
    assert completion.text == "c"
    with pytest.raises(ConfigError, match=r"action '>L' with answer 'S'.*open are \['M', 'L', 'stop'\]"):
        Cascade(fleet, Way(("S", ">L", "L")), PRICES).run([PROMPT])


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


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "5?"}]


def test_a_conversation_is_asked_as_it_is() -> None:
    """A list of messages needs no `Query`, alone or among other prompts; every stage gets all of it."""

    class Listening(ScriptedEngine):
        def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
            heard.extend(queries)
            return super().generate(queries, sampling)

    heard: list[Query] = []
    engine = Listening("S", {"5?": ("five", (-0.1,)), "6?": ("six", (-0.1,))})
    cascade = Cascade({"S": engine}, FixedStage("S"), {"S": PRICES["S"]})
    assert cascade(CHAT, max_new_tokens=9).text == "five"
    assert [done.text for done in cascade.run(["6?", CHAT])] == ["six", "five"]
    assert heard[0] == Query.chat("1", "prompts", CHAT, max_new_tokens=9)
    assert [query.id for query in heard[1:]] == ["1", "2"]


@pytest.mark.parametrize(
    "wrong", [5, None, b"5?", {"role": "user"}, ["5?"], [], CHAT[:1], Query("1", "d", 5)]
)  # type: ignore[arg-type]
def test_what_is_no_prompt_is_refused(wrong: Any) -> None:
    """By its value, before any engine is asked."""
    cascade = Cascade({"S": ScriptedEngine("S", {})}, FixedStage("S"), {"S": PRICES["S"]})
    with pytest.raises(ConfigError, match=r"give|has no messages|last message"):
        cascade(wrong)
    with pytest.raises(ConfigError, match=r"give|has no messages|last message"):
        cascade.run([wrong])


@pytest.mark.parametrize("one", ["5?", Query("1", "d", "5?")])
def test_one_query_is_no_list_of_queries(one: Any) -> None:
    """A text would be asked letter by letter."""
    cascade = Cascade({"S": ScriptedEngine("S", {})}, FixedStage("S"), {"S": PRICES["S"]})
    with pytest.raises(ConfigError, match="give a list of them"):
        cascade.run(one)
    with pytest.raises(ConfigError, match="give a list of them"):
        asyncio.run(anext(cascade.as_completed(one)))


def test_an_engine_that_drops_a_query_is_an_error() -> None:
    """Fewer drafts than queries end the run: no query is lost silently."""

    class Forgetful(ScriptedEngine):
        def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
            return super().generate(queries, sampling)[1:]

    asked = queries(2)
    engine = Forgetful("S", {q.prompt: ("", (-0.1,)) for q in asked})
    with pytest.raises(EngineError, match="stage 'S' returned 1 results for 2 queries"):
        Cascade({"S": engine}, FixedStage("S"), {"S": PRICES["S"]}).run(asked)
