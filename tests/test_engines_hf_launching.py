"""`asd.engines.hf.caches.launching`: captures on a device that is faked, as strict as a real one.

Whether real graphs do the same is `test_gpu.py`.
"""

from __future__ import annotations

import gc
from threading import Thread

import pytest
import torch

from asd.engines.hf.caches.launching import GraphLauncher, empty_cache
from tests.fakecuda import N_STREAMS, WORKSPACE, Block, FakeCuda


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A device in the place of torch's."""
    device = FakeCuda()
    device.install(monkeypatch)
    return device


def launcher() -> GraphLauncher:
    return GraphLauncher(torch.device("cuda:0"), compiled=False)


def test_graphs_share_their_memory(cuda: FakeCuda) -> None:
    """However many are captured, the pool holds what the largest takes, and one workspace."""
    launching = launcher()
    steps = [launching.prepare(lambda: cuda.product(64), f"{i}", often=True) for i in range(2 * N_STREAMS)]
    [pool] = [pool for handle, pool in cuda.pools.items() if handle]
    assert sum(block.n_bytes for block in pool.blocks) == 64 + WORKSPACE
    assert not launching.trouble
    for step in steps:
        step()


def test_a_graph_that_goes_takes_nothing_from_the_others(cuda: FakeCuda) -> None:
    """An arena is let go of: what its graphs wrote to is still there for those of other arenas and stages."""
    launchers = [launcher(), launcher()]
    steps = [
        launchers[i % 2].prepare(lambda: cuda.product(8), f"{i}", often=True) for i in range(2 * N_STREAMS)
    ]
    cuda.product(8)
    del steps[:2]
    gc.collect()
    cuda.empty_cache()
    for step in steps:
        step()


def test_after_all_graphs_have_gone_others_are_captured(cuda: FakeCuda) -> None:
    """Even while something of the last one is still held: memory was short, and the call is made again."""
    launching, left = launcher(), list[Block]()
    step = launching.prepare(lambda: left.append(cuda.allocate(8)), "x", often=True)
    del step
    gc.collect()
    launching.prepare(lambda: cuda.product(8), "y", often=True)()
    assert (launching.trouble, len(left)) == ("", 4)


def test_after_a_capture_that_failed_memory_is_given_back_as_before(cuda: FakeCuda) -> None:
    """The step is launched plainly, on the stream of before; other stages go on being captured."""
    launching, before = launcher(), cuda.current
    kept = launching.prepare(lambda: cuda.product(8), "x", often=True)

    def waits() -> None:
        cuda.product(8)
        cuda.wait()

    assert launching.prepare(waits, "y", often=True) is waits
    assert "not permitted" in launching.trouble or "previous error" in launching.trouble
    assert cuda.current is before
    cuda.empty_cache()
    kept()
    other = launcher()
    other.prepare(waits, "y", often=True)
    cuda.empty_cache()
    assert other.trouble


@pytest.mark.parametrize("call", ["capture", "empty_cache"])
def test_stages_in_several_threads_wait_for_a_capture(cuda: FakeCuda, call: str) -> None:
    """Whatever would break it: another capture, on any device, or memory that is given back."""
    launching, other = launcher(), launcher()
    calls = {
        "capture": lambda: other.prepare(lambda: cuda.product(8), "y", often=True),
        "empty_cache": lambda: empty_cache(torch.device("cuda:1")),
    }
    errors: list[str] = []
    threads: list[Thread] = []

    def run() -> None:
        try:
            calls[call]()
        except RuntimeError as error:
            errors.append(str(error))

    def step() -> None:
        if cuda.is_capturing:
            threads.append(Thread(target=run))
            threads[0].start()
            threads[0].join(0.2)
            assert threads[0].is_alive()

    launching.prepare(step, "x", often=True)
    threads[0].join()
    assert (errors, launching.trouble, other.trouble) == ([], "", "")
