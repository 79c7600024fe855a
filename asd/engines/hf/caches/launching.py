"""How a step gets onto the device: launched kernel by kernel, or replayed from a CUDA graph.

A step is a function without arguments or results that reads and writes tensors which stay where they are. It
holds no wait for the device, and nothing that it launches depends on what the tensors hold. Then a CUDA graph
of it, made once, does the same at every replay
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs), and the processor launches one graph where
it launched some hundred kernels.

Scope: steps and tensors; no models.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch import Tensor

from asd.engines import StepMode
from asd.engines.memory import is_out_of_memory

__all__ = ["GraphLauncher", "Launcher", "Launching", "PlainLauncher", "empty_cache", "launcher_for"]

_LOG = logging.getLogger(__name__)

N_WARM_UPS = 3
"""Runs before a capture, in which libraries choose kernels and allocate their workspaces."""

MOST_SHAPES = 1024
"""Shapes that a step may be compiled for."""

_CAPTURING = Lock()
"""Held during a capture: a process makes one at a time, and gives no memory back meanwhile, on any device."""

Step = Callable[[], None]


class Launcher(Protocol):
    """Runs steps on one device.

    Attributes:
        trouble: Why a step is launched plainly although it should not be; empty where there is none.
    """

    trouble: str

    @property
    def mode(self) -> StepMode:
        """How steps are run."""

    def prepare(self, step: Step, name: str, *, often: bool) -> Step:
        """What does the same as the step from now on: the step itself where there is `trouble`.

        Args:
            step: It may be run, so it must do no harm at this moment.
            name: For messages.
            often: It is run for every token, so that compiling it pays.
        """

    def fetch(self, values: Tensor) -> Callable[[], list[Any]]:
        """Begin to copy a tensor to the host, behind all that was launched; the result waits for it."""

    def upload(self, values: Tensor) -> Tensor:
        """A tensor of the host on the device, without a wait."""


Launching = Callable[[torch.device, bool], Launcher]
"""Makes a launcher for a device; whether steps are compiled, too."""


class PlainLauncher:
    """Launches every kernel by itself; `mode` "static" says that the cache is of a fixed size."""

    def __init__(self, device: torch.device, compiled: bool) -> None:
        self.trouble = ""
        self._device = device
        self._compiled = compiled

    @property
    def mode(self) -> StepMode:
        """How steps are run."""
        return "compiled" if self._compiled else "static"

    def prepare(self, step: Step, name: str, *, often: bool) -> Step:
        """The step itself, or compiled."""
        if self.trouble:
            return step
        try:
            return _compiled(step, name) if self._compiled and often else step
        except RuntimeError as error:
            self.trouble = _trouble(error)
            return step

    def fetch(self, values: Tensor) -> Callable[[], list[Any]]:
        """A copy, made when it is asked for."""
        return values.tolist

    def upload(self, values: Tensor) -> Tensor:
        """The tensor on the device."""
        return values.to(self._device)


class GraphLauncher:
    """Replays every step from a CUDA graph of its own; all graphs share one pool of memory and one stream.

    They may: no two run at the same time. What a graph leaves in the pool (logits of a piece) lives as long
    as it does, so that no later graph is given that memory, but an earlier one may write over it: it has to
    be copied before another step runs. One stream, because what was freed on a stream serves that one only.
    """

    def __init__(self, device: torch.device, compiled: bool) -> None:
        self.trouble = ""
        self._device = device
        self._compiled = compiled
        self._side: Any = None
        self._pool: Any = None
        self._graphs: WeakSet[Any] = WeakSet()

    @property
    def mode(self) -> StepMode:
        """How steps are run."""
        return "compiled" if self._compiled else "graph"

    def prepare(self, step: Step, name: str, *, often: bool) -> Step:
        """Run the step on a side stream until it is warm, then capture it there."""
        if self.trouble:
            return step
        try:
            # an error that ends a capture leaves its stream the current one
            with torch.cuda.device(self._device), torch.cuda.stream(torch.cuda.current_stream(self._device)):
                ready = _compiled(step, name) if self._compiled and often else step
                with _CAPTURING:
                    return self._captured(ready)
        except RuntimeError as error:
            self.trouble = _trouble(error)
            return step

    def _captured(self, step: Step) -> Step:
        self._side = self._side or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        current, side = torch.cuda.current_stream(), self._side
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(N_WARM_UPS):
                step()
        current.wait_stream(side)
        if not self._graphs:  # a pool that its last graph has left cannot be entered again
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        _forget_workspaces()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
                step()
        except RuntimeError:
            self._end_recording()
            raise
        finally:
            _forget_workspaces()
        self._graphs.add(graph)
        return graph.replay

    def _end_recording(self) -> None:
        """Allocate as before a capture that failed.

        Not every torch sees to that itself, and the next `empty_cache` would be an error
        (https://github.com/pytorch/pytorch/pull/180395).
        """
        with suppress(RuntimeError):  # it had ended, or never begun
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)

    def fetch(self, values: Tensor) -> Callable[[], list[Any]]:
        """Copied into pinned memory; an event says when."""
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(self._device))

        def wait() -> list[Any]:
            copied.synchronize()
            return host.tolist()

        return wait

    def upload(self, values: Tensor) -> Tensor:
        """Copied from pinned memory, which the allocator keeps until the copy is made."""
        return values.pin_memory().to(self._device, non_blocking=True)


def empty_cache(device: torch.device) -> None:
    """Give back what a device keeps ready for new tensors."""
    backend: Any = getattr(torch, device.type, None)
    if hasattr(backend, "empty_cache"):
        with _CAPTURING:
            backend.empty_cache()


def launcher_for(device: torch.device, compiled: bool) -> Launcher:
    """CUDA graphs where there are any, else plain launches."""
    kind = GraphLauncher if device.type == "cuda" else PlainLauncher
    return kind(device, compiled)


def _forget_workspaces() -> None:
    """Let matrix products allocate new workspaces: in a capture, in its graph's memory.

    torch keeps one for every stream, and drops it with any graph captured there, although others still write
    to it (https://github.com/pytorch/pytorch/issues/193402).
    """
    torch._C._cuda_clearCublasWorkspaces()


def _compiled(step: Step, name: str) -> Step:
    """The step compiled as a whole, for the shapes that it has now; the first run takes half a minute."""
    _LOG.warning("compiling %s; this takes about half a minute, once", name)
    start = time.perf_counter()
    # not torch.compiler.reset(): steps of other shapes stay compiled
    with torch._dynamo.config.patch(recompile_limit=MOST_SHAPES, accumulated_recompile_limit=MOST_SHAPES):
        compiled: Step = torch.compile(step, fullgraph=True, dynamic=False)
        compiled()
    _LOG.warning("compiled %s in %.0f s", name, time.perf_counter() - start)
    return compiled


def _trouble(error: RuntimeError) -> str:
    """Why a step is not captured or compiled; an error of memory is the call's, which may ask for less."""
    if is_out_of_memory(error):
        raise error
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
