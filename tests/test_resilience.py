"""Failing stages: what is kept, who is asked instead, and when a stage is asked again."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import stamina
from hypothesis import given
from hypothesis import strategies as st

from asd.cascade import Cascade
from asd.engines import GREEDY, Engine, Sampling
from asd.engines.batches import call_in_batches
from asd.engines.http.engine import OpenAIEngine
from asd.engines.replay import ReplayEngine
from asd.errors import (
    ConfigError,
    DataError,
    EngineError,
    NoStageLeftError,
    OutOfMemoryError,
    PartialBatchError,
    PromptTooLongError,
    RefusedError,
    StageTooLargeError,
    UnavailableError,
)
from asd.evidence import Judgement
from asd.ladder import Stage
from asd.policies import FixedStage, Myopic, OptimalPolicy, StaticWalk
from asd.prices import Prices
from asd.resilience import Breaker, Health
from asd.stopping.graph import Edge, Graph, Node
from asd.stopping.recursion import solve
from asd.testing import FakeClock, ScriptedEngine
from asd.types import STOP, Action, Decision, Draft, Failure, Query, Trace, Verification
from tests import worlds
from tests.fakeserver import FakeServer, Fault, cutting, dropping, dying, hanging, refusing, saying, serving


def queries(n: int) -> list[Query]:
    return [Query(f"q{i}", "d", "x" * (i + 1)) for i in range(n)]


class Calls:
    """A stage whose calls fail as told, one error a call; what it answers is the index itself."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.seen: list[list[int]] = []

    def __call__(self, batch: list[int]) -> list[int]:
        self.seen.append(list(batch))
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return batch


def ask(
    health: Health, call: Callable[[list[int]], list[int]], n: int, batch_size: int, action: str = "M"
) -> dict[int, int | Failure | None]:
    found: dict[int, int | Failure | None] = {}
    for batch in health.call_in_batches(Action.parse(action), call, queries(n), batch_size):
        assert not found.keys() & batch.keys()
        found |= batch
    return found


def test_where_nothing_fails_nothing_changes() -> None:
    """Every query is asked once, in batches, and nothing is counted."""
    call, health = Calls(), Health()
    assert ask(health, call, 5, 2) == {i: i for i in range(5)}
    assert [len(batch) for batch in call.seen] == [2, 2, 1]
    assert not health.counts
    assert health.resting() == frozenset()


@pytest.mark.parametrize(
    "error",
    [
        EngineError("broken"),
        UnavailableError("gone"),
        RuntimeError("crash"),
        OSError(),
        TimeoutError("late"),
        ConnectionResetError("peer"),
    ],
)
def test_a_failed_batch_fails_its_queries(error: Exception) -> None:
    """A failure of a stage fails the queries of that call alone, and is recorded with its kind."""
    call, health = Calls(error), Health()
    found = ask(health, call, 4, 2)
    assert found[0] == found[1] == Failure(Action.draft("M"), type(error).__name__, str(error) or repr(error))
    assert (found[2], found[3]) == (2, 3)
    assert health.counts == {("M", type(error).__name__): 1}


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("yours"),
        DataError("yours too"),
        KeyboardInterrupt(),
        TypeError("a bug"),
        AttributeError("a bug"),
        KeyError("a bug"),
        IndexError("a bug"),
        AssertionError("a bug"),
        NameError("a bug"),
        ZeroDivisionError("a bug"),
        ValueError("a bug"),
        NotImplementedError("a stub"),
        RecursionError("a bug"),
    ],
)
def test_what_is_nobodys_failure_passes_through(error: BaseException) -> None:
    """Wrong input, a bug and an interrupt are not a stage's failure."""
    health = Health()

    def call(batch: list[int]) -> list[int]:
        raise error

    with pytest.raises(type(error)):
        ask(health, call, 2, 2)
    assert not health.counts


def test_too_few_results_are_a_failure() -> None:
    """A stage that drops a query has failed the batch: no result can be told from another's."""
    found = ask(Health(), lambda batch: batch[1:], 3, 3)
    assert [f.message for f in found.values() if isinstance(f, Failure)] == [
        "stage 'M' returned 2 results for 3 queries"
    ] * 3


@pytest.mark.parametrize("error", [OutOfMemoryError("too much"), MemoryError()])
@given(n=st.integers(1, 30), batch_size=st.integers(1, 16), fits=st.integers(1, 8))
def test_smaller_batches_where_memory_is_short(error: Exception, n: int, batch_size: int, fits: int) -> None:
    """Batches shrink until they fit and stay so; every query is answered, and exactly once."""
    done: list[int] = []

    def call(batch: list[int]) -> list[int]:
        if len(batch) > fits:
            raise error
        done.extend(batch)
        return batch

    health = Health()
    assert ask(health, call, n, batch_size) == {i: i for i in range(n)}
    assert sorted(done) == list(range(n))
    halvings = int(np.ceil(np.log2(max(1, min(batch_size, n) / fits))))
    assert sum(health.counts.values()) <= halvings + 1
    assert health.resting() == frozenset()


@pytest.mark.parametrize("error", [OutOfMemoryError("b"), MemoryError("b")])
def test_one_query_that_does_not_fit_fails_alone(error: Exception) -> None:
    """Out of memory with a batch of one fails that query, and says nothing of the stage."""
    health = Health(trip_after=1)
    found = ask(health, Calls(OutOfMemoryError("a"), error), 2, 2)
    assert isinstance(failure := found[0], Failure)
    assert (failure.stage, failure.kind, found[1]) == ("M", "OutOfMemoryError", 1)
    assert "b" in failure.message.removeprefix("stage 'M' has not enough memory for")
    assert health.resting() == frozenset()


def test_weights_that_do_not_fit_are_not_loaded_for_every_half() -> None:
    """A smaller batch does not help a stage that cannot be loaded: it has failed."""
    call, health = Calls(*[StageTooLargeError("large")] * 9), Health(trip_after=1)
    found = ask(health, call, 4, 4)
    assert found == dict.fromkeys(range(4), Failure(Action.draft("M"), "StageTooLargeError", "large"))
    assert len(call.seen) == 1
    assert health.resting() == {"M"}


def test_what_did_not_fit_in_a_half_done_batch_is_asked_again() -> None:
    """Of a batch of which some fitted, the others come in halves; nothing is asked twice."""
    short = OutOfMemoryError("short")
    error = PartialBatchError("2 of 6", {0: 10, 3: 13}, {1: short, 2: short, 4: EngineError("bad"), 5: short})
    call = Calls(error)
    found = ask(Health(), call, 6, 6)
    assert found == {0: 10, 1: 1, 2: 2, 3: 13, 4: Failure(Action.draft("M"), "EngineError", "bad"), 5: 5}
    assert call.seen == [[0, 1, 2, 3, 4, 5], [1, 2, 5]]


@given(n=st.integers(1, 30), batch_size=st.integers(1, 16), fits=st.integers(1, 8))
def test_batches_are_halved_without_health_too(n: int, batch_size: int, fits: int) -> None:
    """Measuring and collecting go on in smaller batches; every query is answered exactly once."""
    done: list[int] = []

    def call(batch: list[int]) -> list[int]:
        if len(batch) > fits:
            raise OutOfMemoryError("short")
        done.extend(batch)
        return batch

    found = [i for batch in call_in_batches(Action.draft("M"), call, queries(n), batch_size) for i in batch]
    assert sorted(found) == sorted(done) == list(range(n))


def test_one_query_that_does_not_fit_ends_a_measurement() -> None:
    """Without health the first query that fails ends it; what was done before has been given out."""

    def call(batch: list[int]) -> list[int]:
        if 1 in batch:
            raise OutOfMemoryError("short")
        return batch

    answers = call_in_batches(Action.draft("M"), call, queries(3), 3)
    assert next(answers) == {0: 0}
    with pytest.raises(OutOfMemoryError):
        next(answers)


@given(n=st.integers(1, 20), batch_size=st.integers(1, 16), data=st.data())
def test_refused_queries_are_found(n: int, batch_size: int, data: st.DataObject) -> None:
    """Those that are refused fail alone, the others are answered once, and the stage is not to blame."""
    refused = data.draw(st.sets(st.integers(0, n - 1)))
    refusal = data.draw(st.sampled_from([PromptTooLongError("long"), RefusedError("filtered")]))
    done: list[int] = []

    def call(batch: list[int]) -> list[int]:
        if refused & set(batch):
            raise refusal
        done.extend(batch)
        return batch

    health = Health(trip_after=1)
    found = ask(health, call, n, batch_size)
    assert {i for i, result in found.items() if isinstance(result, Failure)} == refused
    assert sorted(done) == sorted(set(range(n)) - refused)
    assert health.resting() == frozenset()


def test_what_a_broken_call_delivered_is_kept() -> None:
    """Of a batch half done, the results stay and only the rest fails; nothing is asked again."""
    error = PartialBatchError(
        "2 of 4", {0: 10, 3: 13}, {1: EngineError("bad"), 2: PromptTooLongError("long")}
    )
    call, health = Calls(error), Health(trip_after=1)
    assert ask(health, call, 4, 4) == {
        0: 10,
        1: Failure(Action.draft("M"), "EngineError", "bad"),
        2: Failure(Action.draft("M"), "PromptTooLongError", "long"),
        3: 13,
    }
    assert len(call.seen) == 1
    assert health.resting() == frozenset()


def test_failures_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The first of its kind is a warning; every one has its traceback at level DEBUG."""
    caplog.set_level("DEBUG", "asd")
    errors = [EngineError("first"), EngineError("second"), OSError("third")]
    ask(Health(trip_after=9), Calls(*errors), 3, 1)
    told = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.getMessage() for record in told] == [
        f"'M' failed for 1 queries with {kind}; further ones are logged at level DEBUG"
        for kind in ("EngineError: first", "OSError: third")
    ]
    traced = [record.exc_info for record in caplog.records if record.levelname == "DEBUG"]
    assert [info and info[1] for info in traced] == errors
    assert {record.name.partition(".")[0] for record in caplog.records} == {"asd"}


def test_threads_share_a_health() -> None:
    """While others fail, succeed and come to rest, nothing is lost from the counts and nobody trips over."""
    n_threads, n_calls = 8, 60
    health = Health(trip_after=3, cool_down_s=0.0)
    together = threading.Barrier(n_threads)
    trouble: list[BaseException] = []

    def hammer(thread: int) -> None:
        try:
            together.wait(10)
            for i in range(n_calls):
                stage = f"{thread}-{i}" if i % 3 else "shared"
                ask(health, Calls(EngineError("down")), 1, 1, action=stage)
                health.resting()
                assert sum(health.counts.values()) > i
        except BaseException as error:
            trouble.append(error)

    threads = [threading.Thread(target=hammer, args=(thread,)) for thread in range(n_threads)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert not trouble
    assert health.counts["shared", "EngineError"] == n_threads * n_calls // 3
    assert sum(health.counts.values()) == n_threads * n_calls


def test_a_stage_that_went_away_half_way_has_failed() -> None:
    """Where the rest of a batch met no server, that counts against the stage."""
    health = Health(trip_after=1)
    ask(health, Calls(PartialBatchError("1 of 2", {0: 0}, {1: UnavailableError("gone")})), 2, 2)
    assert health.resting() == {"M"}


def test_a_stage_rests_after_failures_in_a_row() -> None:
    """After two failed calls nobody asks; queries not asked are given back without a failure."""
    clock = FakeClock()
    call, health = Calls(*[EngineError("broken")] * 9), Health(trip_after=2, cool_down_s=30.0, clock=clock)
    found = ask(health, call, 6, 1)
    assert len(call.seen) == 2
    assert [isinstance(found[i], Failure) for i in range(6)] == [True, True, False, False, False, False]
    assert found[5] is None
    assert health.resting() == {"M"}


def test_failures_that_are_not_in_a_row_do_not_count() -> None:
    """A success in between forgives."""
    health = Health(trip_after=2, clock=FakeClock())
    ask(health, Calls(EngineError("a"), None, EngineError("b"), None), 4, 1)
    assert health.resting() == frozenset()


def test_verifying_and_answering_are_one_stage() -> None:
    """A stage that fails to verify rests as a whole."""
    health = Health(trip_after=2, clock=FakeClock())
    ask(health, Calls(EngineError("a")), 1, 1, action=">M")
    ask(health, Calls(EngineError("a")), 1, 1, action="M")
    assert health.resting() == {"M"}


def test_a_stage_comes_back_after_its_rest() -> None:
    """When the time is over one call is tried: a failure is enough to rest again, a success closes."""
    clock = FakeClock()
    health = Health(trip_after=2, cool_down_s=30.0, clock=clock)
    ask(health, Calls(*[EngineError("broken")] * 2), 2, 1)
    clock.advance(29.9)
    assert health.resting() == {"M"}
    clock.advance(0.1)
    assert health.resting() == frozenset()
    ask(health, Calls(EngineError("still broken")), 1, 1)
    assert health.resting() == {"M"}
    clock.advance(30.0)
    ask(health, Calls(None, EngineError("once")), 2, 1)
    assert health.resting() == frozenset()


@pytest.mark.parametrize(
    ("trip_after", "cool_down_s", "message"),
    [(0, 1.0, "trip_after must be at least 1, not 0"), (1, -1.0, "not -1"), (1, float("nan"), "not nan")],
)
def test_wrong_settings(trip_after: int, cool_down_s: float, message: str) -> None:
    """Impossible settings are refused at once."""
    with pytest.raises(ConfigError, match=message):
        Breaker(trip_after, cool_down_s, FakeClock())
    with pytest.raises(ConfigError, match=message):
        Health(trip_after=trip_after, cool_down_s=cool_down_s)


def chain(stages: Sequence[str]) -> Graph:
    """Every stage from the root, with an edge that verifies beside each."""
    nodes = (Node("root", np.zeros(1), may_stop=False), *(Node(stage, np.full(1, 0.5)) for stage in stages))
    one = np.ones((1, 1))
    edges = [Edge("root", stage, np.ones(1), one, Action.draft(stage)) for stage in stages]
    edges += [Edge(stages[0], stage, np.ones(1), one, Action.verify(stage)) for stage in stages[1:]]
    return Graph(nodes, tuple(edges), np.ones(1))


def test_a_graph_without_a_stage() -> None:
    """Neither answering nor verifying edges of the stage remain; its node does, for those already there."""
    graph = chain(["S", "M", "L"]).without({"M"})
    assert [str(edge.action) for edge in graph.edges] == ["S", "L", ">L"]
    assert [node.name for node in graph.nodes] == ["root", "S", "M", "L"]


def test_a_graph_without_any_stage() -> None:
    """Where nothing can be bought at the root, there is no problem left to solve."""
    with pytest.raises(ConfigError, match="may not stop and has no edge"):
        chain(["S", "M"]).without({"S", "M"})


PRICES = {"S": Prices(1, 0, 0), "M": Prices(2, 0, 0), "L": Prices(3, 0, 0)}


Fails = Callable[[int, Sequence[Query]], Exception | None]
"""What call number n, for these queries, raises, if anything."""


class Flaky:
    """A stage that fails in the calls it is told to, and remembers what it answered."""

    def __init__(self, engine: Engine, fails: Fails) -> None:
        self.engine = engine
        self.fails = fails
        self.n_calls = 0
        self.answered: list[str] = []

    @property
    def stage_name(self) -> str:
        return self.engine.stage_name

    def load(self) -> None:
        self.engine.load()

    def unload(self) -> None:
        self.engine.unload()

    def synchronise(self) -> None:
        self.engine.synchronise()

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        self.n_calls += 1
        error = self.fails(self.n_calls, queries)
        if error is not None:
            raise error
        self.answered += [query.id for query in queries]
        return self.engine.generate(queries, sampling)


@dataclass(frozen=True)
class Prefer:
    """Asks the first of its stages and returns what it says."""

    stages: tuple[str, ...]
    name: str = "prefer"

    def decide(
        self,
        query: Query,  # noqa: ARG002
        drafts: Mapping[str, Draft],
        verification: Verification | None = None,  # noqa: ARG002
    ) -> Decision:
        return Decision(STOP, next(iter(drafts))) if drafts else Decision(Action.draft(self.stages[0]), None)

    def without(self, stages: Collection[str]) -> Prefer:
        left = tuple(stage for stage in self.stages if stage not in stages)
        if not left:
            raise ConfigError("nothing left")
        return Prefer(left)


def scripted(stage: str, asked: Sequence[Query]) -> ScriptedEngine:
    return ScriptedEngine(stage, {q.prompt: (f"{stage} on {q.id}", (-0.1,)) for q in asked})


def fleet(asked: Sequence[Query], **fails: Fails) -> dict[str, Flaky]:
    return {s: Flaky(scripted(s, asked), fails.get(s, lambda *_: None)) for s in ("S", "M", "L")}


def always(error: Exception) -> Fails:
    return lambda *_: error


@pytest.mark.parametrize(
    "error",
    [
        EngineError("nonsense"),
        UnavailableError("no answer in time"),
        RuntimeError("device-side assert"),
        OutOfMemoryError("short"),
        PromptTooLongError("long"),
        RefusedError("filtered"),
    ],
)
def test_another_stage_answers(error: Exception) -> None:
    """Whatever a stage dies of, every query is answered by the next choice, and the record says why."""
    asked = queries(7)
    stages = fleet(asked, S=always(error))
    health = Health(clock=FakeClock())
    completions = Cascade(stages, Prefer(("S", "M", "L")), PRICES, health).run(asked, batch_size=2)
    assert [c.text for c in completions] == [f"M on q{i}" for i in range(7)]
    assert stages["L"].n_calls == 0
    failed = [c for c in completions if c.failures]
    assert failed
    for completion in failed:
        assert completion.failures == (
            Failure(Action.draft("S"), type(error).__name__, str(error) or repr(error)),
        )
    assert sum(health.counts.values()) == stages["S"].n_calls
    for completion in completions:
        assert [str(d.action) for d in completion.decisions] == ["M", "stop"]
        assert completion.cost == PRICES["M"].cost(completion.drafts[0].usage)


def test_without_health_a_failure_ends_the_run() -> None:
    """A measurement is not rerouted: what a stage raises is raised."""
    asked = queries(2)
    with pytest.raises(RuntimeError, match="crash"):
        Cascade(fleet(asked, S=always(RuntimeError("crash"))), Prefer(("S", "M")), PRICES).run(asked)


def test_a_stage_is_back_after_its_rest() -> None:
    """While a stage rests nobody asks it; when its time is over, it answers again."""
    asked, clock = queries(3), FakeClock()
    stages = fleet(asked, S=lambda n, _: EngineError("down") if n <= 1 else None)
    health = Health(trip_after=1, cool_down_s=60.0, clock=clock)
    cascade = Cascade(stages, Prefer(("S", "M", "L")), PRICES, health)
    stages_used = []
    for seconds in (0.0, 30.0, 30.0):
        clock.advance(seconds)
        stages_used.append({completion.stage for completion in cascade.run(asked)})
    assert stages_used == [{"M"}, {"M"}, {"S"}]
    assert stages["S"].n_calls == 2


def test_nothing_is_answered_twice_where_memory_is_short() -> None:
    """Halved batches go on at the same stage; no query is sent elsewhere and none is answered twice."""
    asked = queries(20)
    stages = fleet(asked, S=lambda _, batch: OutOfMemoryError("short") if len(batch) > 3 else None)
    completions = Cascade(stages, Prefer(("S", "M")), PRICES | {}, Health()).run(asked, batch_size=16)
    assert {completion.stage for completion in completions} == {"S"}
    assert sorted(stages["S"].answered) == sorted(query.id for query in asked)


def test_every_stage_down() -> None:
    """The error says so, keeps what was answered and names who was not and why."""
    asked = queries(6)
    bad = {"q4", "q5"}

    def fails(_: int, batch: Sequence[Query]) -> Exception | None:
        return EngineError("poison") if bad & {query.id for query in batch} else None

    stages = fleet(asked, S=fails, M=fails, L=fails)
    words = "2 of 6 queries have no answer, the first of them 'q4': poison"
    with pytest.raises(NoStageLeftError, match=words) as e:
        Cascade(stages, Prefer(("S", "M", "L")), PRICES, Health(trip_after=9)).run(asked, batch_size=1)
    assert [c.query.id for c in e.value.completions] == ["q0", "q1", "q2", "q3"]
    assert [query.id for query, _ in e.value.unanswered] == ["q4", "q5"]
    assert [[f.stage for f in failures] for _, failures in e.value.unanswered] == [["S", "M", "L"]] * 2


def test_an_answer_in_hand_is_returned() -> None:
    """A query whose further stages all fail is answered with what it has, by any policy."""
    asked = queries(3)
    stages = fleet(asked, M=always(EngineError("down")))
    policy = StaticWalk(("S", "M"), 2.0, _Certain())
    completions = Cascade(stages, policy, PRICES, Health()).run(asked)
    assert {completion.stage for completion in completions} == {"S"}
    assert all(completion.failures for completion in completions)


class _Certain:
    """Every answer in hand is right with probability 1/2."""

    def judge(
        self,
        query: Query,  # noqa: ARG002
        drafts: Mapping[str, Draft],
        verification: Verification | None = None,  # noqa: ARG002
    ) -> Judgement:
        return Judgement("+".join(drafts), 0, next(iter(drafts)), dict.fromkeys(drafts, 0.5), 1.0)


def test_a_policy_that_knows_one_stage_only_has_no_way_round() -> None:
    """Where the one stage of a fixed policy fails there is no answer, and that is said."""
    asked = queries(2)
    stages = fleet(asked, L=always(EngineError("down")))
    with pytest.raises(NoStageLeftError, match="2 of 2 queries"):
        Cascade(stages, FixedStage("L"), PRICES, Health()).run(asked)
    assert Cascade(stages, FixedStage("S"), PRICES, Health()).run(asked)[0].stage == "S"


@given(data=st.data(), batch_size=st.integers(1, 8))
def test_no_query_is_lost_and_none_done_twice(data: st.DataObject, batch_size: int) -> None:
    """Under any pattern of failures of all stages but one, everything is answered, once per stage at most."""
    asked = queries(12)
    broken = data.draw(st.sets(st.sampled_from("SML"), max_size=2))
    errors = [None, EngineError("e"), RuntimeError("r"), OutOfMemoryError("o"), PromptTooLongError("p")]
    pattern = {s: data.draw(st.lists(st.sampled_from(errors), max_size=12)) for s in sorted(broken)}

    def fails(stage: str) -> Fails:
        return lambda n, _: pattern[stage][n - 1] if n <= len(pattern.get(stage, ())) else None

    stages = fleet(asked, **{stage: fails(stage) for stage in "SML"})
    health = Health(clock=FakeClock())
    completions = Cascade(stages, Prefer(("S", "M", "L")), PRICES, health).run(asked, batch_size)
    assert [completion.query for completion in completions] == asked
    for engine in stages.values():
        assert len(set(engine.answered)) == len(engine.answered)
    for completion in completions:
        assert completion.text == f"{completion.stage} on {completion.query.id}"
        assert completion.stage not in {failure.stage for failure in completion.failures}
        assert len(completion.decisions) == len(completion.drafts) + 1


def replayed(traces: Sequence[Trace], dead: str = "") -> dict[str, Engine]:
    engines: dict[str, Engine] = {}
    for stage in "SL":
        engine = ReplayEngine(stage, traces)
        engines[stage] = Flaky(engine, always(EngineError("down"))) if stage in dead else engine
    return engines


@pytest.mark.slow
@pytest.mark.parametrize("dead", ["S", "L"])
@pytest.mark.parametrize("lam", [0.5, 2.0, 20.0])
def test_the_policy_is_solved_again_without_the_stage(dead: str, lam: float) -> None:
    """With a stage down, everybody ends where the optimum of the problem without its edges ends."""
    traces, _ = worlds.sample(60, np.random.default_rng(11))
    policy = worlds.fitted().policy(lam)
    prices = {stage.name: stage.prices for stage in worlds.ladder().stages}
    asked = [trace.query for trace in traces]
    found = Cascade(replayed(traces, dead), policy, prices, Health(clock=FakeClock())).run(asked)
    left = solve(policy.solution.graph.without({dead}), policy.solution.lams)
    expected = Cascade(replayed(traces), OptimalPolicy(policy.evidence, left, lam), prices).run(asked)
    assert [(c.stage, c.text, c.cost) for c in found] == [(c.stage, c.text, c.cost) for c in expected]
    alone = "SL".replace(dead, "")
    assert {completion.stage for completion in found} == {alone}


@pytest.mark.slow
def test_look_ahead_without_a_stage() -> None:
    """The one-step policy goes round a stage as well."""
    traces, _ = worlds.sample(10, np.random.default_rng(11))
    policy = worlds.fitted().policy(50.0)
    myopic = Myopic(policy.evidence, policy.solution.graph, 50.0)
    assert myopic.decide(traces[0].query, {}).action == Action.draft("L")
    assert myopic.without({"L"}).decide(traces[0].query, {}).action == Action.draft("S")


def test_each_set_of_stages_is_solved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many queries that go round the same stage share one solution."""
    solved: list[Collection[str]] = []
    original = Prefer.without

    def counted(self: Prefer, stages: Collection[str]) -> Prefer:
        solved.append(stages)
        return original(self, stages)

    monkeypatch.setattr(Prefer, "without", counted)
    asked = queries(9)
    cascade = Cascade(fleet(asked, S=always(EngineError("x"))), Prefer(("S", "M")), PRICES, Health())
    cascade.run(asked, batch_size=1)
    cascade.run(asked, batch_size=1)
    assert solved == [{"S"}]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (refusing(429), "UnavailableError"),
        (refusing(500), "UnavailableError"),
        (refusing(401), "EngineError"),
        (refusing(400, "maximum context length is 5"), "PromptTooLongError"),
        (hanging(0.4), "UnavailableError"),
        (cutting, "UnavailableError"),
        (dropping, "UnavailableError"),
        (saying("{"), "EngineError"),
        (saying('{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}'), "EngineError"),
    ],
)
def test_faults_of_a_server(fault: Fault, kind: str) -> None:
    """Each fault of a real server on loopback: everybody is answered, and the record names the fault."""
    asked = queries(3)
    with serving({q.prompt: f"S on {q.id}" for q in asked}) as server, stamina.set_testing(True, attempts=2):
        server.faults.extend([fault] * 99)
        stages = fleet(asked) | {"S": _served(server)}
        completions = Cascade(stages, Prefer(("S", "M", "L")), PRICES, Health()).run(asked)
        stages["S"].unload()
    assert [c.text for c in completions] == [f"M on {q.id}" for q in asked]
    assert {failure.kind for c in completions for failure in c.failures} == {kind}


def test_a_server_that_dies_in_the_middle_of_a_batch() -> None:
    """What it answered before is kept, the rest is answered elsewhere, and nothing is asked twice."""
    asked = queries(12)
    with serving({q.prompt: f"S on {q.id}" for q in asked}) as server, stamina.set_testing(True, attempts=2):
        server.faults.extend([*[None] * 5, dying])
        stages = fleet(asked) | {"S": _served(server)}
        completions = Cascade(stages, Prefer(("S", "M", "L")), PRICES, Health()).run(asked, batch_size=12)
        stages["S"].unload()
    by_stage = Counter(completion.stage for completion in completions)
    assert by_stage == {"S": 5, "M": 7}
    assert [c.text for c in completions] == [f"{c.stage} on {c.query.id}" for c in completions]
    assert len(stages["M"].answered) == 7


def _served(server: FakeServer) -> OpenAIEngine:
    options = {"base_url": server.url, "timeout_s": 0.2, "concurrency": 1}
    return OpenAIEngine(Stage("S", "tiny", Prices(1, 0, 0), options={"openai": options}))
