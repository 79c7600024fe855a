"""The stopping problem as data: what is accepted, what is refused and in which words."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from asd.errors import ConfigError
from asd.stopping.graph import Edge, Graph, Node
from asd.types import Action

ROOT = Node("root", np.zeros(1), may_stop=False)
A = Node("A", np.array([0.25, 0.75]))
TO_A = Edge("root", "A", np.array([1.0]), np.array([[0.5, 0.5]]), Action.draft("A"))


def test_values_are_copied_and_frozen():
    """Changing the array given does not change the node, and the node's own array refuses."""
    p = np.array([0.25, 0.75])
    node = Node("A", p)
    p[0] = 1.0
    assert node.p.tolist() == [0.25, 0.75]
    with pytest.raises(ValueError, match="read-only"):
        node.p[0] = 1.0


def test_lists_and_integers_become_floats():
    """A node read from a file of whole numbers holds floats."""
    assert Node("A", [0, 1]).p.dtype == np.float64


def test_nodes_and_edges_are_found_by_name():
    """`node`, `outgoing` and `root` give back what was put in, in order."""
    graph = Graph((ROOT, A), (TO_A,), np.ones(1))
    assert graph.root is ROOT
    assert graph.node("A") is A
    assert graph.outgoing("root") == (TO_A,)
    assert graph.outgoing("A") == ()


def test_an_unknown_node_is_named():
    """Asking for a node that is not there says which ones are."""
    with pytest.raises(ConfigError, match=r"unknown node 'B'.*\['root', 'A'\]"):
        Graph((ROOT, A), (TO_A,), np.ones(1)).node("B")


@pytest.mark.parametrize(
    ("p", "message"),
    [
        ([], "non-empty"),
        ([[0.5]], "1 dimension"),
        ([0.5, math.nan], "finite, got nan"),
        ([0.5, math.inf], "finite, got inf"),
        ([0.5, 1.01], r"\[0, 1\], got 0.5 to 1.01"),
        ([-0.1, 0.5], r"\[0, 1\], got -0.1 to 0.5"),
    ],
)
def test_a_node_needs_probabilities(p, message):
    """Anything but a vector in [0, 1] is refused, and the value named."""
    with pytest.raises(ConfigError, match=f"p of node 'A'.*{message}"):
        Node("A", np.array(p))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": [-0.5]}, "cost of edge 'root' -> 'A' .*negative, got -0.5"),
        ({"cost": [math.nan]}, "cost .*finite, got nan"),
        ({"cost": [[1.0]]}, "cost .*1 dimension"),
        ({"kernel": [[0.5, 0.6]]}, "kernel .*row 0 sums to 1.1"),
        ({"kernel": [[1.5, -0.5]]}, "kernel .*negative, got -0.5"),
        ({"kernel": [[math.nan, 0.5]]}, "kernel .*finite, got nan"),
        ({"kernel": [0.5, 0.5]}, "kernel .*2 dimension"),
    ],
)
def test_an_edge_needs_costs_and_distributions(change, message):
    """A cost below zero or a row that is no distribution is refused, and the value named."""
    with pytest.raises(ConfigError, match=message):
        replace(TO_A, **change)


@pytest.mark.parametrize(
    ("nodes", "edges", "start", "message"),
    [
        ((), (), [1.0], "at least a root"),
        ((ROOT, A, A), (TO_A,), [1.0], "unique"),
        ((ROOT, A), (), [1.0], "'root' may not stop and has no edge"),
        ((ROOT,), (TO_A,), [1.0], "unknown node 'A'"),
        ((A, replace(ROOT, may_stop=True)), (TO_A,), [0.5, 0.5], "leads backwards"),
        ((ROOT, A), (TO_A, TO_A), [1.0], r"'root' offers an action twice: \['A', 'A'\]"),
        ((ROOT, replace(A, p=np.zeros(3))), (TO_A,), [1.0], r"kernel of shape \(1, 3\).*got \(1, 2\)"),
        ((ROOT, A), (replace(TO_A, cost=np.zeros(2)),), [1.0], "1 costs, got .* and 2"),
        ((ROOT, A), (TO_A,), [0.5, 0.5], "start has 2 bins, root 'root' has 1"),
        ((ROOT, A), (TO_A,), [0.9], "start must sum to 1 .*0.9"),
        ((ROOT, A), (TO_A,), [math.nan], "start must be finite"),
    ],
)
def test_a_graph_must_hang_together(nodes, edges, start, message):
    """Names, order, shapes and choices are checked when the graph is made."""
    with pytest.raises(ConfigError, match=message):
        Graph(nodes, edges, np.array(start))


def test_an_edge_to_its_own_node_leads_backwards():
    """A loop is no way on."""
    loop = Edge("A", "A", np.zeros(2), np.eye(2), Action.draft("A"))
    with pytest.raises(ConfigError, match="leads backwards"):
        Graph((ROOT, A), (TO_A, loop), np.ones(1))


READ_BY_B = Node("A>B", np.array([0.5]))
BOTH = Node("A+B", np.array([1.0]))


def _with_a_reader() -> Graph:
    """B may answer after A, or read A's answer and then continue."""
    edges = (
        TO_A,
        Edge("A", "A+B", np.array([2.0, 3.0]), np.ones((2, 1)), Action.draft("B")),
        Edge("A", "A>B", np.array([0.5, 0.25]), np.ones((2, 1)), Action.verify("B")),
        Edge("A>B", "A+B", np.array([1.0]), np.ones((1, 1)), Action.draft("B")),
    )
    return Graph((ROOT, A, READ_BY_B, BOTH), edges, np.ones(1))


def test_a_stage_that_is_out_neither_answers_nor_reads():
    """Its edges are gone, its states stay."""
    left = _with_a_reader().without({"B"})
    assert [edge.action for edge in left.edges] == [Action.draft("A")]
    assert len(left.nodes) == 4


def test_a_surcharge_is_paid_by_whoever_is_asked():
    """For answering and for reading, not for continuing what was just read; others cost what they did."""
    costs = [edge.cost.tolist() for edge in _with_a_reader().dearer({"B": 10.0}).edges]
    assert costs == [[1.0], [12.0, 13.0], [10.5, 10.25], [1.0]]
