"""Traces to policy: what `asd fit` does.

    scored rows -> evidence, out of fold -> kernels and costs by bin -> the stopping problem -> artifact

Nodes and edges are the states and moves of `asd.stopping.states`: sets of stages that have answered, and,
where the traces hold verifications, the same with a larger stage that has read the best answer. Skipping is
allowed and so is starting anywhere. Every stage has answered every query and read every smaller stage's
draft, so every edge is estimated from every row; what going on from a draft costs follows from the accepted
prefix and the verifier's own answer, because decoding is greedy. Two cross-fitted replays decide whether long
queries are decided at lam / scale. Edges keep what a move takes, so that one artifact serves every batch size
that the ladder has prices for; what comes of it is replayed at each.

The border: only rows given by the caller are read (the split "fit", never calibration or test rows); models
are never run; scikit-learn is imported when fitting, by the modules of `asd.evidence` that need it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from asd.engines import continuation_usage
from asd.errors import ConfigError, DataError
from asd.evidence.fitting import N_FOLDS, Rows, fit_evidence
from asd.evidence.judge import EvidenceModel
from asd.evidence.length import LengthScale
from asd.ladder import ROOT, Ladder
from asd.policy.artifact import Errors, FitRecord, PolicyArtifact, Replayed
from asd.policy.problem import GraphRecord, LadderPrices
from asd.stopping.graph import Edge, Graph, Node
from asd.stopping.kernels import estimate_kernel, mean_by_bin
from asd.stopping.recursion import Solution, solve
from asd.stopping.states import Move, moves
from asd.traces import answered
from asd.types import Trace, Usage, pair_name

__all__ = ["LAMS", "MIN_ROWS", "Table", "estimate_graph", "fit", "move_usages", "rejected_pairs", "replay"]

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

LAMS = (
    0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 1, 1.2, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 10, 15, 20, 30, 50
)  # fmt: skip
"""Where the replays look."""
MIN_ROWS = 100
"""Fewer scored queries than this do not support a policy."""
LEAST_ACCEPTED = 0.01
"""A verifier that accepts a smaller share of a stage's drafted tokens is not asked to read them."""


def fit(
    traces: Sequence[Trace],
    ladder: Ladder,
    *,
    fitted_at: str,
    lams: Sequence[float] = LAMS,
    seed: int = 0,
) -> PolicyArtifact:
    """Fit evidence and stopping problem; the same input gives the same artifact.

    Args:
        traces: Outcomes of every stage of the ladder, rows of the split "fit" only, in any order.
        ladder: Supplies stage names and prices.
        fitted_at: When, for the record.
        lams: Where the out-of-fold replays look, positive.
        seed: Of the folds and of the root's cells.

    Raises:
        DataError: No traces, a stage is missing, a query occurs twice, a score is not in [0, 1], or fewer
            than `MIN_ROWS` queries are scored on every stage.
        ConfigError: A lam is not positive, or the largest stage costs nothing.
    """
    stages = tuple(stage.name for stage in ladder.stages)
    sweep = _checked_lams(lams)
    rows = _scored(traces, stages)
    pairs = _verified_pairs(rows, stages)
    alone = np.array([row.outcomes[stages[-1]].draft.usage.alone.counts for row in rows], dtype=np.float64)
    prices = _priced(ladder, alone)
    fitted = fit_evidence(rows, alone @ prices.prices_at(1)[stages[-1]].rates, stages, seed=seed, pairs=pairs)
    usages = {
        move: move_usages(move, rows, fitted.best.get(move.source.name, ())) for move in moves(stages, pairs)
    }
    tables = {batch: Table(fitted.rows, _costs(usages, prices, batch)) for batch in prices.batches}
    score = np.array([row.outcomes[stages[-1]].score for row in rows], dtype=np.float64)
    largest = {batch: _Alone(score, _alone_costs(alone, prices, batch)) for batch in tables}
    scaled = {b: _cross_replay(t, fitted.folds, sweep, largest[b]) for b, t in tables.items()}
    plain = {b: _cross_replay(t.unscaled(), fitted.folds, sweep, largest[b]) for b, t in tables.items()}
    pays = _is_worth_more(scaled[1], plain[1])
    better, other = (scaled, plain) if pays else (plain, scaled)
    replayed = {batch: _replayed(better[batch], other[batch]) for batch in tables}
    return PolicyArtifact(
        ladder=prices,
        model=fitted.model if pays else _unscaled(fitted.model),
        problem=_problem(tables[1] if pays else tables[1].unscaled(), usages),
        fit=FitRecord(
            fitted_at=fitted_at,
            seed=seed,
            n_folds=N_FOLDS,
            n_rows=dict(Counter(row.query.dataset for row in rows)),
            n_unscored=len(answered(traces)) - len(rows),
            n_refused=len(traces) - len(answered(traces)),
            scaled=pays,
            reliability=fitted.reliability,
            largest_quality=float(score.mean()),
            largest_error=_error(score),
            replayed=replayed.pop(1),
            batched=replayed,
        ),
    )


def _priced(ladder: Ladder, alone: Array) -> LadderPrices:
    """Prices and cost unit, from the counts of the largest stage's runs, shape (n, 6)."""
    prices = LadderPrices.of(ladder, tuple(alone.mean(axis=0).tolist()))
    for batch in prices.batches:
        if not (unit := prices.unit(batch)) > 0.0:
            largest = ladder.stages[-1].name
            raise ConfigError(f"stage {largest!r} of ladder {ladder.name!r} costs {unit}; give it a price")
    return prices


def _costs(usages: Mapping[Move, Array], prices: LadderPrices, batch: int) -> dict[Move, Array]:
    rates = {stage: of_stage.rates for stage, of_stage in prices.prices_at(batch).items()}
    return {move: usage @ rates[move.stage] / prices.unit(batch) for move, usage in usages.items()}


def _alone_costs(alone: Array, prices: LadderPrices, batch: int) -> Array:
    """Of the largest stage's runs, from their counts, cost units, shape (n,)."""
    *_, largest = prices.prices_at(batch).values()
    return alone @ largest.rates / prices.unit(batch)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """What an estimate of the stopping problem is made of.

    Attributes:
        rows: What every node sees, by node name, the root first.
        costs: Cost of every move on every row, cost units, by move, shape (n,).
    """

    rows: Mapping[str, Rows]
    costs: Mapping[Move, Array]

    def where(self, mask: npt.NDArray[np.bool_]) -> Table:
        """The rows of a mask."""
        rows = {
            name: Rows(node.n_bins, node.bins[mask], node.p[mask], node.score[mask], node.scale[mask])
            for name, node in self.rows.items()
        }
        return Table(rows, {move: cost[mask] for move, cost in self.costs.items()})

    def unscaled(self) -> Table:
        """The same with every query taken as long as the mean."""
        rows = {name: replace(node, scale=np.ones_like(node.scale)) for name, node in self.rows.items()}
        return replace(self, rows=rows)


def estimate_graph(table: Table) -> Graph:
    """The stopping problem of these rows: means, costs and kernels by bin, each shrunk where rows are few.

    The quality of a bin is the mean calibrated probability plus the shrunk mean of what was really scored
    beyond it: the best answer is picked by its probability, so that probability is a little too high.
    """
    edges = [_estimate_edge(table, move) for move in table.costs]
    root = table.rows[ROOT]
    nodes = (_estimate_node(name, rows) for name, rows in table.rows.items())
    return Graph(tuple(nodes), tuple(edges), np.bincount(root.bins, minlength=root.n_bins) / len(root.bins))


def _estimate_node(name: str, rows: Rows) -> Node:
    p = mean_by_bin(rows.p, rows.bins, rows.n_bins)
    beyond = mean_by_bin(rows.score - rows.p, rows.bins, rows.n_bins)
    return Node(name, np.clip(p + beyond, 0.0, 1.0), may_stop=name != ROOT)


def _estimate_edge(table: Table, move: Move) -> Edge:
    here, there = table.rows[move.source.name], table.rows[move.target.name]
    return Edge(
        source=move.source.name,
        target=move.target.name,
        action=move.action,
        cost=mean_by_bin(table.costs[move] / here.scale, here.bins, here.n_bins),
        kernel=estimate_kernel(here.bins, there.bins, here.n_bins, there.n_bins),
    )


def _problem(table: Table, usages: Mapping[Move, Array]) -> GraphRecord:
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
    return GraphRecord.of(estimate_graph(table), means)


def move_usages(move: Move, rows: Sequence[Trace], best: Sequence[str]) -> Array:
    """What a move takes on every row (`Usage.counts`), shape (n, 6).

    Args:
        move: The purchase.
        rows: Recorded outcomes.
        best: The answer in hand where the move leaves from, one a row.
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


class _Value(NamedTuple):
    """Means over rows at one lam."""

    lam: float
    quality: float
    cost: float
    model_value: float
    errors: Errors

    @property
    def value(self) -> float:
        return self.lam * self.quality - self.cost


def _cross_replay(table: Table, folds: IntArray, lams: Array, alone: _Alone) -> list[_Value]:
    """What policies solved on the other folds are worth on each fold, one value a lam."""
    sweep = np.unique(np.concatenate([np.geomspace(lams[0] / 8.0, lams[-1] * 8.0, 200), lams]))
    n = len(folds)
    quality, cost, promised = np.zeros((len(lams), n)), np.zeros((len(lams), n)), np.zeros((len(lams), n))
    for fold in np.unique(folds):
        held_out = folds == fold
        solution = solve(estimate_graph(table.where(~held_out)), sweep)
        for i, lam in enumerate(lams):
            quality[i, held_out], cost[i, held_out] = replay(solution, table.where(held_out), float(lam))
            promised[i, held_out] = solution.expected_value[solution.nearest(float(lam))]
    means = (quality.mean(axis=1), cost.mean(axis=1), promised.mean(axis=1))
    errors = [alone.errors(*row) for row in zip(quality, cost, strict=True)]
    rows = zip(lams, *means, strict=True)
    return [_Value(*map(float, row), of_row) for row, of_row in zip(rows, errors, strict=True)]


class _Alone(NamedTuple):
    """Score and cost of the largest stage alone on every row, shape (n,) each."""

    quality: Array
    cost: Array

    def errors(self, quality: Array, cost: Array) -> Errors:
        """Of the means of a policy's scores and costs on the same rows."""
        return Errors(
            quality=_error(quality),
            cost=_error(cost),
            lost=_error(quality - self.quality),
            saved=_error(cost - self.cost),
        )


def _error(values: Array) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def replay(solution: Solution, table: Table, lam: float) -> tuple[Array, Array]:
    """Score and cost of every row of the table under the solved policy, each of shape (n,)."""
    n = len(table.rows[ROOT].bins)
    costs = {(move.source.name, move.action): cost for move, cost in table.costs.items()}
    quality, cost = np.zeros(n), np.zeros(n)
    open_at = [(ROOT, np.arange(n))]
    while open_at:
        name, index = open_at.pop()
        rows = table.rows[name]
        lam_index = [solution.nearest(wanted) for wanted in (lam / rows.scale[index]).tolist()]
        action = solution.action[name][lam_index, rows.bins[index]]
        stopped = index[action == -1]
        quality[stopped] = rows.score[stopped]
        for k, edge in enumerate(solution.graph.outgoing(name)):
            going = index[action == k]
            cost[going] += costs[name, edge.action][going]
            open_at.append((edge.target, going))
    return quality, cost


def _is_worth_more(scaled: Sequence[_Value], plain: Sequence[_Value]) -> bool:
    """Summed over lams, each in proportion to what is at stake there: an answer and a run of the largest."""
    return sum((a.value - b.value) / (1.0 + a.lam) for a, b in zip(scaled, plain, strict=True)) > 0.0


def _replayed(chosen: Sequence[_Value], other: Sequence[_Value]) -> tuple[Replayed, ...]:
    return tuple(
        Replayed(**a._asdict(), alternative_value=b.value) for a, b in zip(chosen, other, strict=True)
    )


def _unscaled(model: EvidenceModel) -> EvidenceModel:
    nodes, verified = (
        {name: msgspec.structs.replace(node, scale=LengthScale()) for name, node in of_kind.items()}
        for of_kind in (model.nodes, model.verified)
    )
    return msgspec.structs.replace(model, nodes=nodes, verified=verified)


def _checked_lams(lams: Sequence[float]) -> Array:
    if not lams or not all(math.isfinite(lam) and lam > 0.0 for lam in lams):
        raise ConfigError(f"lams to replay must be positive numbers, at least one, got {list(lams)}")
    return np.unique(np.array(lams, dtype=np.float64))


def _scored(traces: Sequence[Trace], stages: Sequence[str]) -> list[Trace]:
    """The traces scored on every stage, sorted by dataset and id."""
    if not traces:
        raise DataError("no traces to fit on; run `asd collect` on the split 'fit' first")
    rows = {(trace.query.dataset, trace.query.id): trace for trace in traces}
    if len(rows) < len(traces):
        twice = Counter((trace.query.dataset, trace.query.id) for trace in traces).most_common(1)[0][0]
        raise DataError(f"query {twice[1]!r} of {twice[0]!r} occurs more than once in the traces")
    usable = {key: trace for key, trace in rows.items() if not trace.refusals}
    scored = [usable[key] for key in sorted(usable) if _is_scored(usable[key], stages)]
    if len(scored) < MIN_ROWS:
        raise DataError(
            f"{len(scored)} of {len(traces)} queries are scored on all of {', '.join(stages)}; "
            f"a policy needs at least {MIN_ROWS}: collect more"
        )
    return scored


def _is_scored(trace: Trace, stages: Sequence[str]) -> bool:
    """Whether every stage's answer has a score; `DataError` where a stage is missing or a score is none."""
    query = trace.query
    for stage in stages:
        if stage not in trace.outcomes:
            raise DataError(
                f"query {query.id!r} of {query.dataset!r} has no outcome of stage {stage!r}; "
                "collect it on every stage of the ladder"
            )
        score = trace.outcomes[stage].score
        if score is not None and not 0.0 <= score <= 1.0:
            raise DataError(
                f"query {query.id!r} of {query.dataset!r}: stage {stage!r} has score {score}, not in [0, 1]"
            )
    return all(trace.outcomes[stage].score is not None for stage in stages)


def _verified_pairs(rows: Sequence[Trace], stages: Sequence[str]) -> list[str]:
    """The pairs of stages whose verification is recorded, on every row or not at all; drafters likewise."""
    pairs = [pair_name(small, large) for small, large in combinations(stages, 2)]
    for pair in pairs:
        if 0 < (n := sum(pair in row.verifications for row in rows)) < len(rows):
            raise DataError(
                f"verification {pair!r} is recorded for {n} of {len(rows)} queries; give the same "
                "`asd collect` again to complete it"
            )
        if 0 < (n := sum(pair in row.continuations for row in rows)) < len(rows):
            raise DataError(
                f"going on from {pair!r} was recorded with a drafter for {n} of {len(rows)} queries and "
                "without one for the others; fit on files that were collected alike"
            )
    return [pair for pair in pairs if pair in rows[0].verifications and pair not in rejected_pairs(rows)]


def rejected_pairs(traces: Sequence[Trace]) -> dict[str, tuple[int, int]]:
    """Pairs of stages whose verifier accepts next to nothing: tokens accepted and read, by pair.

    Two models of different families can disagree on the first token of every answer; what verifying costs is
    then spent for nothing, and a fit leaves it out.
    """
    counts: dict[str, tuple[int, int]] = {}
    for trace in traces:
        for pair, read in trace.verifications.items():
            n_accepted, n_read = counts.get(pair, (0, 0))
            counts[pair] = n_accepted + read.n_accepted, n_read + len(read.tokens)
    return {pair: (a, n) for pair, (a, n) in counts.items() if a < LEAST_ACCEPTED * n}
