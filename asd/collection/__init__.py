"""Workloads x ladder -> traces: every query on every stage, once, resumable.

Stage by stage, so that one model at a time is in memory; within a stage dataset by dataset, batches of
similar prompt length. A stage that can verify then reads every smaller stage's draft; one with a drafter also
continues from there, because what that takes follows from nothing else. What an earlier run recorded is not
run again. Decoding is greedy: a resumed run writes what an uninterrupted one would have written.

Scope: collecting asks for answers and scores them; it neither decides nor fits.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from asd.collection.questions import Questions, read_questions
from asd.engines import Drafted, Engine, Verifier
from asd.engines.batches import Settled, answers, readings, until_settled
from asd.engines.runtimes import UNKNOWN
from asd.errors import ConfigError, DataError
from asd.ladder import Ladder, Stage
from asd.measurement.files import Paths, as_paths
from asd.traces import Key, StageHeader, TraceHeader, as_recorded, merge, read_header, read_traces
from asd.traces.log import TraceLog
from asd.traces.served import uncensored
from asd.types import Action, Draft, Failure, Outcome, Query, Trace, Verification, pair_name
from asd.workloads import Split, Workload

__all__ = ["collect", "header_for", "read_collected"]

_LOG = logging.getLogger(__name__)


def header_for(
    ladder: Ladder,
    revisions: Mapping[str, str],
    workloads: Sequence[Workload],
    split: Split,
    runtimes: Mapping[str, str] | None = None,
) -> TraceHeader:
    """What a trace file of these workloads on this ladder says about itself.

    Args:
        ladder: Whose stages answer.
        revisions: Of every stage's model (`asd.engines.revisions`).
        workloads: What is asked.
        split: Which rows.
        runtimes: What runs every stage (`asd.engines.runtimes`); None: unknown.
    """
    known = runtimes or {}
    return TraceHeader(
        ladder=ladder.name,
        stages={
            stage.name: _stage_header(stage, revisions[stage.name], known.get(stage.name, UNKNOWN))
            for stage in ladder.stages
        },
        datasets=tuple(workload.name for workload in workloads),
        split=split,
    )


def _stage_header(stage: Stage, revision: str, runtime: str) -> StageHeader:
    return StageHeader(
        model=stage.model_name,
        revision=revision,
        dtype=stage.dtype,
        chat_template=stage.chat_template,
        chat_template_kwargs=dict(stage.chat_template_kwargs),
        runtime=runtime,
    )


def collect(
    workloads: Sequence[Workload],
    engines: Mapping[str, Engine],
    log: TraceLog,
    *,
    limit: int,
    batch_size: int = 16,
    retry_refused: bool = False,
) -> list[Trace]:
    """Answer the first `limit` queries of every workload on every stage and append the outcomes to `log`.

    A query that a stage refuses for good (too long for it, filtered) is recorded as refused, which is no
    answer and has no score; it is not asked again. An answer that cannot be scored is recorded without a
    score before the error is raised; the next run, with the workload mended, scores it.

    Args:
        workloads: Those of the log's header; its split says which rows.
        engines: One engine a stage of the log's header, by stage name.
        log: Where the outcomes go, batch by batch, and what has been answered already.
        limit: Most queries taken from each workload.
        batch_size: Most queries in one call of an engine.
        retry_refused: Ask again what was refused before.

    Returns:
        The traces of these queries, in the order of the workloads and their queries.

    Raises:
        ConfigError: `limit` or `batch_size` is not positive, or workloads or engines are not the header's.
        DataError: A workload is empty, repeats an id, holds a query that cannot be recorded, has changed
            since it was recorded, or cannot score an answer.
        EngineError: A stage cannot be loaded or cannot answer; what it has answered is recorded.
        StorageError: A batch could not be written; all batches before it are.
    """
    _check(workloads, engines, log.header, limit)
    asked = read_questions(workloads, log.header.split, limit)
    for questions in asked:
        log.append([Trace(query, {}) for query in log.of_another_form(questions.queries)])
    smaller: list[str] = []
    for stage in log.header.stages:
        collector = _Collector(stage, engines[stage], log, batch_size, retry_refused)
        try:
            for questions in asked:
                collector.answer(questions)
                for drafter in smaller:
                    collector.verify(drafter, questions.queries)
        finally:
            smaller.append(stage)
            for loaded in smaller:  # all of them: a smaller stage may have drafted for this one
                engines[loaded].unload()
    return [trace for questions in asked for trace in log.select(questions.queries)]


@dataclass(frozen=True, slots=True)
class _Collector:
    """One stage, and the log that its outcomes go to."""

    stage: str
    engine: Engine
    log: TraceLog
    batch_size: int
    retry_refused: bool

    def answer(self, questions: Questions) -> None:
        """Let the stage answer what it has not answered yet; score what an earlier run could not."""
        stage, queries = self.stage, questions.queries
        unscored = [(trace.query, trace.outcomes[stage].draft) for trace in self.log.unscored(stage, queries)]
        self._score(questions, unscored, known=True)
        pending = self.log.pending(stage, queries, refused=self.retry_refused)
        done = len(queries) - len(pending)

        def call(batch: list[int]) -> list[Draft]:
            return answers(self.engine, [pending[i] for i in batch])

        # disable=None: shown on a terminal, silent in a log file
        label = f"{stage} {questions.workload.name}"
        with tqdm(total=len(queries), initial=done, desc=label, unit="query", disable=None) as bar:
            for found in until_settled(stage, call, pending, self.batch_size):
                self._refuse(Action.draft(stage), stage, pending, found)
                self._score(questions, [(pending[i], draft) for i, draft in found.done.items()])
                bar.update(len(found))

    def verify(self, drafter: str, asked: Sequence[Query]) -> None:
        """Let the stage read the drafts of a smaller one that it has not read yet, if it can read drafts."""
        engine = self.engine
        if not isinstance(engine, Verifier):
            return
        pair = pair_name(drafter, self.stage)
        pending = self.log.unverified(drafter, self.stage, asked, refused=self.retry_refused)
        queries = [trace.query for trace in pending]

        def call(batch: list[int]) -> list[Verification]:
            drafts = [pending[i].outcomes[drafter].draft for i in batch]
            return readings(engine, [queries[i] for i in batch], drafts)

        for found in until_settled(self.stage, call, queries, self.batch_size):
            self._refuse(Action.verify(self.stage), pair, queries, found)
            read = [Trace(queries[i], {}, {pair: verification}) for i, verification in found.done.items()]
            self._keep(_continued(engine, pair, read) if isinstance(engine, Drafted) else read)

    def _score(
        self, questions: Questions, answers: Sequence[tuple[Query, Draft]], *, known: bool = False
    ) -> None:
        """Record answers with their scores; one that cannot be scored is an error once all are recorded.

        Answers that are `known`, recorded without a score, are recorded again only with one.
        """
        traces, faults = [], []
        for query, draft in answers:
            score = None
            try:
                score = questions.score(query, draft.text)
            except DataError as error:
                faults.append(f"answer of stage {self.stage!r} to query {query.id!r}: {error}")
            if score is not None or not known:
                traces.append(Trace(query, {self.stage: Outcome(draft, score)}))
        self._keep(traces)
        if faults:
            raise DataError(
                f"{faults[0]}; mend the workload, then collect again: {self.log.path} has the answer"
            )

    def _refuse(self, action: Action, key: str, queries: Sequence[Query], found: Settled[Any]) -> None:
        """Record what the stage will never do: answer (key: its name), or read a draft (key: the pair)."""
        self._keep(
            [
                Trace(queries[i], {}, refusals={key: Failure(action, type(why).__name__, str(why))})
                for i, why in found.refused.items()
            ]
        )

    def _keep(self, traces: Sequence[Trace]) -> None:
        """Record them; one that cannot be recorded is an error once the others are."""
        if not traces:
            return
        try:
            self.log.append(traces)
        except DataError:
            if len(traces) == 1:
                raise
            faults = []
            for trace in traces:
                try:
                    self.log.append([trace])
                except DataError as error:
                    faults.append(error)
            raise faults[0] from None


def _continued(engine: Verifier, pair: str, read: Sequence[Trace]) -> list[Trace]:
    """The same with what continuing from these verifications takes; only that shows it of a drafter."""
    if not read:
        return []
    more = engine.continue_([trace.query for trace in read], [trace.verifications[pair] for trace in read])
    return [
        replace(trace, continuations={pair: draft.usage}) for trace, draft in zip(read, more, strict=True)
    ]


def _check(
    workloads: Sequence[Workload], engines: Mapping[str, Engine], header: TraceHeader, limit: int
) -> None:
    if limit < 1:
        raise ConfigError(f"limit must be at least 1, not {limit}")
    names = tuple(workload.name for workload in workloads)
    if names != header.datasets:
        raise ConfigError(f"workloads {list(names)} are not those of the log, {list(header.datasets)}")
    if engines.keys() != header.stages.keys():
        raise ConfigError(f"engines {sorted(engines)} are not the log's stages, {sorted(header.stages)}")


def _told(stages: Mapping[str, StageHeader]) -> str:
    return ", ".join(
        f"{name} ({stage.model} at {stage.revision[:14]}, {stage.dtype}, by {stage.runtime})"
        for name, stage in stages.items()
    )


def _n_recorded(header: TraceHeader) -> int:
    """How much a header says of its models: files of earlier versions say less (`same_revision`)."""
    return sum(
        len(stage.revision) + (stage.runtime != UNKNOWN) * len(stage.runtime)
        for stage in header.stages.values()
    )


def read_collected(paths: Paths, ladder: Ladder, split: Split) -> list[Trace]:
    """The traces of several files, which must all be of this split and the stages of this ladder.

    Which weights answered and what ran them is in the files' headers; it must be the same in all, as far as
    it is known, and is not compared with what is here now. Of a server's log, only the requests count that
    were drawn for the shadow and that every stage has answered (`asd.traces.served`).

    Raises:
        ConfigError: A file was collected with other stages or on another split.
        DataError: A file is missing, broken or empty, two files hold the same outcome, or all of them are a
            server's log of which no request counts.
    """
    files = as_paths(paths)
    known = max((read_header(path) for path in files), key=_n_recorded).stages
    wanted = {
        stage.name: _stage_header(stage, known[stage.name].revision, known[stage.name].runtime)
        if stage.name in known
        else _stage_header(stage, "any", UNKNOWN)
        for stage in ladder.stages
    }
    merged: dict[Key, Trace] = {}
    for path in files:
        header = read_header(path)
        if header.stages != as_recorded(header.stages, wanted):
            raise ConfigError(
                f"{path} was collected with {_told(header.stages)}, not with {_told(wanted)} of ladder "
                f"{ladder.name!r}; name the ladder it was collected on"
            )
        if header.split != split:
            raise ConfigError(f"{path} holds rows of split {header.split!r}; needed are rows of {split!r}")
        for trace in read_traces(path):
            merge(merged, trace)
    stages = [stage.name for stage in ladder.stages]
    found = uncensored((merged[key] for key in sorted(merged)), stages)
    if not found:
        raise DataError(
            f"of {len(merged)} served requests none was answered by all of {', '.join(stages)} in the "
            "shadow; serve with --shadow SHARE --shadow-all --log FILE --log-prompts"
        )
    if len(found) < len(merged):
        _LOG.warning("%d of %d requests of a server's log are left out: not drawn for the shadow, or not "
                     "answered by every stage", len(merged) - len(found), len(merged))  # fmt: skip
    return found
