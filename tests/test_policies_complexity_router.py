"""The published router, against thresholds worked by hand."""

import pytest

from asd.errors import ConfigError
from asd.evidence.prompt.complexity import complexity_score
from asd.policies import FixedStage, Policy
from asd.policies.complexity_router import ComplexityRouter
from asd.types import STOP, Draft, Query, Usage

PLAIN, MIDDLING, COMPLEX = "What is it?", "Prove the theorem", "Prove the theorem by deep learning"


def router(*, lam: float = 1.0, target: float = 0.5, utilisation: float = 0.5) -> ComplexityRouter:
    """Largest stage L, else S."""
    return ComplexityRouter("L", FixedStage("S"), lam, target, lambda: utilisation)


def first(policy: Policy, prompt: str) -> str:
    """The first action for a prompt."""
    return policy.decide(Query("q", "d", prompt), {}).action


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
    assert router(lam=lam, target=target, utilisation=utilisation).threshold() == pytest.approx(threshold)


def test_complex_prompts_go_to_the_largest() -> None:
    """What is complex is routed, what is not is left to the other policy, idleness lowers the bar."""
    assert [first(router(), p) for p in (PLAIN, MIDDLING, COMPLEX)] == ["S", "S", "L"]
    idle = router(target=0.8, utilisation=0.1)
    assert [first(idle, p) for p in (PLAIN, MIDDLING, COMPLEX)] == ["S", "L", "L"]


def test_the_gauge_is_read_at_every_decision() -> None:
    """The same policy routes differently as the load changes."""
    load = [0.8]
    policy = ComplexityRouter("L", FixedStage("S"), 1.0, 0.8, lambda: load[0])
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
    assert router(lam=2.5).name == "router(L,lam=2.5,target=0.5,else=always(S))"


def test_wrong_numbers() -> None:
    """A lam, target or gauge out of range is named."""
    with pytest.raises(ConfigError, match="lam"):
        router(lam=float("nan"))
    with pytest.raises(ConfigError, match="target"):
        router(target=1.5)
    with pytest.raises(ConfigError, match="gauge reads 3"):
        router(utilisation=3.0).threshold()
