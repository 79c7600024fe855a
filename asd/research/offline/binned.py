"""Backward induction on binned confidences, over the stages in order of cost: the exact recursion.

A node is the last stage that answered (stages may be skipped, any may be the first), its evidence the bin of
its success probability, a logistic function of its own signal. Kernels and costs by bin are those of
`asd.stopping`, estimated from the rows, and the stopping problem is solved exactly on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.research.offline.curves import SWEEP
from asd.research.offline.logistic import fit_many, sigmoid
from asd.research.offline.policies import STOPS, Bought, RowActions
from asd.research.offline.signals import Signals
from asd.research.recordings.recording import Recording
from asd.stopping.graph import Edge, Graph, Node
from asd.stopping.kernels import Binning, estimate_kernel, mean_by_bin
from asd.stopping.recursion import Solution, solve
from asd.types import Action

__all__ = ["BinnedInduction"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

_ROOT = "root"


@dataclass(frozen=True, slots=True)
class BinnedInduction:
    """The exact recursion on `n_bins` bins a stage."""

    n_bins: int = 8
    name: str = "binned induction"

    def fit(self, train: Recording) -> _FittedBinned:
        """Calibrate, bin, count transitions, solve for a fine sweep of lam."""
        signals = Signals.fit(train)
        numbers, costs = signals.signals(train), train.costs / signals.unit
        order = tuple(np.argsort(signals.mean_cost, kind="stable").tolist())
        heads = np.stack([_head(numbers[:, k], train.scores[:, k]) for k in range(len(order))])
        p = sigmoid(numbers * heads[:, 0] + heads[:, 1])
        binnings = tuple(Binning.fit(p[:, k], self.n_bins) for k in range(len(order)))
        bins = np.stack([binning.index(p[:, k]) for k, binning in enumerate(binnings)], axis=1)
        graph = _graph(order, bins, binnings, train.scores, costs)
        lams = np.geomspace(SWEEP[0], SWEEP[-1], 4 * len(SWEEP))
        return _FittedBinned(signals, heads, binnings, solve(graph, lams))


def _head(signal: Array, scores: Array) -> Array:
    x = np.stack([signal, np.ones(len(signal))], axis=1)
    return np.asarray(fit_many(x, scores[:, None], strength=1.0)[:, 0])


def _graph(
    order: tuple[int, ...], bins: Index, binnings: tuple[Binning, ...], scores: Array, costs: Array
) -> Graph:
    counts = [binning.n_bins for binning in binnings]
    everywhere = np.zeros(len(bins), dtype=np.intp)
    nodes = [Node(_ROOT, np.zeros(1), may_stop=False)]
    nodes += [Node(str(k), mean_by_bin(scores[:, k], bins[:, k], counts[k])) for k in order]
    edges = []
    for step, (source, here) in enumerate([(_ROOT, everywhere), *((str(k), bins[:, k]) for k in order)]):
        n_here = 1 if source == _ROOT else counts[int(source)]
        edges += [
            Edge(
                source=source,
                target=str(j),
                action=Action.draft(str(j)),
                cost=mean_by_bin(costs[:, j], here, n_here),
                kernel=estimate_kernel(here, bins[:, j], n_here, counts[j]),
            )
            for j in order[step:]
        ]
    return Graph(tuple(nodes), tuple(edges), np.ones(1))


class _FittedBinned(NamedTuple):
    signals: Signals
    heads: Array
    binnings: tuple[Binning, ...]
    solution: Solution

    def on(self, rows: Recording) -> _BinnedSight:
        p = sigmoid(self.signals.signals(rows) * self.heads[:, 0] + self.heads[:, 1])
        bins = np.stack([binning.index(p[:, k]) for k, binning in enumerate(self.binnings)], axis=1)
        rank = np.argsort(np.argsort(self.signals.mean_cost, kind="stable"), kind="stable")
        return _BinnedSight(self.solution, bins, rank)


class _BinnedSight(NamedTuple):
    solution: Solution
    bins: Index
    rank: Index

    def choose(self, lam: float, bought: Bought, index: Index) -> RowActions:
        last = max(bought, key=lambda k: int(self.rank[k]), default=-1)
        node, here = (
            (_ROOT, np.zeros(len(index), dtype=np.intp)) if last < 0 else (str(last), self.bins[index, last])
        )
        actions = np.array([int(edge.action.stage) for edge in self.solution.graph.outgoing(node)] + [STOPS])
        picked = self.solution.action[node][self.solution.nearest(lam), here]
        return RowActions(actions[picked], np.full(len(index), max(last, 0)))
