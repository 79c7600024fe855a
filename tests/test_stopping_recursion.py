"""Backward induction on cases worked by hand; what holds on every problem is in test_properties."""

from __future__ import annotations

import math

import numpy as np
import pytest

from asd.errors import ConfigError
from asd.stopping.graph import Edge, Graph, Node
from asd.stopping.recursion import evaluate, one_step, solve
from asd.types import STOP, Action


def _edge(source: str, target: str, action: str, cost: float, *rows: list[float]) -> Edge:
    return Edge(source, target, np.full(len(rows), cost), np.array(rows), Action.draft(action))


def _closed_loop() -> Graph:
    """q1 = .4 is seen, q2 is 0 or 1 with 1/2 each, q3 is .9 for sure; the best answer is kept."""
    nodes = (
        Node("root", np.zeros(1), may_stop=False),
        Node("1", np.array([0.4])),
        Node("1+2", np.array([0.4, 1.0])),
        Node("1+3", np.array([0.9])),
        Node("1+2+3", np.array([0.9, 1.0])),
    )
    edges = (
        _edge("root", "1", "1", 0.0, [1.0]),
        _edge("1", "1+2", "2", 1.0, [0.5, 0.5]),
        _edge("1", "1+3", "3", 2.9, [1.0]),
        _edge("1+2", "1+2+3", "3", 2.9, [1.0, 0.0], [0.0, 1.0]),
    )
    return Graph(nodes, edges, np.ones(1))


def _chain() -> Graph:
    """No skips: q = .5, .5, 1 at costs 0, 1, 1."""
    nodes = (
        Node("root", np.zeros(1), may_stop=False),
        *(Node(name, np.array([p])) for name, p in (("1", 0.5), ("2", 0.5), ("3", 1.0))),
    )
    edges = (
        _edge("root", "1", "1", 0.0, [1.0]),
        _edge("1", "2", "2", 1.0, [1.0]),
        _edge("2", "3", "3", 1.0, [1.0]),
    )
    return Graph(nodes, edges, np.ones(1))


def test_the_closed_loop_values_the_option_to_stop_later():
    """7.05 = -1 + 1/2 * 10 + 1/2 * (9 - 2.9), where one step with skips gets 9 - 2.9 = 6.1."""
    graph = _closed_loop()
    best = solve(graph, [10.0])
    assert best.expected_value == pytest.approx([7.05])
    assert best.expected_quality == pytest.approx([0.95])
    assert best.expected_cost == pytest.approx([2.45])
    myopic = evaluate(graph, one_step(graph, [10.0]), [10.0])
    assert myopic.expected_value == pytest.approx([6.1])


def test_every_action_of_a_state_shows_its_value():
    """At "1": stop for 4, run 2 for 7.05, run 3 for 6.1; at the root only running is open."""
    best = solve(_closed_loop(), [10.0])
    assert best.action_values("1", 0, 0) == pytest.approx(
        {STOP: 4.0, Action.draft("2"): 7.05, Action.draft("3"): 6.1}
    )
    assert best.action_values("root", 0, 0) == pytest.approx({Action.draft("1"): 7.05})
    assert best.chosen("1", 0, 0) == Action.draft("2")
    assert best.chosen("1+2", 0, 0) == Action.draft("3")
    assert best.chosen("1+2", 1, 0) == STOP


def test_one_step_is_blind_to_the_second_step_of_a_chain():
    """Myopic 5, optimum 8: the middle stage pays only because of the last."""
    graph = _chain()
    assert solve(graph, [10.0]).expected_value == pytest.approx([8.0])
    assert evaluate(graph, one_step(graph, [10.0]), [10.0]).expected_value == pytest.approx([5.0])


def test_a_hopeless_answer_is_a_reason_to_stop():
    """Stop at p = 0 and p = .9 but go on at p = .5: no threshold describes that, so there is none."""
    nodes = (Node("A", np.array([0.0, 0.5, 0.9])), Node("A+B", np.array([0.0, 1.0])))
    edge = _edge("A", "A+B", "B", 2.0, [1.0, 0.0], [0.0, 1.0], [0.0, 1.0])
    best = solve(Graph(nodes, (edge,), np.ones(3) / 3), [10.0])
    assert best.stop_set("A").tolist() == [[True, False, True]]
    assert best.threshold("A", 0) is None


@pytest.mark.parametrize(
    ("cost", "threshold"), [(0.5, math.inf), (1.5, 0.9), (4.5, 0.6), (20.0, 0.2)], ids=str
)
def test_a_threshold_is_the_lowest_p_that_stops(cost, threshold):
    """With a sure answer at `cost` and lam = 10, stop iff 10 p >= 10 - cost; infinite if it never stops."""
    nodes = (Node("A", np.array([0.9, 0.2, 0.6])), Node("A+B", np.ones(1)))
    edge = _edge("A", "A+B", "B", cost, [1.0], [1.0], [1.0])
    assert solve(Graph(nodes, (edge,), np.ones(3) / 3), [10.0]).threshold("A", 0) == threshold


def test_equal_p_with_different_actions_is_no_threshold():
    """Two bins of the same p, one worth going on from: p alone cannot tell them apart."""
    nodes = (Node("A", np.array([0.5, 0.5])), Node("A+B", np.array([0.0, 1.0])))
    edge = _edge("A", "A+B", "B", 1.0, [1.0, 0.0], [0.0, 1.0])
    assert solve(Graph(nodes, (edge,), np.ones(2) / 2), [10.0]).threshold("A", 0) is None


def test_the_own_value_of_merged_bins_can_be_too_high():
    """Merging bins averages over the ways there: the model then promises 5 where 4 is the most to be had."""
    cheap, dear = [1.0, 0.0], [0.0, 1.0]
    root, end = Node("root", np.zeros(1), may_stop=False), Node("end", np.array([0.0, 1.0]))
    edges = (_edge("root", "end", "cheap", 0.0, cheap), _edge("root", "end", "dear", 6.0, dear))
    fine = solve(Graph((root, end), edges, np.ones(1)), [10.0])
    merged_edges = (_edge("root", "end", "cheap", 0.0, [1.0]), _edge("root", "end", "dear", 6.0, [1.0]))
    merged_graph = Graph((root, Node("end", np.array([0.5]))), merged_edges, np.ones(1))
    merged = solve(merged_graph, [10.0])
    assert fine.expected_value == pytest.approx([4.0])
    assert merged.expected_value == pytest.approx([5.0])
    on_the_fine_process = {"root": merged.action["root"], "end": np.array([-1, -1])}
    found = evaluate(Graph((root, end), edges, np.ones(1)), on_the_fine_process, [10.0])
    assert found.expected_value == pytest.approx([0.0])


def test_abstaining_is_a_root_that_may_stop():
    """A root that may stop at quality .3 does so where going on costs more than it brings."""
    root, end = Node("root", np.array([0.3])), Node("A", np.array([0.5]))
    best = solve(Graph((root, end), (_edge("root", "A", "A", 1.0, [1.0]),), np.ones(1)), [2.0, 10.0])
    assert best.action["root"].tolist() == [[-1], [0]]
    assert best.expected_value == pytest.approx([0.6, 4.0])


def test_a_node_inside_may_be_forbidden_to_stop():
    """A state without an answer of its own is passed through, by every policy."""
    nodes = (Node("A", np.array([0.5])), Node("seen", np.ones(1), may_stop=False), Node("B", np.array([0.8])))
    edges = (_edge("A", "seen", "look", 0.0, [1.0]), _edge("seen", "B", "B", 9.0, [1.0]))
    best = solve(Graph(nodes, edges, np.ones(1)), [10.0])
    assert best.expected_value == pytest.approx([5.0])
    assert best.action_values("seen", 0, 0) == pytest.approx({Action.draft("B"): -1.0})


@pytest.mark.parametrize(
    ("lam", "index"), [(0.0, 0), (0.01, 1), (1.0, 1), (2.9, 1), (3.1, 2), (10.0, 2), (1e9, 2)], ids=str
)
def test_the_nearest_lam_is_measured_in_ratios(lam, index):
    """Between 1 and 9 the border is 3; zero is nearest to zero alone; the ends serve all beyond."""
    assert solve(_chain(), [0.0, 1.0, 9.0]).nearest(lam) == index


@pytest.mark.parametrize(
    ("lams", "message"),
    [
        ([], "non-empty"),
        ([[1.0]], "non-empty vector"),
        ([-1.0, 1.0], "not negative"),
        ([1.0, math.nan], "nan"),
        ([1.0, math.inf], "inf"),
        ([2.0, 1.0], "ascending"),
        ([1.0, 1.0], "ascending"),
    ],
)
def test_lams_must_ascend(lams, message):
    """A sweep that is empty, negative, infinite or out of order is refused."""
    with pytest.raises(ConfigError, match=message):
        solve(_chain(), lams)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"2": None}, r"says nothing of node '2'; it names \['1', '3', 'root'\]"),
        ({"root": np.array([-1])}, "actions of node 'root' must be 0 to 0, got -1 to -1"),
        ({"1": np.array([1])}, "actions of node '1' must be -1 to 0, got 1 to 1"),
        ({"3": np.array([0])}, "actions of node '3' must be -1 to -1, got 0 to 0"),
        ({"1": np.array([0, 0])}, r"need shape \(2, 1\), got \(2,\)"),
    ],
)
def test_a_policy_to_evaluate_must_fit_the_graph(change, message):
    """A missing node, an impossible action or a wrong shape is refused, and the value named."""
    actions = {"root": np.array([0]), "1": np.array([-1]), "2": np.array([-1]), "3": np.array([-1])}
    actions = {name: action for name, action in {**actions, **change}.items() if action is not None}
    with pytest.raises(ConfigError, match=message):
        evaluate(_chain(), actions, [1.0, 2.0])


def test_actions_may_differ_by_lam():
    """A policy of shape (L, B) is evaluated row by row."""
    stay, go = np.array([[-1], [0]]), np.array([[0], [0]])
    actions = {"root": go, "1": stay, "2": go, "3": np.array([-1])}
    assert evaluate(_chain(), actions, [10.0, 20.0]).expected_value == pytest.approx([5.0, 18.0])
