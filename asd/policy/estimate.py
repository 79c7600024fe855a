"""The stopping problem of recorded rows: costs, means and kernels by bin, each shrunk where rows are few.

Scope: what every state sees of the rows comes from `asd.evidence.fitting`; nothing is solved here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from asd.engines import continuation_usage
from asd.evidence.fitting import FittingRows
from asd.ladder import ROOT
from asd.policy.problem import UnpricedGraph
from asd.stopping.graph import Edge, Graph, Node
from asd.stopping.kernels import estimate_kernel, mean_by_bin
from asd.stopping.states import Move
from asd.types import Trace, Usage, pair_name

__all__ = ["EstimationTable", "estimate_graph", "move_usages", "problem_of"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class EstimationTable:
    """What an estimate of the stopping problem is made of.

    Attributes:
        rows: What every node sees, by node name, the root first.
        costs: Cost of every move on every row, cost units, by move, shape (n,).
    """

    rows: Mapping[str, FittingRows]
    costs: Mapping[Move, Array]

    def where(self, mask: npt.NDArray[np.bool_]) -> EstimationTable:
        """The rows of a mask."""
        rows = {
            name: FittingRows(node.n_bins, node.bins[mask], node.p[mask], node.score[mask], node.scale[mask])
            for name, node in self.rows.items()
        }
        return EstimationTable(rows, {move: cost[mask] for move, cost in self.costs.items()})

    def unscaled(self) -> EstimationTable:
        """The same with every query taken as long as the mean."""
        rows = {name: replace(node, scale=np.ones_like(node.scale)) for name, node in self.rows.items()}
        return replace(self, rows=rows)


def estimate_graph(table: EstimationTable) -> Graph:
    """The stopping problem of these rows: means, costs and kernels by bin, each shrunk where rows are few.

    The quality of a bin is the mean calibrated probability plus the shrunk mean of what was really scored
    beyond it: the best answer is picked by its probability, so that probability is a little too high.
    """
    edges = [_estimate_edge(table, move) for move in table.costs]
    root = table.rows[ROOT]
    nodes = (_estimate_node(name, rows) for name, rows in table.rows.items())
    return Graph(tuple(nodes), tuple(edges), np.bincount(root.bins, minlength=root.n_bins) / len(root.bins))


def _estimate_node(name: str, rows: FittingRows) -> Node:
    p = mean_by_bin(rows.p, rows.bins, rows.n_bins)
    beyond = mean_by_bin(rows.score - rows.p, rows.bins, rows.n_bins)
    return Node(name, np.clip(p + beyond, 0.0, 1.0), may_stop=name != ROOT)


def _estimate_edge(table: EstimationTable, move: Move) -> Edge:
    here, there = table.rows[move.source.name], table.rows[move.target.name]
    return Edge(
        source=move.source.name,
        target=move.target.name,
        action=move.action,
        cost=mean_by_bin(table.costs[move] / here.scale, here.bins, here.n_bins),
        kernel=estimate_kernel(here.bins, there.bins, here.n_bins, there.n_bins),
    )


def problem_of(table: EstimationTable, usages: Mapping[Move, Array]) -> UnpricedGraph:
    """The estimate for the artifact: the same means by bin, of counts in place of costs.

    Counts are shrunk as far as their cost is, so that at the table's prices they make up its estimate.
    """
    means = {}
    for move, usage in usages.items():
        here, cost = table.rows[move.source.name], table.costs[move]
        counts = [
            mean_by_bin(count / here.scale, here.bins, here.n_bins, like=cost / here.scale)
            for count in usage.T
        ]
        means[move.source.name, move.action] = np.column_stack(counts)
    return UnpricedGraph.of(estimate_graph(table), means)


def move_usages(move: Move, rows: Sequence[Trace], best: Sequence[str]) -> Array:
    """What a move takes on every row (`Usage.counts`), shape (n, 6).

    Args:
        move: The purchase.
        rows: Recorded outcomes.
        best: The answer so far where the move leaves from, one a row.
    """

    def usage(row: int) -> Usage:
        trace, own = rows[row], rows[row].outcomes[move.stage].draft
        if move.target.verifier is not None:
            return trace.verifications[pair_name(best[row], move.stage)].usage
        if move.continues:
            pair = pair_name(best[row], move.stage)
            recorded = trace.continuations.get(pair)
            return continuation_usage(own, trace.verifications[pair]) if recorded is None else recorded
        return own.usage

    return np.array([usage(row).counts for row in range(len(rows))], dtype=np.float64)
