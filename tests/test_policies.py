"""Every policy against decisions worked by hand, and the optimal one replayed against its own solution."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from asd.errors import ConfigError, DataError, PolicyMismatchError
from asd.evidence import Judgement
from asd.policies import (
    ClosedForm,
    FixedStage,
    Lossless,
    Myopic,
    OptimalPolicy,
    Oracle,
    Policy,
    RandomMix,
    StaticWalk,
)
from asd.prices import Prices
from asd.stopping.graph import Edge, Graph, Node
from asd.stopping.recursion import solve
from asd.types import STOP, Action, Draft, Outcome, Query, Trace, Usage, Verification

STAGES = ("S", "M", "L")
QUERY = Query("q1", "d", "prompt")


@dataclass
class SeenAs:
    """Evidence with a fixed p_good per stage; the best answer is the likeliest, the bin 0 or 1 at p >= .5."""

    p_good: Mapping[str, float] = field(default_factory=dict)
    scale: float = 1.0

    def judge(self, _query: Query, drafts: Mapping[str, Draft], _verification: object = None) -> Judgement:
        p = {stage: self.p_good[stage] for stage in drafts}
        answer = max(p, key=p.__getitem__) if p else None
        node = "+".join(stage for stage in STAGES if stage in drafts) or "root"
        return Judgement(node, int(answer is not None and p[answer] >= 0.5), answer, p, self.scale)


def draft(stage: str, n_decoded: int = 1) -> Draft:
    return Draft(stage, "", (), (), True, Usage(0, n_decoded, n_decoded), 0.0)


def drafts(*stages: str) -> dict[str, Draft]:
    return {stage: draft(stage) for stage in stages}


def run(policy: Policy, query: Query = QUERY) -> tuple[list[str], str | None]:
    """Let a policy decide until it stops: the stages run, in order, and the answer returned."""
    bought: dict[str, Draft] = {}
    while (decision := policy.decide(query, bought)).action != STOP:
        stage = decision.action.stage
        assert stage not in bought
        bought[stage] = draft(stage)
    return list(bought), decision.answer


def two_stages() -> Graph:
    """S costs 1 and is seen to be right at .2 or .9, half and half; L costs 4 and is right at .95."""
    nodes = (
        Node("root", np.zeros(1), may_stop=False),
        Node("S", np.array([0.2, 0.9])),
        Node("L", np.array([0.95, 0.95])),
        Node("S+L", np.array([0.95, 0.95])),
    )
    sure = np.array([[0.0, 1.0]])
    edges = (
        Edge("root", "S", np.array([1.0]), np.array([[0.5, 0.5]]), Action.draft("S")),
        Edge("root", "L", np.array([4.0]), sure, Action.draft("L")),
        Edge("S", "S+L", np.array([4.0, 4.0]), np.repeat(sure, 2, axis=0), Action.draft("L")),
    )
    return Graph(nodes, edges, np.ones(1))


# --- optimal --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p_small", "way", "answer"), [(0.2, ["S", "L"], "L"), (0.9, ["S"], "S")], ids=["unsure", "sure"]
)
def test_the_optimum_stops_where_the_solution_does(p_small, way, answer):
    """At lam = 10 the small stage goes first; its answer is returned if likely right, else L is run."""
    policy = OptimalPolicy(SeenAs({"S": p_small, "L": 0.95}), solve(two_stages(), [10.0]), 10.0)
    assert run(policy) == (way, answer)


def test_a_decision_explains_itself():
    """Values of all open actions and the evidence are in the decision: 10 * .2 against 10 * .95 - 4."""
    policy = OptimalPolicy(SeenAs({"S": 0.2}), solve(two_stages(), [10.0]), 10.0)
    decision = policy.decide(QUERY, drafts("S"))
    assert (decision.action, decision.answer, decision.p_good) == (Action.draft("L"), "S", {"S": 0.2})
    assert decision.values == pytest.approx({STOP: 2.0, Action.draft("L"): 5.5})


def test_a_long_query_is_decided_at_a_smaller_lam():
    """Three times longer: L costs 12 for .75 * 10, so S is kept; the values are those of the long query."""
    solution = solve(two_stages(), [10 / 3, 10.0])
    decision = OptimalPolicy(SeenAs({"S": 0.2}, scale=3.0), solution, 10.0).decide(QUERY, drafts("S"))
    assert decision.action == STOP
    assert decision.values == pytest.approx({STOP: 2.0, Action.draft("L"): 9.5 - 12.0})


@pytest.mark.parametrize("lam", [0.05, 200.0, math.nan])
def test_a_lam_outside_the_solved_sweep_is_refused(lam):
    """The policy does not answer for a lam that was never solved."""
    with pytest.raises(ConfigError, match=rf"solved sweep, 0.1 to 100, got {lam}"):
        OptimalPolicy(SeenAs(), solve(two_stages(), [0.1, 100.0]), lam)


def _optimal(evidence: SeenAs) -> Policy:
    return OptimalPolicy(evidence, solve(two_stages(), [10.0]), 10.0)


def _myopic(evidence: SeenAs) -> Policy:
    return Myopic(evidence, two_stages(), 10.0)


@pytest.mark.parametrize("build", [_optimal, _myopic])
def test_evidence_of_another_ladder_is_refused(build: Callable[[SeenAs], Policy]):
    """A node the graph does not have is an error that names it, not a guess."""
    policy = build(SeenAs({"M": 0.5}))
    with pytest.raises(PolicyMismatchError, match="bin 1 of node 'M'"):
        policy.decide(QUERY, drafts("M"))


@pytest.mark.parametrize("build", [_optimal, _myopic])
@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_must_be_positive(build: Callable[[SeenAs], Policy], scale):
    """A query cannot cost nothing, less than nothing, or something unknown."""
    policy = build(SeenAs({"S": 0.2}, scale))
    with pytest.raises(ConfigError, match=f"scale must be positive and finite, got {scale}"):
        policy.decide(QUERY, drafts("S"))


def test_a_graph_whose_root_may_stop_is_refused():
    """There is no answer to return before any stage has run."""
    graph = Graph((Node("root", np.ones(1)),), (), np.ones(1))
    with pytest.raises(ConfigError, match="'root' may stop"):
        OptimalPolicy(SeenAs(), solve(graph, [1.0]), 1.0)
    with pytest.raises(ConfigError, match="'root' may stop"):
        Myopic(SeenAs(), graph, 1.0)


# --- myopic ---------------------------------------------------------------------------------------------


def test_the_myopic_policy_picks_the_best_single_stage_first():
    """At the root: S for 10 * .55 - 1 = 4.5 against L for 10 * .95 - 4 = 5.5; the optimum starts with S."""
    evidence = SeenAs({"S": 0.2, "L": 0.95})
    decision = Myopic(evidence, two_stages(), 10.0).decide(QUERY, {})
    assert decision.action == Action.draft("L")
    assert decision.values == pytest.approx({Action.draft("S"): 4.5, Action.draft("L"): 5.5})
    assert _optimal(evidence).decide(QUERY, {}).action == Action.draft("S")


def test_the_myopic_policy_goes_on_only_if_one_step_pays():
    """After S: L for 5.5 beats 10 * .2, not 10 * .9; three times dearer it does not pay at all."""
    assert _myopic(SeenAs({"S": 0.2})).decide(QUERY, drafts("S")).action == Action.draft("L")
    assert _myopic(SeenAs({"S": 0.9})).decide(QUERY, drafts("S")).action == STOP
    long = _myopic(SeenAs({"S": 0.2}, scale=3.0)).decide(QUERY, drafts("S"))
    assert long.action == STOP
    assert long.values == pytest.approx({STOP: 2.0, Action.draft("L"): -2.5})


# --- without evidence -----------------------------------------------------------------------------------


def test_a_fixed_stage_is_run_once_and_returned():
    """One stage, its answer, whatever the query."""
    assert run(FixedStage("M")) == (["M"], "M")


def test_a_lossless_chain_drafts_verifies_and_goes_on():
    """S drafts, M reads and finishes, L reads M's answer and finishes: its own answer is returned."""
    policy = Lossless(("S", "M", "L"))
    assert policy.name == "lossless(S>M>L)"
    read = Verification("M", "S", (), (), 0, Usage(1, 0, 1, 0), 0.0)
    small, middle, large = (draft(stage) for stage in STAGES)
    states = [
        ({}, None, ("S", None)),
        ({"S": small}, None, (">M", "S")),
        ({"S": small}, read, ("M", "S")),
        ({"S": small, "M": middle}, None, (">L", "M")),
        ({"S": small, "M": middle}, read, ("L", "M")),
        ({"S": small, "M": middle, "L": large}, None, ("stop", "L")),
    ]
    for drafts, verification, want in states:
        decision = policy.decide(QUERY, drafts, verification)
        assert (str(decision.action), decision.answer) == want


@pytest.mark.parametrize("chain", [(), ("L",), ("S", "S")])
def test_a_lossless_chain_needs_two_stages(chain):
    """One to draft and another to verify."""
    with pytest.raises(ConfigError):
        Lossless(chain)


def test_a_chain_without_its_drafts_is_its_last_stage():
    """The text is that of the last stage whoever drafts; without the last one there is no such text."""
    policy = Lossless(("S", "M", "L"))
    assert policy.without({"S"}) == Lossless(("M", "L"))
    assert policy.without({"S", "M"}) == FixedStage("L")
    with pytest.raises(ConfigError, match="the text is that of L, which cannot be done without"):
        policy.without({"L"})


def test_a_random_mix_draws_by_its_weights():
    """Three thousand queries at 1 : 2 : 0: shares within 4 standard errors, the zero never drawn."""
    policy = RandomMix({"S": 1.0, "M": 2.0, "L": 0.0}, seed=7)
    drawn = Counter(run(policy, Query(str(i), "d", ""))[1] for i in range(3000))
    assert set(drawn) == {"S", "M"}
    assert drawn["S"] / 3000 == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / 3000))


def test_a_random_mix_decides_a_query_the_same_way_every_time():
    """The draw hangs on seed, dataset and id, not on when or where it is made."""
    queries = [Query(str(i), "d", "") for i in range(100)]
    mix = {"S": 1.0, "L": 1.0}
    first = [run(RandomMix(mix, seed=0), q)[1] for q in queries]
    assert first == [run(RandomMix(mix, seed=0), q)[1] for q in queries]
    assert first != [run(RandomMix(mix, seed=1), q)[1] for q in queries]
    assert first != [run(RandomMix(mix, seed=0), Query(q.id, "e", ""))[1] for q in queries]


@pytest.mark.parametrize("weights", [{}, {"S": 0.0}, {"S": -1.0, "L": 2.0}, {"S": math.nan}], ids=str)
def test_weights_must_make_a_lottery(weights):
    """No weights, none above zero, one below zero, one unknown: refused."""
    with pytest.raises(ConfigError, match="weights must be finite"):
        RandomMix(weights, seed=0)
    with pytest.raises(ConfigError, match="seed must not be negative, got -1"):
        RandomMix({"S": 1.0}, seed=-1)


# --- by thresholds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "way"),
    [(0.0, ["S"]), (0.4, ["S"]), (0.41, ["S", "M"]), (0.7, ["S", "M"]), (0.99, ["S", "M", "L"])],
    ids=str,
)
def test_a_static_walk_climbs_until_its_threshold(threshold, way):
    """p = .4, .7, .5 on the way up: stop at the first that reaches the threshold, at the top in any case."""
    answer = "S" if way == ["S"] else "M"  # at the top the best answer in hand is still M's
    policy = StaticWalk(STAGES, threshold, SeenAs({"S": 0.4, "M": 0.7, "L": 0.5}))
    assert run(policy) == (way, answer)


def test_the_closed_form_is_the_published_one():
    """At 1 : 4.5 : 10 and lam = .5: (1 - .5 / 4.5) / 1.5 and (1 - .5 * 4.5 / 10) / 1.5."""
    policy = ClosedForm(STAGES, (1.0, 4.5, 10.0), 0.5, SeenAs())
    assert policy.thresholds == pytest.approx((0.592593, 0.516667), abs=1e-6)


@pytest.mark.parametrize(("lam", "way"), [(0.1, ["S", "M", "L"]), (0.5, ["S", "M"]), (2.0, ["S"])], ids=str)
def test_the_closed_form_stops_earlier_the_larger_lam(lam, way):
    """As printed: paying more for quality lowers the thresholds, and the latest answer is returned."""
    policy = ClosedForm(STAGES, (1.0, 4.5, 10.0), lam, SeenAs({"S": 0.4, "M": 0.55, "L": 0.1}))
    assert run(policy) == (way, way[-1])


@pytest.mark.parametrize(
    ("stages", "costs", "lam", "message"),
    [
        (("S", "L"), (1.0,), 1.0, "one cost"),
        (("S", "L"), (0.0, 1.0), 1.0, "costs must be positive"),
        (("S", "L"), (1.0, math.nan), 1.0, "costs must be positive"),
        (("S", "L"), (1.0, 2.0), -1.0, "lam must be finite and not negative, got -1.0"),
        (("S", "S"), (1.0, 2.0), 1.0, "different names"),
        ((), (), 1.0, "one or more"),
    ],
)
def test_the_closed_form_needs_stages_with_costs(stages, costs, lam, message):
    """Stages, costs and lam are checked when the policy is made."""
    with pytest.raises(ConfigError, match=message):
        ClosedForm(stages, costs, lam, SeenAs())


def test_a_static_walk_needs_stages_and_a_number():
    """A walk over nothing or to a threshold that is no number is refused."""
    with pytest.raises(ConfigError, match="one or more"):
        StaticWalk((), 0.5, SeenAs())
    with pytest.raises(ConfigError, match="threshold must be a number"):
        StaticWalk(STAGES, math.nan, SeenAs())


def test_a_walk_refuses_evidence_without_a_best_answer():
    """Evidence that names no answer after a stage has run does not fit this policy."""

    class Blind:
        def judge(
            self, _query: Query, _drafts: Mapping[str, Draft], _verification: object = None
        ) -> Judgement:
            return Judgement("S", 0, None, {}, 1.0)

    with pytest.raises(PolicyMismatchError, match="no best answer at node 'S'"):
        StaticWalk(STAGES, 0.5, Blind()).decide(QUERY, drafts("S"))


# --- with foresight -------------------------------------------------------------------------------------

PRICES = {"S": Prices(0.0, 0.0, 1.0), "L": Prices(0.0, 0.0, 4.0)}


def trace(number: int, dataset: str = "d", **scores: float | None) -> Trace:
    outcomes = {stage: Outcome(draft(stage, n_decoded=5), score) for stage, score in scores.items()}
    return Trace(Query(str(number), dataset, ""), outcomes)


@pytest.mark.parametrize(("lam", "stages"), [(0.5, ["S", "S", "S"]), (2.0, ["S", "L", "S"])], ids=str)
def test_the_oracle_pays_for_the_large_stage_only_where_it_helps(lam, stages):
    """S costs .25 and L 1: L is worth it for 2 * 1 - 1 > -.25, not for .5 * 1 - 1, never if S is right."""
    traces = [trace(0, S=1.0, L=1.0), trace(1, S=0.0, L=1.0), trace(2, S=0.0, L=0.0)]
    oracle = Oracle.from_traces(traces, PRICES, cost_unit=20.0, lam=lam)
    assert [run(oracle, t.query) for t in traces] == [([stage], stage) for stage in stages]


def test_the_oracle_breaks_ties_for_the_cheaper_stage():
    """At lam = .75 both are worth -.25: S, though L is listed first."""
    oracle = Oracle.from_traces([trace(0, L=1.0, S=0.0)], PRICES, cost_unit=20.0, lam=0.75)
    assert oracle.best == {("d", "0"): "S"}


def test_the_oracle_tells_datasets_apart():
    """The same id in two datasets is two queries."""
    traces = [trace(0, "d", S=1.0, L=1.0), trace(0, "e", S=0.0, L=1.0)]
    oracle = Oracle.from_traces(traces, PRICES, cost_unit=20.0, lam=10.0)
    assert [run(oracle, t.query)[1] for t in traces] == ["S", "L"]


def test_the_oracle_has_no_opinion_on_queries_it_never_saw():
    """Foresight is for the traces it was built from: anything else is an error."""
    with pytest.raises(DataError, match="never saw query 'q1' of 'd'"):
        Oracle({}, 1.0).decide(QUERY, {})


@pytest.mark.parametrize(
    ("given", "unit", "lam", "error", "message"),
    [
        (trace(0, S=None), 1.0, 1.0, DataError, "no score for stage 'S'"),
        (trace(0), 1.0, 1.0, DataError, "no outcome of any stage"),
        (trace(0, M=1.0), 1.0, 1.0, ConfigError, r"no price for stage 'M'.*\['L', 'S'\]"),
        (trace(0, S=1.0), 0.0, 1.0, ConfigError, "cost_unit must be positive and finite, got 0.0"),
        (trace(0, S=1.0), 1.0, math.nan, ConfigError, "lam must be finite and not negative, got nan"),
    ],
    ids=["unscored", "empty", "unpriced", "no unit", "no lam"],
)
def test_the_oracle_needs_scores_and_prices(given, unit, lam, error, message):
    """What is missing is named."""
    with pytest.raises(error, match=message):
        Oracle.from_traces([given], PRICES, unit, lam)


def test_names_tell_policies_apart():
    """A name says which policy at which setting; it becomes part of a baseline key."""
    graph, evidence = two_stages(), SeenAs()
    policies: list[Policy] = [
        OptimalPolicy(evidence, solve(graph, [0.1, 2.0]), 2.0),
        Myopic(evidence, graph, 2.0),
        FixedStage("L"),
        RandomMix({"S": 1.0, "L": 0.5}, seed=3),
        StaticWalk(STAGES, 0.8, evidence),
        ClosedForm(STAGES, (1.0, 2.0, 3.0), 0.1, evidence),
        Oracle({}, 50.0),
    ]
    assert [policy.name for policy in policies] == [
        "optimal(lam=2)",
        "myopic(lam=2)",
        "always(L)",
        "random(S=1,L=0.5,seed=3)",
        "walk(p>=0.8)",
        "closed-form(lam=0.1)",
        "oracle(lam=50)",
    ]
