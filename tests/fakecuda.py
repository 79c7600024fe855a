"""What of CUDA a launcher of graphs depends on, without a device: streams, pools, workspaces, captures.

It is as strict as torch 2.12: memory freed on a stream serves that stream only; a pool that its last graph
has left cannot be entered again while anything in it lives; a graph that goes takes the workspaces of its
stream along; a capture that failed goes on recording allocations, and then the cache cannot be emptied. A
replay that touches memory that has gone is an illegal access.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from weakref import finalize

import pytest
import torch

__all__ = ["N_STREAMS", "WORKSPACE", "Block", "FakeCuda"]

WORKSPACE = 32
"""Bytes of one, small here."""

N_STREAMS = 32
"""That are handed out in turn."""


@dataclass(eq=False)
class Block:
    """A piece of memory."""

    n_bytes: int
    stream: int
    pool: int
    is_live: bool = True


@dataclass
class Pool:
    """Memory of graphs."""

    n_graphs: int = 1
    blocks: list[Block] = field(default_factory=list)


@dataclass(eq=False)
class Graph:
    """A CUDA graph."""

    cuda: FakeCuda
    touched: list[Block] = field(default_factory=list)

    def replay(self) -> None:
        """Touch everything again."""
        for block in self.touched:
            is_own = block.pool in self.cuda.pools and block.pool != 0
            if not block.is_live and not is_own:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")


class Stream:
    """A stream of the device; there are few, which are handed out in turn."""

    def __init__(self, number: int) -> None:
        self.number = number

    def wait_stream(self, other: Stream) -> None:
        """Everything is done at once here."""


class FakeCuda:
    """The device; `install` puts it in the place of torch's.

    Attributes:
        pools: Those that exist, by their handles; 0 is that of ordinary memory.
        current: The current stream.
    """

    def __init__(self) -> None:
        self.pools: dict[int, Pool] = {0: Pool()}
        self.current = Stream(0)
        self._streams, self._handles = count(), count(1)
        self._workspaces: dict[int, Block] = {}
        self._recording: list[int] = []
        self._capturing: Graph | None = None
        self._is_broken = False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Until the test ends."""
        for name, value in {
            "device": lambda _: nullcontext(),
            "stream": self.on,
            "current_stream": lambda *_: self.current,
            "current_device": lambda: 0,
            "empty_cache": self.empty_cache,
            "Stream": lambda: Stream(1 + next(self._streams) % N_STREAMS),
            "CUDAGraph": lambda: Graph(self),
            "graph_pool_handle": lambda: next(self._handles),
            "graph": self.capture,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        for name, value in {
            "_cuda_clearCublasWorkspaces": lambda: [self._drop(number) for number in list(self._workspaces)],
            "_cuda_endAllocateToPool": lambda _, pool: self._end_recording(pool),
        }.items():
            monkeypatch.setattr(torch._C, name, value, raising=False)

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        """Launch on another stream."""
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def capture(self, graph: Graph, *, pool: int, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        """As `torch.cuda.graph`; an error that ends it leaves its stream the current one."""
        assert capture_error_mode == "thread_local"
        assert stream.number
        self.empty_cache()
        if pool in self.pools:
            if not self.pools[pool].n_graphs:
                raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")
            self.pools[pool].n_graphs += 1
        else:
            self.pools[pool] = Pool()
        self._recording.append(pool)
        before, self.current, self._capturing = self.current, stream, graph
        try:
            yield
        finally:
            self._capturing = None
            if self._is_broken:
                self._is_broken = False
                raise RuntimeError("operation failed due to a previous error during capture")
            self._end_recording(pool)
        finalize(graph, self._destroyed, pool, stream.number)
        self.current = before

    @property
    def is_capturing(self) -> bool:
        """Whether a capture is under way."""
        return self._capturing is not None

    def product(self, n_bytes: int) -> None:
        """Multiply matrices: so much memory for the result, which is let go of, and a workspace."""
        block = self.allocate(n_bytes)
        if self.current.number not in self._workspaces:
            self._workspaces[self.current.number] = self.allocate(WORKSPACE)
        if self._capturing:
            self._capturing.touched += [block, self._workspaces[self.current.number]]
        block.is_live = False

    def wait(self) -> None:
        """Wait for the device, which no graph can hold."""
        if self._capturing:
            self._is_broken = True
            raise RuntimeError("operation not permitted when stream is capturing")

    def allocate(self, n_bytes: int) -> Block:
        """Memory for the current stream, of the graph that is being captured."""
        pool = self._recording[-1] if self._capturing else 0
        blocks, stream = self.pools[pool].blocks, self.current.number
        of_before = (b for b in blocks if not b.is_live and (b.stream, b.n_bytes) == (stream, n_bytes))
        if (free := next(of_before, None)) is not None:
            blocks.remove(free)
        blocks.append(Block(n_bytes, stream, pool))
        return blocks[-1]

    def empty_cache(self) -> None:
        """Give back pools that no graph and nothing in them needs."""
        if self._recording:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")
        for handle, pool in list(self.pools.items()):
            if handle and not pool.n_graphs and not any(block.is_live for block in pool.blocks):
                del self.pools[handle]

    def _end_recording(self, pool: int) -> None:
        if pool not in self._recording:
            raise RuntimeError("not currently recording to mempool_id")
        self._recording.remove(pool)

    def _destroyed(self, pool: int, stream: int) -> None:
        self._drop(stream)
        self.pools[pool].n_graphs -= 1

    def _drop(self, stream: int) -> None:
        if stream in self._workspaces:
            self._workspaces.pop(stream).is_live = False
