"""Learning to stop while answering: what a learner believes of a stopping problem, and what it tries next.

The problem is the graph of `graph`, played one query a round; costs are known, kernels and success
probabilities are not. Feedback is censored: the bins of the nodes on the way are seen, the quality of the one
answer that is returned, nothing else.

    kernel rows   Dirichlet(prior + transitions seen)      success   Beta(prior + right, prior + wrong)

`PosteriorSampling` draws one problem from these beliefs and plays its optimum until the next draw: regret
O~(sqrt(T)) for finite-horizon tabular problems (arXiv 1306.0940, 1703.05449). `Greedy` plays the optimum of
the posterior mean, with a share of random actions if wanted; `ExploreThenCommit` acts at random first.

Scope: beliefs and choices, for several independent learners (seeds) at once; arrays lead with the seed.
Where rounds come from (`asd.research.theory.regret`) is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError
from asd.stopping.graph import FloatArray, Graph, IntArray

__all__ = [
    "Beliefs",
    "ExploreThenCommit",
    "Greedy",
    "Layout",
    "Learner",
    "PosteriorSampling",
    "RoundPlan",
    "best",
]

BoolArray = npt.NDArray[np.bool_]

PRIOR_ROWS = 1.0
"""Imagined transitions per kernel row, spread evenly; imagined answers per bin, half of them right."""


class Layout:
    """A graph as arrays. N nodes, E edges, B bins (of the largest node), A actions: 0 stops, a takes edge a.

    Attributes:
        source: Node of each edge, shape (E,).
        target: Likewise.
        cost: Cost units by bin of the source, shape (E, B).
        edge_of: Edge that action a takes at a node, shape (N, A); -1 where there is none (stopping included).
        legal: Whether an action is allowed, shape (N, A).
        depth: Most edges on any way.
    """

    def __init__(self, graph: Graph) -> None:
        names = {node.name: i for i, node in enumerate(graph.nodes)}
        self.graph = graph
        self.n_nodes, self.n_edges = len(graph.nodes), len(graph.edges)
        self.n_bins = max(node.n_bins for node in graph.nodes)
        self.source = np.array([names[edge.source] for edge in graph.edges])
        self.target = np.array([names[edge.target] for edge in graph.edges])
        self.cost = np.stack([_padded(edge.cost, self.n_bins) for edge in graph.edges])
        width = 1 + max(np.bincount(self.source, minlength=self.n_nodes))
        self.edge_of = np.full((self.n_nodes, width), -1)
        for node in range(self.n_nodes):
            own = np.flatnonzero(self.source == node)
            self.edge_of[node, 1 : 1 + len(own)] = own
        self.legal: BoolArray = self.edge_of >= 0
        self.legal[:, 0] = [node.may_stop for node in graph.nodes]
        self.depth = self._depth()

    @property
    def kernels(self) -> FloatArray:
        """The graph's own kernels, shape (E, B, B); rows beyond a node's bins are zero."""
        kernels = np.zeros((self.n_edges, self.n_bins, self.n_bins))
        for e, edge in enumerate(self.graph.edges):
            kernels[e, : edge.kernel.shape[0], : edge.kernel.shape[1]] = edge.kernel
        return kernels

    @property
    def p(self) -> FloatArray:
        """The graph's own success probabilities, shape (N, B)."""
        return np.stack([_padded(node.p, self.n_bins) for node in self.graph.nodes])

    def _depth(self) -> int:
        longest = np.zeros(self.n_nodes, dtype=int)
        for node in range(self.n_nodes):  # every node comes before those it leads to
            for edge in np.flatnonzero(self.source == node):
                longest[self.target[edge]] = max(longest[self.target[edge]], longest[node] + 1)
        return int(longest.max())


def _padded(values: FloatArray, length: int) -> FloatArray:
    return np.pad(values, (0, length - len(values)))


def best(layout: Layout, kernels: FloatArray, p: FloatArray, lam: float) -> IntArray:
    """Optimal action of every node and bin, by backward induction for every seed at once.

    Args:
        layout: The problem's structure and costs.
        kernels: Shape (S, E, B, B).
        p: Shape (S, N, B).
        lam: Trade-off weight.

    Returns:
        Actions, shape (S, N, B).
    """
    worth = np.zeros_like(p)
    actions = np.zeros(p.shape, dtype=np.intp)
    for node in reversed(range(layout.n_nodes)):
        options = np.full((layout.edge_of.shape[1], *p[:, node].shape), -np.inf)
        if layout.legal[node, 0]:
            options[0] = lam * p[:, node]
        for action, edge in enumerate(layout.edge_of[node]):
            if edge >= 0:
                then = np.einsum("sbc,sc->sb", kernels[:, edge], worth[:, layout.target[edge]])
                options[action] = then - layout.cost[edge]
        actions[:, node] = options.argmax(axis=0)
        worth[:, node] = options.max(axis=0)
    return actions


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """How a stretch of rounds is played: the actions, shape (S, N, B), and the share of random ones."""

    actions: IntArray
    random_share: float = 0.0


@dataclass(slots=True)
class Beliefs:
    """Counts of what was seen.

    Attributes:
        layout: Of what problem.
        moves: Transitions seen, shape (S, E, B, B).
        right: Quality of returned answers, summed by node and bin, shape (S, N, B).
        wrong: 1 - quality, likewise.
    """

    layout: Layout
    moves: FloatArray
    right: FloatArray
    wrong: FloatArray

    @classmethod
    def empty(cls, layout: Layout, n_seeds: int) -> Beliefs:
        """Nothing seen yet, for so many learners."""
        n, e, b = layout.n_nodes, layout.n_edges, layout.n_bins
        zeros = np.zeros
        return cls(layout, zeros((n_seeds, e, b, b)), zeros((n_seeds, n, b)), zeros((n_seeds, n, b)))

    def forget(self, keep: float) -> None:
        """Weigh everything seen so far by `keep`, so that a drifting problem is followed."""
        self.moves *= keep
        self.right *= keep
        self.wrong *= keep

    def _kernel_counts(self) -> FloatArray:
        """Pseudo-counts of every row, zero beyond the target's bins."""
        n_bins = np.array([node.n_bins for node in self.layout.graph.nodes])[self.layout.target]
        inside = np.arange(self.layout.n_bins) < n_bins[:, None]
        return np.asarray(self.moves + (inside * PRIOR_ROWS / n_bins[:, None])[:, None, :])

    def mean(self) -> tuple[FloatArray, FloatArray]:
        """Posterior means of kernels (S, E, B, B) and success probabilities (S, N, B)."""
        counts = self._kernel_counts()
        right, wrong = self.right + PRIOR_ROWS / 2, self.wrong + PRIOR_ROWS / 2
        return counts / counts.sum(axis=-1, keepdims=True), right / (right + wrong)

    def draw(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """One problem a learner from the posterior, shapes as of `mean`."""
        gamma = rng.standard_gamma(self._kernel_counts())
        total = gamma.sum(axis=-1, keepdims=True)
        mean, _ = self.mean()  # tiny shapes can underflow to a row of zeros
        kernels = np.divide(gamma, total, out=mean, where=total > 0)
        return kernels, rng.beta(self.right + PRIOR_ROWS / 2, self.wrong + PRIOR_ROWS / 2)


class Learner(Protocol):
    """Chooses how to play from what was seen."""

    @property
    def name(self) -> str:
        """Short and unique in an experiment."""

    def plan(self, beliefs: Beliefs, lam: float, n_played: int, rng: np.random.Generator) -> RoundPlan:
        """How to play until the beliefs are next brought up to date."""


@dataclass(frozen=True, slots=True)
class PosteriorSampling:
    """The optimum of a problem drawn from the beliefs."""

    name: str = "posterior sampling"

    def plan(self, beliefs: Beliefs, lam: float, n_played: int, rng: np.random.Generator) -> RoundPlan:  # noqa: ARG002
        """Draw and solve."""
        return RoundPlan(best(beliefs.layout, *beliefs.draw(rng), lam))


@dataclass(frozen=True, slots=True)
class Greedy:
    """The optimum of the posterior mean, except for a share of random actions."""

    random_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.random_share <= 1:
            raise ConfigError(f"random_share must lie in [0, 1], got {self.random_share}")

    @property
    def name(self) -> str:
        """Says the share, if there is one."""
        return f"epsilon-greedy({self.random_share:g})" if self.random_share else "greedy"

    def plan(self, beliefs: Beliefs, lam: float, n_played: int, rng: np.random.Generator) -> RoundPlan:  # noqa: ARG002
        """Solve the mean."""
        return RoundPlan(best(beliefs.layout, *beliefs.mean(), lam), self.random_share)


@dataclass(frozen=True, slots=True)
class ExploreThenCommit:
    """Random actions for the first rounds, then greedy."""

    n_rounds: int

    def __post_init__(self) -> None:
        if self.n_rounds < 1:
            raise ConfigError(f"exploring takes at least 1 round, got {self.n_rounds}")

    @property
    def name(self) -> str:
        """Says how many rounds."""
        return f"explore-then-commit({self.n_rounds})"

    def plan(self, beliefs: Beliefs, lam: float, n_played: int, rng: np.random.Generator) -> RoundPlan:
        """Random, or the optimum of the mean."""
        share = 1.0 if n_played < self.n_rounds else 0.0
        return RoundPlan(Greedy().plan(beliefs, lam, n_played, rng).actions, share)
