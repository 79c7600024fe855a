"""What always holds on one stopping problem, each statement on random problems (`pytest -m property`).

Every property here fails under at least one one-line break of the code: see test_mutations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asd.evidence import Judgement
from asd.policies import FixedStage, Myopic, OptimalPolicy, Oracle, RandomMix
from asd.prices import Prices
from asd.stopping.graph import Edge, Graph, Node
from asd.stopping.kernels import Binning, estimate_kernel, mean_by_bin
from asd.stopping.recursion import evaluate, one_step, solve
from asd.types import STOP, VERIFY, Action, Draft, Outcome, Query, Trace, Usage
from tests.oracles import all_policies, linear_programme, value_through_channel, walk_forward
from tests.strategies import (
    distributions,
    graphs_with_channel,
    graphs_with_dearer,
    graphs_with_merging,
    graphs_with_policy,
    set_graphs,
    small_graphs,
    sweeps,
    vectors,
    verified_graphs,
)

EPS = 1e-9

lams_from_zero = st.integers(0, 400).map(lambda step: step / 20)
positive_lams = st.integers(1, 400).map(lambda step: step / 20)


# --- lam ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(set_graphs(), sweeps(2))
def test_value_never_falls_with_lam(graph, lams):
    """W is non-decreasing in lam at every node and bin."""
    for value in solve(graph, lams).value.values():
        assert (np.diff(value, axis=0) >= -EPS).all()


@given(set_graphs(), sweeps(3))
def test_value_is_convex_in_lam(graph, lams):
    """W lies on or below the chord between any two lams."""
    solution = solve(graph, lams)
    width = np.diff(solution.lams)[:, None]
    for value in solution.value.values():
        slope = np.diff(value, axis=0) / width
        assert (np.diff(slope, axis=0) >= -EPS).all()


@given(set_graphs(), sweeps(2))
def test_slope_of_the_value_in_lam_is_the_expected_quality(graph, lams):
    """E[quality] is a subgradient of W: every tangent stays below the curve."""
    solution = solve(graph, lams)
    width = np.diff(solution.lams)[:, None]
    for name, value in solution.value.items():
        rise, quality = np.diff(value, axis=0), solution.quality[name]
        assert (rise >= quality[:-1] * width - EPS).all()
        assert (rise <= quality[1:] * width + EPS).all()


@given(small_graphs(), sweeps())
def test_value_is_piecewise_linear_in_lam(graph, lams):
    """W is the upper envelope of finitely many lines, one per policy: lam * quality - cost."""
    lines = np.array([walk_forward(graph, actions) for actions in all_policies(graph)])
    envelope = [(lam * lines[:, 0] - lines[:, 1]).max() for lam in lams]
    np.testing.assert_allclose(solve(graph, lams).expected_value, envelope, atol=EPS)


@given(set_graphs(), sweeps(2))
def test_expected_quality_never_falls_with_lam(graph, lams):
    """Who pays more for quality gets no less of it."""
    solution = solve(graph, lams)
    assert (np.diff(solution.expected_quality) >= -EPS).all()


@given(set_graphs(), sweeps(2))
def test_expected_cost_never_falls_with_lam(graph, lams):
    """Who pays more for quality spends no less."""
    solution = solve(graph, lams)
    assert (np.diff(solution.expected_cost) >= -EPS).all()


@given(set_graphs(min_stages=2), sweeps(2))
def test_stop_sets_shrink_with_lam(graph, lams):
    """A state in which the optimum goes on at some lam is never stopped in at a larger one."""
    solution = solve(graph, lams)
    for node in graph.nodes:
        stops = solution.stop_set(node.name)
        assert (stops[1:] <= stops[:-1]).all()


@given(set_graphs(min_stages=2), sweeps(2))
def test_thresholds_never_fall_with_lam(graph, lams):
    """Where a stop set is an upper interval, its border does not fall as lam grows."""
    solution = solve(graph, lams)
    for node in graph.nodes:
        found = [solution.threshold(node.name, i) for i in range(len(lams))]
        thresholds = [t for t in found if t is not None]
        assert thresholds == sorted(thresholds)


@given(set_graphs())
def test_at_lam_zero_the_cheapest_way_out_is_taken(graph):
    """With quality worth nothing, W is minus the least cost of one stage and every other node stops."""
    solution = solve(graph, [0.0])
    cheapest = np.min([edge.cost for edge in graph.outgoing("root")], axis=0)
    np.testing.assert_allclose(solution.value["root"][0], -cheapest, atol=EPS)
    assert all(solution.stop_set(node.name).all() for node in graph.nodes[1:])


@pytest.mark.slow
@given(set_graphs(), sweeps())
def test_a_sweep_equals_its_lams_one_by_one(graph, lams):
    """Solving many lams at once changes nothing about any of them."""
    together = solve(graph, lams)
    for i, lam in enumerate(lams):
        alone = solve(graph, [lam])
        for node in graph.nodes:
            np.testing.assert_array_equal(together.action[node.name][i], alone.action[node.name][0])
            np.testing.assert_allclose(together.value[node.name][i], alone.value[node.name][0], atol=EPS)


# --- cost -----------------------------------------------------------------------------------------------


@given(graphs_with_dearer(), lams_from_zero)
def test_thresholds_never_rise_with_the_cost_of_going_on(graphs, lam):
    """Where a stop set is an upper interval, a dearer way on does not raise its border."""
    cheap, dear = (solve(graph, [lam]) for graph in graphs)
    for node in graphs[0].nodes:
        before, after = cheap.threshold(node.name, 0), dear.threshold(node.name, 0)
        assert before is None or after is None or after <= before


@given(graphs_with_dearer(), sweeps())
def test_stop_sets_grow_with_the_cost_of_going_on(graphs, lams):
    """A state that is stopped in stays so when any cost rises."""
    cheap, dear = (solve(graph, lams) for graph in graphs)
    for node in graphs[0].nodes:
        assert (cheap.stop_set(node.name) <= dear.stop_set(node.name)).all()


@given(graphs_with_dearer(), sweeps())
def test_value_never_rises_with_cost(graphs, lams):
    """Dearer edges never make any state worth more."""
    cheap, dear = (solve(graph, lams) for graph in graphs)
    for node in graphs[0].nodes:
        assert (dear.value[node.name] <= cheap.value[node.name] + EPS).all()


@given(set_graphs(), sweeps(), st.integers(1, 40))
def test_scaling_all_costs_equals_dividing_lam(graph, lams, tenths):
    """Costs times s at lam is the problem at lam / s: the same actions, values times s."""
    s = tenths / 10
    dear = solve(_with_costs_times(graph, s), lams)
    plain = solve(graph, np.array(lams) / s)
    for node in graph.nodes:
        np.testing.assert_array_equal(dear.action[node.name], plain.action[node.name])
        np.testing.assert_allclose(dear.value[node.name], s * plain.value[node.name], atol=EPS)


@given(set_graphs(min_stages=2), positive_lams, st.integers(1, 40))
def test_a_long_query_is_decided_as_if_all_its_costs_were_scaled(graph, lam, tenths):
    """The optimal policy decides a query s times longer as the problem with costs times s would."""
    s = tenths / 10
    dear = solve(_with_costs_times(graph, s), [lam])
    plain = solve(graph, sorted({lam, lam / s}))
    for node in graph.nodes:
        for b in range(node.n_bins):
            policy = OptimalPolicy(_FixedView(node.name, b, s), plain, lam)
            decision = policy.decide(QUERY, {})
            assert decision.action == dear.chosen(node.name, b, 0)
            assert decision.values == pytest.approx(dear.action_values(node.name, b, 0), abs=EPS)


# --- policies -------------------------------------------------------------------------------------------


@given(small_graphs(), lams_from_zero)
def test_value_equals_brute_force_over_all_policies(graph, lam):
    """No deterministic policy does better, and one does as well."""
    worths = [walk_forward(graph, actions) for actions in all_policies(graph)]
    best = max(lam * quality - cost for quality, cost in worths)
    assert solve(graph, [lam]).expected_value[0] == pytest.approx(best, abs=EPS)


@given(set_graphs(), lams_from_zero)
def test_value_equals_a_linear_programme(graph, lam):
    """W is the least function that is at least every option's value."""
    assert solve(graph, [lam]).expected_value[0] == pytest.approx(linear_programme(graph, lam), abs=1e-6)


@given(graphs_with_policy(), sweeps())
def test_evaluation_equals_carrying_mass_forward(problem, lams):
    """Backward evaluation of any policy agrees with a forward walk through the graph."""
    graph, actions = problem
    quality, cost = walk_forward(graph, actions)
    found = evaluate(graph, actions, lams)
    np.testing.assert_allclose(found.expected_quality, quality, atol=EPS)
    np.testing.assert_allclose(found.expected_cost, cost, atol=EPS)
    np.testing.assert_allclose(found.expected_value, np.array(lams) * quality - cost, atol=EPS)


@given(graphs_with_policy(), sweeps())
def test_value_is_at_least_that_of_any_policy_in_every_state(problem, lams):
    """The optimum is optimal from every node and bin on, not only at the root."""
    graph, actions = problem
    best, other = solve(graph, lams), evaluate(graph, actions, lams)
    for node in graph.nodes:
        assert (best.value[node.name] >= other.value[node.name] - EPS).all()


@given(set_graphs(), sweeps())
def test_evaluating_the_optimum_gives_its_value_back(graph, lams):
    """The actions returned are worth what the solution says they are worth."""
    best = solve(graph, lams)
    again = evaluate(graph, best.action, lams)
    for node in graph.nodes:
        np.testing.assert_allclose(again.quality[node.name], best.quality[node.name], atol=EPS)
        np.testing.assert_allclose(again.cost[node.name], best.cost[node.name], atol=EPS)


@given(set_graphs(), sweeps())
def test_value_is_at_least_that_of_every_fixed_stage(graph, lams):
    """No single stage run always beats the optimum."""
    best = solve(graph, lams).expected_value
    for i in range(len(graph.outgoing("root"))):
        assert (best >= evaluate(graph, _fixed(graph, i), lams).expected_value - EPS).all()


@given(set_graphs(), sweeps(), distributions(3))
def test_value_is_at_least_that_of_every_random_mix(graph, lams, mix):
    """No lottery over single stages beats the optimum."""
    stages = range(len(graph.outgoing("root")))
    values = [evaluate(graph, _fixed(graph, i), lams).expected_value for i in stages]
    weights = mix[: len(values)]
    assume(weights.sum() > 0)
    mixed = weights @ np.array(values) / weights.sum()
    assert (solve(graph, lams).expected_value >= mixed - EPS).all()


@given(set_graphs(), sweeps(), st.integers(0, 21))
def test_value_is_at_least_that_of_every_static_walk(graph, lams, step):
    """No climb with one fixed threshold beats the optimum."""
    walk = evaluate(graph, _static_walk(graph, step / 20), lams)
    assert (solve(graph, lams).expected_value >= walk.expected_value - EPS).all()


@given(set_graphs(), lams_from_zero)
def test_value_is_at_least_that_of_one_step_look_ahead(graph, lam):
    """Looking one step ahead never beats looking all the way."""
    myopic = evaluate(graph, one_step(graph, [lam]), [lam])
    assert solve(graph, [lam]).expected_value[0] >= myopic.expected_value[0] - EPS


@given(set_graphs(), lams_from_zero)
def test_one_step_look_ahead_is_optimal_when_one_step_is_all_there_is(graph, lam):
    """On the graph cut behind its first stages, looking one step ahead is exact."""
    singles = {edge.target for edge in graph.outgoing("root")}
    nodes = tuple(node for node in graph.nodes if node.name == "root" or node.name in singles)
    short = Graph(nodes, graph.outgoing("root"), graph.start)
    myopic = evaluate(short, one_step(short, [lam]), [lam])
    assert myopic.expected_value[0] == pytest.approx(solve(short, [lam]).expected_value[0], abs=EPS)


@given(set_graphs(), lams_from_zero)
def test_the_myopic_policy_takes_the_actions_of_one_step_look_ahead(graph, lam):
    """The policy and its evaluation on the graph are the same policy, in value."""
    for node in graph.nodes:
        chosen = one_step(graph, [lam])[node.name][0]
        for b in range(node.n_bins):
            decision = Myopic(_FixedView(node.name, b, 1.0), graph, lam).decide(QUERY, {})
            actions = [STOP, *(edge.action for edge in graph.outgoing(node.name))]
            assert decision.values[actions[chosen[b] + 1]] == pytest.approx(
                decision.values[decision.action], abs=EPS
            )


# --- the shape of the problem ---------------------------------------------------------------------------


@given(set_graphs(min_stages=2), sweeps(), st.integers(0, 11))
def test_adding_an_edge_never_lowers_the_value(graph, lams, which):
    """One more way to go on makes no state worth less."""
    left_out = graph.edges[which % len(graph.edges)]
    fewer = Graph(graph.nodes, tuple(e for e in graph.edges if e is not left_out), graph.start)
    without, full = solve(fewer, lams), solve(graph, lams)
    for node in graph.nodes:
        assert (full.value[node.name] >= without.value[node.name] - EPS).all()


@given(set_graphs(min_stages=2), sweeps())
def test_adding_a_node_never_lowers_the_value(graph, lams):
    """One more stage on the ladder, with all the sets it brings, makes no state worth less."""
    last = graph.outgoing("root")[-1].action.stage
    kept = tuple(node for node in graph.nodes if last not in node.name)
    edges = tuple(edge for edge in graph.edges if last not in edge.target)
    without, full = solve(Graph(kept, edges, graph.start), lams), solve(graph, lams)
    for node in kept:
        assert (full.value[node.name] >= without.value[node.name] - EPS).all()


@given(verified_graphs(), sweeps())
def test_adding_verification_never_lowers_the_value(graph, lams):
    """Letting larger stages read the answer in hand makes no state worth less."""
    plain = _without_verification(graph)
    without, full = solve(plain, lams), solve(graph, lams)
    for node in plain.nodes:
        assert (full.value[node.name] >= without.value[node.name] - EPS).all()


@given(verified_graphs(max_stages=2), lams_from_zero)
def test_value_with_verification_equals_brute_force(graph, lam):
    """The closed loop is exact where answers can be read: stop, go on, start anew or read, in every order."""
    worths = [walk_forward(graph, actions) for actions in all_policies(graph)]
    best = max(lam * quality - cost for quality, cost in worths)
    assert solve(graph, [lam]).expected_value[0] == pytest.approx(best, abs=EPS)


@given(verified_graphs(), lams_from_zero)
def test_value_with_verification_equals_a_linear_programme(graph, lam):
    """With three stages that read each other's answers, too many policies to enumerate."""
    assert solve(graph, [lam]).expected_value[0] == pytest.approx(linear_programme(graph, lam), abs=1e-6)


@given(graphs_with_merging(), sweeps())
def test_finer_evidence_is_worth_at_least_its_merging_on_the_fine_process(problem, lams):
    """The optimum of a model with merged bins, valued on the process as it is, is no better."""
    graph, merged = problem
    coarse = solve(_merge(graph, merged), lams)
    lifted = {name: action[:, merged[name]] for name, action in coarse.action.items()}
    found = evaluate(graph, lifted, lams)
    assert (solve(graph, lams).expected_value >= found.expected_value - EPS).all()


@given(graphs_with_channel(), lams_from_zero)
def test_evidence_is_worth_at_least_its_garbling(problem, lam):
    """A policy that sees the bins through a noisy channel does no better than one that sees them."""
    garbled = value_through_channel(*problem, lam)
    assert solve(problem[0], [lam]).expected_value[0] >= garbled - EPS


@given(set_graphs(min_stages=2), sweeps())
def test_relabelling_bins_changes_nothing(graph, lams):
    """The order of the bins carries no meaning: reversed everywhere, every state keeps its value."""
    plain, reversed_ = solve(graph, lams), solve(_reverse_bins(graph), lams)
    for node in graph.nodes:
        np.testing.assert_allclose(reversed_.value[node.name][:, ::-1], plain.value[node.name], atol=EPS)
        np.testing.assert_array_equal(reversed_.action[node.name][:, ::-1], plain.action[node.name])


@given(set_graphs(), sweeps(), st.integers(1, 20))
def test_better_answers_never_lower_the_value(graph, lams, steps):
    """Raising every success probability makes no state worth less."""
    better = [Node(n.name, np.minimum(n.p + steps / 20, 1), n.may_stop) for n in graph.nodes]
    before = solve(graph, lams)
    after = solve(Graph(tuple(better), graph.edges, graph.start), lams)
    for node in graph.nodes:
        assert (after.value[node.name] >= before.value[node.name] - EPS).all()


# --- choices --------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(set_graphs(min_stages=2), sweeps())
def test_stopping_beats_going_on_when_they_are_worth_the_same(graph, lams):
    """A free step that changes nothing is never taken."""
    for node in graph.nodes[1:]:
        free = Edge(node.name, "again", np.zeros(node.n_bins), np.eye(node.n_bins), Action.draft("free"))
        extended = Graph((*graph.nodes, Node("again", node.p)), (*graph.edges, free), graph.start)
        index = len(graph.outgoing(node.name))
        assert (solve(extended, lams).action[node.name] != index).all()


@given(set_graphs(), sweeps())
def test_the_edge_listed_first_is_taken_among_equals(graph, lams):
    """Of an edge and its twin listed later, the twin is never taken."""
    twins = [
        Edge(e.source, e.target, e.cost, e.kernel, Action.draft(f"{e.action}-twin")) for e in graph.edges
    ]
    solution = solve(Graph(graph.nodes, (*graph.edges, *twins), graph.start), lams)
    for node in graph.nodes:
        assert (solution.action[node.name] < max(1, len(graph.outgoing(node.name)))).all()


@given(set_graphs(), sweeps())
def test_the_action_taken_has_the_largest_value_of_all_open_ones(graph, lams):
    """What `action_values` shows explains what `chosen` says, and its maximum is W."""
    solution = solve(graph, lams)
    for node, i in ((node, i) for node in graph.nodes for i in range(len(lams))):
        for b in range(node.n_bins):
            values = solution.action_values(node.name, b, i)
            expected = {edge.action for edge in graph.outgoing(node.name)}
            assert set(values) == (expected | {STOP} if node.may_stop else expected)
            best = pytest.approx(max(values.values()), abs=EPS)
            assert values[solution.chosen(node.name, b, i)] == best
            assert solution.value[node.name][i, b] == best


@given(set_graphs(min_stages=2), lams_from_zero)
def test_a_threshold_is_reported_exactly_where_it_describes_the_stop_set(graph, lam):
    """Stop if p >= threshold, and None only where no number does that."""
    solution = solve(graph, [lam])
    for node in graph.nodes[1:]:
        threshold, stops = solution.threshold(node.name, 0), solution.stop_set(node.name)[0]
        if threshold is None:
            assert not any(((node.p >= t) == stops).all() for t in (*node.p, math.inf))
        else:
            np.testing.assert_array_equal(node.p >= threshold, stops)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=6, unique=True), positive_lams)
def test_the_nearest_solved_lam_is_nearest_on_a_log_scale(steps, lam):
    """`nearest` agrees with a search through all ratios."""
    lams = np.array(sorted(steps)) / 20
    graph = Graph((Node("root", np.ones(1)),), (), np.ones(1))
    found = solve(graph, lams).nearest(lam)
    with np.errstate(divide="ignore"):
        distance = np.abs(np.log(lams) - math.log(lam))
    assert distance[found] <= distance.min() + EPS


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=6), lams_from_zero)
def test_the_oracle_is_worth_at_least_every_fixed_stage_per_query(scored, lam):
    """With foresight every single query is worth at least as much as with any stage chosen blindly."""
    traces = [_trace(i, {"A": low / 20, "B": high / 20}) for i, (low, high) in enumerate(scored)]
    oracle = Oracle.from_traces(traces, PRICES, 2.0, lam)
    for trace in traces:
        worth = {
            stage: lam * outcome.score - PRICES[stage].cost(outcome.draft.usage) / 2.0
            for stage, outcome in trace.outcomes.items()
        }
        chosen = oracle.decide(trace.query, {}).action.stage
        for policy in (FixedStage("A"), FixedStage("B"), RandomMix({"A": 1, "B": 2}, seed=0)):
            assert worth[chosen] >= worth[policy.decide(trace.query, {}).action.stage] - EPS


# --- estimation -----------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.integers(1, 8))
def test_no_bin_is_empty_where_bins_were_fitted(steps, n_bins):
    """Every bin holds some of the values it was fitted on, and there are no more than asked for."""
    p = np.array(steps) / 20
    binning = Binning.fit(p, n_bins)
    assert binning.n_bins <= n_bins
    assert set(binning.index(p).tolist()) == set(range(binning.n_bins))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(1, 8))
def test_bins_follow_the_order_of_the_values_one_by_one_or_at_once(steps, n_bins):
    """A larger value is never in a lower bin, and one number is binned as an array of them is."""
    p = np.sort(np.array(steps) / 20)
    binning = Binning.fit(p, n_bins)
    indices = binning.index(p)
    assert (np.diff(indices) >= 0).all()
    assert [binning.index(x) for x in p.tolist()] == indices.tolist()


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_an_estimated_kernel_is_a_distribution_that_no_seen_target_is_missing_from(
    n_source, n_target, n, seed
):
    """Rows sum to 1, and every target bin that occurred stays possible from everywhere."""
    rng = np.random.default_rng(seed)
    source, target = rng.integers(n_source, size=n), rng.integers(n_target, size=n)
    kernel = estimate_kernel(source, target, n_source, n_target)
    np.testing.assert_allclose(kernel.sum(axis=1), 1, atol=EPS)
    assert (kernel[:, np.unique(target)] > 0).all()


@given(vectors(12, 20, 20), st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_a_mean_by_bin_lies_between_its_own_mean_and_the_overall_one(values, labels):
    """Shrinking never overshoots in either direction."""
    bins = np.array(labels)
    estimate = mean_by_bin(values, bins, 4)
    for b in range(4):
        own = values[bins == b].mean() if (bins == b).any() else values.mean()
        low, high = sorted((own, values.mean()))
        assert low - EPS <= estimate[b] <= high + EPS


# --- what the statements above are made of -----------------------------------------------------------------

QUERY = Query("q", "d", "prompt")
PRICES = {"A": Prices(0.5, 0, 0), "B": Prices(2.0, 0, 0)}


@dataclass(frozen=True)
class _FixedView:
    """Evidence that sees one state, whatever it is shown."""

    node: str
    bin: int
    scale: float

    def judge(self, _query, _drafts, _verification=None):
        return Judgement(self.node, self.bin, None, {}, self.scale)


def _trace(number: int, scores: dict[str, float]) -> Trace:
    drafts = {stage: Draft(stage, "", (), (), True, Usage(1, 1, 1), 0.0) for stage in scores}
    outcomes = {stage: Outcome(drafts[stage], score) for stage, score in scores.items()}
    return Trace(Query(str(number), "d", "prompt"), outcomes)


def _with_costs_times(graph: Graph, s: float) -> Graph:
    edges = [Edge(e.source, e.target, s * e.cost, e.kernel, e.action) for e in graph.edges]
    return Graph(graph.nodes, tuple(edges), graph.start)


def _without_verification(graph: Graph) -> Graph:
    nodes = tuple(node for node in graph.nodes if VERIFY not in node.name)
    edges = tuple(edge for edge in graph.edges if VERIFY not in edge.source + edge.target)
    return Graph(nodes, edges, graph.start)


def _fixed(graph: Graph, stage: int) -> dict[str, np.ndarray]:
    """Actions that run one stage and stop."""
    return {n.name: np.full(n.n_bins, -1 if n.may_stop else stage) for n in graph.nodes}


def _static_walk(graph: Graph, threshold: float) -> dict[str, np.ndarray]:
    """Actions that climb A, B, C until p is at least the threshold."""
    actions = {}
    for node in graph.nodes:
        stops = np.full(node.n_bins, not graph.outgoing(node.name)) | (node.may_stop & (node.p >= threshold))
        actions[node.name] = np.where(stops, -1, 0)  # the first edge runs the lowest stage not yet run
    return actions


def _merge(graph: Graph, merged: dict[str, np.ndarray]) -> Graph:
    """The problem as an observer models it who cannot tell some bins apart and weighs them alike."""
    joins = {}
    for name, labels in merged.items():
        join = np.equal.outer(np.arange(labels.max() + 1), labels).astype(float)
        joins[name] = join / join.sum(axis=1, keepdims=True)
    nodes = [Node(n.name, joins[n.name] @ n.p, n.may_stop) for n in graph.nodes]
    edges = []
    for e in graph.edges:
        arrives = e.kernel @ (joins[e.target].T > 0)
        edges.append(Edge(e.source, e.target, joins[e.source] @ e.cost, joins[e.source] @ arrives, e.action))
    start = (joins["root"] > 0) @ graph.start
    return Graph(tuple(nodes), tuple(edges), start)


def _reverse_bins(graph: Graph) -> Graph:
    nodes = [Node(n.name, n.p[::-1], n.may_stop) for n in graph.nodes]
    edges = [Edge(e.source, e.target, e.cost[::-1], e.kernel[::-1, ::-1], e.action) for e in graph.edges]
    return Graph(tuple(nodes), tuple(edges), graph.start[::-1])
