"""Short of memory: told apart from other errors, and translated so that a smaller batch is tried.

torch says it with a class of its own, with a plain `RuntimeError` (the CPU's allocator, CUDA's libraries) or
with Python's `MemoryError`; files that are mapped into memory with an `OSError`. Nothing heavy is imported.

An error holds the frames it came through, and these hold the tensors that took the memory. Who continues
after one has to let go of them first, so the translated error has no cause; its traceback is logged at
level DEBUG.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial, wraps
from traceback import clear_frames, format_exception
from typing import Any, Protocol, TypeVar, cast

from asd.errors import OutOfMemoryError
from asd.types import Query

__all__ = ["called", "is_out_of_memory", "release", "says_out_of_memory", "translated"]

_LOG = logging.getLogger(__name__)

SIGNS = (
    "out of memory",  # CUDA, HIP, MPS, XPU
    "can't allocate memory",  # the CPU's allocator
    "cannot allocate memory",  # the operating system
    "not enough memory",  # the CPU's allocator on Windows
    "alloc_failed",  # cuBLAS, cuDNN
    "bad_alloc",  # C++
    "no available memory for the cache blocks",  # vLLM
    "larger than the available kv cache memory",  # vLLM
    "less than desired gpu memory utilization",  # vLLM
    "less than requested memory for kv",  # vLLM on a CPU
)


class Holder(Protocol):
    """A stage that may be short of memory."""

    @property
    def stage_name(self) -> str:
        """For messages."""

    def make_room(self) -> None:
        """Give back what is held between calls, and what the device keeps ready."""


T = TypeVar("T")
Call = TypeVar("Call", bound=Callable[..., Any])


def says_out_of_memory(words: str) -> bool:
    """Whether an error's words say that memory was short."""
    return any(sign in words.lower() for sign in SIGNS)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory was short, or that is what caused the error."""
    if error is None:
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    by_class = not names.isdisjoint({"OutOfMemoryError", "MemoryError"})
    return by_class or says_out_of_memory(str(error)) or is_out_of_memory(error.__cause__)


def release(error: BaseException) -> None:
    """Let go of what the frames hold that an error and its causes came through."""
    clear_frames(error.__traceback__)
    for cause in {error.__cause__, error.__context__}:
        if cause is not None:
            release(cause)


def called(stage: str, n: int, call: Callable[[], T]) -> T:
    """What a call of a stage for n queries returns.

    Raises:
        OutOfMemoryError: Memory was short, whichever error of whatever library says so.
    """
    try:
        return call()
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        why = str(error).partition("\n")[0] or type(error).__name__
        _LOG.debug("stage %r is short of memory\n%s", stage, "".join(format_exception(error)))
        release(error)
    raise OutOfMemoryError(  # out here, where nothing holds the error any more
        f"stage {stage!r} has not enough memory for {n} queries in one call "
        f"({why}); ask fewer at a time, or give them less room (max_new_tokens)"
    )


def translated(call: Call) -> Call:
    """A method of a stage, for a batch of queries, that raises as `called` does and then makes room."""

    @wraps(call)
    def guarded(stage: Holder, queries: Sequence[Query], *args: Any, **kwargs: Any) -> Any:
        try:
            return called(stage.stage_name, len(queries), partial(call, stage, queries, *args, **kwargs))
        except OutOfMemoryError:
            stage.make_room()
            raise

    return cast(Call, guarded)
