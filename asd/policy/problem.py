"""The stopping problem before it is priced: what every move takes, and what the ladder charges for that.

    cost of a move = usage . prices at a batch size / one mean run of the largest stage at that batch size

Part of the policy artifact (`asd.policy.artifact`), as plain numbers. Scope: nothing is estimated or
solved.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Self

import numpy as np

from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.measurement.records import Record
from asd.prices import Prices
from asd.stopping.graph import Edge, FloatArray, Graph, Node
from asd.stopping.states import verifier_in
from asd.types import Action

__all__ = ["Counts", "LadderPrices", "UnpricedGraph"]

Counts = tuple[float, ...]
"""Means of `asd.types.Usage.counts`, in its order."""


PriceTable = dict[str, Prices]
"""By stage name, in ladder order, as they were when the policy was fitted."""


class LadderPrices(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The ladder the policy steers, and what it costs.

    Attributes:
        name: Of the ladder.
        fingerprint: Of the ladder; a policy is refused for any other.
        price_unit: What prices and `unit` are counted in.
        prices_measured: Where and when.
        prices: Of a query alone in its calls.
        batched: Of a query in calls of several, by their number.
        largest_run: What the largest stage alone took, mean over the fitting rows (`Usage.counts`).
        seconds: By stage, seconds that a count adds to a call of one query (`asd.policy.seconds`); empty
            where prices are times, or no seconds of the fitting rows were recorded.
    """

    name: str
    fingerprint: str
    price_unit: str
    prices_measured: str
    prices: PriceTable
    batched: dict[int, PriceTable]
    largest_run: Counts
    seconds: dict[str, Counts] = {}

    @classmethod
    def of(
        cls, ladder: Ladder, largest_run: Counts, seconds: Mapping[str, Counts] = MappingProxyType({})
    ) -> Self:
        """What a policy needs to remember of its ladder."""
        return cls(
            name=ladder.name,
            fingerprint=ladder.fingerprint,
            price_unit=ladder.price_unit,
            prices_measured=ladder.prices_measured,
            prices=ladder.prices_at(1),
            batched={batch: ladder.prices_at(batch) for batch in ladder.batches if batch > 1},
            largest_run=largest_run,
            seconds=dict(seconds),
        )

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes that there are prices for, 1 the first."""
        return (1, *self.batched)

    def prices_at(self, batch: int) -> dict[str, Prices]:
        """What a query costs in calls of `batch` queries, by stage; as `Ladder.prices_at`."""
        if batch != 1 and batch not in self.batched and self.price_unit == "ms":
            raise ConfigError(
                f"the policy knows prices at batch {', '.join(map(str, self.batches))}, not {batch}: measure "
                "them (asd price --batch) and fit again"
            )
        return dict(self.batched.get(batch, self.prices))

    def unit(self, batch: int = 1) -> float:
        """One cost unit: mean priced cost of the largest stage alone over the fitting rows."""
        *_, largest = self.prices_at(batch).values()
        return float(np.dot(largest.rates, self.largest_run))


class UnpricedNode(Record, frozen=True, kw_only=True):
    """What `asd.stopping.graph.Node` holds in arrays, in numbers that are stored and compared."""

    name: str
    p: tuple[float, ...]
    may_stop: bool


class UnpricedEdge(Record, frozen=True, kw_only=True):
    """A move and what it takes, of which prices make the cost of an `asd.stopping.graph.Edge`.

    `usage` is a mean by bin over queries, those of a query of mean length (`Usage.counts`).
    """

    source: str
    target: str
    action: str
    usage: tuple[Counts, ...]
    kernel: tuple[tuple[float, ...], ...]

    @property
    def parsed_action(self) -> Action:
        """What `action` names; `ConfigError` where it names nothing."""
        try:
            return Action.parse(self.action)
        except ValueError as error:
            raise ConfigError(f"edge {self.source!r} -> {self.target!r}: {error}") from error


class UnpricedGraph(Record, frozen=True, kw_only=True):
    """The stopping problem of one ladder at any prices; `graph` is what it becomes at some."""

    nodes: tuple[UnpricedNode, ...]
    edges: tuple[UnpricedEdge, ...]
    start: tuple[float, ...]

    def __repr__(self) -> str:
        return f"UnpricedGraph({len(self.nodes)} nodes, {len(self.edges)} edges)"

    @classmethod
    def of(cls, graph: Graph, usages: Mapping[tuple[str, Action], FloatArray]) -> Self:
        """That of a graph without its costs; `usages` by source and action of an edge, shape (n_bins, 6)."""
        return cls(
            nodes=tuple(
                UnpricedNode(name=node.name, p=tuple(node.p.tolist()), may_stop=node.may_stop)
                for node in graph.nodes
            ),
            edges=tuple(
                UnpricedEdge(
                    source=edge.source,
                    target=edge.target,
                    action=str(edge.action),
                    usage=tuple(map(tuple, usages[edge.source, edge.action].tolist())),
                    kernel=tuple(map(tuple, edge.kernel.tolist())),
                )
                for edge in graph.edges
            ),
            start=tuple(graph.start.tolist()),
        )

    def unverified(self) -> Self:
        """The same problem where no stage can verify: drafts are thrown away."""
        return type(self)(
            nodes=tuple(node for node in self.nodes if verifier_in(node.name) is None),
            edges=tuple(
                edge for edge in self.edges if verifier_in(edge.source) is verifier_in(edge.target) is None
            ),
            start=self.start,
        )

    def graph(self, prices: Mapping[str, Prices], unit: float) -> Graph:
        """The graph at these prices, by stage; `ConfigError` where the numbers make up none."""
        return Graph(
            nodes=tuple(Node(node.name, np.array(node.p), node.may_stop) for node in self.nodes),
            edges=tuple(
                Edge(
                    source=edge.source,
                    target=edge.target,
                    action=edge.parsed_action,
                    cost=_cost(edge, prices[edge.parsed_action.stage]) / unit,
                    kernel=_matrix(edge),
                )
                for edge in self.edges
            ),
            start=np.array(self.start),
        )


def _cost(edge: UnpricedEdge, prices: Prices) -> FloatArray:
    rates = prices.rates
    if {len(counts) for counts in edge.usage} != {len(rates)}:
        raise ConfigError(
            f"usage of edge {edge.source!r} -> {edge.target!r} is not {len(rates)} counts a bin"
        )
    return np.asarray(np.array(edge.usage) @ rates)


def _matrix(edge: UnpricedEdge) -> FloatArray:
    if len({len(row) for row in edge.kernel}) != 1:
        raise ConfigError(f"kernel of edge {edge.source!r} -> {edge.target!r} has rows of unequal length")
    return np.array(edge.kernel)
