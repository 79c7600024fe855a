"""Random small stopping problems, for every property test.

A problem is read off a tape of bytes: one draw instead of hundreds, and it shrinks towards zeros, that is,
towards few stages, one bin, no cost. All numbers are coarse fractions, so that differences are either real
(above 1e-6) or rounding: a tie in exact arithmetic stays a tie.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import TypeVar

import numpy as np
from hypothesis import strategies as st

from asd.stopping.graph import Edge, FloatArray, Graph, IntArray, Node
from asd.stopping.states import State, moves, states
from asd.types import Action, pair_name

STAGES = ("A", "B", "C")
TAPE_BYTES = 400

T = TypeVar("T")
Actions = dict[str, IntArray]


class Tape:
    """Bytes read from left to right as whole numbers in a range."""

    def __init__(self, content: bytes) -> None:
        self._content = np.frombuffer(content, dtype=np.uint8).astype(np.intp)
        self._position = 0

    def integers(self, low: int, high: int, size: int) -> IntArray:
        """`size` whole numbers between `low` and `high`, both included."""
        read = self._content[self._position : self._position + size]
        assert len(read) == size, "the tape is too short for this problem: raise TAPE_BYTES"
        self._position += size
        return low + read % (high - low + 1)

    def integer(self, low: int, high: int) -> int:
        return int(self.integers(low, high, 1)[0])

    def fractions(self, top: int, unit: int, size: int) -> FloatArray:
        """`size` multiples of 1 / unit between 0 and top / unit."""
        return self.integers(0, top, size) / unit

    def distributions(self, rows: int, columns: int) -> FloatArray:
        """Rows of small whole weights, normalised; zeros are common."""
        weights = self.fractions(4, 1, rows * columns).reshape(rows, columns)
        weights[weights.sum(axis=1) == 0, 0] = 1
        return weights / weights.sum(axis=1, keepdims=True)


def read(build: Callable[[Tape], T]) -> st.SearchStrategy[T]:
    """Whatever `build` reads off a random tape."""
    return st.binary(min_size=TAPE_BYTES, max_size=TAPE_BYTES).map(lambda content: build(Tape(content)))


def vectors(size: int, top: int, unit: int) -> st.SearchStrategy[FloatArray]:
    """`size` multiples of 1 / unit between 0 and top / unit."""
    return read(lambda tape: tape.fractions(top, unit, size))


def distributions(size: int) -> st.SearchStrategy[FloatArray]:
    """One distribution over `size` things."""
    return read(lambda tape: tape.distributions(1, size)[0])


def set_graphs(min_stages: int = 1, max_stages: int = 3, max_bins: int = 3) -> st.SearchStrategy[Graph]:
    """Every set of stages is a node, every stage not yet run an edge, in the order of the stages."""
    return read(lambda tape: _graph(tape, min_stages, max_stages, max_bins))


def verified_graphs(min_stages: int = 2, max_stages: int = 3, max_bins: int = 2) -> st.SearchStrategy[Graph]:
    """States and moves of a cascade in which every larger stage can read the best answer in hand."""

    def build(tape: Tape) -> Graph:
        stages = STAGES[: tape.integer(min_stages, max_stages)]
        pairs = [pair_name(*pair) for pair in combinations(stages, 2)]
        nodes = {state: _state_node(tape, state, max_bins) for state in states(stages, pairs)}
        edges = [
            _edge(tape, nodes[move.source], nodes[move.target], move.action) for move in moves(stages, pairs)
        ]
        start = tape.distributions(1, nodes[State(())].n_bins)[0]
        return Graph(tuple(nodes.values()), tuple(edges), start)

    return read(build)


def _state_node(tape: Tape, state: State, max_bins: int) -> Node:
    n_bins = tape.integer(1, max_bins)
    if not state.answered:
        return Node(state.name, np.zeros(n_bins), may_stop=False)
    return Node(state.name, tape.fractions(20, 20, n_bins))


def small_graphs() -> st.SearchStrategy[Graph]:
    """Few enough policies to enumerate them all: at most 648."""
    return st.one_of(set_graphs(max_stages=2, max_bins=2), set_graphs(max_stages=3, max_bins=1))


def sweeps(min_size: int = 1, max_size: int = 5) -> st.SearchStrategy[list[float]]:
    """Ascending lams from 0 to 20."""
    lams = st.lists(st.integers(0, 400), min_size=min_size, max_size=max_size, unique=True)
    return lams.map(lambda steps: [step / 20 for step in sorted(steps)])


def graphs_with_policy() -> st.SearchStrategy[tuple[Graph, Actions]]:
    """A problem and any policy on it."""

    def build(tape: Tape) -> tuple[Graph, Actions]:
        graph = _graph(tape)
        return graph, {node.name: _actions(tape, graph, node, node.n_bins) for node in graph.nodes}

    return read(build)


def graphs_with_dearer() -> st.SearchStrategy[tuple[Graph, Graph]]:
    """A problem, and the same one with some costs raised."""

    def build(tape: Tape) -> tuple[Graph, Graph]:
        graph = _graph(tape, min_stages=2)
        dearer = [
            Edge(e.source, e.target, e.cost + tape.fractions(8, 8, len(e.cost)), e.kernel, e.action)
            for e in graph.edges
        ]
        return graph, Graph(graph.nodes, tuple(dearer), graph.start)

    return read(build)


def graphs_with_merging() -> st.SearchStrategy[tuple[Graph, Actions]]:
    """A problem, and for every node which of its bins an observer cannot tell apart (bin -> coarse bin)."""

    def build(tape: Tape) -> tuple[Graph, Actions]:
        graph = _graph(tape, min_stages=2)
        labels = {node.name: tape.integers(0, 1, node.n_bins) for node in graph.nodes}
        return graph, {name: np.unique(label, return_inverse=True)[1] for name, label in labels.items()}

    return read(build)


def graphs_with_channel() -> st.SearchStrategy[tuple[Graph, dict[str, FloatArray], Actions]]:
    """A problem, a noisy view of every node's bin (B, 2), and a policy on what is seen through it."""

    def build(tape: Tape) -> tuple[Graph, dict[str, FloatArray], Actions]:
        graph = _graph(tape, min_stages=2)
        channel = {node.name: tape.distributions(node.n_bins, 2) for node in graph.nodes}
        return graph, channel, {node.name: _actions(tape, graph, node, 2) for node in graph.nodes}

    return read(build)


def _graph(tape: Tape, min_stages: int = 1, max_stages: int = 3, max_bins: int = 3) -> Graph:
    stages = STAGES[: tape.integer(min_stages, max_stages)]
    sets = [s for size in range(len(stages) + 1) for s in combinations(stages, size)]
    nodes = {s: _node(tape, s, max_bins) for s in sets}
    edges = [
        _edge(tape, nodes[s], nodes[tuple(sorted((*s, stage)))], Action.draft(stage))
        for s in sets
        for stage in stages
        if stage not in s
    ]
    start = tape.distributions(1, nodes[()].n_bins)[0]
    return Graph(tuple(nodes.values()), tuple(edges), start)


def _node(tape: Tape, stages: tuple[str, ...], max_bins: int) -> Node:
    n_bins = tape.integer(1, max_bins)
    if not stages:
        return Node("root", np.zeros(n_bins), may_stop=False)
    return Node("+".join(stages), tape.fractions(20, 20, n_bins))


def _edge(tape: Tape, source: Node, target: Node, action: Action) -> Edge:
    cost = tape.fractions(12, 8, source.n_bins)
    return Edge(source.name, target.name, cost, tape.distributions(source.n_bins, target.n_bins), action)


def _actions(tape: Tape, graph: Graph, node: Node, size: int) -> IntArray:
    return tape.integers(-1 if node.may_stop else 0, len(graph.outgoing(node.name)) - 1, size)
