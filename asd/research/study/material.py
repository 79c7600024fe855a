"""What a study is made from: every stage's answers to held-out questions, the walks of all methods on them.

Two splits are collected: "calibrate" chooses the settings, "test" is reported; neither fitted the policy.
Where a ladder comes without a policy, "fit" is collected too. Traces stay in the study's folder and are taken
up again. Scope: nothing is judged here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from asd.collection import collect, header_for
from asd.engines import Engine
from asd.evaluation.replay import Outcomes, Replay
from asd.ladder import Ladder
from asd.measurement.timing import Clock
from asd.policy.artifact import PolicyArtifact
from asd.policy.fit import fit
from asd.research.recordings.recording import Recording
from asd.research.study.methods import LAMS, StudyMethod, families, methods, swept
from asd.research.study.record import Study
from asd.traces import answered
from asd.traces.log import TraceLog
from asd.types import Trace
from asd.workloads import Split, Workload

__all__ = ["Material", "Walks", "gather"]

Walks = Mapping[str, tuple[Replay, ...]]
"""By method, one replay a dataset."""


@dataclass(frozen=True)
class Material:
    """Ladder, policy and outcomes of one study.

    Attributes:
        ladder: Whose stages answered.
        fitted: The policy under study.
        engines: One a stage, for the live passes.
        calibration: Outcomes that choose settings, one a dataset.
        test: Outcomes that are reported, one a dataset.
        seed: Of every draw.
        runs_on: Engine and device, in words; a study is not continued on another.
        clock: Reads seconds.
        recorded: Outcomes of other, real models to study beside this ladder.
        workloads: Where the questions are from, to score further answers; none where they are not at hand.
        day: A day of operations (`asd day`), for the claims that need a load.
    """

    ladder: Ladder
    fitted: PolicyArtifact
    engines: Mapping[str, Engine]
    calibration: tuple[Outcomes, ...]
    test: tuple[Outcomes, ...]
    seed: int
    runs_on: str
    clock: Clock = time.perf_counter
    recorded: Recording | None = None
    workloads: tuple[Workload, ...] = ()
    day: Study | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """Names, in ladder order."""
        return tuple(stage.name for stage in self.ladder.stages)

    @property
    def n(self) -> int:
        """Questions reported."""
        return sum(len(outcomes.traces) for outcomes in self.test)

    @property
    def measured_on(self) -> str:
        """Ladder and questions, in words."""
        names = ", ".join(outcomes.dataset for outcomes in self.test)
        return f"ladder {self.ladder.name} on held-out questions of {names}"

    @cached_property
    def methods(self) -> list[StudyMethod]:
        """Everything compared, at settings chosen on the calibration rows."""
        return methods(self.fitted, self.calibration)

    @cached_property
    def walks(self) -> Walks:
        """Every method over every reported question."""
        return {
            method.name: tuple(method.walk(outcomes) for outcomes in self.test) for method in self.methods
        }

    @cached_property
    def sweep(self) -> Mapping[float, tuple[Replay, ...]]:
        """The policy under study at every lambda, one replay a dataset."""
        family = families(self.fitted)[swept(self.fitted)]
        return {lam: tuple(family(lam).walk(outcomes) for outcomes in self.test) for lam in LAMS}


@dataclass(frozen=True, slots=True)
class _AnswerSource:
    """Answers from the stages, or from the folder that keeps them."""

    ladder: Ladder
    workloads: Sequence[Workload]
    engines: Mapping[str, Engine]
    revisions: Mapping[str, str]
    runtimes: Mapping[str, str]
    folder: Path

    def traces(self, split: Split, n: int) -> list[Trace]:
        """Of the first `n` questions of every data set, those that no stage refused."""
        header = header_for(self.ladder, self.revisions, self.workloads, split, self.runtimes)
        with TraceLog(self.folder / f"{split}.jsonl", header) as log:
            return answered(collect(self.workloads, self.engines, log, limit=n))

    def outcomes(self, split: Split, n: int, fitted: PolicyArtifact) -> tuple[Outcomes, ...]:
        """The same, one a data set, in the cost unit of the policy."""
        traces, unit = self.traces(split, n), fitted.ladder.unit()
        return tuple(
            Outcomes(w.name, self.ladder, tuple(t for t in traces if t.query.dataset == w.name), unit)
            for w in self.workloads
        )


def gather(  # noqa: PLR0913  (one argument a choice of the user's)
    ladder: Ladder,
    workloads: Sequence[Workload],
    engines: Mapping[str, Engine],
    revisions: Mapping[str, str],
    runtimes: Mapping[str, str],
    folder: str | Path,
    *,
    policy: PolicyArtifact | None,
    limit: int,
    seed: int,
    runs_on: str,
    recorded: Recording | None = None,
    day: Study | None = None,
    clock: Clock = time.perf_counter,
) -> Material:
    """Let every stage answer, or take up what it answered before.

    Args:
        ladder: Whose stages answer.
        workloads: What is asked.
        engines: One a stage, by name.
        revisions: Of every stage's model.
        runtimes: What runs every stage (`asd.engines.runtimes`).
        folder: Keeps the traces.
        policy: Fitted on the split "fit"; None: it is collected and fitted here.
        limit: Most questions of a dataset that are reported; half as many choose settings.
        seed: Of every draw.
        runs_on: Engine and device, in words.
        recorded: Outcomes of other, real models.
        day: A day of operations.
        clock: Reads seconds.

    Raises:
        ConfigError: The folder holds traces of another ladder or other data sets.
        PolicyMismatchError: The policy was fitted on another ladder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if policy is not None:
        policy.check(ladder)
    source = _AnswerSource(ladder, workloads, engines, revisions, runtimes, folder)
    fitted = policy or fit(source.traces("fit", limit), ladder, fitted_at="in this study", seed=seed)
    calibration = source.outcomes("calibrate", max(1, limit // 2), fitted)
    test = source.outcomes("test", limit, fitted)
    return Material(
        ladder, fitted, engines, calibration, test, seed, runs_on, clock, recorded, tuple(workloads), day
    )
