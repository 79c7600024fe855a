"""The end of an engine: all that it holds is given back, memory, connections and processes.

    with TransformersEngine(stage) as engine:
        engine.generate(queries)

An engine that is asked after it was closed opens again. Own engines need not have `close`: `unload` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Protocol, Self

from asd.engines import Engine

__all__ = ["Closing", "close", "close_all"]


class Closing(Protocol):
    """Gives an engine that can `unload` a `close` and a `with` statement."""

    def unload(self) -> None:
        """Give the memory back."""

    def close(self) -> None:
        """Give everything back; a second call does nothing, a later request opens the engine again."""
        self.unload()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def close_all(engines: Iterable[Engine]) -> None:
    """Close all of them, also where closing one raises."""
    with ExitStack() as stack:
        for engine in engines:
            stack.callback(close, engine)


def close(engine: Engine) -> None:
    """Close any engine; one without a `close` is unloaded."""
    getattr(engine, "close", engine.unload)()
