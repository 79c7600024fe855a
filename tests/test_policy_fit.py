"""Fitting against a world whose stopping problem is known exactly, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import NormalDist

import msgspec
import numpy as np
import pytest

from asd.errors import ConfigError, DataError
from asd.evidence.fitting import FittingRows
from asd.ladder import Ladder, Stage
from asd.policies import Policy
from asd.policy.artifact import CONFIDENCE, PolicyArtifact
from asd.policy.estimate import EstimationTable, estimate_graph
from asd.policy.fit import LAMS, MIN_ROWS, fit, rejected_pairs
from asd.policy.heldout import replay
from asd.policy.record import Errors, Replayed
from asd.prices import Prices
from asd.stopping.recursion import Solution, solve
from asd.stopping.states import moves
from asd.types import NO_CALL, STOP, Action, Failure, Trace, Usage
from tests import worlds


def small_fit(traces: Sequence[Trace], ladder: Ladder | None = None) -> PolicyArtifact:
    return fit(traces, ladder or worlds.ladder(), fitted_at="2026-01-01", lams=(2.0,))


def few(n: int = 120, seed: int = 31) -> list[Trace]:
    return worlds.sample(n, np.random.default_rng(seed))[0]


def true_table(n: int, seed: int) -> EstimationTable:
    """Rows of the world as its own true bins see them; S costs a fifth of L, all queries are alike."""
    traces, truths = worlds.sample(n, np.random.default_rng(seed))
    scores = {s: np.array([t.outcomes[s].score for t in traces]) for s in "SL"}
    agree = np.array([t.outcomes["S"].draft.text == t.outcomes["L"].draft.text for t in traces])
    small, large = (np.array([getattr(t, name) for t in truths]) for name in ("small", "large"))
    both = np.array(
        [worlds.p_both(worlds.P_S[s], worlds.P_L[b], a) for s, b, a in zip(small, large, agree, strict=True)]
    )
    best = np.where(both[:, 1] >= both[:, 0], scores["L"], scores["S"])
    zeros, ones = np.zeros(n), np.ones(n)
    rows = {
        "root": FittingRows(2, np.array([t.kind for t in truths]), zeros, zeros, ones),
        "S": FittingRows(3, small, worlds.P_S[small], scores["S"], ones),
        "L": FittingRows(3, large, worlds.P_L[large], scores["L"], ones),
        "S+L": FittingRows(18, 6 * small + 2 * large + agree, both.max(axis=1), best, ones),
    }
    prices = {"S": np.full(n, 0.2), "L": ones}
    return EstimationTable(rows, {move: prices[move.stage] for move in moves(("S", "L"))})


def walk(solution: Solution, table: EstimationTable, row: int, lam: float) -> tuple[float, float]:
    """One row through a solved policy, step by step: score and cost."""
    node, cost = "root", 0.0
    while True:
        rows = table.rows[node]
        index = int(np.abs(np.log(solution.lams / (lam / rows.scale[row]))).argmin())
        action = solution.chosen(node, int(rows.bins[row]), index)
        if action == STOP:
            return float(rows.score[row]), cost
        [move] = [m for m in table.costs if (m.source.name, m.action) == (node, action)]
        cost += table.costs[move][row]
        node = move.target.name


def realised(policy: Policy, traces: Sequence[Trace], artifact: PolicyArtifact, lam: float) -> np.ndarray:
    """lam * score - cost of every trace under a policy that decides live."""
    prices = {stage.name: stage.prices for stage in worlds.ladder().stages}
    values = []
    for trace in traces:
        drafts, cost = {}, 0.0
        while (decision := policy.decide(trace.query, drafts)).action != STOP:
            stage = decision.action.stage
            drafts[stage] = trace.outcomes[stage].draft
            cost += prices[stage].cost(drafts[stage].usage)
        values.append(lam * trace.outcomes[decision.answer].score - cost / artifact.ladder.unit())
    return np.array(values)


@pytest.mark.slow
@pytest.mark.parametrize("lam", [0.5, 2.0, 5.0, 20.0])
def test_the_fitted_policy_is_worth_what_the_true_optimum_is(lam: float) -> None:
    """On new queries: within 4 % of the exact optimum of the world (in proportion to lam + 1), on equal rows.

    The optimum of the true kernels does not know how long a query is, so the fitted policy may be better.
    """
    artifact = worlds.fitted()
    traces, truths = worlds.sample(1500, np.random.default_rng(32))
    solution = solve(worlds.true_graph(0.2, 1.0), [lam])
    table = true_table(1500, 32)
    lengths = np.array([trace.outcomes["L"].draft.usage.n_decoded for trace in traces])
    table = replace(
        table, costs={s: c * lengths * 5.0 / artifact.ladder.unit() for s, c in table.costs.items()}
    )
    quality, cost = replay(solution, table, lam)
    assert len(truths) == len(quality)
    gap = realised(artifact.policy(lam), traces, artifact, lam) - (lam * quality - cost)
    assert gap.mean() > -0.04 * (1.0 + lam)


@pytest.mark.slow
def test_the_true_problem_is_recovered_from_true_bins() -> None:
    """10,000 rows in the world's own bins: value and quality of the optimum to 1.5 % at every lam."""
    lams = [0.5, 1.0, 2.0, 5.0, 10.0, 50.0]
    got = solve(estimate_graph(true_table(10_000, 33)), lams)
    want = solve(worlds.true_graph(0.2, 1.0), lams)
    assert got.expected_value == pytest.approx(want.expected_value, rel=0.015, abs=0.01)
    assert got.expected_quality == pytest.approx(want.expected_quality, abs=0.015)


def test_bins_are_credited_with_what_was_scored() -> None:
    """Probabilities that are .2 too high everywhere: the nodes carry the observed quality, not the claim."""
    table = true_table(5_000, 34)
    boasting = replace(table.rows["S"], p=np.minimum(1.0, table.rows["S"].p + 0.2))
    graph = estimate_graph(replace(table, rows={**table.rows, "S": boasting}))
    assert graph.node("S").p == pytest.approx(worlds.P_S, abs=0.04)


def test_costs_are_per_mean_query_where_queries_are_scaled() -> None:
    """Cost proportional to a scale that the node sees: the edge costs what a query of scale 1 costs."""
    table = true_table(500, 35)
    scale = np.random.default_rng(0).uniform(0.5, 2.0, 500)
    rows = {**table.rows, "S": replace(table.rows["S"], scale=scale)}
    graph = estimate_graph(
        replace(table, rows=rows, costs={move: cost * scale for move, cost in table.costs.items()})
    )
    assert graph.outgoing("S")[0].cost == pytest.approx(np.ones(3))
    assert graph.outgoing("root")[1].cost.mean() == pytest.approx(scale.mean(), rel=0.1)


@pytest.mark.parametrize("lam", [0.7, 4.0])
def test_replay_equals_walking_row_by_row(lam: float) -> None:
    """The vectorised replay against a loop over rows, scales included."""
    table = true_table(300, 36)
    scale = np.random.default_rng(1).uniform(0.2, 5.0, 300)
    table = replace(table, rows={**table.rows, "S": replace(table.rows["S"], scale=scale)})
    solution = solve(estimate_graph(table), np.geomspace(0.05, 50.0, 60))
    quality, cost = replay(solution, table, lam)
    want = [walk(solution, table, row, lam) for row in range(300)]
    assert np.column_stack([quality, cost]) == pytest.approx(np.array(want))


def test_replayed_values_stand_beside_the_model() -> None:
    """Out of fold, the realised value is near the promised one at every lam, and quality rises with lam."""
    replayed = worlds.fitted().fit.replayed
    assert [r.lam for r in replayed] == list(LAMS)
    for r in replayed:
        assert r.lam * r.quality - r.cost == pytest.approx(r.model_value, abs=0.06 * (1 + r.lam))
    assert replayed[-1].quality > replayed[0].quality + 0.1


def test_errors_of_the_replays_are_those_of_their_means() -> None:
    """Scores of 0 and 1: the binomial's. What is lost and saved is counted row by row, so it is surer."""
    record = worlds.fitted().fit
    n = sum(record.n_rows.values())
    assert record.largest_error == pytest.approx(
        math.sqrt(record.largest_quality * (1 - record.largest_quality) / (n - 1))
    )
    for row in record.replayed:
        assert row.errors is not None
        assert row.errors.quality == pytest.approx(math.sqrt(row.quality * (1 - row.quality) / (n - 1)))
        assert row.errors.lost < math.hypot(row.errors.quality, record.largest_error)
    # S alone costs a fifth of L on every row, so that what is saved spreads four times as wide as its cost.
    cheapest = record.replayed[0]
    assert cheapest.cost == pytest.approx(0.2)
    assert cheapest.errors.saved == pytest.approx(4 * cheapest.errors.cost)


def by_hand(*settings: tuple[float, float, float], error: float | None = 0.01) -> PolicyArtifact:
    """Replays of lam 1, 2, ...: quality, cost and error of every mean; L alone is right on nine of ten."""
    errors = None if error is None else Errors(quality=error, cost=error, lost=error, saved=error)
    replayed = tuple(
        Replayed(lam=lam, quality=quality, cost=cost, model_value=0.0, alternative_value=0.0, errors=errors)
        for lam, quality, cost in settings
    )
    artifact = worlds.fitted()
    record = msgspec.structs.replace(
        artifact.fit, largest_quality=0.9, largest_error=0.0, replayed=replayed, n_rows={"made-up": 110}
    )
    return msgspec.structs.replace(artifact, fit=record)


Z = NormalDist().inv_cdf(CONFIDENCE)


def test_the_cheapest_lam_that_surely_keeps_a_share() -> None:
    """Of the lams whose quality is enough by more than the margin the cheapest; within it none is."""
    wanted = 0.95 * 0.9
    artifact = by_hand((1.0, wanted + 0.009 * Z, 0.3), (2.0, wanted + 0.011 * Z, 0.5), (3.0, 0.9, 0.7))
    assert artifact.cheapest_lam(0.95) == 2.0
    assert "lam 2 keeps 0.95 of L's quality" in artifact.keeping(0.95).why
    # The error of 5 % of L's own quality counts as well.
    unsure = msgspec.structs.replace(artifact.fit, largest_error=0.1)
    assert msgspec.structs.replace(artifact, fit=unsure).cheapest_lam(0.95) == 3.0
    assert artifact.cheapest_lam(10.0) is None
    assert "no lam surely keeps 10 of L's quality, by 110 rows: L alone" in artifact.keeping(10.0).why


@pytest.mark.parametrize("cost", [1.13, 1.0, 1.0 - 0.009 * Z])
def test_a_lam_that_may_cost_as_much_as_the_largest_stage_is_not_chosen(cost: float) -> None:
    """What is to save must surely save; where nothing does, the largest stage is left, and it is said."""
    artifact = by_hand((1.0, 0.5, 0.2), (2.0, 0.9, cost))
    kept = artifact.keeping(0.95)
    assert kept.lam is None
    assert "every lam that keeps 0.95 of L's quality may cost as much, by 110 rows: L alone" in kept.why
    assert by_hand((1.0, 0.9, 1.0 - 0.011 * Z)).cheapest_lam(0.95) == 1.0


def test_replays_that_do_not_say_how_sure_they_are_are_taken_at_their_word() -> None:
    """As files of versions without errors have them; what costs more than the largest is refused still."""
    artifact = by_hand((1.0, 0.855, 0.3), (2.0, 0.9, 0.7), error=None)
    assert artifact.cheapest_lam(0.95) == 1.0
    assert by_hand((1.0, 0.9, 1.13), error=None).cheapest_lam(0.95) is None
    assert str(artifact.fit.replayed[1]) == "quality 0.900, cost 0.700"


def test_a_share_is_kept_at_the_prices_of_the_batch_or_not_at_all() -> None:
    """Prices in milliseconds hold for the batch they were measured at; other prices hold for every one."""
    artifact = by_hand((2.0, 0.9, 0.5))
    assert artifact.cheapest_lam(0.95, batch=16) == 2.0
    timed = msgspec.structs.replace(artifact.ladder, price_unit="ms")
    with pytest.raises(ConfigError, match="prices at batch 1, not 16"):
        msgspec.structs.replace(artifact, ladder=timed).cheapest_lam(0.95, batch=16)


def test_a_setting_is_dearer_where_it_costs_more_for_no_more_quality() -> None:
    """A dearer one that is right more often buys something."""
    artifact = by_hand((1.0, 0.9, 1.13), (2.0, 0.91, 1.13), (3.0, 0.8, 0.9), (4.0, 0.9, 1.0))
    assert [artifact.is_dearer(row) for row in artifact.fit.replayed] == [True, False, False, False]


def test_scaling_is_kept_where_it_pays_and_dropped_where_it_cannot() -> None:
    """Priced per token, long queries are decided at lam / scale; priced per call, nothing can be scaled."""
    assert worlds.fitted().fit.scaled
    assert any(r.lam * r.quality - r.cost > r.alternative_value for r in worlds.fitted().fit.replayed)
    stages = [Stage(name, "made-up", Prices(price, 0.0, 0.0)) for name, price in (("S", 1.0), ("L", 5.0))]
    artifact = small_fit(few(), Ladder("per call", tuple(stages), "declared", "made up"))
    assert not artifact.fit.scaled
    assert artifact.evidence().judge(few()[0].query, worlds.drafts_of(few()[0], "S")).scale == 1.0


def test_a_scale_that_does_not_pay_is_not_applied() -> None:
    """At a lam where nothing but the cheapest answer is ever bought, lengths are known and change nothing."""
    artifact = fit(few(), worlds.ladder(), fitted_at="2026-01-01", lams=(1e-6,))
    assert not artifact.fit.scaled
    evidence = artifact.evidence()
    assert {evidence.judge(t.query, worlds.drafts_of(t, "S")).scale for t in few()} == {1.0}


@pytest.mark.slow
def test_the_same_rows_in_any_order_give_the_same_artifact() -> None:
    """Folds and cells depend on what a row is, not on where it stands."""
    traces = few()
    assert small_fit(traces) == small_fit(traces[::-1])


def test_the_unit_is_the_mean_cost_of_the_largest_stage() -> None:
    """And the record counts what went in."""
    traces = few()
    artifact = small_fit(traces)
    assert artifact.ladder.unit() == pytest.approx(
        np.mean([5.0 * trace.outcomes["L"].draft.usage.n_decoded for trace in traces])
    )
    assert (artifact.fit.n_rows, artifact.fit.n_unscored, artifact.fit.fitted_at) == (
        {"made-up": 120},
        0,
        "2026-01-01",
    )


@pytest.mark.slow
def test_three_stages_make_a_tree_of_eight_nodes() -> None:
    """From every node an edge to each larger stage; skipping allowed, going back not."""
    stages = [
        Stage(name, "made-up", Prices(0.0, 0.0, price)) for name, price in zip("SML", (1, 2, 5), strict=True)
    ]
    ladder = Ladder("three", tuple(stages), "declared", "made up")
    traces = [
        replace(t, outcomes={**t.outcomes, "M": replace(o, draft=replace(o.draft, stage="M"))})
        for t in few()
        for o in [t.outcomes["S"]]
    ]
    graph = small_fit(traces, ladder).graph()
    assert [node.name for node in graph.nodes] == ["root", "S", "M", "L", "S+M", "S+L", "M+L", "S+M+L"]
    assert {(e.source, str(e.action), e.target) for e in graph.edges} == {
        ("root", "S", "S"),
        ("root", "M", "M"),
        ("root", "L", "L"),
        ("S", "M", "S+M"),
        ("S", "L", "S+L"),
        ("M", "L", "M+L"),
        ("S+M", "L", "S+M+L"),
    }
    assert [node.name for node in graph.nodes if not node.may_stop] == ["root"]


def test_verifications_add_states_to_read_in() -> None:
    """S's answer read by L is a state; L goes on from it, or is asked without having read."""
    graph = worlds.fitted_verified().graph()
    assert [node.name for node in graph.nodes] == ["root", "S", "L", "S>L", "S+L"]
    assert [(e.source, str(e.action), e.target) for e in graph.edges] == [
        ("root", "S", "S"),
        ("root", "L", "L"),
        ("S", "L", "S+L"),
        ("S", ">L", "S>L"),
        ("S>L", "L", "S+L"),
    ]


def test_verification_changes_nothing_where_it_is_not_used() -> None:
    """Without its verified states, the problem is the one that is fitted on traces without verifications."""
    assert worlds.fitted_verified().problem.unverified() == worlds.fitted().problem
    assert worlds.fitted_verified().model.nodes == worlds.fitted().model.nodes


def test_reading_and_going_on_cost_what_the_counts_say() -> None:
    """Mean cost of both moves over all rows, from counts by hand: one pass to read, then what is left."""
    rng = np.random.default_rng(7)
    traces = worlds.verified(worlds.sample(800, rng)[0], rng)
    artifact = worlds.fitted_verified()
    unit = artifact.ladder.unit()
    reads = [trace.verifications["S>L"] for trace in traces]
    left = [len(t.outcomes["L"].draft.tokens) - v.n_accepted for t, v in zip(traces, reads, strict=True)]
    graph = artifact.graph()
    edges = {(edge.source, str(edge.action)): edge for edge in graph.edges}
    at_small = graph.start @ edges["root", "S"].kernel
    read = edges["S", ">L"]
    scale = 1.0 if not artifact.fit.scaled else None
    assert scale is None or at_small @ read.cost == pytest.approx(5.0 / unit, rel=0.02)
    expected = np.mean([max(0.0, 5.0 * (n - 1)) for n in left]) / unit
    paid = at_small @ read.kernel @ edges["S>L", "L"].cost
    assert scale is None or paid == pytest.approx(expected, rel=0.05)


def test_cheap_verification_is_used_and_pays() -> None:
    """Out of fold, at every lam from 1 on the policy that may read is worth as much, and somewhere more."""
    pairs = zip(worlds.fitted_verified().fit.replayed, worlds.fitted().fit.replayed, strict=True)
    gains = [(a.lam * a.quality - a.cost) - (b.lam * b.quality - b.cost) for a, b in pairs if a.lam >= 1.0]
    assert min(gains) > -0.05
    assert max(gains) > 0.1


def test_verifications_on_some_rows_only_are_refused() -> None:
    """Kernels are estimated from every row, so a collection that was cut short is named."""
    rng = np.random.default_rng(3)
    some = [*worlds.verified(few()[:50], rng), *few()[50:]]
    with pytest.raises(DataError, match=r"verification 'S>L' is recorded for 50 of 120 queries"):
        small_fit(some)


def test_rows_with_a_drafter_and_rows_without_are_not_mixed() -> None:
    """What an answer took depends on it, so a fit on both would price neither."""
    rng = np.random.default_rng(3)
    rows = worlds.verified(few(), rng)
    drafted = [replace(row, continuations={"S>L": NO_CALL}) for row in rows[:50]]
    with pytest.raises(DataError, match=r"'S>L' was recorded with a drafter for 50 of 120 queries"):
        small_fit([*drafted, *rows[50:]])


def test_a_ladder_of_one_stage_is_fitted_too() -> None:
    """There is nothing to choose, and the policy says so."""
    ladder = Ladder("one", worlds.ladder().stages[1:], "declared", "made up")
    traces = [replace(t, outcomes={"L": t.outcomes["L"]}) for t in few()]
    policy = small_fit(traces, ladder).policy(5.0)
    assert policy.decide(traces[0].query, {}).action == Action.draft("L")
    assert policy.decide(traces[0].query, worlds.drafts_of(traces[0], "L")).action == STOP


def test_graded_scores_are_fitted_as_expected_quality() -> None:
    """Every answer scored .3: every probability is about .3."""
    traces = [rescored(t, 0.3) for t in few()]
    evidence = small_fit(traces).evidence()
    p = evidence.judge(traces[0].query, worlds.drafts_of(traces[0])).p_good
    assert list(p.values()) == pytest.approx([0.3, 0.3], abs=0.03)


def rescored(trace: Trace, score: float | None, stages: str = "SL") -> Trace:
    outcomes = {s: replace(o, score=score) if s in stages else o for s, o in trace.outcomes.items()}
    return replace(trace, outcomes=outcomes)


@pytest.mark.slow
def test_unscored_queries_are_left_out_and_counted() -> None:
    """One stage without a score is enough to leave the query out."""
    traces = few(130)
    mixed = [rescored(t, None, "L") if i < 10 else t for i, t in enumerate(traces)]
    artifact = small_fit(mixed)
    assert (artifact.fit.n_rows, artifact.fit.n_unscored) == ({"made-up": 120}, 10)
    assert artifact.model == small_fit(traces[10:]).model


def first_changed(change: Callable[[Trace], Trace]) -> list[Trace]:
    return [change(few()[0]), *few()[1:]]


@pytest.mark.parametrize(
    ("traces", "message"),
    [
        ([], "no traces to fit on"),
        (few(MIN_ROWS - 1), r"99 of 99 queries are scored on all of S, L; a policy needs at least 100"),
        ([rescored(t, None) for t in few()], "0 of 120 queries are scored"),
        (
            first_changed(lambda t: replace(t, outcomes={"S": t.outcomes["S"]})),
            "'q0' .* no outcome of stage 'L'",
        ),
        (first_changed(lambda t: rescored(t, math.nan, "S")), "'q0' of 'made-up': stage 'S' has score nan"),
        (first_changed(lambda t: rescored(t, 1.5, "L")), "stage 'L' has score 1.5, not in"),
        ([*few(), few()[7]], "query 'q7' of 'made-up' occurs more than once"),
    ],
)
def test_traces_that_cannot_be_fitted_are_refused(traces: list[Trace], message: str) -> None:
    """Each with the row and the remedy."""
    with pytest.raises(DataError, match=message):
        small_fit(traces)


@pytest.mark.parametrize("lams", [(), (0.0,), (-1.0, 2.0), (math.nan,), (math.inf,)])
def test_lams_that_cannot_be_replayed_are_refused(lams: tuple[float, ...]) -> None:
    """Positive and finite, at least one."""
    with pytest.raises(ConfigError, match="lams to replay must be positive"):
        fit(few(), worlds.ladder(), fitted_at="2026-01-01", lams=lams)


def test_a_largest_stage_that_costs_nothing_is_refused() -> None:
    """There would be no unit to count in."""
    stages = (Stage("S", "made-up", Prices(0.0, 1e-3, 0.0)), Stage("L", "made-up", Prices(0.0, 1.0, 0.0)))
    free = [
        replace(t, outcomes={**t.outcomes, "L": replace(o, draft=replace(o.draft, usage=Usage(0, 1, 1)))})
        for t in few()
        for o in [t.outcomes["L"]]
    ]
    with pytest.raises(ConfigError, match=r"stage 'L' of ladder 'free' costs 0\.0"):
        small_fit(free, Ladder("free", stages, "declared", "made up"))


@pytest.mark.slow
def test_every_batch_size_with_prices_is_replayed() -> None:
    """Where S costs as much as L it is not asked first, so the same quality is bought otherwise."""
    stages = tuple(replace(stage, batched={8: Prices(0.0, 0.0, 5.0)}) for stage in worlds.ladder().stages)
    artifact = small_fit(few(), replace(worlds.ladder(), stages=stages))
    plain = small_fit(few())
    assert artifact.fit.replayed == plain.fit.replayed
    [there] = artifact.fit.batched[8]
    [here] = plain.fit.replayed
    assert there.cost > here.cost
    assert artifact.ladder.unit(8) == pytest.approx(artifact.ladder.unit())
    assert artifact.cheapest_lam(0.5, batch=8) == 2.0


@pytest.mark.slow
def test_refused_queries_are_left_out_and_counted() -> None:
    """A query that one stage refused teaches nothing of the others either: the fit is that of the rest."""
    traces = few()
    why = Failure(Action.draft("L"), "RefusedError", "filtered")
    refused = [
        Trace(replace(t.query, id=f"no-{t.query.id}"), {"S": t.outcomes["S"]}, refusals={"L": why})
        for t in traces[:7]
    ]
    artifact, plain = (small_fit(rows) for rows in ([*traces, *refused], traces))
    assert (artifact.fit.n_refused, artifact.fit.n_unscored) == (7, 0)
    assert msgspec.structs.replace(artifact.fit, n_refused=0) == plain.fit
    assert artifact.problem == plain.problem


@pytest.mark.slow
def test_a_verifier_that_accepts_nothing_is_not_asked_to_read() -> None:
    """Where two stages agree on no draft's first token, verifying is told and left out of the problem."""
    rows = worlds.verified(few(), np.random.default_rng(0))
    assert not rejected_pairs(rows)
    rejecting = [
        replace(row, verifications={p: replace(v, n_accepted=0) for p, v in row.verifications.items()})
        for row in rows
    ]
    n_read = sum(len(row.verifications["S>L"].tokens) for row in rows)
    assert rejected_pairs(rejecting) == {"S>L": (0, n_read)}
    assert small_fit(rejecting).problem == small_fit(few()).problem
    assert small_fit(rows).problem != small_fit(few()).problem
