"""Caches of a fixed size and CUDA graphs on a real device: equality, capture, fallback, memory.

Run with `pytest -m gpu tests/test_gpu.py` where there is a CUDA device; float32 with TF32 off.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from asd.engines import Sampling
from asd.engines.hf.caches import arena
from asd.engines.hf.caches.launching import N_WARM_UPS, GraphLauncher
from asd.engines.hf.engine import TransformersEngine
from asd.engines.hf.speculation import SpeculativeEngine
from asd.errors import StageTooLargeError
from tests.models import FAMILIES, save_pair, save_random_model, stage
from tests.written import (
    assert_same_answers,
    assert_written_as_by_generate,
    continue_all,
    in_batches,
    questions,
    spoiled,
    verify_all,
    with_texts,
)

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.usefixtures("exact")]

CAPTURED = ("llama", "qwen2", "qwen3", "phi3", "mistral", "gemma2", "gemma3_text")
"""Families whose steps are captured; those with experts may wait for the device in their own code."""

HYBRID = ("lfm2", "qwen3_next", "bamba", "nemotron_h")


@pytest.fixture
def exact() -> Iterator[None]:
    """Float32 as it is, without TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random model, and one that agrees with it on most tokens."""
    return save_pair(tmp_path_factory.mktemp("pair"), "qwen2")


def on_gpu(path: Path, name: str = "L", dtype: str = "float32", **options: object) -> TransformersEngine:
    return TransformersEngine(stage(path, name, dtype=dtype, options={"transformers": options}), "cuda")


def allocated() -> int:
    """Bytes that tensors hold; the workspaces of libraries, which stay, are given back first."""
    torch.cuda.synchronize()
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    return torch.cuda.memory_allocated()


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "compiled"])
@pytest.mark.parametrize("size", [1, 4, 16])
def test_equal_to_generate(paths: tuple[Path, Path], size: int, compiled: bool) -> None:
    """Greedy, prompts of mixed lengths, with and without a drafter; ties are counted, at most one in ten."""
    engine, asked = on_gpu(paths[1], compile=compiled), questions(16)
    small = on_gpu(paths[0], "S", compile=compiled)
    for writer in (engine, SpeculativeEngine(small, engine, 4)):
        written = in_batches(writer, asked, size)
        assert assert_written_as_by_generate(paths[1], asked, written, size, "cuda") <= 1
    assert engine.step_mode == small.step_mode == ("compiled" if compiled else "graph")


@pytest.mark.parametrize("family", CAPTURED)
def test_families_are_captured_and_write_what_launched_steps_write(family: str, tmp_path: Path) -> None:
    """Verified and gone on with, and drawn, too."""
    path = save_random_model(tmp_path, family)
    launched, captured = on_gpu(path, graphs="off"), on_gpu(path)
    asked = questions(9)
    own = launched.generate(asked)
    assert_same_answers(captured.generate(asked), own)
    for _ in range(2):  # what is read for the second time is captured
        read = verify_all(captured, asked, with_texts(launched, spoiled(own)), 3)
        assert_same_answers(continue_all(captured, asked, read, 3), own)
    drawn = [e.generate(asked, Sampling(1.0, np.random.default_rng(0))) for e in (launched, captured)]
    assert_same_answers(drawn[1], drawn[0])
    assert (launched.step_mode, captured.step_mode) == ("eager", "graph")


@pytest.mark.parametrize("family", ["gpt2", "bloom", *HYBRID])
def test_models_that_cannot_be_captured_fall_back(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """To launched steps over caches that grow, told once."""
    path = save_random_model(tmp_path, family)
    engine, asked = on_gpu(path), questions(4)
    written = in_batches(engine, asked, 2)
    assert_written_as_by_generate(path, asked, written, 2, "cuda")
    assert engine.step_mode == "eager"
    assert sum("one by one" in record.getMessage() for record in caplog.records) == 1


def test_models_with_experts_write_the_same_however_their_steps_are_made(tmp_path: Path) -> None:
    """Captured where the library's code can be, else launched; the mode says which."""
    for family in FAMILIES.keys() & {"qwen3_moe", "gpt_oss"}:
        path = save_random_model(tmp_path / family, family)
        launched, other = on_gpu(path, graphs="off"), on_gpu(path)
        for _ in range(2):
            assert_same_answers(other.generate(questions(4)), launched.generate(questions(4)))
        assert other.step_mode in ("graph", "eager")


def test_after_a_step_that_cannot_be_captured_steps_are_launched_on_the_stream_of_before() -> None:
    """An error that ends a capture leaves nothing behind but its reason."""
    launcher, values = GraphLauncher(torch.device("cuda"), compiled=False), torch.ones(1, device="cuda")

    def waits() -> None:
        values.add_(values.item())

    before = torch.cuda.current_stream()
    assert launcher.prepare(waits, "a step that waits", often=True) is waits
    assert torch.cuda.current_stream() == before
    assert launcher.trouble
    waits()
    assert values.item() == 2 ** (N_WARM_UPS + 1)
    torch.cuda.empty_cache()


def products(launcher: GraphLauncher, n: int) -> tuple[list[Callable[[], None]], torch.Tensor, torch.Tensor]:
    """Steps that multiply a matrix by itself, 64 MiB in between; the matrix, and where they write sums."""
    a, found = torch.randn(4096, 4096, device="cuda"), torch.zeros(4096, device="cuda")

    def step() -> None:
        found.copy_((a @ a).sum(0))

    return [launcher.prepare(step, f"{i}", often=True) for i in range(n)], a, found


def test_graphs_share_their_memory() -> None:
    """Eight take what one takes, and a workspace."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    steps, *_ = products(GraphLauncher(torch.device("cuda:0"), compiled=False), 8)
    torch.cuda.empty_cache()
    assert len(steps) == 8
    assert torch.cuda.memory_reserved() - before < 4 * 2**26


def test_a_graph_that_goes_takes_nothing_from_the_others() -> None:
    """What an arena that is let go of leaves behind is overwritten; graphs of others still write the same."""
    launcher = GraphLauncher(torch.device("cuda:0"), compiled=False)
    steps, a, found = products(launcher, 40)
    del steps[:20]
    gc.collect()
    torch.cuda.empty_cache()
    others = [torch.full((2**24,), torch.nan, device="cuda") for _ in range(8)]
    for step in steps:
        found.zero_()
        step()
        torch.testing.assert_close(found, (a @ a).sum(0))
    assert all(bool(other.isnan().all()) for other in others)


def test_after_all_graphs_have_gone_others_are_captured(paths: tuple[Path, Path]) -> None:
    """As after a call that was short of memory."""
    engine = on_gpu(paths[1])
    own = engine.generate(questions(4))
    for _ in range(2):
        engine.make_room()
        assert_same_answers(engine.generate(questions(4)), own)
    assert engine.step_mode == "graph"


def test_replays_do_not_wait_for_the_device(
    paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decode steps of a call that is warm run where every wait is an error."""
    engine = on_gpu(paths[1])
    engine.generate(questions(4))
    decode = arena.Arena.decode

    def strictly(self: arena.Arena, way: arena.Way) -> None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            decode(self, way)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(arena.Arena, "decode", strictly)
    assert len(engine.generate(questions(4))) == 4


def test_every_step_is_captured_once(paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of the same shape captures nothing, and allocates nothing that stays."""
    names: list[str] = []
    prepare = GraphLauncher.prepare
    monkeypatch.setattr(
        GraphLauncher,
        "prepare",
        lambda self, step, name, often: (names.append(name), prepare(self, step, name, often=often))[1],
    )
    engine = on_gpu(paths[1])
    for _ in range(3):
        engine.generate(questions(4))
    n_captured, n_bytes = len(names), allocated()
    engine.generate(questions(4))
    assert n_captured == len(set(names)) == len(names) > 0
    assert allocated() <= n_bytes


def test_memory_comes_back_and_what_cannot_fit_is_refused_before_loading(paths: tuple[Path, Path]) -> None:
    """Unloading frees what the stage took; caches beyond the device's memory are an error with numbers."""
    before = allocated()
    engine = on_gpu(paths[1])
    engine.generate(questions(8))
    assert allocated() > before
    engine.unload()
    assert allocated() <= before + 2**20
    with pytest.raises(StageTooLargeError, match=r"'L'.* GiB .*kv_cache_gib"):
        on_gpu(paths[1], kv_cache_gib=10_000).load()


def test_stages_on_two_devices_are_captured_in_two_threads(paths: tuple[Path, Path]) -> None:
    """At the same time, whatever the current device is; both write the same."""
    if torch.cuda.device_count() < 2:
        pytest.skip("fewer than two CUDA devices")
    engines = [on_gpu(paths[1], device=f"cuda:{i}") for i in range(2)]
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda engine: in_batches(engine, questions(12), 3), engines)
    assert_same_answers(first, second)
    assert [engine.step_mode for engine in engines] == ["graph", "graph"]


def test_bfloat16_differs_at_near_ties_only(paths: tuple[Path, Path]) -> None:
    """Where a captured answer leaves the launched one, the two tokens were closer than the rounding."""
    launched, captured = on_gpu(paths[1], dtype="bfloat16", graphs="off"), on_gpu(paths[1], dtype="bfloat16")
    asked = questions(16)
    for a, b in zip(captured.generate(asked), launched.generate(asked), strict=True):
        n_same = next((i for i, (x, y) in enumerate(zip(a.tokens, b.tokens, strict=False)) if x != y), None)
        if n_same is not None:
            assert abs(a.logprobs[n_same] - b.logprobs[n_same]) < 0.1
