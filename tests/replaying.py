"""CUDA graphs in slow motion: the operations of a step are recorded once, and replayed on the same tensors.

No Python of the step runs again, so whatever it computed on the host is frozen, and every tensor is where it
was: what a step does here is what a CUDA graph of it would do. What no graph can hold is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from asd.engines import StepMode

WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "unique2", "item", "is_nonzero", "equal"}
"""Operations that wait for the device, or whose result has a shape that depends on numbers."""

WARM_UPS = 3


class _Recorder(TorchDispatchMode):
    """Notes every operation with its arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Sequence[Any], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITS or _indexes_by_booleans(name, args):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        results = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, _tensors(results)))
        return results


def _indexes_by_booleans(name: str, args: Sequence[Any]) -> bool:
    return name in {"index", "index_put", "index_put_"} and any(
        each.dtype == torch.bool for each in _tensors(args[1])
    )


def _tensors(values: object) -> list[Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, Tensor)]


class Replay:
    """A recorded step.

    Attributes:
        n_calls: How often it was replayed.
        outside: Addresses of what it reads and writes that was there before it.
    """

    def __init__(self, step: Callable[[], None]) -> None:
        with _Recorder() as recorder:
            step()
        self._calls = recorder.calls
        self.n_calls = 0
        made = {result.untyped_storage().data_ptr() for *_, results in self._calls for result in results}
        given = _pointers(value for _, args, kwargs, _ in self._calls for value in _tensors((args, kwargs)))
        self.outside = given - made

    def __call__(self) -> None:
        self.n_calls += 1
        for func, args, kwargs, results in self._calls:
            for before, now in zip(results, _tensors(func(*args, **kwargs)), strict=True):
                if before.data_ptr() != now.data_ptr():
                    before.copy_(now)


def _pointers(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


class ReplayingLauncher:
    """A `Launcher` that warms up, captures and replays, as the one for CUDA does.

    Attributes:
        replays: Every recorded step, by its name.
    """

    def __init__(self, _: torch.device, compiled: bool) -> None:
        assert not compiled
        self.trouble = ""
        self.replays: dict[str, list[Replay]] = {}

    @property
    def mode(self) -> StepMode:
        return "graph"

    def prepare(
        self,
        step: Callable[[], None],
        name: str,
        *,
        often: bool,  # noqa: ARG002 - nothing is compiled
    ) -> Callable[[], None]:
        if self.trouble:
            return step
        for _ in range(WARM_UPS):
            step()
        try:
            replay = Replay(step)
        except RuntimeError as error:
            self.trouble = str(error)
            return step
        self.replays.setdefault(name, []).append(replay)
        return replay

    def fetch(self, values: Tensor) -> Callable[[], list[Any]]:
        """What the tensor held when it was asked for, as a copy in the stream's order would."""
        copied = values.clone()
        return copied.tolist

    def upload(self, values: Tensor) -> Tensor:
        return values.clone()
