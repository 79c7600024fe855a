"""Backward induction: what every state of the stopping problem is worth, and what to do there.

    W_n(b) = max{ lam * p_n(b),  max over edges n->m of  -c_nm(b) + sum_b' P_nm(b'|b) W_m(b') }

Value = lam * quality - cost. Every option is carried as its pair (expected quality, expected cost):
stopping is (p_n(b), 0), an edge is (P Q_m, c + P C_m), so that one pass over the nodes in reverse order gives
W, E[quality] and E[cost] for a whole sweep of lam at once. The recursion is exact on the graph; the graph is
a model. The closed loop values the option to stop later, which one-step look-ahead (`one_step`) does not.

Ties: stopping beats going on, an edge listed earlier beats a later one; values closer than `TIE` relative to
their size are a tie, so that rounding cannot decide.

What always holds (each a property in the tests): W is non-decreasing and convex piecewise linear in lam with
slope E[quality]; E[quality] and E[cost] are non-decreasing in lam; every stop set shrinks as lam grows and
grows with any cost; scaling all costs by s equals solving at lam / s. What does not: that a stop set is an
upper interval in p (a hopeless query is also a reason to stop), so `Solution.threshold` may be None.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError
from asd.stopping.graph import FloatArray, Graph, IntArray, Node
from asd.types import STOP, Action

__all__ = ["Solution", "evaluate", "one_step", "solve"]

TIE = 1e-12

BoolArray = npt.NDArray[np.bool_]


class _Worth(NamedTuple):
    """Expected quality and cost from here on; arrays of one shape, (L, B) or (options, L, B)."""

    quality: FloatArray
    cost: FloatArray

    def value(self, lams: FloatArray) -> FloatArray:
        return lams[:, None] * self.quality - self.cost


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Solution:
    """A policy on a graph for each lam of a sweep, and what it is worth there.

    L is the number of lams, B the number of bins of the node. All mappings are keyed by node name.

    Attributes:
        graph: The problem.
        lams: Trade-off weights, ascending, shape (L,).
        action: -1 to stop, else the index into `graph.outgoing(node)`, shape (L, B).
        quality: Expected quality from here on, shape (L, B).
        cost: Expected cost from here on, cost units, shape (L, B).
        options: Value of stopping (row 0; -inf where not allowed) and of each outgoing edge, shape
            (1 + edges, L, B): what `action` chose among.
    """

    graph: Graph
    lams: FloatArray
    action: Mapping[str, IntArray]
    quality: Mapping[str, FloatArray]
    cost: Mapping[str, FloatArray]
    options: Mapping[str, FloatArray]
    value: Mapping[str, FloatArray] = field(init=False)
    """lam * quality - cost, shape (L, B)."""
    _actions: Mapping[str, tuple[Action, ...]] = field(init=False, repr=False)
    _borders: tuple[float, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        value = {n: _Worth(self.quality[n], self.cost[n]).value(self.lams) for n in self.action}
        actions = {n: (STOP, *(edge.action for edge in self.graph.outgoing(n))) for n in self.action}
        borders = np.sqrt(self.lams[:-1] * self.lams[1:])
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "_actions", actions)
        object.__setattr__(self, "_borders", tuple(borders.tolist()))

    def __repr__(self) -> str:
        return f"Solution({self.graph!r}, {len(self.lams)} lams from {self.lams[0]:g} to {self.lams[-1]:g})"

    @property
    def expected_value(self) -> FloatArray:
        """Value, lam * E[quality] - E[cost], of a query drawn from `graph.start`, shape (L,)."""
        return self.value[self.graph.root.name] @ self.graph.start

    @property
    def expected_quality(self) -> FloatArray:
        """E[quality] of a query drawn from `graph.start`, shape (L,)."""
        return self.quality[self.graph.root.name] @ self.graph.start

    @property
    def expected_cost(self) -> FloatArray:
        """E[cost] of a query drawn from `graph.start`, cost units, shape (L,)."""
        return self.cost[self.graph.root.name] @ self.graph.start

    def nearest(self, lam: float) -> int:
        """Index of the solved lam closest on a log scale; the ends of the sweep serve all beyond them."""
        return bisect_left(self._borders, lam)

    def chosen(self, node: str, bin: int, lam_index: int) -> Action:  # noqa: A002
        """What to do there."""
        return self._actions[node][int(self.action[node][lam_index, bin]) + 1]

    def action_values(self, node: str, bin: int, lam_index: int) -> dict[Action, float]:  # noqa: A002
        """Value of every open action in cost units, `STOP` included where it is allowed."""
        values = self.options[node][:, lam_index, bin].tolist()
        first = 0 if values[0] > -math.inf else 1
        return dict(zip(self._actions[node][first:], values[first:], strict=True))

    def stop_set(self, node: str) -> BoolArray:
        """Where the policy stops, shape (L, B)."""
        stops: BoolArray = self.action[node] == -1
        return stops

    def threshold(self, node: str, lam_index: int) -> float | None:
        """The lowest p at which the node stops, or None where no threshold on p describes its stop set.

        Infinite where it never stops.
        """
        p, stops = self.graph.node(node).p, self.stop_set(node)[lam_index]
        lowest = float(p[stops].min(initial=math.inf))
        return lowest if (p[~stops] < lowest).all() else None


Choose = Callable[[Node, FloatArray], IntArray]
"""Maps a node and the values of its options (1 + edges, L, B) to the chosen rows (L, B)."""


def solve(graph: Graph, lams: npt.ArrayLike) -> Solution:
    """The optimal policy for every lam.

    Args:
        graph: The problem.
        lams: Trade-off weights, strictly ascending, finite, not negative, shape (L,).

    Raises:
        ConfigError: `lams` is not such a vector.
    """
    lams = _checked_lams(lams)
    return _induct(graph, lams, lambda _, values: _first_best(values, lams))


def evaluate(graph: Graph, actions: Mapping[str, IntArray], lams: npt.ArrayLike) -> Solution:
    """What a given policy is worth: the same recursion without the maximum.

    Args:
        graph: The problem.
        actions: By node name, -1 to stop, else the index into `graph.outgoing(node)`, shape (B,) or (L, B).
        lams: As for `solve`.

    Raises:
        ConfigError: an action is missing, out of range, of the wrong shape, or stops where it may not.
    """
    lams = _checked_lams(lams)

    def choose(node: Node, values: FloatArray) -> IntArray:
        return _checked_actions(node, actions, values.shape) + 1

    return _induct(graph, lams, choose)


def one_step(graph: Graph, lams: npt.ArrayLike) -> dict[str, IntArray]:
    """Actions (L, B) of one-step look-ahead: escalate only where one more stage, then a stop, is better."""
    lams = _checked_lams(lams)
    stopping = {node.name: _stop(node, len(lams)) for node in graph.nodes}
    actions: dict[str, IntArray] = {}
    for node in graph.nodes:
        values = _values(node, _options(graph, node, stopping, len(lams)), lams)
        actions[node.name] = _first_best(values, lams) - 1
    return actions


def _induct(graph: Graph, lams: FloatArray, choose: Choose) -> Solution:
    """One pass over the nodes, last first; every node finds those it leads to already solved."""
    solved: dict[str, _Worth] = {}
    action: dict[str, IntArray] = {}
    options: dict[str, FloatArray] = {}
    for node in reversed(graph.nodes):
        worths = _options(graph, node, solved, len(lams))
        values = _values(node, worths, lams)
        chosen = choose(node, values)
        solved[node.name] = _Worth(*(np.take_along_axis(x, chosen[None], axis=0)[0] for x in worths))
        action[node.name], options[node.name] = chosen - 1, values
    quality = {name: worth.quality for name, worth in solved.items()}
    cost = {name: worth.cost for name, worth in solved.items()}
    return Solution(graph, lams, action, quality, cost, options)


def _stop(node: Node, n_lams: int) -> _Worth:
    quality = np.broadcast_to(node.p, (n_lams, node.n_bins))
    return _Worth(quality, np.zeros_like(quality))


def _options(graph: Graph, node: Node, after: Mapping[str, _Worth], n_lams: int) -> _Worth:
    """Stopping (row 0) and every edge, given what arriving at each later node is worth."""
    worths = [_stop(node, n_lams)]
    for edge in graph.outgoing(node.name):
        then = after[edge.target]
        worths.append(_Worth(then.quality @ edge.kernel.T, edge.cost + then.cost @ edge.kernel.T))
    return _Worth(np.stack([w.quality for w in worths]), np.stack([w.cost for w in worths]))


def _values(node: Node, worths: _Worth, lams: FloatArray) -> FloatArray:
    values = worths.value(lams)
    if not node.may_stop:
        values[0] = -math.inf
    return values


def _first_best(values: FloatArray, lams: FloatArray) -> IntArray:
    """Row of the first option within a rounding error of the best, shape (L, B)."""
    best = values.max(axis=0)
    slack = TIE * (lams[:, None] + np.abs(best))
    first: IntArray = (values >= best - slack).argmax(axis=0)
    return first


def _checked_lams(lams: npt.ArrayLike) -> FloatArray:
    array = np.array(lams, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ConfigError(f"lams must be a non-empty vector, got shape {array.shape}")
    if not (np.isfinite(array).all() and array[0] >= 0 and (np.diff(array) > 0).all()):
        raise ConfigError(f"lams must be finite, not negative and strictly ascending, got {array.tolist()}")
    array.setflags(write=False)
    return array


def _checked_actions(node: Node, actions: Mapping[str, IntArray], shape: tuple[int, ...]) -> IntArray:
    if node.name not in actions:
        raise ConfigError(f"the policy says nothing of node {node.name!r}; it names {sorted(actions)}")
    given = np.asarray(actions[node.name], dtype=np.intp)
    if given.shape not in (shape[1:], shape[2:]):
        raise ConfigError(f"actions of node {node.name!r} need shape {shape[1:]}, got {given.shape}")
    lowest = -1 if node.may_stop else 0
    if given.min() < lowest or given.max() > shape[0] - 2:
        raise ConfigError(
            f"actions of node {node.name!r} must be {lowest} to {shape[0] - 2}, "
            f"got {given.min()} to {given.max()}"
        )
    return np.broadcast_to(given, shape[1:])
