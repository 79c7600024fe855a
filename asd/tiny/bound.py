"""What speed-up a ladder's sizes and accuracies allow, worked out before anything is trained.

A planning model, not a measurement. Questions are of four kinds: right from S on, from M on, from L on, or
never (successes are nested). A stage's confidence is a Gaussian score, separated as far as its AUROC says
(distance d = sqrt(2) * Phi^-1(AUROC)) and cut into bins; the optimal cascade on it is solved exactly by
`asd.stopping`. A call costs (layers + overhead) * (prefill + answer tokens); with draft reuse the later stage
reads the draft in its prefill and decodes only what it does not accept. Costs are in runs of L.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist

import numpy as np

from asd.stopping.graph import Edge, FloatArray, Graph, Node
from asd.stopping.recursion import solve
from asd.types import Action

STAGES = "SML"
TARGETS = (0.95, 0.99)
_LEAST = 1e-300  # scores nobody reaches have no mass to be divided by
_LAMS = np.geomspace(0.05, 2000, 240)


@dataclass(frozen=True, slots=True)
class BoundPlan:
    """A ladder on paper.

    Attributes:
        layers: Depth of S, M, L.
        accuracy: Share of right answers of S, M, L, ascending.
        auroc: How well a stage's confidence separates its right answers from its wrong.
        accepted: Share of a draft that a later stage accepts (0: drafts are thrown away).
        tokens: Mean answer length.
        prefill: Cost of reading the prompt, in decoded tokens of the same stage (measured: about 1.6).
        overhead: Cost of a step outside the layers, in layers (measured: about 0.4).
    """

    layers: tuple[float, float, float]
    accuracy: tuple[float, float, float]
    auroc: float = 0.97
    accepted: float = 0.0
    tokens: float = 13.0
    prefill: float = 1.6
    overhead: float = 0.4

    def cost(self, stage: int, reuse: bool) -> float:
        """Cost of one call in runs of L; `reuse`: a draft is there to verify."""
        decoded = self.tokens * (1 - self.accepted if reuse else 1)
        work = (self.layers[stage] + self.overhead) * (self.prefill + decoded)
        return work / ((self.layers[-1] + self.overhead) * (self.prefill + self.tokens))


def _kinds(plan: BoundPlan) -> FloatArray:
    """Share of the four kinds of question: right from S, M, L on, never."""
    s, m, large = plan.accuracy
    return np.array([s, m - s, large - m, 1 - large])


def _scores(auroc: float, bins: int) -> FloatArray:
    """Probability of each score bin given (wrong, right), shape (2, bins)."""
    normal = NormalDist()
    d = 2**0.5 * normal.inv_cdf(auroc)
    edges = np.linspace(-d / 2 - 3, d / 2 + 3, bins + 1)[1:-1]
    rows = [[0.0, *(normal.cdf(e - sign * d / 2) for e in edges), 1.0] for sign in (-1, 1)]
    return np.diff(np.array(rows), axis=1)


def _joint(plan: BoundPlan, stages: Sequence[int], bins: int) -> FloatArray:
    """P(kind, score bins of the stages run), shape (4, bins ** len(stages)); L's score is never needed."""
    scores, table = _scores(plan.auroc, bins), _kinds(plan)[:, None]
    for stage in stages:
        if stage < len(STAGES) - 1:
            given_kind = np.array([scores[int(stage >= kind)] for kind in range(4)])
            table = (table[:, :, None] * given_kind[:, None, :]).reshape(4, -1)
    return table


def stopping_problem(plan: BoundPlan, bins: int = 15) -> Graph:
    """The plan as a stopping problem: nodes are sets of stages run, the last one's answer is returned."""
    sets = [run for n in range(len(STAGES) + 1) for run in combinations(range(len(STAGES)), n)]
    nodes, edges = [], []
    for run in sets:
        joint = _joint(plan, run, bins)
        right = joint[: run[-1] + 1].sum(0) if run else np.zeros(1)
        p = right / np.maximum(joint.sum(0), _LEAST)
        nodes.append(Node(_name(run), np.clip(p, 0, 1), may_stop=bool(run)))
        for stage in range(run[-1] + 1 if run else 0, len(STAGES)):
            after = _joint(plan, (*run, stage), bins).sum(0).reshape(joint.shape[1], -1) + _LEAST
            kernel = np.zeros((len(after), after.size))
            for b, row in enumerate(after):
                kernel[b, b * len(row) : (b + 1) * len(row)] = row / row.sum()
            cost = np.full(len(after), plan.cost(stage, reuse=bool(run)))
            action = Action.draft(STAGES[stage])
            edges.append(Edge(_name(run), _name((*run, stage)), cost, kernel, action))
    return Graph(tuple(nodes), tuple(edges), np.ones(1))


def _name(run: Sequence[int]) -> str:
    return "+".join(STAGES[stage] for stage in run) or "root"


def speed_up(plan: BoundPlan, share: float) -> float:
    """Speed-up over L alone of the cheapest mix of optimal policies that keeps `share` of L's quality."""
    solution = solve(stopping_problem(plan), _LAMS)
    quality, cost = solution.expected_quality, solution.expected_cost
    return 1.0 / float(np.interp(share * plan.accuracy[-1], quality, cost))


def oracle_speed_up(plan: BoundPlan, share: float) -> float:
    """The same for foresight: the cheapest right stage alone, the dearest questions given up first."""
    costs = np.array([plan.cost(stage, reuse=False) for stage in range(len(STAGES))])
    kinds = _kinds(plan)[:3]
    kept, spent = 0.0, costs[0] * (1 - share * plan.accuracy[-1])
    for kind, cost in zip(kinds, costs, strict=True):
        taken = min(kind, share * plan.accuracy[-1] - kept)
        kept, spent = kept + taken, spent + taken * cost
    return 1.0 / float(spent)


CANDIDATES = tuple(
    BoundPlan(layers, (s, m, large))
    for layers in ((2, 6, 18), (2, 8, 24), (2, 8, 28))
    for s, m, large in ((0.62, 0.80, 0.95), (0.70, 0.85, 0.95), (0.77, 0.88, 0.95), (0.77, 0.88, 0.93))
)
"""What was compared before the ladder was fixed."""


def bound_table(plans: Sequence[BoundPlan] = CANDIDATES, accepted: float = 0.8) -> list[dict[str, str]]:
    """One row a plan: plain, with drafts reused (`accepted` of each), and oracle speed-ups at the targets."""
    rows = []
    for plan in plans:
        row = {
            "layers": "/".join(f"{n:g}" for n in plan.layers),
            "accuracy": "/".join(f"{a:.2f}" for a in plan.accuracy),
        }
        for target in TARGETS:
            reused = replace(plan, accepted=accepted)
            row[f"plain {target:.0%}"] = f"{speed_up(plan, target):.2f}"
            row[f"reuse {target:.0%}"] = f"{speed_up(reused, target):.2f}"
            row[f"oracle {target:.0%}"] = f"{oracle_speed_up(plan, target):.2f}"
        rows.append(row)
    return rows
