"""A run ends, whatever the policy, the engines and their failures are, and gives out what was bought."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asd.cascade import Cascade
from asd.engines import GREEDY, LOSSLESS, Acceptance, Engine, Sampling
from asd.errors import (
    AsdError,
    ConfigError,
    EngineError,
    NoStageLeftError,
    OutOfMemoryError,
    PartialBatchError,
    PolicyError,
    RefusedError,
    UnavailableError,
)
from asd.journey import Journey
from asd.policies import FixedStage
from asd.prices import Prices
from asd.resilience import Health
from asd.testing import FakeClock, ScriptedEngine
from asd.types import STOP, Action, Decision, Draft, Query, Verification

LADDER = ("S", "M", "L", "XL")
FAILURES = (EngineError, UnavailableError, RefusedError, OutOfMemoryError, OSError, RuntimeError, MemoryError)


def queries(n: int) -> list[Query]:
    return [Query(f"q{i}", "d", "x" * (i + 1)) for i in range(n)]


def most_rounds(n_stages: int) -> int:
    """Of calls, and one to stop."""
    return n_stages * (n_stages + 1) // 2 + 1


@dataclass
class Whimsical:
    """Draws its decisions: lawful ones, and with some probability anything that comes to mind."""

    stages: Sequence[str]
    rng: np.random.Generator
    p_breach: float
    asked: Counter[str] = field(default_factory=Counter)
    name: str = "whimsical"

    def decide(
        self, query: Query, drafts: Mapping[str, Draft], verification: Verification | None = None
    ) -> Decision:
        self.asked[query.id] += 1
        if self.rng.random() < self.p_breach:
            return self._breach(drafts)
        left = [stage for stage in self.stages if stage not in drafts]
        if not drafts:
            return Decision(Action.draft(self._any(left)), None)
        reading = {verification.stage} if verification else set()
        to_verify = (stage for stage in left if stage not in reading)
        actions = [STOP, *map(Action.draft, left), *map(Action.verify, to_verify)]
        return Decision(self._any(actions), self._any(drafts))

    def without(self, stages: Collection[str]) -> Any:
        left = [stage for stage in self.stages if stage not in stages]
        whim = self.rng.random()
        if not left or whim < 0.1:
            raise ConfigError("nothing left")
        if whim < 0.1 + self.p_breach:
            return self._any([self, None, 42])
        if whim < 0.1 + 2 * self.p_breach:
            raise ZeroDivisionError
        return Whimsical(left, self.rng, self.p_breach, self.asked)

    def _any(self, choices: Collection[Any]) -> Any:
        return list(choices)[int(self.rng.integers(len(choices)))]

    def _breach(self, drafts: Mapping[str, Draft]) -> Any:
        match int(self.rng.integers(7)):
            case 0:
                return self._any([None, 42, "S", ("S", None), []])
            case 1:
                raise self._any([KeyError("x"), ZeroDivisionError(), RecursionError(), StopIteration()])
            case 2:
                drafts.clear()  # type: ignore[attr-defined]
            case 3:
                return Decision(Action.draft("XXL"), next(iter(drafts), None))
            case 4:
                return Decision(
                    self._any([STOP, Action.verify(self.stages[-1]), *map(Action.draft, self.stages)]), None
                )
            case 5:
                return Decision(Action.draft(self.stages[0]), next(iter(drafts), None))
        return Decision(self._any([STOP, ["S"], "S", None]), self._any([["S"], {}, None]))  # type: ignore[arg-type]


@dataclass
class Generator:
    """The part of a stage that every engine has; fails as drawn, and remembers what it answered."""

    engine: ScriptedEngine
    rng: np.random.Generator
    p_failure: float
    answered: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for name in ("stage_name", "load", "unload", "synchronise"):
            setattr(self, name, getattr(self.engine, name))

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        self._may_fail(queries)
        self.answered.update(query.id for query in queries)
        return self.engine.generate(queries, sampling)

    def _may_fail(self, queries: Sequence[Query]) -> None:
        if self.rng.random() < self.p_failure:
            kind = FAILURES[int(self.rng.integers(len(FAILURES)))]
            if len(queries) > 1 and self.rng.random() < 0.3:
                done = {0: self.engine.generate(queries[:1])[0]}
                raise PartialBatchError("some", done, {i: EngineError("x") for i in range(1, len(queries))})
            raise kind("drawn")


@dataclass
class Reader(Generator):
    """It verifies, too."""

    def verify(
        self, queries: Sequence[Query], drafts: Sequence[Draft], acceptance: Acceptance = LOSSLESS
    ) -> list[Verification]:
        self._may_fail(queries)
        return self.engine.verify(queries, drafts, acceptance)

    def continue_(
        self,
        queries: Sequence[Query],
        verifications: Sequence[Verification],
        acceptance: Acceptance = LOSSLESS,
    ) -> list[Draft]:
        self._may_fail(queries)
        self.answered.update(query.id for query in queries)
        return self.engine.continue_(queries, verifications, acceptance)


@settings(max_examples=300)
@given(
    n_stages=st.integers(1, 4),
    n_queries=st.integers(1, 6),
    batch_size=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    chances=st.tuples(st.sampled_from([0.0, 0.0, 0.05, 0.5]), st.sampled_from([0.0, 0.2, 0.9])),
    breaker=st.none() | st.tuples(st.sampled_from([1, 2, 99]), st.sampled_from([0.0, 1.0, 60.0])),
)
def test_every_run_ends(
    n_stages: int,
    n_queries: int,
    batch_size: int,
    seed: int,
    chances: tuple[float, float],
    breaker: tuple[int, float] | None,
) -> None:
    """Within as many rounds as a ladder has, with an answer each or an error that holds what was done.

    The policy may be lawful or not, solved again lawfully or not, any stage may fail in any way at any time,
    with or without a breaker, whether or not time passes.
    """
    p_breach, p_failure = chances
    rng, asked, clock = np.random.default_rng(seed), queries(n_queries), FakeClock()
    stages = LADDER[:n_stages]
    engines: dict[str, Engine] = {}
    for stage in stages:
        kind = Reader if rng.random() < 0.7 else Generator
        scripted = ScriptedEngine(
            stage, {q.prompt: (stage, (-0.1,)) for q in asked}, seconds_per_call=1.0, clock=clock
        )
        engines[stage] = kind(scripted, rng, p_failure)
    health = breaker and Health(trip_after=breaker[0], cool_down_s=breaker[1], clock=clock)
    policy = Whimsical(stages, rng, p_breach)
    cascade = Cascade(engines, policy, dict.fromkeys(stages, Prices(1, 0, 0)), health)
    try:
        completions = cascade.run(asked, batch_size)
    except (AsdError, OSError, RuntimeError, MemoryError) as error:
        foreign = not isinstance(error, AsdError)
        assert not foreign or health is None
        journeys: Sequence[Journey] = vars(error)["journeys"]
        completions = cascade.completed(journeys)
        assert [journey.query for journey in journeys] == asked
    else:
        assert [completion.query for completion in completions] == asked
    assert max(policy.asked.values()) <= most_rounds(n_stages)
    for completion in completions:
        assert completion.text == completion.stage
        assert completion.decisions[-1].action == STOP
        assert len(completion.decisions) == len(completion.drafts) + len(completion.verifications) + 1
    for engine in engines.values():
        assert isinstance(engine, Generator)
        assert set(engine.answered.values()) <= {1}


@dataclass
class Itinerary:
    """Takes one action after the other and names the first answer."""

    actions: Sequence[str]
    name: str = "itinerary"

    def decide(
        self,
        query: Query,  # noqa: ARG002
        drafts: Mapping[str, Draft],
        verification: Verification | None = None,  # noqa: ARG002
    ) -> Decision:
        return Decision(Action.parse(self.actions[len(drafts)]), next(iter(drafts), None))


class Breaking(ScriptedEngine):
    """A stage that raises at the first batch that holds a certain query, as long as it is `broken`."""

    def __init__(self, stage: str, asked: Sequence[Query], at: str, error: BaseException) -> None:
        super().__init__(stage, {q.prompt: (f"{stage} on {q.id}", (-0.1,)) for q in asked})
        self.at = at
        self.error = error
        self.broken = True

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        if self.broken and self.at in {query.id for query in queries}:
            raise self.error
        return super().generate(queries, sampling)


def bought(engine: ScriptedEngine) -> list[str]:
    return [query for call in engine.calls for query in call]


PRICES = {"S": Prices(1, 0, 0), "L": Prices(2, 0, 0)}


@pytest.mark.parametrize("health", [None, Health()])
@pytest.mark.parametrize(
    "error",
    [TypeError("a bug"), ConfigError("no room"), KeyboardInterrupt(), SystemExit(3), AssertionError()],
)
def test_what_ends_a_run_carries_what_was_bought(error: BaseException, health: Health | None) -> None:
    """After a bug, a wrong value or Ctrl-C: the same exception, with every answer; going on buys the rest."""
    asked = queries(6)
    engines = {
        "S": ScriptedEngine("S", {q.prompt: (f"S on {q.id}", (-0.1,)) for q in asked}),
        "L": Breaking("L", asked, "q3", error),
    }
    cascade = Cascade(engines, Itinerary(("S", "L", "stop")), PRICES, health)
    with pytest.raises(type(error)) as raised:
        cascade.run(asked, batch_size=2)
    assert raised.value is error
    journeys = vars(error)["journeys"]
    assert [list(journey.drafts) for journey in journeys] == [["S", "L"]] * 2 + [["S"]] * 4
    engines["L"].broken = False
    completions = cascade.resume(journeys)
    assert [[d.text for d in c.drafts] for c in completions] == [
        [f"S on {q.id}", f"L on {q.id}"] for q in asked
    ]
    assert [[str(d.action) for d in c.decisions] for c in completions] == [["S", "L", "stop"]] * 6
    assert sorted(bought(engines["S"])) == sorted(bought(engines["L"])) == [q.id for q in asked]
    assert cascade.resume(journeys) == completions


def test_what_has_stopped_before_an_error_is_complete() -> None:
    """Queries that have got their answer when another one's call fails are given out with the error."""
    asked = queries(4)
    engines = {
        "S": ScriptedEngine("S", {q.prompt: (f"S on {q.id}", (-0.1,)) for q in asked}),
        "L": Breaking("L", asked, "q0", EngineError("down")),
    }

    class Harder(Itinerary):
        def decide(self, query: Query, *state: Any) -> Decision:
            decision = super().decide(query, *state)
            return (
                Decision(Action.draft("L"), "S") if query.id == "q0" and decision.action == STOP else decision
            )

    cascade = Cascade(engines, Harder(("S", "stop")), PRICES)
    with pytest.raises(EngineError, match="down") as raised:
        cascade.run(asked)
    assert [c.text for c in cascade.completed(raised.value.journeys)] == [f"S on q{i}" for i in (1, 2, 3)]


def test_stages_that_failed_are_asked_again_by_a_resumed_run() -> None:
    """Where no stage was left, the same queries find their answers once the stage is back."""
    asked = queries(2)
    engine = Breaking("S", asked, "q1", EngineError("down"))
    cascade = Cascade({"S": engine}, FixedStage("S"), {"S": PRICES["S"]}, Health(trip_after=9))
    with pytest.raises(NoStageLeftError) as raised:
        cascade.run(asked, batch_size=1)
    engine.broken = False
    assert [c.text for c in cascade.resume(raised.value.journeys)] == ["S on q0", "S on q1"]
    assert bought(engine) == ["q0", "q1"]


def test_a_policy_that_raises() -> None:
    """An error of its own kind passes; anything else becomes a `PolicyError` that names policy and state."""

    @dataclass
    class Raising:
        error: Exception
        name: str = "raising"

        def decide(self, *_: Any) -> Decision:
            raise self.error

    engines = {"S": ScriptedEngine("S", {"x": ("", (-0.1,))})}
    for error, found in ((KeyError("k"), PolicyError), (EngineError("e"), EngineError)):
        with pytest.raises(found) as raised:
            Cascade(engines, Raising(error), {"S": PRICES["S"]}).run(queries(1))
        assert error in {raised.value, raised.value.__cause__}
    message = r"policy 'raising' raised KeyError\('k'\) for query 'q0': answered so far are \[\]"
    with pytest.raises(PolicyError, match=message):
        Cascade(engines, Raising(KeyError("k")), {"S": PRICES["S"]}).run(queries(1))


class Reroutes(FixedStage):
    """A fixed stage that claims to know a way round it."""

    def without(self, _: Collection[str]) -> Any:
        if self.stage == "L":
            raise ZeroDivisionError("solving failed")
        return self


def test_a_policy_that_cannot_be_solved_again_properly() -> None:
    """A way round that asks the failed stage again, or a solver that raises, is an error and no loop."""
    asked = queries(1)
    engines = {stage: Breaking(stage, asked, "q0", EngineError("down")) for stage in "SL"}
    with pytest.raises(PolicyError, match=r"chose action 'S' with answer None.*open are \['L'\]"):
        Cascade(engines, Reroutes("S"), PRICES, Health()).run(asked)
    with pytest.raises(PolicyError, match=r"ZeroDivisionError.*do without \['L'\]"):
        Cascade(engines, Reroutes("L"), PRICES, Health()).run(asked)


@pytest.mark.parametrize("health", [None, Health()])
@pytest.mark.parametrize("returned", ["other stage", "verification", "text"])
def test_an_engine_that_returns_what_was_not_asked_for(returned: str, health: Health | None) -> None:
    """A draft of another stage would be asked for again for ever; it is an error instead."""

    class Confused(ScriptedEngine):
        def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> Any:
            drafts = super().generate(queries, sampling)
            results = {
                "other stage": ScriptedEngine("L", {"x": ("", (-0.1,))}).generate(queries),
                "verification": self.verify(queries, drafts),
                "text": ["text"] * len(queries),
            }
            return results[returned]

    engine = Confused("S", {"x": ("", (-0.1,))})
    with pytest.raises(EngineError, match="asked for 'S' on query 'q0', the engine returned"):
        Cascade({"S": engine}, FixedStage("S"), {"S": PRICES["S"]}, health).run(queries(1))


def test_an_engine_that_returns_nothing_for_a_query() -> None:
    """None is no draft: the call has failed."""

    class Silent(ScriptedEngine):
        def generate(self, queries: Sequence[Query], *_: Any) -> Any:
            return [None for _ in queries]

    with pytest.raises(EngineError, match="returned 0 results for 1 queries"):
        Cascade({"S": Silent("S", {})}, FixedStage("S"), {"S": PRICES["S"]}).run(queries(1))


def test_engines_serve_the_stages_they_are_named_for() -> None:
    """An engine under another stage's name is refused before anything is asked."""
    with pytest.raises(ConfigError, match="engine of stage 'M' is under the name 'S'"):
        Cascade({"S": ScriptedEngine("M", {})}, FixedStage("S"), {"S": PRICES["S"]})


def test_what_a_half_failed_call_brought_is_kept_without_health() -> None:
    """The answers of a batch of which some queries failed are with the error, and not bought again."""
    asked = queries(3)

    class Half(Breaking):
        def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
            if self.broken:
                done = {i: draft for i, draft in enumerate(ScriptedEngine.generate(self, queries)) if i != 1}
                raise PartialBatchError("2 of 3", done, {1: EngineError("bad")})
            return super().generate(queries, sampling)

    engine = Half("S", asked, "", EngineError())
    cascade = Cascade({"S": engine}, FixedStage("S"), {"S": PRICES["S"]})
    with pytest.raises(PartialBatchError) as raised:
        cascade.run(asked)
    engine.calls.clear()
    engine.broken = False
    assert [c.text for c in cascade.resume(raised.value.journeys)] == [f"S on {q.id}" for q in asked]
    assert bought(engine) == ["q1"]


@pytest.mark.parametrize("health", [None, Health()])
def test_a_policy_names_the_answer_in_hand(health: Health | None) -> None:
    """Going on from an answer without naming one is refused before the next stage is asked."""
    asked = queries(1)
    engines = {stage: Breaking(stage, asked, "q0" * (stage == "L"), EngineError("down")) for stage in "SL"}

    class Forgetful(Itinerary):
        def decide(self, _query: Query, drafts: Mapping[str, Draft], *_: Any) -> Decision:
            return Decision(Action.parse(self.actions[len(drafts)]), None)

    message = r"action 'L' with answer None for query 'q0': answered so far are \['S'\], open are \['L', '>L'"
    with pytest.raises(PolicyError, match=message):
        Cascade(engines, Forgetful(("S", "L")), PRICES, health).run(asked)


def test_a_policy_cannot_take_answers_away() -> None:
    """What was bought is shown to a policy, not handed over: emptying it is an error."""

    class Thief(Itinerary):
        def decide(self, _query: Query, drafts: Any, *_: Any) -> Decision:
            if drafts:
                drafts.clear()
            return Decision(Action.draft("S"), None)

    engines = {"S": ScriptedEngine("S", {"x": ("", (-0.1,))})}
    with pytest.raises(PolicyError, match="raised AttributeError") as raised:
        Cascade(engines, Thief(()), {"S": PRICES["S"]}).run(queries(1))
    assert list(raised.value.journeys[0].drafts) == ["S"]


def test_a_fixed_stage_is_run_whatever_is_in_hand() -> None:
    """As the way round a failed stage it names the latest answer, and then returns its own."""
    asked = queries(1)

    class Fallback(Itinerary):
        def without(self, _: Collection[str]) -> FixedStage:
            return FixedStage("L")

    engines: dict[str, Engine] = {s: Breaking(s, asked, "q0" * (s == "M"), EngineError("x")) for s in "SML"}
    prices = dict.fromkeys("SML", Prices(1, 0, 0))
    [completion] = Cascade(engines, Fallback(("S", "M", "stop")), prices, Health()).run(asked)
    assert [(str(d.action), d.answer) for d in completion.decisions] == [
        ("S", None),
        ("L", "S"),
        ("stop", "L"),
    ]
