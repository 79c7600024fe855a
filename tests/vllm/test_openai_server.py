"""The openai engine against a real vLLM server on loopback: equal, lossless, killed in the middle of a batch.

The server serves the smallest stage of the embedded ladder in float32; it is started and stopped here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stamina

from asd.cascade import Cascade
from asd.engines.hf.engine import TransformersEngine
from asd.engines.http.client import ServerClient
from asd.engines.http.engine import OpenAIEngine
from asd.engines.http.stages import open_stage
from asd.engines.http.vllm import VllmServerEngine
from asd.errors import PromptTooLongError
from asd.ladder import Ladder, Stage
from asd.resilience import Health
from asd.testing import FakeClock
from asd.types import Draft, Query
from asd.workloads.catalogue import find_workloads
from tests.test_resilience import Prefer
from tests.vllm.server import BLOCK, VllmServer

SMALL, MIDDLE = Ladder.load("tiny").stages[:2]
PRICES = {SMALL.name: SMALL.prices, MIDDLE.name: MIDDLE.prices}

THINKING = "{% if enable_thinking is defined and not enable_thinking %}=={% endif %}"
"""What a chat template adds where thinking is turned off."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    place = tmp_path_factory.mktemp("server")
    template = place / "template.jinja"
    template.write_text((Path(SMALL.model) / "chat_template.jinja").read_text() + THINKING)
    running = VllmServer(SMALL.model, place / "log", "--chat-template", str(template))
    running.start()
    yield running
    running.stop()


def served(server: VllmServer, dialect: str = "vllm", **options: object) -> Stage:
    settings = {"base_url": server.url, "model": "small", "dialect": dialect} | options
    return replace(SMALL, engine="openai", options={"openai": settings})


@pytest.fixture(scope="module")
def engine(server: VllmServer) -> Iterator[VllmServerEngine]:
    opened = open_stage(served(server))
    assert isinstance(opened, VllmServerEngine)
    yield opened
    opened.unload()


@pytest.fixture(scope="module")
def asked() -> list[Query]:
    names = ["tiny-arithmetic", "tiny-text", "tiny-lookup", "tiny-reasoning"]
    return [query for workload in find_workloads(names) for query in workload.queries("test", 8)]


@pytest.fixture(scope="module")
def reference(asked: list[Query]) -> list[Draft]:
    """What the transformers engine writes."""
    return TransformersEngine(SMALL, "cpu").generate(asked)


def test_the_server_says_what_it_serves(engine: VllmServerEngine) -> None:
    """Loading finds the model; its revision is where the server took it from."""
    engine.load()
    assert engine.revision == f"served:{SMALL.model}"


def test_answers_are_those_of_the_transformers_engine(
    engine: VllmServerEngine, asked: list[Query], reference: list[Draft]
) -> None:
    """Text, ids, end and counts are equal, and log-probabilities within float32."""
    for draft, expected in zip(engine.generate(asked), reference, strict=True):
        assert (draft.text, draft.tokens, draft.finished) == (
            expected.text,
            expected.tokens,
            expected.finished,
        )
        assert draft.logprobs == pytest.approx(expected.logprobs, abs=1e-3)
        assert draft.usage == expected.usage


def test_the_plain_dialect_answers_the_same(
    server: VllmServer, asked: list[Query], reference: list[Draft]
) -> None:
    """Without vLLM's additions the texts and log-probabilities are the same, and ids are not told."""
    opened = OpenAIEngine(served(server, "openai"))
    drafts = opened.generate(asked)
    opened.unload()
    for draft, expected in zip(drafts, reference, strict=True):
        assert (draft.text, draft.tokens, draft.finished) == (expected.text, (), expected.finished)
        assert draft.logprobs == pytest.approx(expected.logprobs, abs=1e-3)


@pytest.mark.parametrize("kept", [0, 2, 5, 99])
def test_going_on_from_any_draft_is_lossless(
    engine: VllmServerEngine, asked: list[Query], reference: list[Draft], kept: int
) -> None:
    """A draft that is right up to some character: its prefix is accepted, the rest is the stage's own."""
    drafts = [
        replace(d, stage="XS", text=d.text[:kept] + ("~" if len(d.text) > kept else "")) for d in reference
    ]
    seen = engine.verify(asked, drafts)
    assert [v.accepted for v in seen] == [len(d.text) <= kept for d in reference]
    assert all(v.usage.n_verified == len(v.tokens) and v.usage.n_decoded == 0 for v in seen)
    for draft, alone in zip(engine.continue_(asked, seen), reference, strict=True):
        assert (draft.text, draft.tokens, draft.finished) == (alone.text, alone.tokens, alone.finished)
        assert draft.logprobs == pytest.approx(alone.logprobs, abs=1e-3)


def test_a_continuation_counts_what_the_cache_did_not_hold(engine: VllmServerEngine) -> None:
    """Whole blocks that verifying left in the server's cache are not read again, and not counted."""
    query = Query("long", "d", "sort " + " ".join("abcdefghijklmnop" * 5), max_new_tokens=20)
    [alone] = engine.generate([query])
    [seen] = engine.verify([query], [replace(alone, stage="XS", text=alone.text[:4], finished=False)])
    [whole] = engine.continue_([query], [seen])
    assert whole.tokens == alone.tokens
    n_read = alone.usage.n_prompt + seen.n_accepted
    assert whole.usage.n_prompt == n_read - (n_read - 1) // BLOCK * BLOCK < alone.usage.n_prompt


def test_a_prompt_that_does_not_fit(engine: VllmServerEngine) -> None:
    """What vLLM says of it is understood."""
    with pytest.raises(PromptTooLongError, match="shorten the prompt"):
        engine.generate([Query("long", "d", "add 1+1 " * 200, max_new_tokens=20)])


def test_its_queue_and_its_cache_are_told_while_it_works(server: VllmServer) -> None:
    """Of twelve requests eight run and four wait; then nobody is there."""
    engine = OpenAIEngine(served(server, "openai", concurrency=12, extra_body={"ignore_eos": True}))
    queries = [Query(str(i), "d", f"add {i}+1", max_new_tokens=200) for i in range(12)]
    seen = []
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(engine.generate, queries)
        while not asked.done():
            seen.append(engine.gauges())
        asked.result()
    fullest = max(seen, key=lambda told: told["waiting"])
    assert (fullest["running"], fullest["waiting"]) == (8.0, 4.0)
    assert 0.0 < fullest["kv cache in use"] < 1.0
    at_rest = engine.gauges()
    engine.unload()
    assert (at_rest["running"], at_rest["waiting"]) == (0.0, 0.0)


@pytest.mark.parametrize("dialect", ["openai", "vllm"])
def test_template_variables_reach_the_template(server: VllmServer, dialect: str) -> None:
    """A stage's variables change what the server makes of a chat, and so what it reads."""
    query = Query("q", "d", "add 2+3", max_new_tokens=4)
    stages = [
        replace(served(server, dialect), chat_template_kwargs=kwargs)
        for kwargs in ({}, {"enable_thinking": True}, {"enable_thinking": False})
    ]
    counts = []
    for stage in stages:
        opened = open_stage(stage)
        counts += [draft.usage.n_prompt for draft in opened.generate([query])]
        opened.unload()
    assert counts == [7, 7, 9]


def test_one_request_a_verification(
    server: VllmServer, asked: list[Query], reference: list[Draft], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new engine, which has seen no answer end, needs none to judge the end of a draft."""
    sent: list[tuple[str, object]] = []
    post = ServerClient.post

    def counted(self: ServerClient, path: str, body: Mapping[str, object], reply: type[Any]) -> Any:
        sent.append((path, body.get("max_tokens")))
        return post(self, path, body, reply)

    monkeypatch.setattr(ServerClient, "post", counted)
    engine = open_stage(served(server))
    assert isinstance(engine, VllmServerEngine)
    finished = [(q, d) for q, d in zip(asked, reference, strict=True) if d.finished]
    seen = engine.verify([q for q, _ in finished], [replace(d, stage="XS") for _, d in finished])
    engine.unload()
    assert [v.text for v in seen] == [d.text for _, d in finished]
    assert [n for path, n in sent if path == "completions"] == [1] * len(finished)


def test_killed_in_the_middle_of_a_batch_and_back_again(server: VllmServer, asked: list[Query]) -> None:
    """What was answered is kept, the rest is answered by another stage once; a new server is asked again."""

    class Killing(VllmServerEngine):
        n_replies = 0

        def _write(self, query: Query, choice: dict[str, object]) -> Draft:  # type: ignore[override]
            draft = super()._write(query, choice)
            self.n_replies += 1
            if self.n_replies == 5:
                server.kill()
            return draft

    clock = FakeClock()
    small, middle = Killing(served(server, concurrency=4, attempts=2)), TransformersEngine(MIDDLE, "cpu")
    health = Health(trip_after=1, cool_down_s=60.0, clock=clock)
    cascade = Cascade({"S": small, "M": middle}, Prefer(("S", "M")), PRICES, health)
    with stamina.set_testing(True, attempts=2):
        completions = cascade.run(asked, batch_size=len(asked))
    assert [c.query for c in completions] == asked
    by_small = [c for c in completions if c.stage == "S"]
    assert 5 <= len(by_small) == small.n_replies < len(asked)
    for completion in completions:
        failed = [(failure.stage, failure.kind) for failure in completion.failures]
        assert failed == ([] if completion.stage == "S" else [("S", "UnavailableError")])
    assert health.resting() == {"S"}
    small.unload()

    server.start()
    clock.advance(60.0)
    assert {completion.stage for completion in cascade.run(asked[:4])} == {"S"}
    small.unload()
