"""Failing stages: what is kept, who is asked instead, and when a stage is asked again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.errors import (
    ConfigError,
    DataError,
    EngineError,
    OutOfMemoryError,
    PartialBatchError,
    PromptTooLongError,
    UnavailableError,
)
from asd.resilience import Breaker, Health
from asd.stopping.graph import Edge, Graph, Node
from asd.testing import FakeClock
from asd.types import Failure, Query


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
    for batch in health.call_in_batches(action, call, queries(n), batch_size):
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
    [EngineError("broken"), UnavailableError("gone"), RuntimeError("crash"), KeyError("x"), OSError()],
)
def test_a_failed_batch_fails_its_queries(error: Exception) -> None:
    """Whatever comes out of a stage fails the queries of that call alone, and is recorded with its kind."""
    call, health = Calls(error), Health()
    found = ask(health, call, 4, 2)
    assert found[0] == found[1] == Failure("M", type(error).__name__, str(error))
    assert (found[2], found[3]) == (2, 3)
    assert health.counts == {("M", type(error).__name__): 1}


@pytest.mark.parametrize("error", [ConfigError("yours"), DataError("yours too"), KeyboardInterrupt()])
def test_what_is_nobodys_failure_passes_through(error: BaseException) -> None:
    """Wrong input and an interrupt are not a stage's failure."""
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


def test_one_query_that_does_not_fit_fails_alone() -> None:
    """Out of memory with a batch of one is a failure of the stage."""
    found = ask(Health(), Calls(OutOfMemoryError("a"), OutOfMemoryError("b")), 2, 2)
    assert found == {0: Failure("M", "OutOfMemoryError", "b"), 1: 1}


@given(n=st.integers(1, 20), batch_size=st.integers(1, 16), data=st.data())
def test_prompts_too_long_are_found(n: int, batch_size: int, data: st.DataObject) -> None:
    """Those that do not fit fail alone, the others are answered once, and the stage is not to blame."""
    too_long = data.draw(st.sets(st.integers(0, n - 1)))
    done: list[int] = []

    def call(batch: list[int]) -> list[int]:
        if too_long & set(batch):
            raise PromptTooLongError("long")
        done.extend(batch)
        return batch

    health = Health(trip_after=1)
    found = ask(health, call, n, batch_size)
    assert {i for i, result in found.items() if isinstance(result, Failure)} == too_long
    assert sorted(done) == sorted(set(range(n)) - too_long)
    assert health.resting() == frozenset()


def test_what_a_broken_call_delivered_is_kept() -> None:
    """Of a batch half done, the results stay and only the rest fails; nothing is asked again."""
    error = PartialBatchError(
        "2 of 4", {0: 10, 3: 13}, {1: EngineError("bad"), 2: PromptTooLongError("long")}
    )
    call, health = Calls(error), Health(trip_after=1)
    assert ask(health, call, 4, 4) == {
        0: 10,
        1: Failure("M", "EngineError", "bad"),
        2: Failure("M", "PromptTooLongError", "long"),
        3: 13,
    }
    assert len(call.seen) == 1
    assert health.resting() == frozenset()


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
    edges = [Edge("root", stage, np.ones(1), one, stage) for stage in stages]
    edges += [Edge(stages[0], stage, np.ones(1), one, f">{stage}") for stage in stages[1:]]
    return Graph(nodes, tuple(edges), np.ones(1))


def test_a_graph_without_a_stage() -> None:
    """Neither answering nor verifying edges of the stage remain; its node does, for those already there."""
    graph = chain(["S", "M", "L"]).without({"M"})
    assert [edge.action for edge in graph.edges] == ["S", "L", ">L"]
    assert [node.name for node in graph.nodes] == ["root", "S", "M", "L"]


def test_a_graph_without_any_stage() -> None:
    """Where nothing can be bought at the root, there is no problem left to solve."""
    with pytest.raises(ConfigError, match="may not stop and has no edge"):
        chain(["S", "M"]).without({"S", "M"})
