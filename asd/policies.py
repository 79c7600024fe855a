"""Policies: in a state (what has been bought so far), stop or run which stage next.

One protocol for the optimal policy and for everything it is compared with. `OptimalPolicy` looks up an exact
solution; `Myopic` looks one step ahead on the same graph; `StaticWalk` and `ClosedForm` climb the ladder by
thresholds; `FixedStage`, `Lossless` and `RandomMix` look at nothing; `Oracle` has foresight and exists for
replay only.

The border: a policy names the next action; it runs no stage, prices nothing and never reads a reference, a
score or a tag. Value = lam * quality - cost, costs in cost units (one mean run of the largest stage alone).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from asd.errors import ConfigError, DataError, PolicyMismatchError
from asd.evidence import Evidence, Judgement
from asd.ladder import Prices
from asd.stopping.graph import Graph
from asd.stopping.recursion import Solution, solve
from asd.types import STOP, VERIFY, Decision, Draft, Query, Trace, Verification

__all__ = [
    "ClosedForm",
    "FixedStage",
    "Lossless",
    "Myopic",
    "OptimalPolicy",
    "Oracle",
    "Policy",
    "RandomMix",
    "StaticWalk",
]


class Policy(Protocol):
    """`decide` gets the drafts bought so far (insertion order = order of the calls; empty at first).

    It also gets the verification in hand: what a larger stage said of one of these drafts, until another
    stage answers. It must not stop on an empty mapping, and must name only stages that have not been run;
    to let one verify ("S>M" is "let M read S's answer") it names `VERIFY` with the stage, and S as `answer`.
    """

    @property
    def name(self) -> str:
        """Short, unique in a sweep, stable over runs: it becomes part of a baseline key."""

    def decide(
        self, query: Query, drafts: Mapping[str, Draft], verification: Verification | None = None
    ) -> Decision:
        """Choose the next action for one query."""


@dataclass(frozen=True, slots=True, eq=False)
class OptimalPolicy:
    """Backward induction, looked up: judge the state, find its bin, take the action solved for it.

    A query s times longer than the mean is decided at lam / s without solving again: an approximation (all
    its edges scale alike, kernels do not depend on length), to be checked by replay.

    Attributes:
        evidence: What is known about the answers in hand.
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

    @property
    def name(self) -> str:
        """The name with its lam, as in `optimal(lam=2)`."""
        return f"optimal(lam={self.lam:g})"

    def decide(
        self, query: Query, drafts: Mapping[str, Draft], verification: Verification | None = None
    ) -> Decision:
        """Look the state up; `PolicyMismatchError` where the evidence names a node the graph lacks."""
        state = self.evidence.judge(query, drafts, verification)
        lam_index = self.solution.nearest(self.lam / _checked_scale(state))
        try:
            action = self.solution.action_name(state.node, state.bin, lam_index)
        except LookupError as error:
            raise _mismatch(state, self.solution.graph) from error
        values = self.solution.action_values(state.node, state.bin, lam_index)
        if state.scale != 1.0:
            values = {name: state.scale * value for name, value in values.items()}
        return Decision(action, state.answer, state.p_good, values)

    def dearer(self, surcharge: Mapping[str, float]) -> OptimalPolicy:
        """The optimum where asking a stage costs more by so many cost units, by stage (`Graph.dearer`)."""
        return OptimalPolicy(
            self.evidence, solve(self.solution.graph.dearer(surcharge), self.solution.lams), self.lam
        )

    def without(self, stages: Collection[str]) -> OptimalPolicy:
        """The optimum of the same problem without these stages; `ConfigError` where nothing is left to do."""
        left = self.solution.graph.without(stages)
        return OptimalPolicy(self.evidence, solve(left, self.solution.lams), self.lam)


@dataclass(frozen=True, slots=True, eq=False)
class Myopic:
    """One-step look-ahead: go on only if the best single next stage, then stopping, beats stopping now.

    At the root it picks the best single stage. It misses what an option to stop later is worth.

    Attributes:
        evidence: What is known about the answers in hand.
        graph: The stopping problem.
        lam: Cost units that one fully right answer is worth.

    Raises:
        ConfigError: `lam` is negative or not finite, or the root may stop, with no answer to return.
    """

    evidence: Evidence
    graph: Graph
    lam: float

    def __post_init__(self) -> None:
        _check_lam(self.lam)
        _check_root(self.graph)

    @property
    def name(self) -> str:
        """The name with its lam, as in `myopic(lam=2)`."""
        return f"myopic(lam={self.lam:g})"

    def decide(
        self, query: Query, drafts: Mapping[str, Draft], verification: Verification | None = None
    ) -> Decision:
        """Compare stopping with one more stage; `PolicyMismatchError` where the graph lacks the node."""
        state = self.evidence.judge(query, drafts, verification)
        values = self._values(state)
        return Decision(max(values, key=values.__getitem__), state.answer, state.p_good, values)

    def without(self, stages: Collection[str]) -> Myopic:
        """The same look-ahead without these stages; `ConfigError` where nothing is left to do."""
        return Myopic(self.evidence, self.graph.without(stages), self.lam)

    def _values(self, state: Judgement) -> dict[str, float]:
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


@dataclass(frozen=True, slots=True)
class FixedStage:
    """Run one stage and return its answer, whatever it is."""

    stage: str

    @property
    def name(self) -> str:
        """The name with its stage, as in `always(L)`."""
        return f"always({self.stage})"

    def decide(
        self,
        query: Query,  # noqa: ARG002
        drafts: Mapping[str, Draft],
        verification: Verification | None = None,  # noqa: ARG002
    ) -> Decision:
        """Run the stage, then stop."""
        return _run_only(self.stage, drafts)


@dataclass(frozen=True, slots=True)
class Lossless:
    """Every stage drafts for the next, which verifies and goes on: the last one's own answer, sooner.

    Changes time, never text: what is returned is what the last stage writes alone.

    Attributes:
        chain: Stages in the order in which they answer, at least two.

    Raises:
        ConfigError: there are fewer than two stages, or one is named twice.
    """

    chain: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_stages(self.chain)
        if len(self.chain) < 2:
            raise ConfigError(f"a draft needs another stage to verify it, got the stages {self.chain}")

    @property
    def name(self) -> str:
        """The name with its stages, as in `lossless(S>L)`."""
        return f"lossless({VERIFY.join(self.chain)})"

    @property
    def actions(self) -> tuple[str, ...]:
        """What it does before it stops."""
        first, *others = self.chain
        return (first, *(action for stage in others for action in (VERIFY + stage, stage)))

    def decide(
        self,
        query: Query,  # noqa: ARG002
        drafts: Mapping[str, Draft],
        verification: Verification | None = None,
    ) -> Decision:
        """Draft, verify, go on, and so on up to the last stage."""
        n_done = 2 * len(drafts) - 1 + (verification is not None) if drafts else 0
        latest = self.chain[len(drafts) - 1] if drafts else None
        return Decision(STOP if n_done == len(self.actions) else self.actions[n_done], latest)


@dataclass(frozen=True, slots=True, eq=False)
class RandomMix:
    """Run one stage drawn at random and return its answer; the draw is fixed by the seed and the query.

    Attributes:
        weights: How often each stage is drawn, relative to the others.
        seed: Another seed is another draw for every query.

    Raises:
        ConfigError: a weight is negative or not finite, or all are zero; the seed is negative.
    """

    weights: Mapping[str, float]
    seed: int

    def __post_init__(self) -> None:
        given = list(self.weights.values())
        if not all(math.isfinite(w) and w >= 0 for w in given) or not sum(given) > 0:
            raise ConfigError(f"weights must be finite, not negative, not all zero, got {dict(self.weights)}")
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}")

    @property
    def name(self) -> str:
        """The name with weights and seed, as in `random(S=1,L=1,seed=0)`."""
        mix = ",".join(f"{stage}={weight:g}" for stage, weight in self.weights.items())
        return f"random({mix},seed={self.seed})"

    def decide(
        self,
        query: Query,
        drafts: Mapping[str, Draft],
        verification: Verification | None = None,  # noqa: ARG002
    ) -> Decision:
        """Run the stage drawn for this query, then stop."""
        rng = np.random.default_rng([self.seed, zlib.crc32(f"{query.dataset}\0{query.id}".encode())])
        p = np.array(list(self.weights.values()))
        drawn = int(rng.choice(len(p), p=p / p.sum()))
        return _run_only(list(self.weights)[drawn], drafts)


@dataclass(frozen=True, slots=True, eq=False)
class StaticWalk:
    """Climb the ladder one stage at a time until the best answer in hand is likely enough to be right.

    Attributes:
        stages: Names in the order of the climb.
        threshold: Stop as soon as the calibrated success probability is at least this.
        evidence: What is known about the answers in hand.

    Raises:
        ConfigError: there is no stage, one is named twice, or the threshold is not a number.
    """

    stages: tuple[str, ...]
    threshold: float
    evidence: Evidence

    def __post_init__(self) -> None:
        _check_stages(self.stages)
        if math.isnan(self.threshold):
            raise ConfigError("threshold must be a number, got nan")

    @property
    def name(self) -> str:
        """The name with its threshold, as in `walk(p>=0.8)`."""
        return f"walk(p>={self.threshold:g})"

    def decide(
        self,
        query: Query,
        drafts: Mapping[str, Draft],
        verification: Verification | None = None,  # noqa: ARG002
    ) -> Decision:
        """Stop at the threshold or at the top, else run the next stage."""
        if not drafts:
            return Decision(self.stages[0], None)
        state = self.evidence.judge(query, drafts)
        answer = _answer(state)
        left = [stage for stage in self.stages if stage not in drafts]
        stops = not left or state.p_good[answer] >= self.threshold
        return Decision(STOP if stops else left[0], answer, state.p_good)


@dataclass(frozen=True, slots=True, eq=False)
class ClosedForm:
    """Thresholds published for this idea, theta_i = (1 - 0.5 * c_i / c_(i+1)) / (1 + lam), as printed.

    Stage i's answer is returned if its own success probability is at least theta_i; the last stage's always.
    A baseline: its quality *falls* as lam grows, so sweep it over its own grid on frontiers.

    Attributes:
        stages: Names in the order of the climb.
        costs: Cost of each stage alone, any common unit.
        lam: The formula's parameter.
        evidence: What is known about the answers in hand.

    Raises:
        ConfigError: stages and costs do not pair up, a cost is not positive, or `lam` is negative.
    """

    stages: tuple[str, ...]
    costs: tuple[float, ...]
    lam: float
    evidence: Evidence

    def __post_init__(self) -> None:
        _check_stages(self.stages)
        _check_lam(self.lam)
        if len(self.costs) != len(self.stages):
            raise ConfigError(f"every stage needs one cost, got {self.costs} for {self.stages}")
        if not all(math.isfinite(cost) and cost > 0 for cost in self.costs):
            raise ConfigError(f"costs must be positive and finite, got {self.costs}")

    @property
    def name(self) -> str:
        """The name with its lam, as in `closed-form(lam=2)`."""
        return f"closed-form(lam={self.lam:g})"

    @property
    def thresholds(self) -> tuple[float, ...]:
        """theta_i of every stage but the last."""
        pairs = zip(self.costs, self.costs[1:], strict=False)
        return tuple((1 - 0.5 * cost / after) / (1 + self.lam) for cost, after in pairs)

    def decide(
        self,
        query: Query,
        drafts: Mapping[str, Draft],
        verification: Verification | None = None,  # noqa: ARG002
    ) -> Decision:
        """Return the latest answer if it clears its threshold or is the last stage's, else climb."""
        if not drafts:
            return Decision(self.stages[0], None)
        state = self.evidence.judge(query, drafts)
        latest = next(reversed(list(drafts)))
        rung = self.stages.index(latest)
        stops = rung == len(self.stages) - 1 or state.p_good[latest] >= self.thresholds[rung]
        return Decision(STOP if stops else self.stages[rung + 1], latest, state.p_good)


@dataclass(frozen=True, slots=True, eq=False)
class Oracle:
    """With foresight, per query, the single stage with the largest lam * score - cost. Replay only.

    It pays that stage alone. No upper bound where drafts are reused: there a cascade can do better.

    Attributes:
        best: Stage by (dataset, query id).
        lam: Cost units that one fully right answer is worth; what `best` was chosen for.
    """

    best: Mapping[tuple[str, str], str]
    lam: float

    @classmethod
    def from_traces(
        cls, traces: Iterable[Trace], prices: Mapping[str, Prices], cost_unit: float, lam: float
    ) -> Oracle:
        """Read the best stage of every query off its recorded outcomes; equals go to the cheaper stage.

        Args:
            traces: Scored outcomes of every stage on every query.
            prices: Price table by stage name.
            cost_unit: Mean price of a run of the largest stage alone on the workload, same raw unit.
            lam: Cost units that one fully right answer is worth.

        Raises:
            ConfigError: `lam` or `cost_unit` is no usable number, or a stage has no price.
            DataError: a query has no outcome, or one without a score.
        """
        _check_lam(lam)
        if not (math.isfinite(cost_unit) and cost_unit > 0):
            raise ConfigError(f"cost_unit must be positive and finite, got {cost_unit}")
        best = {(t.query.dataset, t.query.id): _best_stage(t, prices, cost_unit, lam) for t in traces}
        return cls(best, lam)

    @property
    def name(self) -> str:
        """The name with its lam, as in `oracle(lam=2)`."""
        return f"oracle(lam={self.lam:g})"

    def decide(
        self,
        query: Query,
        drafts: Mapping[str, Draft],
        verification: Verification | None = None,  # noqa: ARG002
    ) -> Decision:
        """Run the best stage, then stop; `DataError` for a query it has no foresight of."""
        stage = self.best.get((query.dataset, query.id))
        if stage is None:
            raise DataError(
                f"the oracle never saw query {query.id!r} of {query.dataset!r}: it serves the replay of the "
                "traces it was built from only"
            )
        return _run_only(stage, drafts)


def _best_stage(trace: Trace, prices: Mapping[str, Prices], cost_unit: float, lam: float) -> str:
    worth: dict[str, tuple[float, float]] = {}
    for stage, outcome in trace.outcomes.items():
        if outcome.score is None:
            raise DataError(f"query {trace.query.id!r} has no score for stage {stage!r}: score it first")
        if stage not in prices:
            raise ConfigError(f"no price for stage {stage!r}; there are prices for {sorted(prices)}")
        cost = prices[stage].cost(outcome.draft.usage) / cost_unit
        worth[stage] = (lam * outcome.score - cost, -cost)
    if not worth:
        raise DataError(f"query {trace.query.id!r} has no outcome of any stage")
    return max(worth, key=worth.__getitem__)


def _run_only(stage: str, drafts: Mapping[str, Draft]) -> Decision:
    return Decision(STOP, stage) if stage in drafts else Decision(stage, None)


def _answer(state: Judgement) -> str:
    if state.answer is None:
        raise PolicyMismatchError(f"the evidence names no best answer at node {state.node!r}")
    return state.answer


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


def _check_lam(lam: float) -> None:
    if not 0 <= lam < math.inf:
        raise ConfigError(f"lam must be finite and not negative, got {lam}")


def _check_root(graph: Graph) -> None:
    if graph.root.may_stop:
        raise ConfigError(f"root {graph.root.name!r} may stop, but a cascade has no answer to return there")


def _check_stages(stages: tuple[str, ...]) -> None:
    if not stages or len(set(stages)) < len(stages):
        raise ConfigError(f"stages must be one or more different names, got {stages}")
