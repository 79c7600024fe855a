"""The policy artifact: everything `asd fit` learned, in one versioned JSON file without code in it.

The file holds the predictor's numbers, the stopping problem and where both come from; the problem is solved
when a policy is asked for, which takes milliseconds, so one file serves every lam. The border: nothing is
fitted here (`asd.fit` does) and nothing is decided (`asd.policies` does).

    artifact = load(path)
    policy = artifact.policy(lam=5.0, ladder=Ladder.load("tiny"))
"""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

import numpy as np

from asd.errors import ConfigError, DataError, PolicyMismatchError
from asd.evidence.judge import EvidenceModel, FittedEvidence
from asd.evidence.metrics import Reliability
from asd.guarantee import EVERYTHING, Grant, Guarantee
from asd.ladder import ROOT, Ladder
from asd.measurement.files import read_record, write_record
from asd.measurement.records import Record
from asd.policies import FixedStage, Lossless, OptimalPolicy, Policy
from asd.stopping.graph import Edge, Graph, Node
from asd.stopping.recursion import solve
from asd.stopping.states import stage_sets
from asd.types import VERIFY, pair_name

__all__ = [
    "FitRecord",
    "GraphRecord",
    "LadderPrices",
    "PolicyArtifact",
    "Replayed",
    "StagePrices",
    "load",
]

_SCALES = 2.0 ** np.linspace(-3.0, 3.0, 129)
"""A policy is solved at lam times each of these: every lam / scale that a judgement can ask for, within 1.7 %
of a solved one, and lam itself exactly."""


class StagePrices(Record, frozen=True, kw_only=True):
    """`asd.ladder.Prices` of one stage as they were when the policy was fitted."""

    per_call: float
    per_prompt_token: float
    per_decoded_token: float
    per_verified: float | None = None
    per_load: float | None = None


class LadderPrices(Record, frozen=True, kw_only=True):
    """The ladder the policy steers, and what it costs.

    Attributes:
        name: Of the ladder.
        fingerprint: Of the ladder; a policy is refused for any other.
        price_unit: What prices and `unit` are counted in.
        prices_measured: Where and when.
        prices: By stage name, in ladder order.
        unit: Mean priced cost of running the largest stage alone over the fitting rows: one cost unit.
    """

    name: str
    fingerprint: str
    price_unit: str
    prices_measured: str
    prices: dict[str, StagePrices]
    unit: float

    @classmethod
    def of(cls, ladder: Ladder, unit: float) -> Self:
        """What a policy needs to remember of its ladder."""
        return cls(
            name=ladder.name,
            fingerprint=ladder.fingerprint,
            price_unit=ladder.price_unit,
            prices_measured=ladder.prices_measured,
            prices={stage.name: StagePrices(**asdict(stage.prices)) for stage in ladder.stages},
            unit=unit,
        )


class NodeRecord(Record, frozen=True, kw_only=True):
    """`asd.stopping.graph.Node` as plain numbers."""

    name: str
    p: tuple[float, ...]
    may_stop: bool


class EdgeRecord(Record, frozen=True, kw_only=True):
    """`asd.stopping.graph.Edge` as plain numbers."""

    source: str
    target: str
    action: str
    cost: tuple[float, ...]
    kernel: tuple[tuple[float, ...], ...]


class GraphRecord(Record, frozen=True, kw_only=True):
    """`asd.stopping.graph.Graph` as plain numbers."""

    nodes: tuple[NodeRecord, ...]
    edges: tuple[EdgeRecord, ...]
    start: tuple[float, ...]

    @classmethod
    def of(cls, graph: Graph) -> Self:
        """The record of a graph."""
        return cls(
            nodes=tuple(
                NodeRecord(name=node.name, p=tuple(node.p.tolist()), may_stop=node.may_stop)
                for node in graph.nodes
            ),
            edges=tuple(
                EdgeRecord(
                    source=edge.source,
                    target=edge.target,
                    action=edge.action,
                    cost=tuple(edge.cost.tolist()),
                    kernel=tuple(map(tuple, edge.kernel.tolist())),
                )
                for edge in graph.edges
            ),
            start=tuple(graph.start.tolist()),
        )

    def unverified(self) -> Self:
        """The same problem where no stage can verify: drafts are thrown away."""
        return type(self)(
            nodes=tuple(node for node in self.nodes if VERIFY not in node.name),
            edges=tuple(edge for edge in self.edges if VERIFY not in edge.source + edge.target),
            start=self.start,
        )

    def graph(self, cost_factor: float = 1.0) -> Graph:
        """The graph, all costs multiplied by `cost_factor`; `ConfigError` where the numbers make up none."""
        return Graph(
            nodes=tuple(Node(node.name, np.array(node.p), node.may_stop) for node in self.nodes),
            edges=tuple(
                Edge(
                    source=edge.source,
                    target=edge.target,
                    action=edge.action,
                    cost=cost_factor * np.array(edge.cost),
                    kernel=_matrix(edge),
                )
                for edge in self.edges
            ),
            start=np.array(self.start),
        )


def _matrix(edge: EdgeRecord) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    if len({len(row) for row in edge.kernel}) != 1:
        raise ConfigError(f"kernel of edge {edge.source!r} -> {edge.target!r} has rows of unequal length")
    return np.array(edge.kernel)


class Replayed(Record, frozen=True, kw_only=True):
    """What the policy of one lam was worth on rows that neither its evidence nor its kernels had seen.

    Attributes:
        lam: Trade-off weight.
        quality: Mean score.
        cost: Mean priced cost in units.
        model_value: What the solved problem promised; lam * quality - cost is what was realised.
        alternative_value: What was realised with the other choice of `FitRecord.scaled`.
    """

    lam: float
    quality: float
    cost: float
    model_value: float
    alternative_value: float


class FitRecord(Record, frozen=True, kw_only=True):
    """Where the numbers come from.

    Attributes:
        fitted_at: When, as given by the caller.
        seed: Of the folds and of the root's cells.
        n_folds: Of the cross-fitting.
        n_rows: Queries fitted on, by dataset.
        n_unscored: Queries left out because an outcome was not scored.
        scaled: Long queries are decided at lam / scale, because that was worth more out of fold.
        reliability: Of every head out of fold, by node and stage ("root": from the prompt alone).
        largest_quality: Mean score of the largest stage alone.
        replayed: Out-of-fold value of the policy, by lam.
    """

    fitted_at: str
    seed: int
    n_folds: int
    n_rows: dict[str, int]
    n_unscored: int
    scaled: bool
    reliability: dict[str, dict[str, Reliability]]
    largest_quality: float
    replayed: tuple[Replayed, ...]


class PolicyArtifact(Record, frozen=True, kw_only=True):
    """A fitted policy for every lam, with its origin and, if one was asked for, its guarantee."""

    format: Literal["asd-policy"] = "asd-policy"
    schema_version: Literal[1] = 1
    ladder: LadderPrices
    model: EvidenceModel
    problem: GraphRecord
    fit: FitRecord
    guarantee: Guarantee | None = None

    def evidence(self) -> FittedEvidence:
        """The fitted evidence, ready to judge."""
        return FittedEvidence(self.model)

    @property
    def verifies(self) -> bool:
        """Whether the policy may let a stage verify a draft."""
        return bool(self.model.pairs)

    def graph(self, *, unit: float | None = None, verify: bool = True) -> Graph:
        """The stopping problem, costs in units of `unit` (default: that of the fitting rows).

        Args:
            unit: Cost unit in the ladder's price unit.
            verify: Whether stages can verify drafts; without, the problem is that of throwing them away.

        Raises:
            ConfigError: `unit` is not positive and finite.
        """
        problem = self.problem if verify else self.problem.unverified()
        if unit is None:
            return problem.graph()
        if not (math.isfinite(unit) and unit > 0.0):
            raise ConfigError(f"unit must be a positive cost in {self.ladder.price_unit}, got {unit}")
        return problem.graph(self.ladder.unit / unit)

    def policy(
        self, lam: float, *, ladder: Ladder | None = None, unit: float | None = None, verify: bool = True
    ) -> OptimalPolicy:
        """The optimal policy for one lam.

        Args:
            lam: Cost units that one fully right answer is worth.
            ladder: What the policy is going to steer; checked if given.
            unit: Mean priced cost of the largest stage alone on the workload that lam refers to, in the
                ladder's price unit; default: that of the fitting rows.
            verify: Whether the stages can verify drafts.

        Raises:
            ConfigError: `lam` is negative or not finite, or `unit` is not positive.
            PolicyMismatchError: The policy was fitted on another ladder.
        """
        if ladder is not None:
            self.check(ladder)
        if not (math.isfinite(lam) and lam >= 0.0):
            raise ConfigError(f"lam must be a finite number, zero or more, got {lam}")
        lams = lam * _SCALES if self.fit.scaled and lam > 0.0 else np.array([lam])
        return OptimalPolicy(self.evidence(), solve(self.graph(unit=unit, verify=verify), lams), lam)

    def cheapest_lam(self, share: float) -> float | None:
        """The lam of least cost whose quality is at least this share of the largest stage's; None: no lam.

        Read off the out-of-fold replays: an estimate, which a guarantee (`asd fit --keep`) is not.
        """
        wanted = share * self.fit.largest_quality
        good = [replay for replay in self.fit.replayed if replay.quality >= wanted]
        return min(good, key=lambda replay: replay.cost).lam if good else None

    def lossless(self) -> Lossless:
        """The largest stage's own answers by the cheapest drafters, as the fitting rows have it.

        Raises:
            ConfigError: The traces that were fitted hold no verification by the largest stage.
        """
        *smaller, largest = self.model.stages
        chains = [(*drafters, largest) for drafters in stage_sets(smaller)]
        usable = [
            chain for chain in chains if all(pair_name(*p) in self.model.pairs for p in pairwise(chain))
        ]
        if not usable:
            raise ConfigError(f"the policy was fitted without verifications by {largest!r}: collect them")
        return Lossless(min(usable, key=lambda chain: _expected_cost(self.graph(), Lossless(chain))))

    def grant(self, dataset: str = EVERYTHING) -> Grant:
        """What is promised for a dataset, or for all together.

        Raises:
            ConfigError: No guarantee was asked for, or none for this dataset.
        """
        grants = {} if self.guarantee is None else self.guarantee.grants
        found = grants.get(EVERYTHING) or grants.get(dataset)
        if found is None:
            raise ConfigError(
                f"the policy holds no guarantee for dataset {dataset!r}, only for {sorted(grants)}; name a "
                "lam, or make one with `asd fit --keep` or `--cap-cost`"
            )
        return found

    def guaranteed_policy(self, dataset: str = EVERYTHING, *, ladder: Ladder | None = None) -> Policy:
        """The policy that the guarantee is about: the lam that passed, or the single stage if none did.

        Args:
            dataset: Whose promise, where every dataset has its own.
            ladder: What the policy is going to steer; checked if given.

        Raises:
            ConfigError: No guarantee was asked for, or none for this dataset.
            PolicyMismatchError: The policy was fitted on another ladder.
        """
        found = self.grant(dataset)
        if ladder is not None:
            self.check(ladder)
        return FixedStage(found.stage) if found.lam is None else self.policy(found.lam)

    def check(self, ladder: Ladder) -> None:
        """`PolicyMismatchError` if the policy was fitted on another ladder."""
        if ladder.fingerprint != self.ladder.fingerprint:
            raise PolicyMismatchError(
                f"the policy was fitted on ladder {self.ladder.name!r} (fingerprint "
                f"{self.ladder.fingerprint}), not on {ladder.name!r} (fingerprint {ladder.fingerprint}): "
                "collect traces on this ladder and fit again"
            )

    def save(self, path: Path) -> None:
        """Write the file in one step.

        Raises:
            DataError: A number is not finite.
            StorageError: The file could not be written; what was there before is intact.
        """
        write_record(path, self)


def load(path: Path) -> PolicyArtifact:
    """Read a policy artifact.

    Raises:
        DataError: The file is missing, cut off, of another version, has unknown fields, or its numbers do
            not make up a stopping problem on its ladder.
    """
    artifact = read_record(path, PolicyArtifact)
    try:
        graph = artifact.graph()
    except ConfigError as error:
        raise DataError(f"{path} holds no valid stopping problem ({error}); fit the policy again") from error
    bins = {ROOT: len(artifact.model.centroids)}
    bins |= {
        name: len(node.edges) + 1
        for nodes in (artifact.model.nodes, artifact.model.verified)
        for name, node in nodes.items()
    }
    if tuple(artifact.ladder.prices) != artifact.model.stages or bins != {
        n.name: n.n_bins for n in graph.nodes
    }:
        raise DataError(f"{path}: ladder, evidence and stopping problem do not fit together; fit again")
    return artifact


def _expected_cost(graph: Graph, policy: Lossless) -> float:
    """Of a policy that always takes the same way, on a stopping problem."""
    edges = {(edge.source, edge.action): edge for edge in graph.edges}
    node, mass, cost = ROOT, graph.start, 0.0
    for action in policy.actions:
        edge = edges[node, action]
        cost += float(mass @ edge.cost)
        node, mass = edge.target, mass @ edge.kernel
    return cost
