"""The stopping problem as data: what can have been bought, what is known then, and what going on costs.

A finite directed acyclic graph. A *node* is what has been bought so far; at a node the evidence is one of B
bins with mean success probability `p` of the best answer so far. An *edge* buys one more stage: it costs
`cost[b]` and moves the evidence from bin b to bin b' of its target with probability `kernel[b, b']`.
(node, bin) is assumed sufficient: how far that is from the world is measured by replay, never here.

Scope: numbers only. How they are estimated is in `kernels`, what they imply in `recursion`. Costs are in
cost units (one mean run of the largest stage alone), probabilities in [0, 1].
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError
from asd.stopping.states import verifier_in
from asd.types import Action

__all__ = ["Edge", "FloatArray", "Graph", "IntArray", "Node"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

ROW_SUM_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One state of knowledge.

    Attributes:
        name: Unique in its graph.
        p: Mean success probability of the best answer so far, by bin, shape (B,). Unread where
            `may_stop` is false (zeros are customary); at a root that may stop it is the quality that
            abstaining is credited with.
        may_stop: Whether the answer so far may be returned; false at a root that has none.

    Raises:
        ConfigError: `p` is not a vector of numbers in [0, 1].
    """

    name: str
    p: FloatArray
    may_stop: bool = True

    def __post_init__(self) -> None:
        p = _frozen_array(f"p of node {self.name!r}", self.p, ndim=1)
        if p.min() < 0 or p.max() > 1:
            raise ConfigError(f"p of node {self.name!r} must lie in [0, 1], got {p.min():g} to {p.max():g}")
        object.__setattr__(self, "p", p)

    @property
    def n_bins(self) -> int:
        """How many values the evidence can take here."""
        return len(self.p)


@dataclass(frozen=True, slots=True, eq=False)
class Edge:
    """One purchase: take `action` at node `source` and be at node `target`.

    Attributes:
        source: Name of the node it leaves.
        target: Name of the node it leads to.
        cost: Expected cost by bin of the source, cost units, shape (B,).
        kernel: Probability of each bin of the target given the bin of the source, shape (B, B').
        action: What is done, by which stage.

    Raises:
        ConfigError: a cost is negative or not finite, or a row of the kernel is no distribution.
    """

    source: str
    target: str
    cost: FloatArray
    kernel: FloatArray
    action: Action

    def __post_init__(self) -> None:
        cost = _frozen_array(f"cost of edge {self}", self.cost, ndim=1)
        if cost.min() < 0:
            raise ConfigError(f"cost of edge {self} must not be negative, got {cost.min():g}")
        kernel = _frozen_array(f"kernel of edge {self}", self.kernel, ndim=2)
        _check_distributions(f"kernel of edge {self}", kernel)
        object.__setattr__(self, "cost", cost)
        object.__setattr__(self, "kernel", kernel)

    def __str__(self) -> str:
        return f"{self.source!r} -> {self.target!r} ({self.action})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Graph:
    """A stopping problem.

    Attributes:
        nodes: The root first, every node before those it leads to.
        edges: Any number per node; where two are worth the same the earlier one is taken.
        start: Distribution over the bins of the root, shape (B,).

    Raises:
        ConfigError: a name is unknown or used twice, an edge leads backwards, shapes do not fit, a node
            that may not stop leads nowhere, or `start` is no distribution.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    start: FloatArray

    def __repr__(self) -> str:
        return f"Graph({len(self.nodes)} nodes, {len(self.edges)} edges)"

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ConfigError("a graph needs at least a root node, got none")
        rank = {node.name: i for i, node in enumerate(self.nodes)}
        if len(rank) < len(self.nodes):
            raise ConfigError(f"node names must be unique, got {[node.name for node in self.nodes]}")
        for edge in self.edges:
            self._check_edge(edge, rank)
        self._check_choices()
        start = _frozen_array("start", self.start, ndim=1)
        _check_distributions("start", start[None])
        if len(start) != self.root.n_bins:
            raise ConfigError(f"start has {len(start)} bins, root {self.root.name!r} has {self.root.n_bins}")
        object.__setattr__(self, "start", start)

    def _check_edge(self, edge: Edge, rank: dict[str, int]) -> None:
        for name in (edge.source, edge.target):
            if name not in rank:
                raise ConfigError(f"edge {edge} names the unknown node {name!r}; there are {sorted(rank)}")
        if rank[edge.source] >= rank[edge.target]:
            raise ConfigError(f"edge {edge} leads backwards: list every node before those it leads to")
        shape = (self.node(edge.source).n_bins, self.node(edge.target).n_bins)
        if edge.kernel.shape != shape or len(edge.cost) != shape[0]:
            raise ConfigError(
                f"edge {edge} needs a kernel of shape {shape} and {shape[0]} costs, "
                f"got {edge.kernel.shape} and {len(edge.cost)}"
            )

    def _check_choices(self) -> None:
        for node in self.nodes:
            actions = [str(edge.action) for edge in self.outgoing(node.name)]
            if len(set(actions)) < len(actions):
                raise ConfigError(f"node {node.name!r} offers an action twice: {actions}")
            if not node.may_stop and not actions:
                raise ConfigError(f"node {node.name!r} may not stop and has no edge to leave by")

    @property
    def root(self) -> Node:
        """Where every query starts."""
        return self.nodes[0]

    def node(self, name: str) -> Node:
        """The node of that name; `ConfigError` if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise ConfigError(f"unknown node {name!r}; there are {[node.name for node in self.nodes]}")

    def without(self, stages: Collection[str]) -> Graph:
        """The same problem where these stages can be asked for nothing; states they led to remain.

        Raises:
            ConfigError: A node that may not stop is left with nowhere to go.
        """
        edges = tuple(edge for edge in self.edges if edge.action.stage not in stages)
        return Graph(self.nodes, edges, self.start)

    def dearer(self, surcharge: Mapping[str, float]) -> Graph:
        """The same problem where asking a stage costs more by that many cost units, by stage.

        Going on from what a stage has just read is no new asking. Raises `ConfigError` where a cost would be
        negative.
        """
        return Graph(self.nodes, tuple(_dearer(edge, surcharge) for edge in self.edges), self.start)

    def outgoing(self, name: str) -> tuple[Edge, ...]:
        """Edges that leave a node, in the order listed."""
        return tuple(edge for edge in self.edges if edge.source == name)


def _dearer(edge: Edge, surcharge: Mapping[str, float]) -> Edge:
    stage = edge.action.stage
    continues = verifier_in(edge.source) == stage
    return edge if continues else replace(edge, cost=edge.cost + surcharge.get(stage, 0.0))


def _frozen_array(what: str, values: npt.ArrayLike, ndim: int) -> FloatArray:
    array = np.array(values, dtype=np.float64)
    if array.ndim != ndim or array.size == 0:
        raise ConfigError(f"{what} must be a non-empty array of {ndim} dimension(s), got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ConfigError(f"{what} must be finite, got {array[~np.isfinite(array)][0]}")
    array.setflags(write=False)
    return array


def _check_distributions(what: str, rows: FloatArray) -> None:
    if rows.min() < 0:
        raise ConfigError(f"{what} must not be negative, got {rows.min():g}")
    sums = rows.sum(axis=1)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst] - 1) > ROW_SUM_TOLERANCE:
        raise ConfigError(f"{what} must sum to 1 in every row, row {worst} sums to {sums[worst]:.12g}")
