"""`close` and `with`, of every engine and of a cascade: all is given back, and asking opens again."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from asd.cascade import Cascade
from asd.cli import main
from asd.cli.opening import closed_at_the_end
from asd.engines import Engine
from asd.engines.cache import ResponseStore, with_cache
from asd.engines.hf.engine import TransformersEngine
from asd.engines.hf.speculation import SpeculativeEngine
from asd.engines.http.engine import OpenAIEngine
from asd.engines.http.vllm import VllmServerEngine
from asd.engines.registry import open_drafted, open_engines
from asd.engines.replay import ReplayEngine
from asd.engines.residency import Residency
from asd.errors import ConfigError
from asd.ladder import Ladder, Stage
from asd.policies import FixedStage
from asd.prices import Prices
from asd.testing import ScriptedEngine
from asd.types import Outcome, Query, Trace
from tests.fakeserver import FakeServer, serving

pytestmark = pytest.mark.usefixtures("one_thread")

ASKED = [Query(f"q{i}", "d", f"add {i}+3", max_new_tokens=8) for i in range(5)]
FREE = Prices(1, 0, 0)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving({query.prompt: f"{query.id}!" for query in ASKED}) as server:
        yield server


def served(server: FakeServer, dialect: str = "openai") -> OpenAIEngine:
    kind = VllmServerEngine if dialect == "vllm" else OpenAIEngine
    options = {"openai": {"base_url": server.url, "dialect": dialect}}
    return kind(Stage("S", "tiny", FREE, options=options))


def scripted() -> ScriptedEngine:
    return ScriptedEngine("S", {query.prompt: (query.id, (-0.1,)) for query in ASKED})


def replayed() -> ReplayEngine:
    drafts = scripted().generate(ASKED)
    return ReplayEngine("S", [Trace(q, {"S": Outcome(d, 1.0)}) for q, d in zip(ASKED, drafts, strict=True)])


Make = Callable[[FakeServer, Path], Engine]

ENGINES: dict[str, Make] = {
    "scripted": lambda *_: scripted(),
    "replay": lambda *_: replayed(),
    "transformers": lambda *_: open_engines(Ladder.load("tiny"), "cpu")["S"],
    "with a drafter": lambda *_: open_drafted(Ladder.load("tiny"), "cpu")["L"],
    "server": lambda server, _: served(server),
    "vLLM server": lambda server, _: served(server, "vllm"),
    "resident": lambda *_: Residency({"S": scripted()}, {"S": 1.0}, 1.0).engines["S"],
}


@pytest.mark.parametrize("kind", ENGINES)
def test_every_engine_closes_and_opens_again(kind: str, server: FakeServer, tmp_path: Path) -> None:
    """`with` closes, closing twice is as good as once, an engine that is asked later answers as before."""
    engine: Any = ENGINES[kind](server, tmp_path)
    with engine as entered:
        assert entered is engine
        before = [draft.text for draft in engine.generate(ASKED)]
    engine.close()
    engine.close()
    assert [draft.text for draft in engine.generate(ASKED)] == before
    engine.close()


@pytest.mark.slow
def test_closing_gives_models_back() -> None:
    """Of a stage with a drafter neither model is left in memory."""
    engine = open_drafted(Ladder.load("tiny"), "cpu")["L"]
    assert isinstance(engine, SpeculativeEngine)
    engine.generate(ASKED)
    models = [weakref.ref(part.loaded.model) for part in (engine.drafter, engine.verifier)]
    engine.close()
    gc.collect()
    assert [model() for model in models] == [None, None]


def test_a_store_is_closed_by_its_owner(tmp_path: Path) -> None:
    """A caching engine closes the engine behind it and leaves the store open to others."""
    behind = scripted()
    with ResponseStore(tmp_path / "store") as store:
        engine = with_cache(behind, store, Stage("S", "tiny", FREE), "r1")
        with engine:
            engine.generate(ASKED)
        assert not behind.loaded
        assert all(draft.cached for draft in engine.generate(ASKED))


class Own:
    """An engine of somebody's own: no more than the protocol asks for."""

    def __init__(self) -> None:
        self.engine = scripted()
        for name in ("stage_name", "load", "unload", "synchronise", "generate"):
            setattr(self, name, getattr(self.engine, name))


class OwnClosing(Own):
    """One that has more to give back, and trouble with it."""

    n_closed = 0

    def close(self) -> None:
        self.n_closed += 1
        raise OSError("trouble")


def test_a_cascade_closes_its_engines() -> None:
    """Those without `close` are unloaded, the others closed, all of them even where one of them fails."""
    first, last = Own(), Own()
    troubled = OwnClosing()
    last.stage_name = "L"  # type: ignore[attr-defined]
    troubled.stage_name = "M"  # type: ignore[attr-defined]
    engines: dict[str, Any] = {"S": first, "M": troubled, "L": last}
    for engine in (first, last):
        engine.engine.load()
    cascade = Cascade(engines, FixedStage("S"), dict.fromkeys("SML", FREE))
    with pytest.raises(OSError, match="trouble"):
        cascade.close()
    assert (first.engine.loaded, troubled.n_closed, last.engine.loaded) == (False, 1, False)


def test_a_cascade_is_a_context_manager() -> None:
    """Its engines are closed when the block ends, by an error too, and open again when it is asked."""
    engine = scripted()
    cascade = Cascade({"S": engine}, FixedStage("S"), {"S": FREE})
    with cascade as entered:
        assert entered is cascade
        cascade.run(ASKED)
        assert engine.loaded
    assert not engine.loaded
    with pytest.raises(ConfigError), cascade:
        cascade.run(ASKED, batch_size=0)
    assert not engine.loaded
    assert [completion.text for completion in cascade.run(ASKED)] == [query.id for query in ASKED]


def open_things() -> tuple[int, int]:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


@pytest.mark.slow
def test_nothing_is_left_open(server: FakeServer, tmp_path: Path) -> None:
    """File descriptors, connections and threads after more cascades of all kinds are those of one."""

    def use() -> None:
        tiny = open_engines(Ladder.load("tiny"), "cpu")
        with ResponseStore(tmp_path / "store") as store, ExitStack() as stack:
            for name, engine in (("a", served(server)), ("b", served(server, "vllm")), ("c", tiny["S"])):
                cached: Engine = with_cache(engine, store, Stage("S", "tiny", FREE), name)
                cascade = Cascade({"S": cached}, FixedStage("S"), {"S": FREE})
                stack.enter_context(cascade).run(ASKED, batch_size=3)

    use()
    before = open_things()
    for _ in range(4):
        (tmp_path / "store").unlink()
        use()
    deadline = time.monotonic() + 10
    while open_things() != before and time.monotonic() < deadline:
        time.sleep(0.01)  # the server's side closes when it sees that the client has
    assert open_things() == before


def test_a_command_closes_its_engines() -> None:
    """However a command ends, by an error too."""
    for error in (None, click.UsageError("no")):
        engine = scripted()

        @click.command()
        def command(engine: ScriptedEngine = engine, error: Exception | None = error) -> None:
            closed_at_the_end({"S": engine})["S"].generate(ASKED)
            assert engine.loaded
            if error is not None:
                raise error

        assert CliRunner().invoke(command).exit_code == (0 if error is None else 2)
        assert not engine.loaded


@pytest.mark.parametrize("command", [("generate", "add 1+2"), ("price", "--out", "p.json")])
def test_commands_that_open_a_ladder_close_it(
    command: Sequence[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After `asd generate` and `asd price` no stage is left in memory."""
    loaded: list[TransformersEngine] = []
    original = TransformersEngine.load

    def load(self: TransformersEngine) -> None:
        loaded.append(self)
        original(self)

    def measure(engines: Mapping[str, Engine], *_: Any, **__: Any) -> dict[int, dict[str, Prices]]:
        for engine in engines.values():
            engine.load()
        return {1: dict.fromkeys(engines, FREE)}

    monkeypatch.setattr(TransformersEngine, "load", load)
    monkeypatch.setattr("asd.evaluation.pricing.measure_batches", measure)  # which takes its time
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [*command, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert loaded
    assert all(engine._loaded is None for engine in loaded)
