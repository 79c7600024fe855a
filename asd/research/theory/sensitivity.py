"""What a tenth more or less of every assumption changes: lambda, prices, threshold, mix of levels.

The policy under study is solved with the changed assumption and walked at the true prices; the static walk
stands in for the threshold, which the optimal policy has none of; for the mix of levels the questions of the
harder half are weighted again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from asd.evaluation.replay import STATIC_THRESHOLD, Contender
from asd.policies import OptimalPolicy, Policy, StaticWalk
from asd.research.study.material import Material
from asd.research.study.methods import swept
from asd.research.study.record import StudyTable, Value
from asd.research.study.sweep import means
from asd.stopping.graph import Edge, Graph
from asd.stopping.recursion import solve

__all__ = ["dearer_by", "sensitivity_table"]

Array = NDArray[np.float64]

CHANGES = (-0.1, 0.1)


@dataclass(frozen=True, slots=True)
class _MeanPoint:
    """Mean quality and cost."""

    quality: float
    cost: float


def sensitivity_table(material: Material) -> StudyTable:
    """Every assumption a tenth lower and higher."""
    rows = [
        (name, 100.0 * change, *_compared(base, changed))
        for name, base, points in _experiments(material)
        for change, changed in zip(CHANGES, points, strict=True)
    ]
    return StudyTable(
        name="sensitivity",
        title="A tenth more or less of every assumption",
        provenance="replayed",
        measured_on=material.measured_on,
        n=material.n,
        columns=("assumption", "change_percent", "quality", "cost", "quality_percent", "cost_percent"),
        rows=tuple(rows),
        note=f"Policy {swept(material.fitted)} at its setting; threshold: the static walk's, "
        f"{STATIC_THRESHOLD:g}; level mix: weight of the questions of the harder half of the levels. The "
        "last two columns: against the unchanged assumption.",
    )


def _compared(base: _MeanPoint, changed: _MeanPoint) -> tuple[Value, ...]:
    quality, cost = (
        100.0 * (now / was - 1.0) for now, was in ((changed.quality, base.quality), (changed.cost, base.cost))
    )
    return changed.quality, changed.cost, quality, cost


def _experiments(material: Material) -> Iterator[tuple[str, _MeanPoint, list[_MeanPoint]]]:
    """Name, the point unchanged, and the points changed."""
    lam = next(m.lam for m in material.methods if m.name == swept(material.fitted)) or 0.0
    base = _walked(material, _solved(material, lam))
    yield "lambda", base, [_walked(material, _solved(material, lam * (1 + change))) for change in CHANGES]
    for stage in material.stages:
        policies = [_solved(material, lam, dearer_by(stage, 1 + change)) for change in CHANGES]
        yield f"price of {stage}", base, [_walked(material, policy) for policy in policies]
    evidence = material.fitted.evidence()
    static = [
        StaticWalk(material.stages, min(1.0, STATIC_THRESHOLD * (1 + change)), evidence)
        for change in (0.0, *CHANGES)
    ]
    unchanged, *changed = [_walked(material, policy) for policy in static]
    yield "threshold", unchanged, changed
    harder = _harder(material)
    if harder.any() and not harder.all():
        yield "level mix", base, [_reweighted(material, harder, 1 + change) for change in CHANGES]


def _solved(
    material: Material, lam: float, change: Callable[[Graph], Graph] = lambda graph: graph
) -> OptimalPolicy:
    policy = material.fitted.optimal(lam)
    return replace(policy, solution=solve(change(policy.solution.graph), policy.solution.lams))


def dearer_by(stage: str, factor: float) -> Callable[[Graph], Graph]:
    """Believe that a stage's calls cost `factor` times what they do."""

    def priced(edge: Edge) -> Edge:
        return replace(edge, cost=edge.cost * factor) if edge.action.stage == stage else edge

    return lambda graph: Graph(graph.nodes, tuple(map(priced, graph.edges)), graph.start)


def _walked(material: Material, policy: Policy) -> _MeanPoint:
    replays = [outcomes.walk(Contender(policy.name, None, policy)) for outcomes in material.test]
    return _MeanPoint(*means(replays))


def _harder(material: Material) -> NDArray[np.bool_]:
    """Whether a question is of the harder half of the levels; of a question without level: no."""
    tags = [trace.query.tags.get("level") for outcomes in material.test for trace in outcomes.traces]
    levels = np.array([float(tag) if tag is not None and tag.isdigit() else np.nan for tag in tags])
    if not np.isfinite(levels).any():
        return np.zeros(len(tags), dtype=bool)
    return np.asarray(levels > np.nanmedian(levels))


def _reweighted(material: Material, harder: NDArray[np.bool_], factor: float) -> _MeanPoint:
    replays = material.walks[swept(material.fitted)]
    weights = np.where(harder, factor, 1.0)
    parts = ([r.quality for r in replays], [r.cost for r in replays])
    return _MeanPoint(*(float(np.average(np.concatenate(part), weights=weights)) for part in parts))
