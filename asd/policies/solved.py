"""Policies on the solved graph: the optimum looked up, and one-step look-ahead.

Scope: judging the state is the evidence's business, solving is `asd.stopping`'s.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from asd.errors import ConfigError, PolicyMismatchError
from asd.evidence import Evidence, Judgement
from asd.policies.checks import check_lam
from asd.stopping.graph import Graph
from asd.stopping.recursion import Solution, solve
from asd.types import STOP, Action, Decision, Drafts, Query, Verification

__all__ = ["Myopic", "OptimalPolicy"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class OptimalPolicy:
    """Backward induction, looked up: judge the state, find its bin, take the action solved for it.

    A query s times longer than the mean is decided at lam / s without solving again: an approximation (all
    its edges scale alike, kernels do not depend on length), to be checked by replay.

    Attributes:
        evidence: What is known about the answers so far.
        solution: The solved sweep; decisions use its lam nearest to the one wanted, on a log scale.
        lam: Cost units that one fully right answer is worth.

    Raises:
        ConfigError: `lam` lies outside the sweep, or the root may stop, with no answer to return.
    """

    evidence: Evidence
    solution: Solution
    lam: float

    def __post_init__(self) -> None:
        low, high = self.solution.lams[0], self.solution.lams[-1]
        if not low <= self.lam <= high:
            raise ConfigError(f"lam must lie in the solved sweep, {low:g} to {high:g}, got {self.lam}")
        _check_root(self.solution.graph)

    def __repr__(self) -> str:
        return f"OptimalPolicy(lam={self.lam:g}, graph={self.solution.graph!r})"

    @property
    def name(self) -> str:
        """The name with its lam, as in `optimal(lam=2)`."""
        return f"optimal(lam={self.lam:g})"

    def decide(self, query: Query, drafts: Drafts, verification: Verification | None = None) -> Decision:
        """Look the state up; `PolicyMismatchError` where the evidence names a node the graph lacks."""
        state = self.evidence.judge(query, drafts, verification)
        lam_index = self.solution.nearest(self.lam / _checked_scale(state))
        try:
            action = self.solution.chosen(state.node, state.bin, lam_index)
        except LookupError as error:
            raise _mismatch(state, self.solution.graph) from error
        values = self.solution.action_values(state.node, state.bin, lam_index)
        if state.scale != 1.0:
            values = {name: state.scale * value for name, value in values.items()}
        return Decision(action, state.answer, state.p_good, values)

    def dearer(self, surcharge: Mapping[str, float]) -> OptimalPolicy:
        """The optimum where asking a stage costs more by that many cost units, by stage (`Graph.dearer`)."""
        return OptimalPolicy(
            self.evidence, solve(self.solution.graph.dearer(surcharge), self.solution.lams), self.lam
        )

    def without(self, stages: Collection[str]) -> OptimalPolicy:
        """The optimum of the same problem without these stages; `ConfigError` where nothing is left to do."""
        left = self.solution.graph.without(stages)
        return OptimalPolicy(self.evidence, solve(left, self.solution.lams), self.lam)


@dataclass(frozen=True, slots=True, eq=False)
class Myopic:
    """One-step look-ahead: escalate only if the best single next stage, then stopping, beats stopping now.

    At the root it picks the best single stage. It misses what an option to stop later is worth.

    Attributes:
        evidence: What is known about the answers so far.
        graph: The stopping problem.
        lam: Cost units that one fully right answer is worth.

    Raises:
        ConfigError: `lam` is negative or not finite, or the root may stop, with no answer to return.
    """

    evidence: Evidence
    graph: Graph
    lam: float

    def __post_init__(self) -> None:
        check_lam(self.lam)
        _check_root(self.graph)

    @property
    def name(self) -> str:
        """The name with its lam, as in `myopic(lam=2)`."""
        return f"myopic(lam={self.lam:g})"

    def decide(self, query: Query, drafts: Drafts, verification: Verification | None = None) -> Decision:
        """Compare stopping with one more stage; `PolicyMismatchError` where the graph lacks the node."""
        state = self.evidence.judge(query, drafts, verification)
        values = self._values(state)
        return Decision(max(values, key=values.__getitem__), state.answer, state.p_good, values)

    def without(self, stages: Collection[str]) -> Myopic:
        """The same look-ahead without these stages; `ConfigError` where nothing is left to do."""
        return Myopic(self.evidence, self.graph.without(stages), self.lam)

    def _values(self, state: Judgement) -> dict[Action, float]:
        """Value of stopping and of every single next stage; the first of equals is taken, stopping first."""
        scale = _checked_scale(state)
        try:
            node = self.graph.node(state.node)
            p = float(node.p[state.bin])
        except (ConfigError, LookupError) as error:
            raise _mismatch(state, self.graph) from error
        values = {STOP: self.lam * p} if node.may_stop else {}
        for edge in self.graph.outgoing(state.node):
            p_next = float(edge.kernel[state.bin] @ self.graph.node(edge.target).p)
            values[edge.action] = self.lam * p_next - scale * float(edge.cost[state.bin])
        return values


def _mismatch(state: Judgement, graph: Graph) -> PolicyMismatchError:
    nodes = {node.name: node.n_bins for node in graph.nodes}
    return PolicyMismatchError(
        f"the evidence judged bin {state.bin} of node {state.node!r}, the policy was solved for {nodes}: "
        "fit evidence and policy together"
    )


def _checked_scale(state: Judgement) -> float:
    if not 0 < state.scale < math.inf:
        raise ConfigError(f"scale must be positive and finite, got {state.scale} at node {state.node!r}")
    return state.scale


def _check_root(graph: Graph) -> None:
    if graph.root.may_stop:
        raise ConfigError(f"root {graph.root.name!r} may stop, but a cascade has no answer to return there")
