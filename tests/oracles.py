"""Independent answers to check the recursion against: written for plainness, sharing no code with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np
from scipy.optimize import linprog

from asd.stopping.graph import FloatArray, Graph, IntArray


def all_policies(graph: Graph) -> Iterator[dict[str, IntArray]]:
    """Every deterministic policy of a graph."""
    states = [(node, b) for node in graph.nodes for b in range(node.n_bins)]
    choices = [range(-1 if n.may_stop else 0, len(graph.outgoing(n.name))) for n, _ in states]
    for chosen in product(*choices):
        actions: dict[str, list[int]] = {node.name: [] for node in graph.nodes}
        for (node, _), action in zip(states, chosen, strict=True):
            actions[node.name].append(action)
        yield {name: np.array(row) for name, row in actions.items()}


def walk_forward(graph: Graph, actions: Mapping[str, IntArray]) -> tuple[float, float]:
    """Expected quality and cost of a policy: carry the probability mass forward from the start."""
    mass = {node.name: [0.0] * node.n_bins for node in graph.nodes}
    mass[graph.nodes[0].name] = list(graph.start)
    quality = cost = 0.0
    for node in graph.nodes:
        edges = [edge for edge in graph.edges if edge.source == node.name]
        for b, here in enumerate(mass[node.name]):
            action = int(actions[node.name][b])
            if action == -1:
                quality += here * node.p[b]
                continue
            edge = edges[action]
            cost += here * edge.cost[b]
            for b_next, p_next in enumerate(edge.kernel[b]):
                mass[edge.target][b_next] += here * p_next
    return quality, cost


def linear_programme(graph: Graph, lam: float) -> float:
    """Optimal value: the least W that is at least every option's value at every state."""
    first, n_states = {}, 0
    for node in graph.nodes:
        first[node.name] = n_states
        n_states += node.n_bins
    rows, bounds = [], []
    for node in graph.nodes:
        for b in range(node.n_bins):
            if node.may_stop:
                row = np.zeros(n_states)
                row[first[node.name] + b] = -1
                rows.append(row)
                bounds.append(-lam * node.p[b])
    for edge in graph.edges:
        for b, kernel_row in enumerate(edge.kernel):
            row = np.zeros(n_states)
            row[first[edge.source] + b] = -1
            row[first[edge.target] : first[edge.target] + len(kernel_row)] = kernel_row
            rows.append(row)
            bounds.append(edge.cost[b])
    result = linprog(np.ones(n_states), A_ub=np.array(rows), b_ub=np.array(bounds), bounds=(None, None))
    assert result.success, result.message
    return float(graph.start @ result.x[: graph.nodes[0].n_bins])


def value_through_channel(
    graph: Graph, channel: Mapping[str, FloatArray], actions: Mapping[str, IntArray], lam: float
) -> float:
    """Value, on the process as it is, of a policy that sees every bin through a noisy channel only."""
    worth: dict[str, list[float]] = {}
    for node in reversed(graph.nodes):
        edges = [edge for edge in graph.edges if edge.source == node.name]
        worth[node.name] = []
        for b in range(node.n_bins):
            total = 0.0
            for seen, p_seen in enumerate(channel[node.name][b]):
                action = int(actions[node.name][seen])
                if action == -1:
                    total += p_seen * lam * node.p[b]
                else:
                    edge = edges[action]
                    then = sum(p * w for p, w in zip(edge.kernel[b], worth[edge.target], strict=True))
                    total += p_seen * (then - edge.cost[b])
            worth[node.name].append(total)
    return float(graph.start @ worth[graph.nodes[0].name])
