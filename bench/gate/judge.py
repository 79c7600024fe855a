"""The judge: a run and a baseline in, a report with an exit code out. Pure; pytest and files are elsewhere.

Three questions, in this order of blame:

1. Is everything there? Every measurement of the baseline that the options ask for must have been made:
   a skipped suite, a renamed id, a vanished metric is MISSING. A run that selected tests by hand is PARTIAL.
2. Is it good enough? `targets` of the baseline are absolute: BELOW_TARGET whatever the baseline's own value,
   if the whole interval of the value lies beyond; INCONCLUSIVE if the line lies within. Targets without a
   hardware key hold anywhere, the others on their own; all hold for the very items they were stated for.
3. Is it worse than it was? `comparison` and `frontier`, where the hardware allows a comparison; what has to
   be proved is proved beside everything else (`family`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from asd.engines.revisions import same_revision
from asd.measurement.records import Cell, Environment, Metric, Run
from asd.schema import msgspec
from bench.gate.comparison import compare, same_items
from bench.gate.family import ErrorRates, decide
from bench.gate.frontier import compare_frontiers
from bench.gate.retired import is_retired
from bench.gate.steps import fallen_back
from bench.gate.store import Baseline
from bench.gate.verdicts import Finding, Report, Verdict
from bench.metrics.ties import OF_TIES

__all__ = ["RunOptions", "judge"]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the run was asked for, as far as it decides what the run owes.

    Attributes:
        lams: The sweep.
        datasets: By name.
        limited: Items were cut down, so metrics that need many samples may be absent.
        partial: Why only some suites ran ("-k speed"); empty for a whole run.
        strict: INCONCLUSIVE, CANNOT_JUDGE and PARTIAL fail too.
        limits: How sure the gate wants to be.
    """

    lams: tuple[float, ...]
    datasets: tuple[str, ...]
    limited: bool = False
    partial: str = ""
    strict: bool = False
    limits: ErrorRates = field(default_factory=ErrorRates)

    def asks_for(self, cell: Cell) -> bool:
        """A whole run with these options makes this measurement."""
        in_sweep = cell.lam is None or cell.lam in self.lams
        return in_sweep and (cell.dataset is None or cell.dataset in self.datasets)


def judge(run: Run, baseline: Baseline | None, options: RunOptions) -> Report:
    """All findings on a run."""
    if baseline is None:
        note = f"no baseline of ladder {run.header.ladder.name}; record one with --record-baseline --reason"
        return Report((Finding("run", "", Verdict.CANNOT_JUDGE, note=note),), (), options.strict)
    stored = baseline.run
    same_sweep = {cell.lam for cell in stored.cells if cell.lam is not None} <= set(options.lams)
    compared = compare(run, stored, options.limits, same_sweep=same_sweep)
    frontiers = compare_frontiers(run, stored, options.limits.bootstrap)
    findings = [
        *_completeness(run, stored, options, same_sweep=same_sweep),
        *_target_findings(run, baseline, options),
        *compared.findings,
        *frontiers.findings,
        *decide([*compared.candidates, *frontiers.candidates], options.limits),
        *_moved_models(run, stored),
        *fallen_back(run, stored),
    ]
    if options.partial:
        findings.append(Finding("run", "", Verdict.PARTIAL, note=options.partial))
    if not any(finding.verdict is not Verdict.NEW for finding in findings):
        note = "the run and the baseline have no measurement in common"
        findings.append(Finding("run", "", Verdict.CANNOT_JUDGE, note=note))
    return Report(tuple(findings), tuple(_differences(run, stored)), options.strict)


def _completeness(run: Run, stored: Run, options: RunOptions, *, same_sweep: bool) -> Iterator[Finding]:
    """MISSING: expected and not measured. NEW: measured and unknown to the baseline."""
    measured, known = _metrics(run), _metrics(stored)
    summed_alike = same_sweep and same_items(run, stored, None)
    for (cell_id, name), (cell, metric) in known.items():
        if (cell_id, name) in measured or not options.asks_for(cell) or _is_excused(run, stored, cell, name):
            continue
        sums_up = cell.dataset is None and not summed_alike
        if note := _why_absent(run, cell_id, metric, sums_up=sums_up, limited=options.limited):
            yield Finding(cell_id, name, Verdict.CANNOT_JUDGE, metric.value, note=note)
        elif not options.partial:
            yield Finding(cell_id, name, Verdict.MISSING, metric.value, note="in the baseline, not measured")
    for (cell_id, name), (_, metric) in measured.items():
        if (cell_id, name) not in known:
            yield Finding(cell_id, name, Verdict.NEW, None, metric.value, note="not in the baseline")


def _is_excused(run: Run, stored: Run, cell: Cell, metric: str) -> bool:
    """Nobody measures it any more, this engine has no such rival, or this dtype no near-ties."""
    here, there = run.header.hardware, stored.header.hardware
    return (
        is_retired(cell.id, metric)
        or (cell.suite == "rivals" and here.engine != there.engine)
        or (metric in OF_TIES and here.dtype != there.dtype)
    )


def _why_absent(run: Run, cell_id: str, metric: Metric, *, sums_up: bool, limited: bool) -> str:
    """Why a metric may be absent from a run of fewer items or another sweep; empty if it may not."""
    cell = next((cell for cell in run.cells if cell.id == cell_id), None)
    if cell is not None:
        n_timed = max((len(m.samples[0]) for m in cell.metrics if m.samples), default=0)
        if metric.needs > n_timed:
            return f"needs {metric.needs} items, and {n_timed} were timed"
    if sums_up:
        return "it sums up another sweep than the baseline's"
    return "nothing of the kind happened on the items that --limit left" if cell and limited else ""


def _target_findings(run: Run, baseline: Baseline, options: RunOptions) -> Iterator[Finding]:
    """One finding for every target that holds on this machine and is not surely met, or not measured."""
    measured, known = _metrics(run), _metrics(baseline.run)
    for target in baseline.targets:
        where = target.cell, target.metric
        if target.hardware not in (None, run.header.hardware.slug) or is_retired(*where):
            continue
        if where in measured:
            cell, metric = measured[where]
            verdict, note = target.verdict(_but_for_ties(cell, metric)), str(target)
            if not same_items(run, baseline.run, cell.dataset):
                verdict, note = Verdict.CANNOT_JUDGE, "a target is for the items that it was stated for"
            if verdict is not Verdict.PASS:
                yield Finding(*where, verdict, current=metric.value, note=note)
        elif where not in known and not options.partial:
            yield Finding(*where, Verdict.MISSING, note=f"{target}, but nothing measures it")


def _but_for_ties(cell: Cell, metric: Metric) -> Metric:
    """Outside float32 answers that differ by a near-tie count as agreeing (`bench.metrics.ties`)."""
    ties = cell.metric("near_ties")
    if metric.name != "agreement" or ties is None:
        return metric
    return msgspec.structs.replace(metric, value=round(metric.value + ties.value, 9))


def _moved_models(run: Run, stored: Run) -> Iterator[Finding]:
    """CANNOT_JUDGE: a repository on the hub has another commit than the one the baseline pins."""
    for stage, was, now in _other_models(run, stored):
        if _is_commit(was) and _is_commit(now):
            note = f"stage {stage}: the hub has commit {now}, the baseline is of {was}; record it again"
            yield Finding("run", "", Verdict.CANNOT_JUDGE, note=note)


def _other_models(run: Run, stored: Run) -> Iterator[tuple[str, str, str]]:
    """Stage, stored revision and new one, where they differ."""
    old, new = stored.header.ladder.models, run.header.ladder.models
    return (
        (stage, old[stage], new[stage])
        for stage in new
        if not same_revision(old.get(stage, new[stage]), new[stage])
    )


def _is_commit(revision: str) -> bool:
    """Of the hub; a local model's hash and what a server says it serves begin with a word and a colon."""
    return ":" not in revision


def _metrics(run: Run) -> dict[tuple[str, str], tuple[Cell, Metric]]:
    return {(cell.id, metric.name): (cell, metric) for cell in run.cells for metric in cell.metrics}


def _differences(run: Run, stored: Run) -> Iterator[str]:
    """What differs around the two runs without being part of the key."""
    new, old = run.header, stored.header
    if new.ladder.fingerprint != old.ladder.fingerprint:
        yield f"the ladder changed since the baseline ({old.ladder.fingerprint} -> {new.ladder.fingerprint})"
    for stage, was, now in _other_models(run, stored):
        if not (_is_commit(was) and _is_commit(now)):
            yield f"stage {stage}: other weights than the baseline's ({was[:19]} -> {now[:19]})"
    if new.hardware != old.hardware:
        yield f"this is {new.hardware.slug}, the baseline is of {old.hardware.slug}"
    if old.git_dirty:
        yield "the baseline was recorded from a checkout with changes of its own"
    yield from _environment_differences(new.environment, old.environment)


def _environment_differences(new: Environment, old: Environment) -> Iterator[str]:
    for name in sorted(new.packages.keys() | old.packages.keys()):
        versions = old.packages.get(name, "none"), new.packages.get(name, "none")
        if versions[0] != versions[1]:
            yield f"{name}: {versions[0]} -> {versions[1]}"
    for name in ("python", "cpu", "cores", "threads", "driver"):
        if getattr(new, name) != getattr(old, name):
            yield f"{name}: {getattr(old, name)} -> {getattr(new, name)}"
