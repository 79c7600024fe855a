"""A fitted policy and rows it has not seen -> the settings that keep a promise, with what confidence.

    artifact = calibrate(artifact, fit_rows, calibration_rows, ladder, Promise(keep=0.95, delta=0.1), rng)

A setting is the optimal policy at one lam. The order of testing comes from the fit alone: expected quality
and expected cost of the optimum never fall as lam grows, so quality is tested from the largest lam downwards
and a cap on cost from the smallest upwards (`asd.guarantee.p_values`). Among the settings that pass, the
cheapest is chosen (with a cap alone, the largest lam). Two requirements, and datasets promised one by one,
share delta equally (Bonferroni; Holm's refinement would help only where every setting of a group passes).

Scope: rows are played back through the cascade itself, models are never run. The promise is about
queries drawn like the calibration rows, their mix of datasets included; `asd.guarantee.monitor` watches that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.cascade import Cascade
from asd.engines.replay import ReplayEngine
from asd.errors import ConfigError, DataError
from asd.guarantee.monitor import signals
from asd.guarantee.p_values import check_cap, check_keep, check_level, kept, n_needed, n_passed, within
from asd.guarantee.record import EVERYTHING, Grant, Guarantee
from asd.ladder import Ladder
from asd.policies import FixedStage, Policy
from asd.policy.artifact import PolicyArtifact
from asd.schema import msgspec
from asd.types import Completion, Trace

__all__ = ["LAMS", "Played", "Promise", "Sweep", "calibrate", "grant", "play", "promised", "sweep"]

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.bool_] | npt.NDArray[np.intp]

LAMS: tuple[float, ...] = tuple(np.geomspace(0.05, 200.0, 25).tolist())
"""The settings that can be chosen: about seven to a factor of ten."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What is asked for.

    Attributes:
        delta: Probability of a wrong promise.
        keep: Share of the reference's quality.
        cap_cost: Most mean cost, in runs of the largest stage.
        per_dataset: Promise it for every dataset by itself.
        batch: Queries a call: its prices make the policy and count the cost.

    Raises:
        ConfigError: Nothing is asked for, or a number is out of range.
    """

    delta: float
    keep: float | None = None
    cap_cost: float | None = None
    per_dataset: bool = False
    batch: int = 1

    def __post_init__(self) -> None:
        check_level(self.delta)
        if self.batch < 1:
            raise ConfigError(f"a batch has one query or more, got {self.batch}")
        if self.keep is None and self.cap_cost is None:
            raise ConfigError("a guarantee needs a share of quality to keep, a cap on cost, or both")
        if self.keep is not None:
            check_keep(self.keep)
        if self.cap_cost is not None:
            check_cap(self.cap_cost)


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """What a policy did on recorded rows; `quality` and `cost` (cost units) have shape (n,)."""

    completions: tuple[Completion, ...]
    quality: Array
    cost: Array


def play(policy: Policy, traces: Sequence[Trace], ladder: Ladder, unit: float, batch: int = 1) -> Played:
    """Walk a policy over recorded outcomes with the cascade's own loop.

    Args:
        policy: Decides.
        traces: Scored on every stage the policy may stop at.
        ladder: Stages and prices.
        unit: Price of one cost unit.
        batch: Queries a call, which decides the prices.

    Raises:
        ConfigError: There are no prices at this batch size.
        DataError: The policy asks for an outcome that was not recorded or not scored.
    """
    engines = {stage.name: ReplayEngine(stage.name, traces) for stage in ladder.stages}
    cascade = Cascade(engines, policy, ladder.prices_at(batch), only=ladder.only)
    completions = cascade.run([trace.query for trace in traces], batch_size=max(1, len(traces)))
    scores = [trace.outcomes[c.stage].score for trace, c in zip(traces, completions, strict=True)]
    if None in scores:
        raise DataError(f"query {traces[scores.index(None)].query.id!r} is not scored on every stage")
    return Played(tuple(completions), np.array(scores, float), np.array([c.cost for c in completions]) / unit)


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """What every setting did on some rows, and what one single stage did; costs in cost units.

    Attributes:
        lams: The settings, ascending, shape (L,).
        quality: Score of every setting on every row, shape (L, n).
        cost: Cost of the same, shape (L, n).
        stage: Name of the single stage.
        stage_quality: Its score on every row, shape (n,).
        stage_cost: Its cost, shape (n,).
        cost_bound: What a cost is cut at where it is promised; from other rows.
    """

    lams: Array
    quality: Array
    cost: Array
    stage: str
    stage_quality: Array
    stage_cost: Array
    cost_bound: float

    def at(self, rows: Rows) -> Sweep:
        """The rows of a mask, or those of an index, in its order."""
        return replace(
            self,
            quality=self.quality[:, rows],
            cost=self.cost[:, rows],
            stage_quality=self.stage_quality[rows],
            stage_cost=self.stage_cost[rows],
        )


def calibrate(
    artifact: PolicyArtifact,
    fitting: Sequence[Trace],
    calibration: Sequence[Trace],
    ladder: Ladder,
    promise: Promise,
    rng: np.random.Generator,
) -> PolicyArtifact:
    """The artifact with the guarantee that the calibration rows support.

    Args:
        artifact: Fitted on `fitting`.
        fitting: The rows of the fit: they name the single stage to compare with.
        calibration: Other rows, scored on every stage, drawn like the queries to come.
        ladder: What the policy steers.
        promise: What is asked for.
        rng: Puts the calibration rows in random order.

    Raises:
        DataError: No rows, one that the fit has seen or that is not scored on every stage, or a dataset
            without fitting rows.
        ConfigError: A number of the promise is out of range, or there are no prices at its batch size.
        PolicyMismatchError: The policy was fitted on another ladder.
    """
    artifact.check(ladder)
    known = {(trace.query.dataset, trace.query.id) for trace in fitting}
    if again := known & {(trace.query.dataset, trace.query.id) for trace in calibration}:
        raise DataError(
            f"query {min(again)} is among the fitting and the calibration rows: a row serves once"
        )
    if not calibration:
        raise DataError("no calibration rows; run `asd collect --split calibrate`")
    rows = [calibration[i] for i in rng.permutation(len(calibration))]
    guarantee = promised(sweep(artifact, fitting, rows, ladder, promise), promise)
    watched = {
        name: _watched(artifact, given, rows, name, ladder, promise.batch)
        for name, given in guarantee.grants.items()
    }
    return msgspec.structs.replace(artifact, guarantee=msgspec.structs.replace(guarantee, grants=watched))


def promised(sweeps: Mapping[str, Sweep], promise: Promise) -> Guarantee:
    """The guarantee that rows in random order allow, by group; nothing is watched yet."""
    level = promise.delta / len(sweeps)
    return Guarantee(
        keep=promise.keep,
        cap_cost=promise.cap_cost,
        cost_bound=max(group.cost_bound for group in sweeps.values()),
        delta=promise.delta,
        n_lams=len(LAMS),
        grants={name: grant(group, promise, level) for name, group in sweeps.items()},
        batch=promise.batch,
    )


def _watched(
    artifact: PolicyArtifact, given: Grant, rows: Sequence[Trace], name: str, ladder: Ladder, batch: int
) -> Grant:
    """The grant with what its policy looks like on the calibration rows."""
    policy = FixedStage(given.stage) if given.lam is None else artifact.policy(given.lam, batch=batch)
    group = [trace for trace in rows if name in (EVERYTHING, trace.query.dataset)]
    played = play(policy, group, ladder, artifact.ladder.unit(batch), batch)
    seen = [signals(done) for done in played.completions]
    watched = {signal: tuple(row[signal] for row in seen) for signal in seen[0]}
    return msgspec.structs.replace(given, watched=watched)


def sweep(
    artifact: PolicyArtifact,
    fitting: Sequence[Trace],
    rows: Sequence[Trace],
    ladder: Ladder,
    promise: Promise,
) -> dict[str, Sweep]:
    """Every setting of the artifact, and the single stage to compare with, played on `rows`, by group.

    Raises:
        DataError: A row is not scored on every stage, or a dataset has no fitting rows to name its stage.
    """
    batch = promise.batch
    unit = artifact.ladder.unit(batch)
    settings = [play(artifact.policy(lam, batch=batch), rows, ladder, unit, batch) for lam in LAMS]
    quality, cost = (np.array([getattr(s, name) for s in settings]) for name in ("quality", "cost"))
    alone_at = {stage.name: FixedStage(stage.name) for stage in ladder.stages}
    singles = {name: play(only, rows, ladder, unit, batch) for name, only in alone_at.items()}
    dearest = np.sum([play(only, fitting, ladder, unit, batch).cost for only in alone_at.values()], axis=0)
    sweeps = {}
    for name, mask in _groups(rows, promise).items():
        stage = _single_stage([t for t in fitting if name in (EVERYTHING, t.query.dataset)], ladder, promise)
        alone = singles[stage]
        everything = Sweep(
            np.array(LAMS), quality, cost, stage, alone.quality, alone.cost, float(dearest.max())
        )
        sweeps[name] = everything.at(mask)
    return sweeps


def _groups(rows: Sequence[Trace], promise: Promise) -> dict[str, npt.NDArray[np.bool_]]:
    if not promise.per_dataset:
        return {EVERYTHING: np.ones(len(rows), bool)}
    datasets = [trace.query.dataset for trace in rows]
    return {name: np.array([dataset == name for dataset in datasets]) for name in sorted(set(datasets))}


def _single_stage(fitting: Sequence[Trace], ladder: Ladder, promise: Promise) -> str:
    """The best on these rows, of equals the cheaper one; where quality is not asked for, the cheapest."""
    if not fitting:
        raise DataError("a dataset of the calibration rows has no fitting rows, which name its best stage")
    alone = {s.name: play(FixedStage(s.name), fitting, ladder, 1.0, promise.batch) for s in ladder.stages}
    asked = promise.keep is not None
    return max(alone, key=lambda s: (asked * alone[s].quality.mean(), -alone[s].cost.mean()))


class _Test(NamedTuple):
    """One requirement of every setting.

    Attributes:
        margin: By how much a setting meets it on every row, shape (L, n).
        p_values: Of "not met", shape (L,).
        order: Puts settings of ascending lam into the order of testing, and back.
    """

    margin: Array
    p_values: Array
    order: slice

    def passed(self, level: float) -> npt.NDArray[np.bool_]:
        ranks = np.arange(len(self.p_values))
        return (ranks < n_passed(self.p_values[self.order], level))[self.order]


def grant(seen: Sweep, promise: Promise, delta: float) -> Grant:
    """The setting that these rows, in random order, allow with probability of error `delta`."""
    level = delta / ((promise.keep is not None) + (promise.cap_cost is not None))
    tests = _tests(seen, promise, level)
    passed = np.logical_and.reduce([test.passed(level) for test in tests])
    saves = seen.cost.mean(axis=1) < seen.stage_cost.mean()
    chosen = _choose(passed, seen, promise)
    used_quality, used_cost = seen.stage_quality, seen.stage_cost
    if chosen is not None:
        used_quality, used_cost = seen.quality[chosen], seen.cost[chosen]
    return Grant(
        stage=seen.stage,
        n=len(seen.stage_quality),
        lam=None if chosen is None else float(seen.lams[chosen]),
        p_value=None if chosen is None else max(float(test.p_values[chosen]) for test in tests),
        n_needed=_n_needed(tests, saves, level) if chosen is None else None,
        quality=float(used_quality.mean()),
        stage_quality=float(seen.stage_quality.mean()),
        cost=float(used_cost.mean()),
        stage_cost=float(seen.stage_cost.mean()),
        watched={},
    )


def _tests(seen: Sweep, promise: Promise, level: float) -> list[_Test]:
    tests = []
    if promise.keep is not None:
        margin = seen.quality - promise.keep * seen.stage_quality
        p_values = kept(seen.quality, seen.stage_quality, promise.keep, level)
        tests.append(_Test(margin, p_values, np.s_[::-1]))
    if promise.cap_cost is not None:
        margin = promise.cap_cost - np.minimum(seen.cost, seen.cost_bound)
        p_values = within(seen.cost, promise.cap_cost, seen.cost_bound, level)
        tests.append(_Test(margin, p_values, np.s_[:]))
    return tests


def _choose(passed: npt.NDArray[np.bool_], seen: Sweep, promise: Promise) -> int | None:
    """Of the settings that passed the cheapest, if it saves anything; with a cap alone the largest lam."""
    if promise.keep is None:
        return int(np.flatnonzero(passed)[-1]) if passed.any() else None
    cost = np.where(passed, seen.cost.mean(axis=1), np.inf)
    return int(cost.argmin()) if cost.min() < seen.stage_cost.mean() else None


def _n_needed(tests: Sequence[_Test], saves: npt.NDArray[np.bool_], level: float) -> int | None:
    """Rows for every requirement to be passed up to the first setting that saves; None: no number does."""
    needed = []
    for test in tests:
        first = int(np.argmax(saves[test.order]))
        needed += [n_needed(margin, level) for margin in test.margin[test.order][: first + 1]]
    return None if not saves.any() or None in needed else max(n for n in needed if n is not None)
