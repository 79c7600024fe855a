"""The table of decisions, against one written by hand."""

from __future__ import annotations

from dataclasses import replace

from asd.explanation import explain
from asd.types import NO_CALL, STOP, Action, Completion, Decision, Draft, Query, Usage, Verification

TABLE = """
answered  answer                    tokens  log p   p_good            V(S)   V(L)   V(stop)  decision
(prompt)  -                         -       -       -                 3.500  3.250  -        run S
S         4 2                       2       -0.375  S 0.500           -      3.000  2.500    run L
L         xxxxxxxxxxxxxxxxxxxxx...  1       -1.000  S 0.875, L 0.250  -      -      4.375    return S
"""


def draft(stage: str, text: str, *logprobs: float) -> Draft:
    n = len(logprobs)
    return Draft(stage, text, tuple(range(n)), logprobs, True, Usage(3, n, n), 0.1)


def completion(decisions: tuple[Decision, ...], *drafts: Draft) -> Completion:
    return Completion(Query("q", "d", "?"), drafts[0].stage, drafts[0].text, drafts, decisions, cost=1.0)


def test_one_row_a_state() -> None:
    """Answer, evidence, every p_good, every open action's value and the decision, in aligned columns."""
    decisions = (
        Decision(Action.draft("S"), None, {}, {Action.draft("S"): 3.5, Action.draft("L"): 3.25}),
        Decision(Action.draft("L"), "S", {"S": 0.5}, {STOP: 2.5, Action.draft("L"): 3.0}),
        Decision(STOP, "S", {"S": 0.875, "L": 0.25}, {STOP: 4.375}),
    )
    told = explain(completion(decisions, draft("S", "4\n2", -0.5, -0.25), draft("L", "x" * 40, -1.0)))
    assert told == TABLE.strip()


VERIFIED = """
answered  answer    tokens  log p   p_good   V(S)   V(stop)  V(L)   V(>L)  decision
(prompt)  -         -       -       -        3.500  -        -      -      run S
S         4         1       -0.500  S 0.500  -      2.500    2.750  3.000  verify S>L
S>L       rejected  0/1     -3.000  S 0.125  -      0.625    3.125  -      run L
L         5         1       -0.250  L 0.750  -      3.750    -      -      return L
"""


def test_a_verification_is_a_state_of_its_own() -> None:
    """Who has read whose answer, how much of it stands, and what that does to the probability."""
    answers, reads = Action.draft("L"), Action.verify("L")
    decisions = (
        Decision(Action.draft("S"), None, {}, {Action.draft("S"): 3.5}),
        Decision(Action.verify("L"), "S", {"S": 0.5}, {STOP: 2.5, answers: 2.75, reads: 3.0}),
        Decision(answers, "S", {"S": 0.125}, {STOP: 0.625, answers: 3.125}),
        Decision(STOP, "L", {"L": 0.75}, {STOP: 3.75}),
    )
    read = Verification("L", "S", (7,), (-3.0,), 0, Usage(3, 0, 1, 1), 0.1)
    bought = completion(decisions, draft("S", "4", -0.5), draft("L", "5", -0.25))
    assert explain(replace(bought, verifications=(read,))) == VERIFIED.strip()


def test_tokens_that_going_on_need_not_read_again_are_told() -> None:
    """Prompt and accepted prefix, less what was read again; nothing where no call was needed."""
    decisions = tuple(Decision(Action.parse(action), "S") for action in ("S", ">L", "L", "stop"))
    read = Verification("L", "S", (7, 8, 9), (-0.1, -0.1, -3.0), 2, Usage(30, 0, 1, 3), 0.1)
    small, large = draft("S", "4", -0.5), draft("L", "5", -0.25)

    def reused(usage: Usage, read: Verification = read) -> int:
        went_on = replace(large, usage=usage)
        return replace(completion(decisions, small, went_on), verifications=(read,)).n_reused

    assert reused(Usage(0, 1, 0)) == 32
    assert reused(Usage(12, 1, 1)) == 20
    assert reused(Usage(32, 1, 1)) == reused(NO_CALL) == 0
    assert reused(Usage(0, 1, 0), replace(read, stage="M")) == 0
    told = explain(
        replace(completion(decisions, small, replace(large, usage=Usage(0, 1, 0))), verifications=(read,))
    )
    assert (
        told.splitlines()[-1]
        == "reused: 32 tokens of prompt and draft, from the KV cache of their verification"
    )
    walked = completion(
        tuple(Decision(Action.parse(action), "S") for action in ("S", "L", "stop")), small, large
    )
    assert walked.n_reused == 0


def test_a_policy_without_evidence() -> None:
    """Where a policy looks at nothing there is nothing to show but the decisions."""
    told = explain(completion((Decision(Action.draft("S"), None), Decision(STOP, "S")), draft("S", "")))
    assert [line.split() for line in told.splitlines()] == [
        ["answered", "answer", "tokens", "log", "p", "p_good", "decision"],
        ["(prompt)", "-", "-", "-", "-", "run", "S"],
        ["S", "0", "-", "-", "return", "S"],
    ]
