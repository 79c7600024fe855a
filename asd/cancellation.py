"""Cancelling a running call for queries that nobody waits for any more.

    token = CancelToken()
    with cancellable([query], [token]):     # around the call, in the thread that makes it
        drafts = engine.generate([query])
    token.cancel()                          # from any other thread, while the call runs

An engine reads the tokens of its queries (`tokens_of`) between forward passes and ends the rows of cancelled
ones there. Their drafts hold what was written so far, unfinished, and count what was computed. An engine that
cannot know the counts raises `CallCancelledError`; one that ignores tokens computes to the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from asd.types import Query

__all__ = ["CancelToken", "cancellable", "token_of_call", "tokens_of"]


class CancelToken:
    """Says whether one query was given up; safe to use from several threads.

    Attributes:
        cancelled: Nobody waits for the query any more; stays true.
    """

    def __init__(self) -> None:
        self.cancelled = False
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []

    def cancel(self) -> None:
        """Give the query up; a second call does nothing."""
        with self._lock:
            self.cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Within the block, cancelling calls this too, in the thread that cancels; at once if it is late."""
        with self._lock:
            is_late = self.cancelled
            if not is_late:
                self._callbacks.append(callback)
        if is_late:
            callback()
        try:
            yield
        finally:
            with self._lock:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)


_TOKENS: ContextVar[Mapping[int, CancelToken]] = ContextVar("tokens", default={})  # noqa: B039 - never written
"""By identity of the query: equal queries may be waited for by different clients."""


@contextmanager
def cancellable(queries: Sequence[Query], tokens: Sequence[CancelToken]) -> Iterator[None]:
    """Calls within the block, in this thread, can be cancelled query by query."""
    before = _TOKENS.set({id(query): token for query, token in zip(queries, tokens, strict=True)})
    try:
        yield
    finally:
        _TOKENS.reset(before)


def tokens_of(queries: Sequence[Query]) -> list[CancelToken]:
    """The token of every query of the call that runs; one that is never cancelled where nobody gave any."""
    tokens = _TOKENS.get()
    return [tokens.get(id(query)) or CancelToken() for query in queries]


def token_of_call() -> CancelToken:
    """The token of the call's one query; one that is never cancelled where the call is for several."""
    tokens = list(_TOKENS.get().values())
    return tokens[0] if len(tokens) == 1 else CancelToken()
