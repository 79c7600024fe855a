"""Traces to policy: what `asd fit` does.

    scored rows -> evidence, out of fold -> kernels and costs by bin -> the stopping problem -> artifact

Nodes and edges are the states and moves of `asd.stopping.states`: sets of stages that have answered, and,
where the traces hold verifications, the same with a larger stage that has read the best answer. Skipping is
allowed and so is starting anywhere. Every stage has answered every query and read every smaller stage's
draft, so every edge is estimated from every row; what going on from a draft costs follows from the accepted
prefix and the verifier's own answer, because decoding is greedy. Two cross-fitted replays decide whether long
queries are decided at lam / scale. Edges keep what a move takes, so that one artifact serves every batch size
that the ladder has prices for; what comes of it is replayed at each.

Scope: only rows given by the caller are read (the split "fit", never calibration or test rows); models
are never run; scikit-learn is imported when fitting, by the modules of `asd.evidence` that need it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError, DataError
from asd.evidence.fitting import N_FOLDS, FittedRows, fit_evidence
from asd.evidence.judge import EvidenceModel
from asd.evidence.length import LengthScale
from asd.ladder import Ladder
from asd.policy.artifact import PolicyArtifact
from asd.policy.contest import compete
from asd.policy.estimate import EstimationTable, move_usages, problem_of
from asd.policy.heldout import Alone, HeldOut, listed, solved, standard_error
from asd.policy.lists import ListRows
from asd.policy.problem import Counts, LadderPrices
from asd.policy.record import FitRecord, Method, MethodComparison
from asd.policy.seconds import recorded_seconds
from asd.prices import SECONDS
from asd.schema import msgspec
from asd.stopping.states import Move, moves
from asd.traces import answered
from asd.types import Trace, pair_name

__all__ = ["LAMS", "MIN_ROWS", "fit", "rejected_pairs"]

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
    method: Method | Literal["auto"] = "dp",
    quality: float = 0.95,
) -> PolicyArtifact:
    """Fit evidence and stopping problem; the same input gives the same artifact.

    Args:
        traces: Outcomes of every stage of the ladder, rows of the split "fit" only, in any order.
        ladder: Supplies stage names and prices.
        fitted_at: When, for the record.
        lams: Where the out-of-fold replays look, positive.
        seed: Of the folds and of the root's cells.
        method: What decides: "dp" (backward induction), "lists" (a vote of short lists), or "auto": the one
            that is cheaper on held-out rows (`asd.policy.contest` has the rule).
        quality: Share of the largest stage's quality, in (0, 1], where "auto" (and for the record "lists")
            compares them.

    Raises:
        DataError: No traces, a stage is missing, a query occurs twice, a score is not in [0, 1], or fewer
            than `MIN_ROWS` queries are scored on every stage.
        ConfigError: A lam is not positive, the largest stage costs nothing, or the method or the quality is
            none.
    """
    if method not in {"dp", "lists", "auto"}:
        raise ConfigError(f"method is 'dp', 'lists' or 'auto', not {method!r}")
    sweep = _checked_lams(lams)
    data = _prepared(traces, ladder, seed)
    chosen = _choose(data, sweep, method, quality)
    table = data.tables[1]
    return PolicyArtifact(
        ladder=data.prices,
        model=data.fitted.model if chosen.scaled else _unscaled(data.fitted.model),
        problem=problem_of(table if chosen.scaled else table.unscaled(), data.usages),
        fit=_record(traces, data, chosen, fitted_at, seed),
        lists=chosen.lists,
    )


class _Data(NamedTuple):
    """What is estimated from the rows before a method is chosen.

    Attributes:
        rows: Scored traces.
        pairs: Verifications that the policy may ask for.
        prices: The ladder's, with the cost unit of every batch size.
        fitted: Evidence, judged out of fold.
        usages: What every move takes, on every row.
        tables: The stopping problem as rows, by batch size.
        largest: The largest stage alone, by batch size.
        score: Its scores, shape (n,).
    """

    rows: list[Trace]
    pairs: list[str]
    prices: LadderPrices
    fitted: FittedRows
    usages: Mapping[Move, Array]
    tables: Mapping[int, EstimationTable]
    largest: Mapping[int, Alone]
    score: Array


def _prepared(traces: Sequence[Trace], ladder: Ladder, seed: int) -> _Data:
    stages = tuple(stage.name for stage in ladder.stages)
    rows = _scored(traces, stages)
    pairs = _verified_pairs(rows, stages)
    alone = np.array([row.outcomes[stages[-1]].draft.usage.alone.counts for row in rows], dtype=np.float64)
    prices = _priced(ladder, alone, {} if ladder.price_unit in SECONDS else recorded_seconds(rows, stages))
    fitted = fit_evidence(rows, alone @ prices.prices_at(1)[stages[-1]].rates, stages, seed=seed, pairs=pairs)
    usages = {
        move: move_usages(move, rows, fitted.best.get(move.source.name, ())) for move in moves(stages, pairs)
    }
    tables = {batch: EstimationTable(fitted.rows, _costs(usages, prices, batch)) for batch in prices.batches}
    score = np.array([row.outcomes[stages[-1]].score for row in rows], dtype=np.float64)
    largest = {batch: Alone(score, _alone_costs(alone, prices, batch)) for batch in tables}
    return _Data(rows, pairs, prices, fitted, usages, tables, largest, score)


class _Chosen(NamedTuple):
    """What the policy does on held-out rows, and what it would do otherwise, by batch size.

    Attributes:
        played: What the policy does.
        other: What the method that was not chosen does.
        scaled: Long queries are decided at lam / scale.
        lists: The lists that decide; None: backward induction does.
        contest: How the two compare, where that was asked for.
    """

    played: Mapping[int, HeldOut]
    other: Mapping[int, HeldOut]
    scaled: bool
    lists: ListRows | None = None
    contest: MethodComparison | None = None


def _choose(data: _Data, lams: Array, method: Method | Literal["auto"], quality: float) -> _Chosen:
    folds = data.fitted.folds
    scaled = {b: solved(t, folds, lams) for b, t in data.tables.items()}
    plain = {b: solved(t.unscaled(), folds, lams) for b, t in data.tables.items()}
    pays = scaled[1].is_worth_more(plain[1])
    chosen = _Chosen(scaled, plain, pays) if pays else _Chosen(plain, scaled, pays)
    if method == "dp":
        return chosen
    lists = ListRows.of(data.tables, data.fitted.model.stages, data.pairs)
    by_lists = {b: listed(lists.rows(b)[0], folds, lams) for b in data.tables}
    contest = compete(chosen.played[1], by_lists[1], data.largest[1], quality)
    if method == "lists" or contest.chosen == "lists":
        chosen = _Chosen(by_lists, chosen.played, pays, lists.thinned())
    return chosen._replace(contest=contest)


def _record(traces: Sequence[Trace], data: _Data, chosen: _Chosen, fitted_at: str, seed: int) -> FitRecord:
    replayed = {b: chosen.played[b].records(chosen.other[b], data.largest[b]) for b in data.tables}
    n_answered = len(answered(traces))
    return FitRecord(
        fitted_at=fitted_at,
        seed=seed,
        n_folds=N_FOLDS,
        n_rows=dict(Counter(row.query.dataset for row in data.rows)),
        n_unscored=n_answered - len(data.rows),
        n_refused=len(traces) - n_answered,
        scaled=chosen.scaled,
        reliability=data.fitted.reliability,
        largest_quality=float(data.score.mean()),
        largest_error=standard_error(data.score),
        replayed=replayed.pop(1),
        batched=replayed,
        contest=chosen.contest,
    )


def _priced(ladder: Ladder, alone: Array, seconds: dict[str, Counts]) -> LadderPrices:
    """Prices and cost unit, from the counts of the largest stage's runs, shape (n, 6)."""
    prices = LadderPrices.of(ladder, tuple(alone.mean(axis=0).tolist()), seconds)
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
