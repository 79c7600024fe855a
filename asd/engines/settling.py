"""Calls in batches that go on past failures, until every query has a result or the stage's refusal.

For work that is paid for and recorded: what a failed call brought is kept, and one query that fails takes no
other with it. `asd.engines.batches` makes the batches; `asd.resilience` is for answers that are waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from asd.engines.batches import batches, cut, half, kept, paired, short_of_memory
from asd.errors import EngineError, PartialBatchError, RefusedError
from asd.types import Query

__all__ = ["Settled", "until_settled"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settled(Generic[T]):
    """What became of some queries for good, by index: their results, or the stage's refusals."""

    done: Mapping[int, T]
    refused: Mapping[int, RefusedError]

    def __len__(self) -> int:
        return len(self.done) + len(self.refused)


def until_settled(
    stage: str, call: Callable[[list[int]], list[T]], queries: Sequence[Query], batch_size: int
) -> Iterator[Settled[T]]:
    """Call a stage for all queries, at most `batch_size` a call.

    A batch that holds a refused query or does not fit into memory is halved until the query is alone; queries
    that failed otherwise are asked again after all others.

    Args:
        stage: What is called.
        call: Gets indices into `queries` and returns one result each, or raises.
        queries: What it is for.
        batch_size: Most indices in one call.

    Raises:
        ConfigError: `batch_size` is not positive.
        EngineError: The very first call brought nothing, or two calls in a row.
    """
    waiting = deque(batches(queries, batch_size))
    had_success = False
    while waiting:
        batch = waiting.popleft()
        try:
            found = Settled(paired(stage, batch, call(batch)), {})
        except (EngineError, MemoryError) as error:
            found, smaller = _kept(batch, error), _to_cut(batch, error)
            waiting = cut(smaller, waiting, half(batch)) if smaller else waiting
            if left := [i for i in batch if i not in {*found.done, *found.refused, *smaller}]:
                if not found and not had_success:
                    _name_query(error, [queries[i] for i in batch])
                    raise
                waiting.append(left)
            had_success = had_success and bool(smaller)
        had_success = had_success or bool(found)
        if found:
            yield found


def _kept(batch: Sequence[int], error: Exception) -> Settled[T]:
    """What a failed call brought all the same."""
    failed = error.failed if isinstance(error, PartialBatchError) else {}
    failed = {0: error} if isinstance(error, RefusedError) and len(batch) == 1 else failed
    refused = {batch[at]: why for at, why in failed.items() if isinstance(why, RefusedError)}
    return Settled(kept(batch, error), refused)


def _to_cut(batch: list[int], error: Exception) -> list[int]:
    """What may succeed in smaller batches: memory was short, or nobody says which query was refused."""
    if isinstance(error, RefusedError):
        return batch if len(batch) > 1 else []
    return short_of_memory(batch, error)


def _name_query(error: Exception, asked: Sequence[Query]) -> None:
    """Where one query was asked alone, the error begins with its name."""
    if len(asked) == 1 and repr(asked[0].id) not in str(error):
        error.args = (f"query {asked[0].id!r} of {asked[0].dataset!r}: {error}",)
