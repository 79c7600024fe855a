"""A cascade that verifies drafts on vLLM answers as its verifier alone: random models, drafts and rooms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from asd.engines.http.stages import open_stage
from asd.engines.http.vllm import VllmServerEngine
from asd.engines.vllm.engine import VllmEngine
from asd.ladder import Stage
from tests.models import stage as stage_of
from tests.vllm.cases import Tally, compare, save_verifier
from tests.vllm.test_openai_server import VllmServer

VERIFIERS = [("llama", "letters"), ("qwen2", "bytes"), ("gpt2", "pieces"), ("qwen2", "metaspace")]
CACHE = 1 << 26


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[Stage]:
    saved = [
        save_verifier(tmp_path_factory.mktemp("verifier"), family, splitting, seed)
        for seed, (family, splitting) in enumerate(VERIFIERS)
    ]
    return [stage_of(path, "L", options={"vllm": {"kv_cache_memory_bytes": CACHE}}) for path in saved]


def test_in_process(stages: list[Stage], capsys: pytest.CaptureFixture[str]) -> None:
    """Several tokenizers and architectures, four stop tokens each, batches of any size."""
    tally, rng = Tally(), np.random.default_rng(0)
    for stage in stages:
        verifier = VllmEngine(stage, "cpu")
        for batch_size in (1, 3, 8):
            compare(tally, verifier, stage, 10, batch_size, rng)
    with capsys.disabled():
        print(f"\nvLLM in process: {tally}")
    tally.check()


@pytest.fixture(scope="module")
def served(stages: list[Stage], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    server = VllmServer(stages[0].model, tmp_path_factory.mktemp("server") / "log")
    server.start()
    settings = {"base_url": server.url, "model": "small", "dialect": "vllm"}
    yield replace(stages[0], engine="openai", options={"openai": settings})
    server.stop()


def test_on_a_server(served: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """The same, with many requests in flight."""
    tally, rng = Tally(), np.random.default_rng(1)
    verifier = open_stage(served)
    assert isinstance(verifier, VllmServerEngine)
    for batch_size in (1, 5, 16):
        compare(tally, verifier, served, 20, batch_size, rng)
    verifier.unload()
    with capsys.disabled():
        print(f"\na vLLM server: {tally}")
    tally.check()
