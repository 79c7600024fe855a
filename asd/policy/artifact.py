"""The policy artifact: everything `asd fit` learned, in one versioned JSON file without code in it.

The file holds the predictor's numbers, the stopping problem (`asd.policy.problem`) and where both come from;
the problem is priced and solved when a policy is asked for, which takes milliseconds, so one file serves
every lam and every batch size that has prices. Scope: nothing is fitted here (`asd.policy.fit` does)
and nothing is decided (`asd.policies` does).

    artifact = load(path)
    policy = artifact.policy(lam=5.0, ladder=Ladder.load("tiny"), batch=16)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Literal

import numpy as np

from asd.errors import ConfigError, DataError, PolicyMismatchError
from asd.evidence.judge import EvidenceModel, FittedEvidence
from asd.guarantee.record import EVERYTHING, Grant, Guarantee
from asd.ladder import ROOT, Ladder
from asd.measurement.files import read_record, write_record
from asd.measurement.records import Record
from asd.policies import FixedStage, ListPolicy, Lossless, OptimalPolicy, Policy
from asd.policy.lists import ListRows
from asd.policy.problem import LadderPrices, UnpricedGraph
from asd.policy.record import FitRecord, HeldOutSetting, Replayed
from asd.schema import msgspec
from asd.stopping.graph import Graph
from asd.stopping.recursion import solve
from asd.stopping.states import stage_sets
from asd.types import Action, pair_name

__all__ = [
    "CONFIDENCE",
    "PolicyArtifact",
    "load",
]

CONFIDENCE = 0.75
"""How sure a setting must be, by held-out rows, to keep what it is to keep and to save anything."""
_ROUNDING = 1e-9
_SCALES = 2.0 ** np.linspace(-3.0, 3.0, 129)
"""A policy is solved at lam times each of these: every lam / scale that a judgement can ask for, within 1.7 %
of a solved one, and lam itself exactly."""


class PolicyArtifact(Record, frozen=True, kw_only=True):
    """A fitted policy for every lam, with its origin and, if one was asked for, its guarantee.

    Attributes:
        ladder: What the policy steers, and its prices.
        model: The evidence.
        problem: The stopping problem.
        fit: Where the numbers come from.
        guarantee: What is promised, if anything was asked for.
        lists: What a vote of lists is counted on; None: the policy is that of backward induction.
    """

    format: Literal["asd-policy"] = "asd-policy"
    schema_version: Literal[2] = 2
    ladder: LadderPrices
    model: EvidenceModel
    problem: UnpricedGraph
    fit: FitRecord
    guarantee: Guarantee | None = None
    lists: ListRows | None = None

    def __repr__(self) -> str:
        """What it was fitted on, and what came of it; the file itself is in `save`."""
        n_rows = sum(self.fit.n_rows.values())
        return f"PolicyArtifact(ladder {self.ladder.name!r}, {n_rows} queries, {self.fit.fitted_at})"

    def _repr_html_(self) -> str:
        """In a notebook: the held-out replay of every lam, in cost units of the largest stage alone."""
        rows = "".join(f"<tr><td>{row.lam:g}</td><td>{row}</td></tr>" for row in self.fit.replayed)
        head = "<tr><th>lam</th><th>replayed on held-out rows</th></tr>"
        return f"<table><caption>{escape(repr(self))}</caption>{head}{rows}</table>"

    @property
    def digest(self) -> str:
        """Of all that it holds, 16 hexadecimal digits."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]

    def evidence(self) -> FittedEvidence:
        """The fitted evidence, ready to judge."""
        return FittedEvidence(self.model)

    @property
    def verifies(self) -> bool:
        """Whether the policy may let a stage verify a draft."""
        return bool(self.model.pairs)

    def graph(self, *, unit: float | None = None, verify: bool = True, batch: int = 1) -> Graph:
        """The stopping problem, costs in units of `unit` (default: that of the fitting rows).

        Args:
            unit: Cost unit in the ladder's price unit.
            verify: Whether stages can verify drafts; without, the problem is that of throwing them away.
            batch: Queries a call, which decides the prices.

        Raises:
            ConfigError: `unit` is not positive and finite, or there are no prices at this batch size.
        """
        problem = self.problem if verify else self.problem.unverified()
        return problem.graph(self.ladder.prices_at(batch), self._unit(unit, batch))

    def _unit(self, unit: float | None, batch: int) -> float:
        unit = self.ladder.unit(batch) if unit is None else unit
        if not (math.isfinite(unit) and unit > 0.0):
            raise ConfigError(f"unit must be a positive cost in {self.ladder.price_unit}, got {unit}")
        return unit

    def _at(self, batch: int) -> int:
        """The batch size of the prices that hold for this one: those not in milliseconds hold for every."""
        self.ladder.prices_at(batch)
        return batch if batch in self.ladder.batches else 1

    def policy(
        self,
        lam: float,
        *,
        ladder: Ladder | None = None,
        unit: float | None = None,
        verify: bool = True,
        batch: int = 1,
    ) -> OptimalPolicy | ListPolicy:
        """The policy for one lam, by the method that was fitted; arguments and errors as of `optimal`."""
        if self.lists is None:
            return self.optimal(lam, ladder=ladder, unit=unit, verify=verify, batch=batch)
        if ladder is not None:
            self.check(ladder)
        table, reads = self.lists.counted(self._at(batch), verify=verify)
        scale = self._unit(unit, batch) / self.ladder.unit(batch)
        return ListPolicy(
            self.evidence(), table._replace(cost=table.cost / scale), self.model.stages, reads, lam
        )

    def optimal(
        self,
        lam: float,
        *,
        ladder: Ladder | None = None,
        unit: float | None = None,
        verify: bool = True,
        batch: int = 1,
    ) -> OptimalPolicy:
        """The policy of backward induction for one lam, whichever method was fitted.

        Args:
            lam: Cost units that one fully right answer is worth.
            ladder: What the policy is going to steer; checked if given.
            unit: Mean priced cost of the largest stage alone on the workload that lam refers to, in the
                ladder's price unit; default: that of the fitting rows.
            verify: Whether the stages can verify drafts.
            batch: Queries a call, which decides the prices: what does not pay at them is not done.

        Raises:
            ConfigError: `lam` is negative or not finite, `unit` is not positive, or there are no prices at
                this batch size.
            PolicyMismatchError: The policy was fitted on another ladder.
        """
        if ladder is not None:
            self.check(ladder)
        if not (math.isfinite(lam) and lam >= 0.0):
            raise ConfigError(f"lam must be a finite number, zero or more, got {lam}")
        lams = lam * _SCALES if self.fit.scaled and lam > 0.0 else np.array([lam])
        graph = self.graph(unit=unit, verify=verify, batch=batch)
        return OptimalPolicy(self.evidence(), solve(graph, lams), lam)

    def cheapest_lam(self, share: float, batch: int = 1) -> float | None:
        """The lam of `keeping`."""
        return self.keeping(share, batch).lam

    def keeping(self, share: float, batch: int = 1) -> HeldOutSetting:
        """The lam of least cost that keeps a share of the largest stage's quality and costs less than it.

        Both are read off the out-of-fold replays, each with a margin that holds with probability
        `CONFIDENCE`: an estimate, which a guarantee (`asd fit --keep`) is not. Where no lam does, the largest
        stage alone is left.

        Args:
            share: Of the largest stage's mean score, positive.
            batch: Queries a call, which decides the prices.

        Raises:
            ConfigError: There are no prices at this batch size.
        """
        largest, z = self.model.stages[-1], NormalDist().inv_cdf(CONFIDENCE)
        replayed, wanted = self.replayed(batch), share * self.fit.largest_quality
        good = [r for r in replayed if r.lower_quality(share, self.fit.largest_error, z) >= wanted]
        cheaper = [r for r in good if r.upper_cost(z) < 1.0]
        if cheaper:
            best = min(cheaper, key=lambda r: r.cost)
            return HeldOutSetting(
                best.lam, f"lam {best.lam:g} keeps {share:.4g} of {largest}'s quality: {best}"
            )
        what = (
            f"every lam that keeps {share:.4g} of {largest}'s quality may cost as much"
            if good
            else f"no lam surely keeps {share:.4g} of {largest}'s quality"
        )
        n_rows = sum(self.fit.n_rows.values())
        return HeldOutSetting(None, f"{what}, by {n_rows} rows: {largest} alone, nothing is saved")

    def replayed(self, batch: int = 1) -> tuple[Replayed, ...]:
        """The out-of-fold replays at the prices of a batch size.

        Raises:
            ConfigError: There are no prices at this batch size.
        """
        return self.fit.batched.get(self._at(batch), self.fit.replayed)

    def is_dearer(self, replayed: Replayed) -> bool:
        """Whether a setting cost more than the largest stage alone and was right no more often."""
        return replayed.cost > 1.0 + _ROUNDING and replayed.quality <= self.fit.largest_quality

    def costs_alone(self, batch: int = 1) -> tuple[float, ...]:
        """What every stage's own run from the prompt costs in the mean, cost units; errors as of `graph`."""
        graph = self.graph(batch=batch)
        return tuple(_expected_cost(graph, [Action.draft(stage)]) for stage in self.model.stages)

    def lossless(self, batch: int = 1) -> Lossless | FixedStage:
        """The largest stage's own answers by the cheapest drafters, as the fitting rows have it.

        It is the largest stage alone where every draft costs more than it saves.

        Raises:
            ConfigError: The traces that were fitted hold no verification by the largest stage, or there are
                no prices at this batch size.
        """
        *smaller, largest = self.model.stages
        chains = [(*drafters, largest) for drafters in stage_sets(smaller)]
        usable = [
            chain for chain in chains if all(pair_name(*p) in self.model.pairs for p in pairwise(chain))
        ]
        if not usable:
            raise ConfigError(f"the policy was fitted without verifications by {largest!r}: collect them")
        graph = self.graph(batch=batch)
        costs = {chain: _expected_cost(graph, Lossless(chain).actions) for chain in usable}
        best = min(usable, key=costs.__getitem__)
        return (
            Lossless(best)
            if costs[best] < _expected_cost(graph, [Action.draft(largest)])
            else FixedStage(largest)
        )

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

    def guaranteed_policy(
        self, dataset: str = EVERYTHING, *, ladder: Ladder | None = None, batch: int = 1
    ) -> Policy:
        """The policy that the guarantee is about: the lam that passed, or the single stage if none did.

        Args:
            dataset: Whose promise, where every dataset has its own.
            ladder: What the policy is going to steer; checked if given.
            batch: Queries a call.

        Raises:
            ConfigError: No guarantee was asked for, none for this dataset, or it was made at another batch
                size, where the prices and with them the policy are others.
            PolicyMismatchError: The policy was fitted on another ladder.
        """
        found = self.grant(dataset)
        if self.guarantee is not None and batch != self.guarantee.batch:
            raise ConfigError(
                f"the guarantee holds at batch {self.guarantee.batch}, not at {batch}, where the policy is "
                f"another one: name a lam, or make one with `asd fit --keep` and `--batch {batch}`"
            )
        if ladder is not None:
            self.check(ladder)
        return FixedStage(found.stage) if found.lam is None else self.policy(found.lam, batch=batch)

    def check(self, ladder: Ladder) -> None:
        """`PolicyMismatchError` if the policy was fitted on another ladder, or on other prices of it."""
        if ladder.fingerprint != self.ladder.fingerprint:
            raise PolicyMismatchError(
                f"the policy was fitted on ladder {self.ladder.name!r} (fingerprint "
                f"{self.ladder.fingerprint}), not on {ladder.name!r} (fingerprint {ladder.fingerprint}): "
                "fit again on traces of this ladder; where only prices changed, those at hand will do"
            )
        for batch in set(ladder.batches) & set(self.ladder.batches):
            if ladder.prices_at(batch) != self.ladder.prices_at(batch):
                raise PolicyMismatchError(
                    f"the policy was fitted with other prices of ladder {ladder.name!r} at batch {batch}: "
                    "fit again, the traces need not be collected again"
                )

    def save(self, path: str | Path) -> None:
        """Write the file in one step.

        Raises:
            DataError: A number is not finite.
            StorageError: The file could not be written; what was there before is intact.
        """
        write_record(path, self)


def load(path: str | Path) -> PolicyArtifact:
    """Read a policy artifact.

    Raises:
        DataError: The file is missing, cut off, of another version, has unknown fields, or its numbers do
            not make up a stopping problem on its ladder.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist; make it with `asd collect` and `asd fit`")
    artifact = read_record(path, PolicyArtifact)
    misfit = DataError(f"{path}: ladder, evidence and stopping problem do not fit together; fit again")
    tables = (artifact.ladder.prices, *artifact.ladder.batched.values())
    if any(tuple(table) != artifact.model.stages for table in tables):
        raise misfit
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
    if bins != {node.name: node.n_bins for node in graph.nodes}:
        raise misfit
    return artifact


def _expected_cost(graph: Graph, actions: Sequence[Action]) -> float:
    """Of always taking the same way, on a stopping problem."""
    edges = {(edge.source, edge.action): edge for edge in graph.edges}
    node, mass, cost = ROOT, graph.start, 0.0
    for action in actions:
        edge = edges[node, action]
        cost += float(mass @ edge.cost)
        node, mass = edge.target, mass @ edge.kernel
    return cost
