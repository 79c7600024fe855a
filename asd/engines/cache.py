"""Answers that were given before: a store on disk, and an engine that looks there first.

A response is known by the stage (revision, dtype, chat template, engine, options), the prompt or
conversation, its stop strings, the room for an answer and the sampling. Greedy answers are known by their
query alone. A sampled batch is drawn with a seed of its own, taken from the caller's generator whether the
answers are there or not, and known by seed and batch: with the cache or without, the same generator gives the
same draws.

A draft from the store says so (`Draft.cached`): its `usage` is that of the call that wrote it, which evidence
reads and nobody pays again, its `seconds` are those of the look-up. No timed cell can be served: whoever
times a stage synchronises it, which a caching engine refuses.

Scope: texts and numbers in, the same out. Which weights a server runs only the server knows: drop the
file when they change.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import msgspec
import numpy as np

from asd.cancellation import tokens_of
from asd.engines import (
    GREEDY,
    LOSSLESS,
    Acceptance,
    Concurrent,
    Engine,
    Gauged,
    Sampling,
    TakesTurns,
    Verifier,
    accepted,
)
from asd.engines.closing import Closing, close
from asd.errors import ConfigError, DataError, StorageError
from asd.ladder import Stage
from asd.types import Draft, Query, Verification

__all__ = ["CachingEngine", "ResponseStore", "with_cache"]

SCHEMA = "CREATE TABLE IF NOT EXISTS responses (key TEXT PRIMARY KEY, draft BLOB NOT NULL) WITHOUT ROWID"


class ResponseStore:
    """Drafts by key in one SQLite file; several processes may share it.

    Args:
        path: Made if it is not there.

    Raises:
        DataError: The file is there and is no such store.
        StorageError: It cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        try:
            # one connection for all threads, and one at a time (`_lock`)
            self._connection = sqlite3.connect(path, check_same_thread=False)
        except sqlite3.Error as error:
            raise StorageError(f"cannot open the response store {path}: {error}") from error
        try:
            self._connection.execute(SCHEMA)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise DataError(f"{path} is no response store ({error}); name another file") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Everything is on disk; the store is of no use afterwards."""
        self._connection.close()

    def find(self, keys: Sequence[str]) -> list[Draft | None]:
        """The draft of every key, None where there is none.

        Raises:
            DataError: What is stored cannot be read.
        """
        with self._lock:
            rows = [
                self._connection.execute("SELECT draft FROM responses WHERE key = ?", (key,)).fetchone()
                for key in keys
            ]
        try:
            return [None if row is None else msgspec.json.decode(row[0], type=Draft) for row in rows]
        except msgspec.DecodeError as error:
            raise DataError(f"{self._path} holds a damaged response ({error}); remove the file") from error

    def keep(self, drafts: Mapping[str, Draft]) -> None:
        """Store drafts by key, all or none; one that is there already stays.

        Raises:
            StorageError: They cannot be written; what was there before is intact.
        """
        rows = [(key, msgspec.json.encode(draft)) for key, draft in drafts.items()]
        try:
            with self._lock, self._connection:
                self._connection.executemany("INSERT OR IGNORE INTO responses VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise StorageError(f"cannot write to the response store {self._path}: {error}") from error


class CachingEngine(Closing):
    """Looks in a store before it asks an engine; implements `asd.engines.Engine`.

    Args:
        engine: Answers what is not there.
        store: Where answers are kept.
        stage: The engine's.
        revision: Of its model (`asd.engines.revisions`).
        clock: Seconds now, for `Draft.seconds` of what is found.
    """

    def __init__(
        self,
        engine: Engine,
        store: ResponseStore,
        stage: Stage,
        revision: str,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine = engine
        self._store = store
        how = type(engine).__qualname__, dict(stage.options)
        self._identity = (revision, stage.dtype, stage.chat_template, stage.chat_template_kwargs, how)
        self._clock = clock

    @property
    def stage_name(self) -> str:
        """Name of the stage."""
        return self._engine.stage_name

    @property
    def concurrency(self) -> int | None:
        """Calls that the engine takes at a time; None: one after the other."""
        return self._engine.concurrency if isinstance(self._engine, Concurrent) else None

    @property
    def accepts(self) -> frozenset[str]:
        """What of `Query.extras` the engine can follow."""
        return accepted(self._engine)

    @property
    def device(self) -> object:
        """Where the engine computes; stages on one device take turns."""
        return getattr(self._engine, "device", "this process")

    def gauges(self) -> Mapping[str, float]:
        """What the engine says of itself."""
        return self._engine.gauges() if isinstance(self._engine, Gauged) else {}

    @property
    def is_resident(self) -> bool:
        """Whether a call of the engine could begin without a load."""
        return not isinstance(self._engine, TakesTurns) or self._engine.is_resident

    def load(self) -> None:
        """Bring the weights into memory, whether they will be needed or not."""
        self._engine.load()

    def unload(self) -> None:
        """Give the memory back."""
        self._engine.unload()

    def close(self) -> None:
        """Close the engine; the store is closed by who opened it."""
        close(self._engine)

    def synchronise(self) -> None:
        """Refused: what comes from a store cannot be timed.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"stage {self.stage_name!r} answers from a store and cannot be timed; time its engine"
        )

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        """Answers from the store, and from the engine for what is not there; raises as the engine does."""
        if sampling.temperature != 0 and sampling.rng is not None:
            seed = int(sampling.rng.integers(2**63))
            sampling = replace(sampling, rng=np.random.default_rng(seed))
            batch = [_asked(query) for query in queries]
            how: tuple[object, ...] = (sampling.temperature, *_nucleus(sampling), seed, batch)
            keys = [self._key(query, (*how, i)) for i, query in enumerate(queries)]
        else:
            keys = [self._key(query, ()) for query in queries]
        start = self._clock()
        found = self._store.find(keys)
        seconds = self._clock() - start
        missing = [i for i, draft in enumerate(found) if draft is None]
        written = self._engine.generate([queries[i] for i in missing], sampling) if missing else []
        new = dict(zip(missing, written, strict=True))
        cancelled = [token.cancelled for token in tokens_of(queries)]  # these may be parts of answers
        self._store.keep({keys[i]: draft for i, draft in new.items() if not cancelled[i]})
        return [new[i] if draft is None else self._served(draft, seconds) for i, draft in enumerate(found)]

    def _served(self, draft: Draft, seconds: float) -> Draft:
        return replace(draft, stage=self.stage_name, seconds=seconds, cached=True)

    def _key(self, query: Query, how: tuple[object, ...]) -> str:
        known_by = (self._identity, *_asked(query), how)
        return hashlib.sha256(msgspec.json.encode(known_by)).hexdigest()


def _nucleus(sampling: Sampling) -> tuple[float, ...]:
    return (sampling.top_p,) if sampling.top_p != 1 else ()


def _asked(query: Query) -> tuple[object, ...]:
    """All of a query that its answer depends on."""
    stop = (query.stop,) if query.stop or query.extras else ()
    extras = (query.extras,) if query.extras else ()
    return query.messages or query.prompt, query.max_new_tokens, *stop, *extras


class _CachingVerifier(CachingEngine):
    """Verifying and going on is the engine's: it depends on the draft, and hardly ever comes again."""

    _engine: Verifier

    def verify(
        self, queries: Sequence[Query], drafts: Sequence[Draft], acceptance: Acceptance = LOSSLESS
    ) -> list[Verification]:
        return self._engine.verify(queries, drafts, acceptance)

    def continue_(
        self,
        queries: Sequence[Query],
        verifications: Sequence[Verification],
        acceptance: Acceptance = LOSSLESS,
    ) -> list[Draft]:
        return self._engine.continue_(queries, verifications, acceptance)


def with_cache(engine: Engine, store: ResponseStore, stage: Stage, revision: str) -> CachingEngine:
    """A caching engine that verifies if the engine does; arguments as for `CachingEngine`."""
    kind = _CachingVerifier if isinstance(engine, Verifier) else CachingEngine
    return kind(engine, store, stage, revision)
