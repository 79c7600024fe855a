"""What a workload gives: accepted and read back as it is, or refused before a stage is paid for."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.collection import collect, header_for
from asd.errors import AsdError, ConfigError, DataError
from asd.ladder import Ladder, Stage
from asd.prices import Prices
from asd.testing import ScriptedEngine
from asd.traces import TraceHeader, read_traces
from asd.traces.log import TraceLog
from asd.traces.records import as_score
from asd.types import Query, Trace
from asd.workloads import Split, Workload

PROMPT = "2+2="
ENGINE_ANSWER = ("4", (-0.5,))
LIMIT = 9


class Stage4(ScriptedEngine):
    """Answers 4 to whatever it is asked."""

    def _script(self, query: Query) -> Any:  # noqa: ARG002
        return super()._script(Query("", "", PROMPT))


@dataclass
class Given:
    """A workload of given rows whose score is a given value, or what a function makes of query and text."""

    rows: Sequence[Any]
    value: Any = 1.0
    name: str = "given"

    def queries(self, split: Split, limit: int) -> list[Query]:  # noqa: ARG002
        return list(self.rows[:limit])

    def score(self, query: Query, text: str) -> float:
        score: float = self.value(query, text) if callable(self.value) else self.value
        return score


def header(*workloads: Workload) -> TraceHeader:
    ladder = Ladder("one", (Stage("S", "org/small", Prices(1, 0, 0)),), "declared", "made up")
    return header_for(ladder, {"S": "r1"}, workloads, "fit")


def collected(path: Path, *workloads: Workload, engine: ScriptedEngine | None = None) -> list[Trace]:
    engine = engine or Stage4("S", {PROMPT: ENGINE_ANSWER})
    with TraceLog(path, header(*workloads)) as log:
        return collect(workloads, {"S": engine}, log, limit=LIMIT)


SCORES = [
    (True, 1.0),
    (False, 0.0),
    (1, 1.0),
    (np.float32(0.25), 0.25),
    (np.float16(1), 1.0),
    (np.bool_(True), 1.0),
    (np.int64(0), 0.0),
    (np.array(0.5), 0.5),
    (Fraction(1, 3), 1 / 3),
    (Decimal("0.1"), 0.1),
    (None, None),
]
NO_SCORES = [
    "C",
    "1.0",
    95.0,
    -0.1,
    float("nan"),
    float("inf"),
    np.float32("nan"),
    np.array([1.0]),
    np.array("C"),
    Fraction(10) ** 400,
    Decimal("sNaN"),
    10**5000,
    1j,
    [1.0],
    b"1",
    object(),
]


@pytest.mark.parametrize(("value", "score"), SCORES)
def test_any_real_number_is_a_score(tmp_path: Path, value: object, score: float | None) -> None:
    """Bool, numpy's numbers, fractions and decimals are recorded as the float they are, and read back so."""
    path = tmp_path / "t.jsonl"
    [trace] = collected(path, Given([Query("q", "given", PROMPT)], value))
    assert (trace.outcomes["S"].score, type(trace.outcomes["S"].score)) == (score, type(score))
    assert read_traces(path) == [trace]


@pytest.mark.parametrize("value", NO_SCORES, ids=lambda value: type(value).__name__)
def test_no_score_is_refused_at_the_first_answer(tmp_path: Path, value: object) -> None:
    """Nothing more is asked; the answer is kept, and scored by the next run once the workload is mended."""
    path, rows = tmp_path / "t.jsonl", [Query(f"q{i}", "given", PROMPT) for i in range(3)]
    engine = Stage4("S", {PROMPT: ENGINE_ANSWER})
    with (
        TraceLog(path, header(Given(rows))) as log,
        pytest.raises(DataError, match=r"'q0'.*score") as refused,
    ):
        collect([Given(rows, value)], {"S": engine}, log, limit=9, batch_size=1)
    assert "collect again" in str(refused.value)
    assert engine.calls == [("q0",)]
    assert [trace.outcomes["S"].score for trace in read_traces(path)] == [None]
    assert [trace.outcomes["S"].score for trace in collected(path, Given(rows), engine=engine)] == [1.0] * 3
    assert engine.calls == [("q0",), ("q1", "q2")]
    assert [trace.outcomes["S"].score for trace in read_traces(path)] == [1.0] * 3


@given(
    st.fractions() | st.decimals(allow_nan=False) | st.floats(allow_nan=False) | st.integers() | st.booleans()
)
def test_a_score_is_the_number_itself(value: Fraction | Decimal | float) -> None:
    """Within [0, 1] it is float(value), elsewhere it is refused; nothing else comes out."""
    try:
        score = as_score(value)
    except ValueError:
        assert not 0 <= value <= 1
    else:
        assert score == float(value)
        assert type(score) is float


def test_a_score_that_raises_is_named(tmp_path: Path) -> None:
    """A bug of the workload ends in one line with its own words; the batch that was paid for is kept."""
    path, rows = tmp_path / "t.jsonl", [Query(f"q{i}", "given", PROMPT) for i in range(4)]

    def buggy(query: Query, text: str) -> float:
        return 1.0 if query.id != "q2" else float(query.tags["level"])

    with pytest.raises(DataError, match=r"stage 'S' to query 'q2'.* KeyError: 'level'"):
        collected(path, Given(rows, buggy))
    assert [trace.outcomes["S"].score for trace in read_traces(path)] == [1.0, 1.0, None, 1.0]


def test_answers_without_a_score_stay_without(tmp_path: Path) -> None:
    """A workload that scores nothing can be collected, and again: the file does not grow."""
    path, unscored = tmp_path / "t.jsonl", Given([Query("q", "given", PROMPT)], value=lambda *_: None)
    collected(path, unscored)
    before = path.read_bytes()
    [trace] = collected(path, unscored)
    assert trace.outcomes["S"].score is None
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (Query(7, "given", PROMPT), "id is 7, a int"),  # type: ignore[arg-type]
        (Query(np.int64(7), "given", PROMPT), "id is np.int64"),  # type: ignore[arg-type]
        (Query(None, "given", PROMPT), "id is None"),  # type: ignore[arg-type]
        (Query(uuid.UUID(int=1), "given", PROMPT), "id is UUID"),  # type: ignore[arg-type]
        (Query("q", 3, PROMPT), "dataset is 3"),  # type: ignore[arg-type]
        (Query("q", "given", b"2+2="), "prompt is b'2"),  # type: ignore[arg-type]
        (Query("q", "given", None), "prompt is None"),  # type: ignore[arg-type]
        (Query("q", "given", "\ud83d"), "prompt holds a lone surrogate"),
        (Query("\udce9", "given", PROMPT), "id holds a lone surrogate"),
        (Query("q", "given", ""), "empty prompt"),
        (Query("q", "given", PROMPT, 42), "reference is 42"),  # type: ignore[arg-type]
        (Query("q", "given", PROMPT, np.float64(4)), "reference is np.float64"),  # type: ignore[arg-type]
        (Query("q", "given", PROMPT, "\udce9"), "reference holds a lone surrogate"),
        (Query("q", "given", PROMPT, tags={"level": 3}), "tag 'level' is 3"),  # type: ignore[dict-item]
        (Query("q", "given", PROMPT, tags={3: "level"}), "tag is 3"),  # type: ignore[dict-item]
        (Query("q", "given", PROMPT, tags={"level": None}), "tag 'level' is None"),  # type: ignore[dict-item]
        (Query("q", "given", PROMPT, tags=None), "tags are None, a NoneType; give a dict"),  # type: ignore[arg-type]
        (Query("q", "given", PROMPT, tags=["level"]), "tags are ['level'], a list"),  # type: ignore[arg-type]
        (Query("q", "another", PROMPT), "query 'q' of dataset 'another'; name the workload"),
        (Query("q", "given", PROMPT, max_new_tokens=8.0), "max_new_tokens is 8.0"),  # type: ignore[arg-type]
        (Query("q", "given", PROMPT, max_new_tokens=np.float32(8)), "max_new_tokens"),  # type: ignore[arg-type]
        (Query("q", "given", PROMPT, max_new_tokens=True), "max_new_tokens is True"),
        (Query("q", "given", PROMPT, max_new_tokens=0), "max_new_tokens must be at least 1"),
        (Query("q", "given", PROMPT, max_new_tokens="8"), "max_new_tokens is '8'"),  # type: ignore[arg-type]
        ({"id": "q"}, "give asd.Query objects"),
    ],
)
def test_a_query_that_cannot_be_recorded_costs_nothing(tmp_path: Path, query: Any, says: str) -> None:
    """It is refused by name before any stage is asked, wherever it stands among the others."""
    engine = Stage4("S", {PROMPT: ENGINE_ANSWER})
    with pytest.raises(DataError, match="workload 'given'") as refused:
        collected(tmp_path / "t.jsonl", Given([Query("first", "given", PROMPT), query]), engine=engine)
    assert says in str(refused.value)
    assert engine.calls == []


def test_no_more_is_asked_than_the_limit(tmp_path: Path) -> None:
    """A workload that gives more than it was asked for, or never ends, costs no more."""
    engine = Stage4("S", {PROMPT: ENGINE_ANSWER})
    asked: list[str] = []

    class Endless(Given):
        def queries(self, *_: object) -> Any:
            return (asked.append(str(n)) or Query(str(n), "given", PROMPT) for n in count())

    assert len(collected(tmp_path / "t.jsonl", Endless([]), engine=engine)) == LIMIT == len(asked)


@pytest.mark.parametrize("error", [TypeError("no such row"), FileNotFoundError("rows.csv")])
def test_queries_that_raise_are_named(tmp_path: Path, error: Exception) -> None:
    """As `score` is: which workload, and what it raised."""

    class Broken(Given):
        def queries(self, *_: object) -> list[Query]:
            raise error

    says = f"queries.. of workload 'given' raised {type(error).__name__}: {error}"
    with pytest.raises(DataError, match=says):
        collected(tmp_path / "t.jsonl", Broken([]))


def test_data_that_is_not_here_is_said_as_it_is(tmp_path: Path) -> None:
    """What the package's own workloads raise names the remedy already."""

    class Elsewhere(Given):
        def queries(self, *_: object) -> list[Query]:
            raise ConfigError("set ASD_DATA")

    with pytest.raises(ConfigError, match=r"^set ASD_DATA$"):
        collected(tmp_path / "t.jsonl", Elsewhere([]))


def test_what_numpy_gives_becomes_plain(tmp_path: Path) -> None:
    """Texts and whole numbers of numpy are what they say; a run on the file they made goes on with them."""
    path = tmp_path / "t.jsonl"
    rows = [
        Query(
            np.str_("q"), np.str_("given"), np.str_(PROMPT), np.str_("4"), np.int32(8),  # type: ignore[arg-type]
            MappingProxyType({np.str_("level"): np.str_("1")}),
        )
    ]  # fmt: skip
    [trace] = collected(path, Given(rows))
    assert trace.query == Query("q", "given", PROMPT, "4", 8, {"level": "1"})
    assert {type(v) for v in (trace.query.id, trace.query.prompt, trace.query.reference)} == {str}
    engine = Stage4("S", {PROMPT: ENGINE_ANSWER})
    assert collected(path, Given(rows), engine=engine) == [trace]
    assert engine.calls == []


def test_a_workload_is_handed_its_own_queries(tmp_path: Path) -> None:
    """A subclass of Query reaches `score` as it left `queries`, and does not look changed to the next run."""

    @dataclass(frozen=True)
    class Row(Query):
        answer: int = 4

    workload = Given([Row("q", "given", PROMPT)], lambda query, text: query.answer == int(text))
    [trace] = collected(tmp_path / "t.jsonl", workload)
    assert trace.outcomes["S"].score == 1.0
    assert collected(tmp_path / "t.jsonl", workload) == [trace]


def test_ids_are_compared_over_all_workloads(tmp_path: Path) -> None:
    """Two workloads of one name that give the same id are found out before anything is asked."""
    engine = Stage4("S", {PROMPT: ENGINE_ANSWER})
    workloads = [Given([Query("q", "shared", PROMPT)], name="shared") for _ in range(2)]
    with pytest.raises(DataError, match="workload 'shared' repeats a query id, 'q'"):
        collected(tmp_path / "t.jsonl", *workloads, engine=engine)
    assert engine.calls == []


anything = (
    st.text()
    | st.none()
    | st.integers(-3, 99)
    | st.booleans()
    | st.floats()
    | st.binary(max_size=3)
    | st.text(st.characters(), max_size=3).map(np.str_)
    | st.sampled_from([np.int64(9), np.float32(0.5), Fraction(1, 2), Decimal(1), "\ud800"])
)


@pytest.mark.slow
@given(
    rows=st.lists(
        st.builds(
            Query,
            id=st.text(max_size=2) | anything,
            dataset=st.just("given") | anything,
            prompt=st.text(min_size=1) | anything,
            reference=st.none() | st.text() | anything,
            max_new_tokens=st.integers(1, 99) | anything,
            tags=st.dictionaries(st.text(), st.text() | anything, max_size=2) | st.none(),
        ),
        min_size=1,
        max_size=3,
    ),
    scores=st.lists(st.booleans() | st.floats(0, 1) | anything, min_size=3, max_size=3),
)
def test_what_is_accepted_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Query], scores: list[object]
) -> None:
    """Whatever a workload gives, either an error of ours names it, or the file reads back equal; an error
    leaves a file that can be read and continued."""
    path = tmp_path_factory.mktemp("any") / "t.jsonl"
    workload = Given(rows, lambda query, _: scores[rows.index(query)])
    try:
        traces = collected(path, workload)
    except AsdError:
        with TraceLog(path, header(workload)) as log:
            assert log.n_bytes_dropped == 0
    else:
        assert sorted(traces, key=lambda t: t.query.id) == read_traces(path)
        assert collected(path, workload) == traces
