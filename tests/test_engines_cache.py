"""Answers from a store: what makes two questions the same, and what may never be served."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asd.cascade import Cascade
from asd.dispatch import Dispatcher
from asd.engines import GREEDY, Engine, Sampling, Verifier
from asd.engines.cache import CachingEngine, ResponseStore, with_cache
from asd.engines.timing import time_stages
from asd.errors import ConfigError, DataError, StorageError
from asd.ladder import Stage
from asd.policies import FixedStage
from asd.prices import Prices
from asd.testing import FakeClock, ScriptedEngine
from asd.types import Draft, Query

STAGE = Stage("S", "made-up/S", Prices(1.0, 0.0, 1.0))
ASKED = [Query(f"q{i}", "d", f"prompt {i}", max_new_tokens=8) for i in range(4)]


def scripted() -> ScriptedEngine:
    return ScriptedEngine("S", {q.prompt: (f"S on {q.prompt}", (-0.1, -0.2)) for q in ASKED})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResponseStore]:
    with ResponseStore(tmp_path / "responses.sqlite") as opened:
        yield opened


def test_the_second_time_nobody_is_asked(store: ResponseStore) -> None:
    """The same drafts come back, marked, with the counts of the first time and the time of the look-up."""
    inner, clock = scripted(), FakeClock()
    engine = CachingEngine(inner, store, STAGE, "r1", clock=clock)
    first, second = engine.generate(ASKED), engine.generate(ASKED)
    assert inner.calls == [("q0", "q1", "q2", "q3")]
    assert [draft.cached for draft in first] == [False] * 4
    assert second == [replace(draft, cached=True, seconds=0.0) for draft in first]


def test_only_what_is_missing_is_asked(store: ResponseStore) -> None:
    """Known and unknown queries in one batch: the engine gets the unknown ones, the order stays."""
    inner = scripted()
    engine = CachingEngine(inner, store, STAGE, "r1")
    engine.generate([ASKED[1], ASKED[3]])
    drafts = engine.generate(ASKED)
    assert inner.calls == [("q1", "q3"), ("q0", "q2")]
    assert [draft.text for draft in drafts] == [f"S on {q.prompt}" for q in ASKED]
    assert [draft.cached for draft in drafts] == [False, True, False, True]
    assert engine.generate([]) == []


def test_the_id_of_a_query_does_not_matter(store: ResponseStore) -> None:
    """The same prompt under another id or in another dataset is the same question."""
    engine = CachingEngine(scripted(), store, STAGE, "r1")
    engine.generate([ASKED[0]])
    [draft] = engine.generate([replace(ASKED[0], id="other", dataset="e", reference="x")])
    assert draft.cached


@pytest.mark.parametrize(
    ("stage", "revision", "query"),
    [
        (STAGE, "r2", ASKED[0]),
        (replace(STAGE, dtype="float16"), "r1", ASKED[0]),
        (replace(STAGE, chat_template=True), "r1", ASKED[0]),
        (replace(STAGE, options={"vllm": {"quantization": "fp8"}}), "r1", ASKED[0]),
        (STAGE, "r1", replace(ASKED[0], max_new_tokens=9)),
        (STAGE, "r1", ASKED[1]),
    ],
)
def test_another_question_is_asked(store: ResponseStore, stage: Stage, revision: str, query: Query) -> None:
    """Another revision, dtype, template, option, room or prompt is another question."""
    CachingEngine(scripted(), store, STAGE, "r1").generate([ASKED[0]])
    [draft] = CachingEngine(scripted(), store, stage, revision).generate([query])
    assert not draft.cached


def test_the_store_is_on_disk(tmp_path: Path) -> None:
    """What one process kept, the next one finds; two stores on one file share it."""
    path = tmp_path / "responses.sqlite"
    with ResponseStore(path) as store:
        CachingEngine(scripted(), store, STAGE, "r1").generate(ASKED)
    with ResponseStore(path) as one, ResponseStore(path) as two:
        for store in (one, two):
            assert all(d.cached for d in CachingEngine(scripted(), store, STAGE, "r1").generate(ASKED))


class Drawing:
    """A stage that samples: its text is drawn from the generator it is given."""

    stage_name = "S"

    def __init__(self) -> None:
        self.n_calls = 0

    def load(self) -> None: ...

    def unload(self) -> None: ...

    def synchronise(self) -> None: ...

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        self.n_calls += 1
        assert sampling.rng is not None
        drawn = sampling.rng.integers(1 << 40, size=len(queries))
        script = {q.prompt: (str(d), (-0.1,)) for q, d in zip(queries, drawn, strict=True)}
        return ScriptedEngine("S", script).generate(queries)


def texts(engine: Engine, queries: Sequence[Query], seed: int, temperature: float = 1.0) -> list[str]:
    rng = np.random.default_rng(seed)
    runs = [engine.generate(queries, Sampling(temperature, rng)) for _ in range(2)]
    return [draft.text for run in runs for draft in run]


def test_sampling_with_a_store_is_sampling(store: ResponseStore, tmp_path: Path) -> None:
    """The same seed gives the same draws, from the store or not; two batches of one generator differ."""
    inner = Drawing()
    engine = CachingEngine(inner, store, STAGE, "r1")
    first = texts(engine, ASKED, seed=1)
    assert len(set(first)) == 8
    assert texts(engine, ASKED, seed=1) == first
    assert inner.n_calls == 2
    with ResponseStore(tmp_path / "empty.sqlite") as empty:
        assert texts(CachingEngine(Drawing(), empty, STAGE, "r1"), ASKED, seed=1) == first


@pytest.mark.parametrize(("n", "seed", "temperature"), [(4, 2, 1.0), (3, 1, 1.0), (4, 1, 0.5)])
def test_other_draws_are_not_served(store: ResponseStore, n: int, seed: int, temperature: float) -> None:
    """Another seed, batch or temperature is another draw."""
    inner = Drawing()
    engine = CachingEngine(inner, store, STAGE, "r1")
    texts(engine, ASKED, seed=1)
    texts(engine, ASKED[:n], seed, temperature)
    assert inner.n_calls == 4


def test_what_is_served_costs_nothing(store: ResponseStore) -> None:
    """A completion from the store has no price: nothing was called."""
    engines = {"S": CachingEngine(scripted(), store, STAGE, "r1")}
    cascade = Cascade(engines, FixedStage("S"), {"S": STAGE.prices})
    costs = [[completion.cost for completion in cascade.run(ASKED)] for _ in range(2)]
    assert costs == [[3.0] * 4, [0.0] * 4]


def test_a_timed_cell_is_never_served(store: ResponseStore) -> None:
    """Whoever times a stage synchronises it, and that is refused."""
    engine = CachingEngine(scripted(), store, STAGE, "r1")
    with pytest.raises(ConfigError, match="'S' answers from a store and cannot be timed"):
        time_stages({"S": engine}, ASKED)


def test_a_verifier_still_verifies(store: ResponseStore) -> None:
    """Verifying, loading and unloading go to the engine; one that cannot verify does not pretend to."""
    inner = scripted()
    engine = with_cache(inner, store, STAGE, "r1")
    assert isinstance(engine, Verifier)
    engine.load()
    assert inner.loaded
    engine.unload()
    assert not inner.loaded
    seen = engine.verify(ASKED, engine.generate(ASKED))
    assert [v.accepted for v in seen] == [True] * 4
    assert [d.text for d in engine.continue_(ASKED, seen)] == [f"S on {q.prompt}" for q in ASKED]
    assert not isinstance(with_cache(Drawing(), store, STAGE, "r1"), Verifier)


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    """Another file is not overwritten, and a damaged response is not served."""
    path = tmp_path / "notes.txt"
    path.write_text("these are notes, and long enough to have a header of their own")
    with pytest.raises(DataError, match="is no response store"):
        ResponseStore(path)
    assert path.read_text().startswith("these are notes")
    with ResponseStore(tmp_path / "r.sqlite") as store:
        engine = CachingEngine(scripted(), store, STAGE, "r1")
        engine.generate(ASKED[:1])
        other = sqlite3.connect(tmp_path / "r.sqlite")
        with other:
            other.execute("UPDATE responses SET draft = '{\"stage\": 1}'")
        other.close()
        with pytest.raises(DataError, match="holds a damaged response"):
            engine.generate(ASKED[:1])


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    """A directory that is not there, and a file that may only be read, are errors that name the file."""
    with pytest.raises(StorageError, match=r"cannot open the response store .*none"):
        ResponseStore(tmp_path / "none" / "r.sqlite")
    with ResponseStore(tmp_path / "r.sqlite") as store:
        store._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(StorageError, match=r"cannot write to the response store .*r\.sqlite"):
            CachingEngine(scripted(), store, STAGE, "r1").generate(ASKED)


def test_a_store_before_a_server_tells_what_it_tells(store: ResponseStore) -> None:
    class Telling(ScriptedEngine):
        def gauges(self) -> dict[str, float]:
            return {"waiting": 3.0}

    assert with_cache(Telling("S", {}), store, STAGE, "r1").gauges() == {"waiting": 3.0}
    assert with_cache(scripted(), store, STAGE, "r1").gauges() == {}


def test_a_store_before_a_server_leaves_it_its_concurrency(store: ResponseStore) -> None:
    """And one before an engine that computes here, its device: these still take turns."""

    class Served(ScriptedEngine):
        concurrency = 7

    served = with_cache(Served("S", {}), store, STAGE, "r")
    local = scripted()
    local.device = "cuda:1"  # type: ignore[attr-defined]

    async def main() -> tuple[int, int]:
        dispatcher = Dispatcher({"S": served, "L": with_cache(local, store, STAGE, "r")})
        return dispatcher.width("S"), dispatcher.width("L")

    assert asyncio.run(main()) == (7, 1)
    assert with_cache(local, store, STAGE, "r").device == "cuda:1"
