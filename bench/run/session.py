"""One run of the harness, built once and read by all suites.

    outcomes     every stage answers every item once, in batches
    replays      every policy and lambda walks over these outcomes
    live         the largest stage alone and each distinct policy, timed in turns

Each part is made when a suite first asks for it and kept.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from asd.collection import collect, header_for, read_collected
from asd.collection.questions import read_questions
from asd.engines import Engine, step_mode
from asd.engines.closing import close_all
from asd.engines.registry import open_engines
from asd.engines.revisions import revisions
from asd.engines.runtimes import runtimes
from asd.errors import DataError
from asd.evaluation.live import Live, run_live
from asd.evaluation.replay import SHARES, Outcomes, Replay, contenders
from asd.ladder import Stage
from asd.measurement.environment import code_revision, read_environment
from asd.measurement.records import SCHEMA_VERSION, DatasetRecord, LadderRecord, RunHeader
from asd.measurement.timing import Budget, Clock, Timings, Turns
from asd.policy.artifact import PolicyArtifact
from asd.policy.artifact import load as load_policy
from asd.traces import key_of, read_header
from asd.traces.log import TraceLog
from asd.types import Query, Trace
from asd.workloads import Versioned
from bench.run.matrix import N_PASSES, Matrix
from bench.run.recorded import REPLAY

__all__ = ["Session"]

Setting = tuple[str, float | None]
"""Policy and lambda of a contender."""

COLLECT_BATCH = 16
UNLIMITED = Budget(N_PASSES)
"""Passes of a run however long they take."""

CHECKOUT = Path(__file__).parents[2]


class Session:
    """Runs the models of a matrix, as little as the suites ask for.

    Args:
        matrix: What to measure.
        data: Trace file that keeps the outcomes; what it holds already is not answered again.
        open_stages: Makes the engines; default: those of the matrix's engine.
        clock: Reads seconds.
        passes: Over each thing that is timed.
    """

    def __init__(
        self,
        matrix: Matrix,
        data: Path,
        open_stages: Callable[[Matrix], dict[str, Engine]] | None = None,
        clock: Clock = time.perf_counter,
        passes: Budget = UNLIMITED,
    ) -> None:
        self.matrix = matrix
        self._data = data
        self._open_stages = open_stages or _open_stages
        self.clock, self.passes = clock, passes
        self._replays: dict[str, list[Replay]] = {}
        self._live: dict[str, Live] = {}
        self._turns: dict[str, Turns[Any, Any]] = {}

    @cached_property
    def policy(self) -> PolicyArtifact:
        """The fitted policy under test."""
        return load_policy(self.matrix.policy)

    @cached_property
    def engines(self) -> dict[str, Engine]:
        """One engine a stage."""
        return self._open_stages(self.matrix)

    def close(self) -> None:
        """Close the engines that were opened, if any were."""
        close_all(self.__dict__.pop("engines", {}).values())

    @cached_property
    def _revisions(self) -> dict[str, str]:
        if self.matrix.engine == REPLAY:
            return {name: stage.revision for name, stage in read_header(self._data).stages.items()}
        return revisions(self.matrix.ladder, self.matrix.engine)

    def check(self) -> None:
        """Find out, before a model is loaded, whether this can be measured at all.

        Raises:
            AsdError: A policy of another ladder, a dataset without questions, an engine without its library,
                outcomes on file that are not of this run.
        """
        self.policy.check(self.matrix.ladder)
        assert self.queries
        if self.matrix.engine != REPLAY and self.engines:  # opened, not loaded
            with self._log():
                pass

    @cached_property
    def queries(self) -> dict[str, Sequence[Query]]:
        """What is asked, by dataset."""
        asked = read_questions(self.matrix.workloads, "test", self.matrix.n_items)
        return {questions.workload.name: questions.queries for questions in asked}

    @cached_property
    def outcomes(self) -> dict[str, Outcomes]:
        """By dataset, every stage's answer to every item of the split that is reported."""
        self.policy.check(self.matrix.ladder)
        traces = self._recorded() if self.matrix.engine == REPLAY else self._collected()
        _check_answered(traces)
        return {
            name: Outcomes(
                name,
                self.matrix.ladder,
                tuple(trace for trace in traces if trace.query.dataset == name),
                self.policy.ladder.unit(self.matrix.batch),
                self.matrix.batch,
            )
            for name in self.matrix.datasets
        }

    def _log(self) -> TraceLog:
        matrix = self.matrix
        run_by = None if matrix.engine == REPLAY else runtimes(matrix.ladder, matrix.engine, matrix.device)
        header = header_for(matrix.ladder, self._revisions, matrix.workloads, "test", run_by)
        return TraceLog(self._data, header)

    def _collected(self) -> list[Trace]:
        with self._log() as log:
            return collect(
                self.matrix.workloads,
                self.engines,
                log,
                limit=self.matrix.n_items,
                batch_size=COLLECT_BATCH,
            )

    def _recorded(self) -> list[Trace]:
        traces = {key_of(t.query): t for t in read_collected([self._data], self.matrix.ladder, "test")}
        return [traces[key_of(query)] for of_dataset in self.queries.values() for query in of_dataset]

    def replays(self, dataset: str) -> list[Replay]:
        """Every contender on one dataset."""
        if dataset not in self._replays:
            outcomes = self.outcomes[dataset]
            field = contenders(outcomes, self.policy, self.matrix.lams)
            self._replays[dataset] = [outcomes.walk(contender) for contender in field]
        return self._replays[dataset]

    def replay(self, dataset: str, policy: str, lam: float | None = None) -> Replay:
        """One contender on one dataset."""
        wanted = (policy, lam)
        return next(r for r in self.replays(dataset) if (r.contender.name, r.contender.lam) == wanted)

    @property
    def largest(self) -> Setting:
        """The largest stage alone, which everything is compared with."""
        return f"always-{self.matrix.ladder.stages[-1].name}", None

    @cached_property
    def settings(self) -> dict[str, Setting]:
        """The named settings, one for all datasets: what they are called and whose replays they are."""
        named: dict[str, Setting] = {f"optimal@{share:g}": (f"optimal@{share:g}", None) for share in SHARES}
        if any(r.contender.name == "lossless" for r in self.replays(self.matrix.datasets[0])):
            named["lossless"] = ("lossless", None)
        if any(r.contender.name == "drafted" for r in self.replays(self.matrix.datasets[0])):
            named["drafted"] = ("drafted", None)
        return named | {"oracle": ("oracle", self.matrix.lams[-1])}

    def live(self, dataset: str) -> Live:
        """The live passes over one dataset."""
        if dataset not in self._live:
            swept = [("optimal", lam) for lam in self.matrix.lams]
            wanted = dict.fromkeys([self.largest, *self.settings.values(), *swept])
            arms = [self.replay(dataset, *setting) for setting in wanted]
            items = range(min(self.matrix.n_timed, len(self.outcomes[dataset].traces)))
            self._live[dataset] = run_live(
                self.matrix.ladder,
                self.engines,
                arms,
                items,
                batch=self.matrix.batch,
                passes=self.passes,
                clock=self.clock,
            )
        return self._live[dataset]

    def turns(self, name: str, make: Callable[[], Turns[Any, Any]]) -> Turns[Any, Any]:
        """What takes turns under this name: made, and walked, when first asked for."""
        if name not in self._turns:
            made = make()
            made.walk_within(self.passes)
            self._turns[name] = made
        return self._turns[name]

    def timings(self, name: str, make: Callable[[], Turns[Any, Any]]) -> Timings[Any]:
        """What its passes have seen so far."""
        return self.turns(name, make).timings

    def header(self) -> RunHeader:
        """Who, where and when, for the record; models are read for their revision, not loaded."""
        ladder = self.matrix.ladder
        code = code_revision(CHECKOUT)
        return RunHeader(
            schema_version=SCHEMA_VERSION,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            git_commit=code.commit,
            git_dirty=code.dirty,
            ladder=LadderRecord(name=ladder.name, fingerprint=ladder.fingerprint, models=self._revisions),
            hardware=self.matrix.hardware,
            environment=read_environment(),
            seeds={"random": 0},
            step_modes=self._step_modes(),
            asked_eager=tuple(stage.name for stage in ladder.stages if _forbids_capture(stage)),
        )

    def _step_modes(self) -> dict[str, str]:
        """Of the engines that were opened, as far as they say."""
        modes = {name: step_mode(engine) for name, engine in self.__dict__.get("engines", {}).items()}
        return {name: mode for name, mode in modes.items() if mode is not None}

    def datasets(self) -> tuple[DatasetRecord, ...]:
        """The items of this run, in the order of the cells' per-item values."""
        return tuple(
            DatasetRecord.of(
                workload.name,
                list(self.queries[workload.name]),
                workload.version if isinstance(workload, Versioned) else "",
            )
            for workload in self.matrix.workloads
        )


def _forbids_capture(stage: Stage) -> bool:
    """The ladder asks for steps that are launched one by one."""
    options = stage.options
    is_off = options.get("transformers", {}).get("graphs") == "off"
    return is_off or bool(options.get("vllm", {}).get("enforce_eager"))


def _check_answered(traces: Sequence[Trace]) -> None:
    """Every number here is a comparison over the same items; one that a stage refuses has no place in it."""
    for trace in traces:
        for action, why in trace.refusals.items():
            raise DataError(
                f"query {trace.query.id!r} of {trace.query.dataset!r} is refused by {action}: {why.message}; "
                "the harness compares stages on queries that all answer: leave it out of the workload"
            )
        for stage, outcome in trace.outcomes.items():
            if outcome.score is None:
                raise DataError(
                    f"query {trace.query.id!r} of {trace.query.dataset!r}: the workload does not score the "
                    f"answer of stage {stage!r}; the harness compares stages by what their answers are worth"
                )


def _open_stages(matrix: Matrix) -> dict[str, Engine]:
    _use_threads(matrix)
    return open_engines(matrix.ladder, matrix.device, matrix.engine, batch=matrix.batch)


def _use_threads(matrix: Matrix) -> None:
    """What runs is what the hardware key says: torch reads the variable when it is imported."""
    if matrix.device != "cpu":
        return
    os.environ["OMP_NUM_THREADS"] = str(matrix.hardware.count)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(matrix.hardware.count)
