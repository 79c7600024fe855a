"""Workloads x ladder -> traces: every query on every stage, once, resumable.

Stage by stage, so that one model at a time is in memory; within a stage dataset by dataset, batches of
similar prompt length. A stage that can verify then reads every smaller stage's draft; one with a drafter also
goes on from there, because what that takes follows from nothing else. What an earlier run recorded is not run
again. Decoding is greedy: a resumed run writes what an uninterrupted one would have
written.

The border: collecting asks for answers and scores them; it neither decides nor fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from asd.engines import Drafted, Engine, Verifier
from asd.engines.batching import call_in_batches, in_batches, readings
from asd.errors import ConfigError, DataError
from asd.ladder import Ladder, Stage
from asd.tracelog import TraceLog
from asd.traces import Header, Key, StageHeader, merge, read_header, read_traces
from asd.types import Draft, Outcome, Query, Trace, pair_name
from asd.workloads import Split, Workload

__all__ = ["collect", "header_for", "read_collected"]


def header_for(
    ladder: Ladder, revisions: Mapping[str, str], workloads: Sequence[Workload], split: Split
) -> Header:
    """What a trace file of these workloads on this ladder says about itself.

    Args:
        ladder: Whose stages answer.
        revisions: Of every stage's model (`asd.engines.revisions`).
        workloads: What is asked.
        split: Which rows.
    """
    return Header(
        ladder=ladder.name,
        stages={stage.name: _stage_header(stage, revisions[stage.name]) for stage in ladder.stages},
        datasets=tuple(workload.name for workload in workloads),
        split=split,
    )


def _stage_header(stage: Stage, revision: str) -> StageHeader:
    # where a directory lies may differ between machines
    model = Path(stage.model).name if Path(stage.model).is_absolute() else stage.model
    return StageHeader(
        model=model,
        revision=revision,
        dtype=stage.dtype,
        chat_template=stage.chat_template,
        chat_template_kwargs=dict(stage.chat_template_kwargs),
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
    smaller: list[str] = []
    for stage in log.header.stages:
        engine = engines[stage]
        for workload in workloads:
            _answer(engine, workload, queries[workload.name], log, batch_size)
            if isinstance(engine, Verifier):
                for drafter in smaller:
                    _verify(engine, drafter, queries[workload.name], log, batch_size)
        engine.unload()
        smaller.append(stage)
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


def _verify(engine: Verifier, drafter: str, queries: Sequence[Query], log: TraceLog, batch_size: int) -> None:
    pending = log.unverified(drafter, engine.stage_name, queries)
    pair = pair_name(drafter, engine.stage_name)

    def read(batch: list[int]) -> list[Trace]:
        queries = [pending[i].query for i in batch]
        found = readings(engine, queries, [pending[i].outcomes[drafter].draft for i in batch])
        rows = [replace(v, text=None) for v in found]  # the text is in the verifier's own outcome
        if not isinstance(engine, Drafted):
            return [Trace(query, {}, {pair: row}) for query, row in zip(queries, rows, strict=True)]
        more = engine.continue_(queries, found)
        return [
            Trace(query, {}, {pair: row}, {pair: draft.usage})
            for query, row, draft in zip(queries, rows, more, strict=True)
        ]

    asked = [trace.query for trace in pending]
    for found in call_in_batches(engine.stage_name, read, asked, batch_size):
        log.append(list(found.values()))


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


def _told(stages: Mapping[str, StageHeader]) -> str:
    return ", ".join(
        f"{name} ({stage.model} at {stage.revision[:14]}, {stage.dtype})" for name, stage in stages.items()
    )


def read_collected(paths: Sequence[Path], ladder: Ladder, split: Split) -> list[Trace]:
    """The traces of several files, which must all be of this split and the stages of this ladder.

    Which weights answered is in the files' headers; it must be the same in all, and is not compared with
    weights that are here now.

    Raises:
        ConfigError: A file was collected with other stages or on another split.
        DataError: A file is missing, broken or empty, or two files hold the same outcome.
    """
    known = read_header(paths[0]).stages
    wanted = {
        stage.name: _stage_header(stage, known[stage.name].revision if stage.name in known else "any")
        for stage in ladder.stages
    }
    merged: dict[Key, Trace] = {}
    for path in paths:
        header = read_header(path)
        if header.stages != wanted:
            raise ConfigError(
                f"{path} was collected with {_told(header.stages)}, not with {_told(wanted)} of ladder "
                f"{ladder.name!r}; name the ladder it was collected on"
            )
        if header.split != split:
            raise ConfigError(f"{path} holds rows of split {header.split!r}; needed are rows of {split!r}")
        for trace in read_traces(path):
            merge(merged, trace)
    return [merged[key] for key in sorted(merged)]
