"""The methods that a study compares, each at a setting chosen on rows that are not reported.

A *family* is a policy with a lambda; its setting is the cheapest of the sweep that keeps a share of the
largest stage's quality on the calibration rows, and where none does, the one of the most quality there. All
families are chosen by that one rule, so none is favoured. Single stages write alone; "drafted" is the largest
with its own drafter, which every policy has too: what is gained over it, no drafter gives.

Scope: policies and settings; walks are `asd.evaluation.replay`', seconds `asd.evaluation.live`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asd.evaluation.replay import STATIC_THRESHOLD, Contender, Outcomes, Replay
from asd.policies import ClosedForm, FixedStage, Myopic, OptimalPolicy, Oracle, Policy, RandomMix, StaticWalk
from asd.policy.artifact import PolicyArtifact
from asd.stopping.graph import Graph
from asd.stopping.recursion import solve

__all__ = [
    "DRAFTED",
    "KEPT",
    "LAMS",
    "OPTIMAL",
    "StudyMethod",
    "drafted",
    "families",
    "methods",
    "pooled",
    "prompt_only",
    "swept",
]

Array = NDArray[np.float64]

LAMS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""The sweep: runs of the largest stage that one fully right answer is worth."""

KEPT = 0.95
"""Share of the largest stage's quality that a setting must keep."""

OPTIMAL = "optimal"

DRAFTED = "drafted"
"""The largest stage with its own drafter: its answers, sooner."""

_CLOSED_FORM = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""The closed form's own grid: its quality falls as its lambda grows."""

_SCALES = 2.0 ** np.linspace(-3.0, 3.0, 129)
"""Long queries are decided at lam / scale; solved at lam times each of these."""


@dataclass(frozen=True, slots=True)
class StudyMethod:
    """A name, a setting if it has one, the policy for a data set; `drafter` as in `Contender`."""

    name: str
    lam: float | None
    policy: Callable[[Outcomes], Policy]
    drafter: bool = True

    def walk(self, outcomes: Outcomes) -> Replay:
        """Let it decide on every question of a dataset, the stages played back."""
        return outcomes.walk(Contender(self.name, self.lam, self.policy(outcomes), self.drafter))


Family = Callable[[float], StudyMethod]
"""From a lambda to a method."""


def families(fitted: PolicyArtifact) -> dict[str, Family]:
    """What is swept over lambda, by name; "optimal-verified" where drafts can be verified."""
    evidence = fitted.evidence()

    def closed_form(outcomes: Outcomes, lam: float) -> Policy:
        stages = tuple(stage.name for stage in outcomes.ladder.stages)
        return ClosedForm(stages, tuple(float(outcomes.costs(s).mean()) for s in stages), lam, evidence)

    def oracle(outcomes: Outcomes, lam: float) -> Policy:
        prices = {stage.name: stage.prices for stage in outcomes.ladder.stages}
        return Oracle.from_traces(outcomes.traces, prices, outcomes.unit, lam)

    found: dict[str, Callable[[Outcomes, float], Policy]] = {
        "closed-form": closed_form,
        "myopic": lambda _, lam: Myopic(evidence, fitted.graph(verify=False), lam),
        "prompt-only": lambda _, lam: prompt_only(fitted, lam),
        OPTIMAL: lambda _, lam: fitted.optimal(lam, verify=False),
        "oracle": oracle,
    }
    if fitted.verifies:
        found["optimal-verified"] = lambda _, lam: fitted.optimal(lam)
    return {name: _family(name, policy) for name, policy in found.items()}


def _family(name: str, policy: Callable[[Outcomes, float], Policy]) -> Family:
    return lambda lam: StudyMethod(name, lam, lambda outcomes: policy(outcomes, lam))


def prompt_only(fitted: PolicyArtifact, lam: float) -> OptimalPolicy:
    """The optimum among policies that look at the prompt, run one stage and stop."""
    graph = fitted.graph(verify=False)
    edges = graph.outgoing(graph.root.name)
    reached = {edge.target for edge in edges}
    nodes = (graph.root, *(node for node in graph.nodes if node.name in reached))
    lams = np.unique(lam * _SCALES) if lam > 0.0 else np.array([lam])
    return OptimalPolicy(fitted.evidence(), solve(Graph(nodes, edges, graph.start), lams), lam)


def methods(fitted: PolicyArtifact, calibration: Sequence[Outcomes]) -> list[StudyMethod]:
    """Everything that is compared, the single stages first and the oracle last.

    "random" draws stages so that its expected cost on the calibration rows is that of "optimal".

    Args:
        fitted: The policy under study.
        calibration: Every dataset's outcomes on rows that choose the settings.
    """
    stages = fitted.model.stages
    largest = [_fixed(DRAFTED, FixedStage(stages[-1]))] if drafted(fitted) else []
    singles = [_fixed(f"always-{stage}", FixedStage(stage), drafter=False) for stage in stages]
    static = _fixed("static", StaticWalk(stages, STATIC_THRESHOLD, fitted.evidence()))
    wanted = KEPT * pooled([singles[-1].walk(o) for o in calibration], lambda replay: replay.quality)
    chosen = {name: _choose(family, name, calibration, wanted) for name, family in families(fitted).items()}
    cost = pooled([chosen[OPTIMAL].walk(o) for o in calibration], lambda replay: replay.cost)
    random = _fixed("random", RandomMix(_mix(calibration, cost, stages), seed=0))
    lossless = [_fixed("lossless", fitted.lossless())] if fitted.verifies else []
    oracle = chosen.pop("oracle")
    return [*singles, *largest, static, random, *chosen.values(), *lossless, oracle]


def drafted(fitted: PolicyArtifact) -> bool:
    """Whether the largest stage has a drafter of its own that pays."""
    return fitted.ladder.prices_at(1)[fitted.model.stages[-1]].per_drafted is not None


def swept(fitted: PolicyArtifact) -> str:
    """Name of the family that the tables over lambda are about: verifying where it can."""
    return "optimal-verified" if fitted.verifies else OPTIMAL


def _fixed(name: str, policy: Policy, *, drafter: bool = True) -> StudyMethod:
    return StudyMethod(name, None, lambda _: policy, drafter)


def _choose(family: Family, name: str, calibration: Sequence[Outcomes], wanted: float) -> StudyMethod:
    """The cheapest setting that is good enough, else the best."""
    candidates = [family(lam) for lam in (_CLOSED_FORM if name == "closed-form" else LAMS)]
    walked = [[method.walk(outcomes) for outcomes in calibration] for method in candidates]
    quality = [pooled(replays, lambda replay: replay.quality) for replays in walked]
    cost = [pooled(replays, lambda replay: replay.cost) for replays in walked]
    good = [i for i, found in enumerate(quality) if found >= wanted]
    best = min(good, key=cost.__getitem__) if good else max(range(len(quality)), key=quality.__getitem__)
    return candidates[best]


def _mix(calibration: Sequence[Outcomes], cost: float, stages: Sequence[str]) -> Mapping[str, float]:
    """Weights of the two stages whose costs lie around `cost`, so that the mix costs that much.

    Costs are those with drafters, for so the mix walks; beyond the dearest stage, that stage alone.
    """
    singles = [_fixed(stage, FixedStage(stage)) for stage in stages]
    costs = np.array([pooled([m.walk(o) for o in calibration], lambda r: r.cost) for m in singles])
    order = costs.argsort()
    weights = [np.interp(cost, costs[order], unit[order]) for unit in np.eye(len(costs))]
    return dict(zip(stages, map(float, weights), strict=True))


def pooled(replays: Sequence[Replay], per_item: Callable[[Replay], Array]) -> float:
    """Mean over the questions of all datasets."""
    return float(np.concatenate([per_item(replay) for replay in replays]).mean())
