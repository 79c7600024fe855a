"""Many queries through one engine, a batch at a time, with little padding.

A batch is padded to its longest prompt, so queries are batched by prompt length (in characters: a proxy
that needs no tokenizer). The composition of the batches depends on the queries and the size alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from asd.engines import Engine
from asd.errors import ConfigError, EngineError
from asd.types import Draft, Query


def in_batches(engine: Engine, queries: Sequence[Query], batch_size: int) -> Iterator[dict[int, Draft]]:
    """Answer all queries, at most `batch_size` a call; yields the drafts of a batch by index into `queries`.

    Raises:
        ConfigError: `batch_size` is not positive.
        EngineError: The engine could not answer, or returned more or fewer drafts than it was asked for.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
    by_length = sorted(range(len(queries)), key=lambda i: len(queries[i].prompt))
    for start in range(0, len(by_length), batch_size):
        batch = by_length[start : start + batch_size]
        drafts = engine.generate([queries[i] for i in batch])
        if len(drafts) != len(batch):
            raise EngineError(
                f"stage {engine.stage_name!r} returned {len(drafts)} drafts for {len(batch)} queries"
            )
        yield dict(zip(batch, drafts, strict=True))
