"""Batches that fail in part: what is kept, what is asked again, and when the error ends it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.engines.batches import until_settled
from asd.errors import (
    ConfigError,
    EngineError,
    OutOfMemoryError,
    PartialBatchError,
    PromptTooLongError,
    RefusedError,
    UnavailableError,
)
from asd.types import Query


def queries(n: int) -> list[Query]:
    return [Query(f"q{i}", "d", "p" * (i + 1)) for i in range(n)]


class Stage:
    """Answers its index times ten; refuses some queries, hiccups once on others, holds `fits` at a time."""

    def __init__(self, refused: set[int], hiccups: set[int], fits: int, *, partial: bool) -> None:
        self.refused, self.hiccups, self.fits, self.partial = refused, set(hiccups), fits, partial
        self.calls: list[list[int]] = []
        self.answered: list[int] = []

    def __call__(self, batch: list[int]) -> list[int]:
        self.calls.append(batch)
        if len(batch) > self.fits:
            raise OutOfMemoryError("short")
        failed: dict[int, EngineError] = {
            at: RefusedError("no") if i in self.refused else EngineError("hiccup")
            for at, i in enumerate(batch)
            if i in self.refused | self.hiccups
        }
        self.hiccups -= set(batch)
        done = {at: i * 10 for at, i in enumerate(batch) if at not in failed}
        if failed and not (self.partial and done):
            raise next((e for e in failed.values() if isinstance(e, RefusedError)), failed[min(failed)])
        self.answered += [i for at, i in enumerate(batch) if at in done]
        if failed:
            raise PartialBatchError("some", done, failed)
        return [done[at] for at in range(len(batch))]


@given(
    n=st.integers(1, 20),
    batch_size=st.integers(1, 8),
    fits=st.integers(1, 8),
    partial=st.booleans(),
    data=st.data(),
)
def test_every_query_is_settled_once(
    n: int, batch_size: int, fits: int, partial: bool, data: st.DataObject
) -> None:
    """Whatever fails, each query ends with its result or its refusal, and none is answered twice."""
    some = st.sets(st.integers(0, n - 1))
    refused = data.draw(some)
    hiccups = data.draw(some) - refused if partial else set()
    stage = Stage(refused, hiccups, fits, partial=partial)
    done: dict[int, int] = {}
    not_done: dict[int, RefusedError] = {}
    try:
        for found in until_settled("S", stage, queries(n), batch_size):
            done |= found.done
            not_done |= found.refused
        ended = True
    except EngineError:
        ended = False
    assert ended or hiccups
    if ended:
        assert done == {i: i * 10 for i in range(n) if i not in refused}
        assert not_done.keys() == refused
    assert sorted(stage.answered) == sorted(set(stage.answered)) == sorted(done)


def test_a_failed_query_is_asked_again_after_the_others() -> None:
    """One hiccup in a batch: what else it brought is yielded at once, the query comes again at the end."""
    stage = Stage(refused=set(), hiccups={1}, fits=9, partial=True)
    found = [set(part.done) for part in until_settled("S", stage, queries(5), 3)]
    assert found == [{0, 2}, {3, 4}, {1}]
    assert stage.calls == [[0, 1, 2], [3, 4], [1]]


def test_a_query_that_keeps_failing_is_named() -> None:
    """Everything else is yielded first; the error is the stage's, with the name of the query in front."""

    def call(batch: list[int]) -> list[int]:
        if 1 in batch:
            done = {at: i for at, i in enumerate(batch) if i != 1}
            error = EngineError("malformed")
            raise PartialBatchError("some", done, {batch.index(1): error}) if done else error
        return batch

    settled = until_settled("S", call, queries(4), 2)
    assert [sorted(next(settled).done) for _ in range(2)] == [[0], [2, 3]]
    with pytest.raises(EngineError, match="query 'q1' of 'd': malformed"):
        list(settled)


@pytest.mark.parametrize("error", [UnavailableError("gone"), EngineError("no weights")])
def test_a_stage_that_is_not_there_is_not_asked_on(error: EngineError) -> None:
    """Where the first call brings nothing there is no second, and the error keeps its type."""
    calls = []

    def call(batch: list[int]) -> list[int]:
        calls.append(batch)
        raise error

    with pytest.raises(type(error), match=str(error)):
        list(until_settled("S", call, queries(6), 2))
    assert len(calls) == 1


def test_a_stage_that_goes_away_is_asked_twice() -> None:
    """Between calls that bring something a failed one is put off; the second in a row ends it."""
    answers = iter(
        [[0, 1], UnavailableError("gone"), [4, 5], UnavailableError("gone"), UnavailableError("gone")]
    )

    def call(_: list[int]) -> list[int]:
        answer = next(answers)
        if isinstance(answer, EngineError):
            raise answer
        return answer

    settled = until_settled("S", call, queries(8), 2)
    assert [sorted(next(settled).done) for _ in range(2)] == [[0, 1], [4, 5]]
    with pytest.raises(UnavailableError):
        list(settled)


def test_what_does_not_fit_alone_is_an_error() -> None:
    """A single query that exceeds the memory is no refusal: more memory would answer it."""
    with pytest.raises(OutOfMemoryError):
        list(until_settled("S", Stage(set(), set(), 0, partial=False), queries(4), 4))


def test_a_wrong_value_passes_through() -> None:
    """The user's mistake is nobody's refusal."""

    def call(_: list[int]) -> list[int]:
        raise ConfigError("temperature")

    with pytest.raises(ConfigError):
        list(until_settled("S", call, queries(2), 2))


def test_a_prompt_that_is_too_long_is_a_refusal() -> None:
    """Found by halving where the stage names no position, and kept with its own words."""

    def call(batch: list[int]) -> list[int]:
        if 6 in batch:
            raise PromptTooLongError("q6 is too long")
        return batch

    found = list(until_settled("S", call, queries(9), 9))
    assert {i: str(why) for part in found for i, why in part.refused.items()} == {6: "q6 is too long"}
    assert sorted(i for part in found for i in part.done) == [0, 1, 2, 3, 4, 5, 7, 8]
