"""Random small stopping problems, for every property test.

All numbers are coarse fractions, so that differences are either real (above 1e-6) or rounding: a tie in exact
arithmetic stays a tie.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import strategies as st

from asd.stopping.graph import Edge, FloatArray, Graph, IntArray, Node

STAGES = ("A", "B", "C")


@st.composite
def vectors(draw: st.DrawFn, size: int, top: int, unit: int) -> FloatArray:
    """`size` multiples of 1 / unit between 0 and top / unit; bytes, because one draw of many is fast."""
    steps = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype=np.uint8) % (top + 1)
    return steps / unit


@st.composite
def distributions(draw: st.DrawFn, rows: int, columns: int) -> FloatArray:
    """Rows of small whole weights, normalised; zeros are common."""
    weights = draw(vectors(rows * columns, 4, 1)).reshape(rows, columns)
    weights[weights.sum(axis=1) == 0, 0] = 1
    return weights / weights.sum(axis=1, keepdims=True)


@st.composite
def set_graphs(draw: st.DrawFn, min_stages: int = 1, max_stages: int = 3, max_bins: int = 3) -> Graph:
    """Every set of stages is a node, every stage not yet run an edge, cheapest-listed first."""
    stages = STAGES[: draw(st.integers(min_stages, max_stages))]
    sets = [s for size in range(len(stages) + 1) for s in combinations(stages, size)]
    nodes = {s: draw(_nodes(s, max_bins)) for s in sets}
    edges = [
        draw(_edges(nodes[s], nodes[tuple(sorted((*s, stage)))], stage))
        for s in sets
        for stage in stages
        if stage not in s
    ]
    root = nodes[()]
    return Graph(tuple(nodes.values()), tuple(edges), draw(distributions(1, root.n_bins))[0])


@st.composite
def _nodes(draw: st.DrawFn, stages: tuple[str, ...], max_bins: int) -> Node:
    n_bins = draw(st.integers(1, max_bins))
    if not stages:
        return Node("root", np.zeros(n_bins), may_stop=False)
    return Node("+".join(stages), draw(vectors(n_bins, 20, 20)))


@st.composite
def _edges(draw: st.DrawFn, source: Node, target: Node, stage: str) -> Edge:
    cost = draw(vectors(source.n_bins, 12, 8))
    return Edge(source.name, target.name, cost, draw(distributions(source.n_bins, target.n_bins)), stage)


def small_graphs() -> st.SearchStrategy[Graph]:
    """Few enough policies to enumerate them all: at most 648."""
    return st.one_of(set_graphs(max_stages=2, max_bins=2), set_graphs(min_stages=3, max_bins=1))


def sweeps(min_size: int = 1, max_size: int = 5) -> st.SearchStrategy[list[float]]:
    """Ascending lams from 0 to 20."""
    lams = st.lists(st.integers(0, 400), min_size=min_size, max_size=max_size, unique=True)
    return lams.map(lambda steps: [step / 20 for step in sorted(steps)])


@st.composite
def actions_for(draw: st.DrawFn, graph: Graph) -> dict[str, IntArray]:
    """Any policy on the graph: one action per node and bin."""
    return {
        node.name: np.array(
            draw(
                st.lists(
                    st.integers(-1 if node.may_stop else 0, len(graph.outgoing(node.name)) - 1),
                    min_size=node.n_bins,
                    max_size=node.n_bins,
                )
            )
        )
        for node in graph.nodes
    }


@st.composite
def graphs_with_policy(draw: st.DrawFn) -> tuple[Graph, dict[str, IntArray]]:
    """A problem and any policy on it."""
    graph = draw(set_graphs())
    return graph, draw(actions_for(graph))


@st.composite
def graphs_with_dearer(draw: st.DrawFn) -> tuple[Graph, Graph]:
    """A problem, and the same one with some costs raised."""
    graph = draw(set_graphs(min_stages=2))
    dearer = [
        Edge(e.source, e.target, e.cost + draw(vectors(len(e.cost), 8, 8)), e.kernel, e.action)
        for e in graph.edges
    ]
    return graph, Graph(graph.nodes, tuple(dearer), graph.start)


@st.composite
def graphs_with_merging(draw: st.DrawFn) -> tuple[Graph, dict[str, IntArray]]:
    """A problem, and for every node which of its bins an observer cannot tell apart (bin -> coarse bin)."""
    graph = draw(set_graphs(min_stages=2))
    merged = {}
    for node in graph.nodes:
        labels = draw(st.lists(st.integers(0, 1), min_size=node.n_bins, max_size=node.n_bins))
        merged[node.name] = np.unique(labels, return_inverse=True)[1]
    return graph, merged


@st.composite
def graphs_with_channel(draw: st.DrawFn) -> tuple[Graph, dict[str, FloatArray], dict[str, IntArray]]:
    """A problem, a noisy view of every node's bin (B, 2), and a policy on what is seen through it."""
    graph = draw(set_graphs(min_stages=2))
    channel, actions = {}, {}
    for node in graph.nodes:
        options = st.integers(-1 if node.may_stop else 0, len(graph.outgoing(node.name)) - 1)
        channel[node.name] = draw(distributions(node.n_bins, 2))
        actions[node.name] = np.array(draw(st.lists(options, min_size=2, max_size=2)))
    return graph, channel, actions
