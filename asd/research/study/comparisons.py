"""Methods side by side, and whether they differ: quality and cost of each, every difference with its test.

Differences are method minus reference, paired by question, per cent of the reference's mean. A table is one
family: its p-values are adjusted together (`asd.research.study.significance`), so that seconds, which differ
from run to run, do not move what is said of quality and cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from asd.research.study.items import vectors
from asd.research.study.material import Material
from asd.research.study.methods import DRAFTED, drafted
from asd.research.study.record import StudyTable, Value
from asd.research.study.significance import (
    SMALLEST_EFFECT,
    Difference,
    achieved_power,
    adjust,
    compare,
    needed,
)

__all__ = ["difference_tables", "interval", "methods_table", "references"]

Array = NDArray[np.float64]

COLUMNS = (
    "method", "reference", "metric", "difference", "percent", "low_percent", "high_percent", "t", "p_t",
    "p_wilcoxon", "p_mcnemar", "p", "p_holm", "p_bonferroni", "cohens_d", "power", "n_needed", "n",
)  # fmt: skip


def methods_table(material: Material, items: StudyTable) -> StudyTable:
    """Quality, cost, passes and stage mix of every method, over all data sets."""
    rng = np.random.default_rng(material.seed)
    quality, cost, passes = (vectors(items, metric) for metric in ("quality", "cost", "passes"))
    rows: list[tuple[Value, ...]] = []
    for method in material.methods:
        q, c = quality[method.name], cost[method.name]
        returned = [k.stage for replay in material.walks[method.name] for k in replay.completions]
        shares = [returned.count(stage) / len(returned) for stage in material.stages]
        head = (
            method.name,
            method.lam,
            float(q.mean()),
            *interval(q, rng),
            float(c.mean()),
            *interval(c, rng),
        )
        rows.append((*head, float(passes[method.name].mean()), *shares))
    shares_of = tuple(f"share_{stage}" for stage in material.stages)
    return StudyTable(
        name="methods",
        title="Methods: quality and cost",
        provenance="replayed",
        measured_on=material.measured_on,
        n=material.n,
        columns=(
            *("method", "lambda", "quality", "quality_low", "quality_high", "cost", "cost_low", "cost_high"),
            *("passes", *shares_of),
        ),
        rows=tuple(rows),
        note="Cost in mean runs of the largest stage alone, all calls counted; intervals are 95 % BCa. A "
        "setting is the cheapest that keeps 95 % of the largest stage's quality on calibration questions, "
        "else the best there. drafted: the largest stage with its own drafter, which policies have too; "
        "always-: stages that write alone. The oracle has foresight and pays single stages only: no bound "
        "where drafts are reused.",
    )


def interval(values: Array, rng: np.random.Generator) -> tuple[float, float]:
    """95 % BCa interval of a mean; a point where all values are equal."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=999, rng=rng).confidence_interval
    return float(found.low), float(found.high)


@dataclass(frozen=True, slots=True)
class _TestedDifference:
    """One comparison: its names, the reference's mean, and what the tests say."""

    method: str
    reference: str
    metric: str
    level: float
    found: Difference

    @property
    def p(self) -> float:
        """The one that enters the family: McNemar's where values are right or wrong, else the t-test's."""
        return self.found.p_t if self.found.p_mcnemar is None else self.found.p_mcnemar

    def row(self, holm: float, bonferroni: float) -> tuple[Value, ...]:
        found, scale = self.found, 100.0 / self.level if self.level else None
        shown = [None if scale is None else scale * v for v in (found.mean, found.low, found.high)]
        d = found.cohens_d
        power = None if d is None else achieved_power(d, found.n)
        n_needed = None if d is None or abs(d) < SMALLEST_EFFECT else needed(d)
        tests = (found.t, found.p_t, found.p_wilcoxon, found.p_mcnemar, self.p, holm, bonferroni)
        head = (self.method, self.reference, self.metric, found.mean)
        return (*head, *shown, *tests, d, power, n_needed, found.n)


def references(stages: Sequence[str], *, drafted: bool) -> tuple[str, ...]:
    """What every method is compared with: single stages, the largest with its drafter, the static walk."""
    chosen = dict.fromkeys((stages[-1], stages[len(stages) // 2], stages[0]))
    return (*(f"always-{stage}" for stage in chosen), *([DRAFTED] if drafted else []), "static")


def difference_tables(
    material: Material, items: StudyTable, seconds: StudyTable
) -> tuple[StudyTable, StudyTable]:
    """Replayed differences in quality and cost, measured differences in seconds."""
    rng = np.random.default_rng(material.seed)
    against = references(material.stages, drafted=drafted(material.fitted))
    replayed = [pair for metric in ("quality", "cost") for pair in _pairs(items, metric, against, rng)]
    measured = _pairs(seconds, "seconds", against, rng)
    return (
        _table("differences", "Differences in quality and cost", items, replayed),
        _table("differences_seconds", "Differences in seconds", seconds, measured),
    )


def _table(name: str, title: str, source: StudyTable, pairs: Sequence[_TestedDifference]) -> StudyTable:
    adjusted = adjust([pair.p for pair in pairs])
    rows = zip(pairs, adjusted.holm, adjusted.bonferroni, strict=True)
    return StudyTable(
        name=name,
        title=title,
        provenance=source.provenance,
        measured_on=source.measured_on,
        n=source.n,
        columns=COLUMNS,
        rows=tuple(pair.row(holm, bonferroni) for pair, holm, bonferroni in rows),
        note="Method minus reference, paired by question, in per cent of the reference's mean, with 95 % BCa "
        "intervals. p: McNemar's exact test where quality is 0 or 1, else the paired t-test; p_holm and "
        f"p_bonferroni over all {len(pairs)} comparisons of this table. power: of a paired t-test at 5 % for "
        "an effect of the size seen; n_needed: questions for a power of 80 %.",
    )


def _pairs(
    table: StudyTable, metric: str, against: Sequence[str], rng: np.random.Generator
) -> list[_TestedDifference]:
    values = vectors(table, metric)
    return [
        _TestedDifference(method, reference, metric, float(values[reference].mean()),
              compare(values[method], values[reference], rng))
        for method in values
        for reference in against
        if method != reference
    ]  # fmt: skip
