"""Workloads x ladder -> traces: every query on every stage, once, resumable.

Stage by stage, so that one model at a time is in memory; within a stage dataset by dataset, batches of
similar prompt length. What an earlier run recorded is not run again. Decoding is greedy: a resumed run
writes what an uninterrupted one would have written.

The border: collecting asks for answers and scores them; it neither decides nor fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from asd.engines import Engine
from asd.engines.batching import in_batches
from asd.errors import ConfigError, DataError
from asd.ladder import Ladder
from asd.tracelog import TraceLog
from asd.traces import Header, Key, merge, read_header, read_traces
from asd.types import Draft, Outcome, Query, Trace
from asd.workloads import Split, Workload

__all__ = ["collect", "header_for", "read_collected"]


def header_for(ladder: Ladder, workloads: Sequence[Workload], split: Split) -> Header:
    """What a trace file of these workloads on this ladder says about itself."""
    return Header(
        ladder=ladder.name,
        fingerprint=ladder.fingerprint,
        stages={stage.name: stage.model for stage in ladder.stages},
        datasets=tuple(workload.name for workload in workloads),
        split=split,
    )


def collect(
    workloads: Sequence[Workload],
    engines: Mapping[str, Engine],
    log: TraceLog,
    *,
    limit: int,
    batch_size: int = 16,
) -> list[Trace]:
    """Answer the first `limit` queries of every workload on every stage and append the outcomes to `log`.

    Args:
        workloads: Those of the log's header; its split says which rows.
        engines: One engine a stage of the log's header, by stage name.
        log: Where the outcomes go, batch by batch, and what has been answered already.
        limit: Most queries taken from each workload.
        batch_size: Most queries in one call of an engine.

    Returns:
        The traces of these queries, in the order of the workloads and their queries.

    Raises:
        ConfigError: `limit` or `batch_size` is not positive, or workloads or engines are not the header's.
        DataError: A workload is empty, repeats an id or has changed since it was recorded.
        EngineError: A stage cannot be loaded or cannot answer.
        StorageError: A batch could not be written; all batches before it are.
    """
    _check(workloads, engines, log.header, limit)
    queries = {workload.name: _queries(workload, log.header.split, limit) for workload in workloads}
    for engine in engines.values():
        for workload in workloads:
            _answer(engine, workload, queries[workload.name], log, batch_size)
        engine.unload()
    return [trace for workload in workloads for trace in log.select(queries[workload.name])]


def _answer(
    engine: Engine, workload: Workload, queries: Sequence[Query], log: TraceLog, batch_size: int
) -> None:
    pending = log.pending(engine.stage_name, queries)
    done = len(queries) - len(pending)
    label = f"{engine.stage_name} {workload.name}"
    # disable=None: shown on a terminal, silent in a log file
    with tqdm(total=len(queries), initial=done, desc=label, unit="query", disable=None) as bar:
        for drafts in in_batches(engine, pending, batch_size):
            log.append([_scored(workload, pending[index], draft) for index, draft in drafts.items()])
            bar.update(len(drafts))


def _scored(workload: Workload, query: Query, draft: Draft) -> Trace:
    return Trace(query, {draft.stage: Outcome(draft, workload.score(query, draft.text))})


def _queries(workload: Workload, split: Split, limit: int) -> list[Query]:
    queries = workload.queries(split, limit)
    if not queries:
        raise DataError(f"workload {workload.name!r} has no queries in split {split!r}")
    if len({query.id for query in queries}) < len(queries):
        raise DataError(f"workload {workload.name!r} repeats a query id in split {split!r}")
    return queries


def _check(workloads: Sequence[Workload], engines: Mapping[str, Engine], header: Header, limit: int) -> None:
    if limit < 1:
        raise ConfigError(f"limit must be at least 1, not {limit}")
    names = tuple(workload.name for workload in workloads)
    if names != header.datasets:
        raise ConfigError(f"workloads {list(names)} are not those of the log, {list(header.datasets)}")
    if engines.keys() != header.stages.keys():
        raise ConfigError(f"engines {sorted(engines)} are not the log's stages, {sorted(header.stages)}")


def read_collected(paths: Sequence[Path], ladder: Ladder, split: Split) -> list[Trace]:
    """The traces of several files, which must all be of this ladder and this split.

    Raises:
        ConfigError: A file was collected on another ladder or another split.
        DataError: A file is missing, broken or empty, or two files hold the same outcome.
    """
    merged: dict[Key, Trace] = {}
    for path in paths:
        header = read_header(path)
        if (header.fingerprint, header.split) != (ladder.fingerprint, split):
            raise ConfigError(
                f"{path} was collected on ladder {header.ladder!r} ({header.fingerprint}), split "
                f"{header.split!r}; needed is {ladder.name!r} ({ladder.fingerprint}), split {split!r}"
            )
        for trace in read_traces(path):
            merge(merged, trace)
    return [merged[key] for key in sorted(merged)]
