"""Stop strings and conversations on real vLLM, in process and behind a server: as the transformers engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from asd.cascade import Cascade
from asd.engines import Verifier
from asd.engines.hf.engine import TransformersEngine
from asd.engines.http.stages import open_stage
from asd.engines.http.vllm import VllmServerEngine
from asd.engines.vllm.engine import VllmEngine
from asd.errors import RefusedError
from asd.ladder import Stage
from asd.policies import Lossless
from asd.prices import Prices
from asd.types import Draft, Query
from tests.models import save_random_model
from tests.models import stage as stage_of
from tests.test_messages import ASK, BRIEF, CHATML, TURNS
from tests.test_stops import asked_of, by_hand, said, texts_only
from tests.vllm.cases import Drafter
from tests.vllm.test_openai_server import VllmServer

CACHE = 1 << 26
PRICES = {"S": Prices(1.0, 0.0, 1.0), "L": Prices(4.0, 0.0, 4.0)}
CONVERSATIONS = ([ASK], [BRIEF, ASK], [*TURNS[:2], ASK], [*TURNS, *TURNS[1:2], ASK], [BRIEF, *TURNS])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A random chat model."""
    path = save_random_model(tmp_path_factory.mktemp("model"), "qwen2")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(path)
    options = {"vllm": {"kv_cache_memory_bytes": CACHE}}
    return stage_of(path, "L", chat_template=True, options=options)


@pytest.fixture(scope="module")
def server(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    running = VllmServer(stage.model, tmp_path_factory.mktemp("server") / "log")
    running.start()
    yield running
    running.stop()


def opened(place: str, stage: Stage, server: VllmServer) -> Verifier:
    if place == "in process":
        return VllmEngine(stage, "cpu")
    settings = {"base_url": server.url, "model": "small", "dialect": "vllm"}
    engine = open_stage(replace(stage, engine="openai", options={"openai": settings}))
    assert isinstance(engine, VllmServerEngine)
    return engine


@pytest.fixture(scope="module", params=["in process", "server"])
def engine(request: pytest.FixtureRequest, stage: Stage, server: VllmServer) -> Iterator[Verifier]:
    engine = opened(request.param, stage, server)
    yield engine
    engine.unload()


@pytest.fixture(scope="module")
def reference(stage: Stage) -> TransformersEngine:
    return TransformersEngine(stage, "cpu")


@pytest.fixture(scope="module")
def asked(reference: TransformersEngine) -> list[tuple[Query, Draft]]:
    """Questions with up to three stop strings of one to five characters, and their answers without them."""
    return asked_of(reference, n=24)


def test_answers_end_before_their_stop_strings(
    engine: Verifier, reference: TransformersEngine, asked: list[tuple[Query, Draft]]
) -> None:
    """Text, tokens and end are those of the transformers engine; alone as well."""
    queries = [query for query, _ in asked]
    own = engine.generate(queries)
    assert [draft.text for draft in own] == [by_hand(uncut.text, query.stop) for query, uncut in asked]
    assert said(own) == said(reference.generate(queries))
    assert said([engine.generate([query])[0] for query in queries[:6]]) == said(own[:6])
    assert sum(draft.text != uncut.text for draft, (_, uncut) in zip(own, asked, strict=True)) > 6


def test_verifying_with_stop_strings_is_lossless(engine: Verifier, asked: list[tuple[Query, Draft]]) -> None:
    """After its own draft in tokens or in text, after one that was not cut, and after one that goes wrong."""
    queries = [query for query, _ in asked]
    own = engine.generate(queries)
    uncut = [draft for _, draft in asked]
    wrong = [replace(draft, text=draft.text[: len(draft.text) // 2] + "~", tokens=()) for draft in uncut]
    n_accepted = n_inside = 0
    for kind in (own, texts_only(own), uncut, texts_only(uncut), wrong):
        drafts = [replace(draft, stage="S") for draft in kind]
        read = engine.verify(queries, drafts)
        assert said(engine.continue_(queries, read)) == said(own)
        n_accepted += sum(verification.n_accepted for verification in read)
        n_inside += sum(0 < verification.n_accepted < len(verification.tokens) for verification in read)
        cascade = Cascade({"S": Drafter(by_id(queries, drafts)), "L": engine}, Lossless(("S", "L")), PRICES)
        assert [done.text for done in cascade.run(queries, 16)] == [draft.text for draft in own]
    assert n_accepted > 4 * len(queries)  # tokens; a server may settle no draft that a stop string ends
    assert n_inside > 0


def by_id(queries: list[Query], drafts: list[Draft]) -> dict[str, Draft]:
    return {query.id: draft for query, draft in zip(queries, drafts, strict=True)}


def test_whole_conversations_are_answered(engine: Verifier, reference: TransformersEngine) -> None:
    """Every message reaches the model, alone, in a batch and after verification."""
    queries = [
        Query.chat(str(n), "d", messages, max_new_tokens=12) for n, messages in enumerate(CONVERSATIONS)
    ]
    own, expected = engine.generate(queries), reference.generate(queries)
    assert said(own) == said(expected)
    assert [draft.usage.n_prompt for draft in own] == [draft.usage.n_prompt for draft in expected]
    assert len({draft.tokens for draft in own}) > 1
    assert said([engine.generate([query])[0] for query in queries]) == said(own)
    drafts = [replace(draft, stage="S", text=draft.text[:3] + "~", tokens=()) for draft in own]
    assert said(engine.continue_(queries, engine.verify(queries, drafts))) == said(own)


@pytest.mark.parametrize("place", ["in process", "server"])
def test_a_stage_without_a_template_refuses_a_conversation(
    place: str, stage: Stage, server: VllmServer
) -> None:
    """Nothing is asked with the last message only."""
    engine = opened(place, replace(stage, chat_template=False), server)
    query = Query.chat("q", "d", [BRIEF, ASK], max_new_tokens=4)
    with pytest.raises(RefusedError, match=r"conversation of 2 messages.*chat_template = true"):
        engine.generate([query])
    engine.unload()
