"""Rules for the first stage: the published router against thresholds worked by hand, and the other two."""

import numpy as np
import pytest

from asd.errors import ConfigError
from asd.evidence.prompt.complexity import complexity_score
from asd.policies import FixedStage, Policy
from asd.policies.routing import ComplexityRule, PredictionRule, Routed, Rule, TaxonomyRule
from asd.types import STOP, Action, Draft, Query, Usage
from tests import worlds

PLAIN, MIDDLING, COMPLEX = "What is it?", "Prove the theorem", "Prove the theorem by deep learning"


def router(*, lam: float = 1.0, target: float = 0.5, utilisation: float = 0.5) -> Routed:
    """Largest stage L, else S."""
    return before_s(ComplexityRule("L", lam, target, lambda: utilisation))


def before_s(rule: Rule) -> Routed:
    """The rule on a ladder up to L, where S answers otherwise."""
    return Routed(rule, FixedStage("S"), "L")


def first(policy: Policy, prompt: str) -> str:
    """The first action for a prompt."""
    return policy.decide(Query("q", "d", prompt), {}).action.stage


def test_the_prompts_stand_where_they_should() -> None:
    """One below every threshold, one between the least and the usual one, one above all."""
    assert complexity_score(PLAIN) < 0.32
    assert 0.4 < complexity_score(MIDDLING) < 0.48
    assert complexity_score(COMPLEX) > 0.6


@pytest.mark.parametrize(
    ("lam", "target", "utilisation", "threshold"),
    [
        (1.0, 0.5, 0.5, 0.6),  # on target
        (1.0, 0.5, 0.9, 0.6),  # above it
        (1.0, 0.5, 0.4, 0.5),  # a tenth below
        (1.0, 0.8, 0.1, 0.4),  # far below: the least threshold
        (2.0, 0.5, 0.5, 0.6),  # lam 2 is not yet large
        (2.1, 0.5, 0.5, 0.48),
        (5.0, 0.8, 0.1, 0.32),
    ],
)
def test_thresholds(lam: float, target: float, utilisation: float, threshold: float) -> None:
    """As printed, for every branch of the formula."""
    assert ComplexityRule("L", lam, target, lambda: utilisation).threshold() == pytest.approx(threshold)


def test_complex_prompts_go_to_the_largest() -> None:
    """What is complex is routed, what is not is left to the other policy, idleness lowers the bar."""
    assert [first(router(), p) for p in (PLAIN, MIDDLING, COMPLEX)] == ["S", "S", "L"]
    idle = router(target=0.8, utilisation=0.1)
    assert [first(idle, p) for p in (PLAIN, MIDDLING, COMPLEX)] == ["S", "L", "L"]


def test_the_gauge_is_read_at_every_decision() -> None:
    """The same policy routes differently as the load changes."""
    load = [0.8]
    policy = before_s(ComplexityRule("L", 1.0, 0.8, lambda: load[0]))
    before = first(policy, MIDDLING)
    load[0] = 0.1
    assert (before, first(policy, MIDDLING)) == ("S", "L")


def test_what_happens_after_the_first_answer() -> None:
    """The largest stage's answer is returned; anything else is the other policy's affair."""
    draft = Draft("L", "x", (1,), (-0.1,), finished=True, usage=Usage(1, 1, 1), seconds=0.0)
    query = Query("q", "d", COMPLEX)
    assert router().decide(query, {"L": draft}).action == STOP
    decision = router().decide(query, {"S": draft})
    assert (decision.action, decision.answer) == (STOP, "S")


def test_the_name_tells_the_settings() -> None:
    """It is stable and holds what distinguishes two routers."""
    assert router(lam=2.5).name == "complexity(L,lam=2.5,target=0.5),else=always(S)"


def test_wrong_numbers() -> None:
    """A lam, target or gauge out of range is named."""
    with pytest.raises(ConfigError, match="lam"):
        router(lam=float("nan"))
    with pytest.raises(ConfigError, match="target"):
        router(target=1.5)
    with pytest.raises(ConfigError, match="gauge reads 3"):
        first(router(utilisation=3.0), PLAIN)


def test_a_stage_of_three_is_recommended_by_the_kind_of_the_prompt() -> None:
    """By the published weights: simple prompts go to the smallest stage, hard mathematics to the largest."""
    rule = TaxonomyRule(("S", "M", "L"))
    assert rule.first(PLAIN) == "S"
    assert rule.first("Prove the theorem by deep learning, compute the equation and the integral") == "L"


@pytest.mark.parametrize(("lam", "stage"), [(0.5, "S"), (2.0, "M"), (20.0, "L")])
def test_a_prediction_is_weighed_against_cost(lam: float, stage: str) -> None:
    """lam * p - cost by hand: at 2, 0.9 of S, 1.3 of M and 0.9 of L."""
    p = np.array([[0.5, 0.8, 0.95]])
    rule = PredictionRule(("S", "M", "L"), lambda _: p, (0.1, 0.3, 1.0), lam)
    assert first(before_s(rule), PLAIN) == stage


def test_the_fitted_policy_decides_after_the_first_answer() -> None:
    """Begun with a stage that the policy would not have chosen, it goes on as the policy does from there."""
    policy = worlds.fitted().policy(20.0)
    trace = worlds.sample(1, np.random.default_rng(3))[0][0]
    rule = PredictionRule(("S", "L"), lambda _: np.array([[1.0, 0.0]]), (0.2, 1.0), 5.0)
    behind = Routed(rule, policy, "L")
    assert behind.decide(trace.query, {}).action == Action.draft("S")
    drafts = worlds.drafts_of(trace, "S")
    assert behind.decide(trace.query, drafts) == policy.decide(trace.query, drafts)


def test_a_stage_that_is_gone_is_not_chosen() -> None:
    """Without L the policy alone decides, solved without L; one that cannot be is refused."""
    behind = Routed(TaxonomyRule(("L", "L")), worlds.fitted().policy(50.0), "L")
    query = worlds.sample(1, np.random.default_rng(3))[0][0].query
    assert behind.decide(query, {}).action == Action.draft("L")
    assert behind.without({"L"}).decide(query, {}).action == Action.draft("S")
    with pytest.raises(ConfigError, match="cannot do without"):
        router().without({"L"})
