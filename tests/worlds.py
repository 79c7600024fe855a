"""A synthetic world with a known truth: made-up traces whose success probabilities and kernels are exact.

Two stages. The prompt shows the kind of the query; the kind draws S's certainty, S's certainty draws L's;
an answer is right with probability equal to its certainty, which is also exp(sum of its log-probabilities).
Right answers are the reference, wrong ones are all different, so two answers agree exactly if both are right.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import msgspec
import numpy as np

from asd.ladder import Drafter, Ladder, Stage
from asd.policy.artifact import PolicyArtifact
from asd.policy.fit import fit
from asd.prices import Prices
from asd.stopping.graph import Edge, Graph, Node
from asd.types import Action, Draft, Outcome, Query, Trace, Usage, Verification

P_KIND = np.array([0.5, 0.5])
P_S = np.array([0.05, 0.5, 0.95])
P_L = np.array([0.1, 0.6, 0.97])
S_GIVEN_KIND = np.array([[0.6, 0.3, 0.1], [0.05, 0.25, 0.7]])
L_GIVEN_S = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6], [0.02, 0.08, 0.9]])
KINDS = ("walk from {a} to {b}", "add {a} and {b} please")


def drafting_ladder() -> Ladder:
    """The same stages, L with S as its drafter: a drafted token costs a tenth of one that L decodes."""
    small, large = (made := ladder()).stages
    prices = msgspec.structs.replace(large.prices, per_drafted=0.5)
    return replace(made, stages=(small, replace(large, prices=prices, drafter=Drafter("S", 4))))


def ladder(per_token: tuple[float, float] = (1.0, 5.0)) -> Ladder:
    """Two stages priced per decoded token."""
    stages = (
        Stage(name, f"made-up/{name}", Prices(0.0, 0.0, price))
        for name, price in zip("SL", per_token, strict=True)
    )
    return Ladder("made-up", tuple(stages), "declared", "never: made up for a test")


def draft(stage: str, text: str, certainty: float, n_tokens: int, rng: np.random.Generator) -> Draft:
    """An answer whose log-probabilities sum to the logarithm of its certainty."""
    logprobs = np.log(certainty) * rng.dirichlet(np.ones(n_tokens))
    usage = Usage(n_prompt=10, n_decoded=n_tokens, n_passes=n_tokens)
    return Draft(stage, text, tuple(range(n_tokens)), tuple(logprobs.tolist()), True, usage, 0.1)


@dataclass(frozen=True)
class Truth:
    """What only the world knows of one query."""

    kind: int
    small: int
    large: int


def sample(n: int, rng: np.random.Generator, name: str = "made-up") -> tuple[list[Trace], list[Truth]]:
    """`n` queries answered by both stages; every answer of a query has the same number of tokens, 2 to 20."""
    traces, truths = [], []
    for i in range(n):
        kind = int(rng.choice(2, p=P_KIND))
        small = int(rng.choice(3, p=S_GIVEN_KIND[kind]))
        large = int(rng.choice(3, p=L_GIVEN_S[small]))
        prompt = KINDS[kind].format(a=rng.integers(10, 100), b=rng.integers(10, 100))
        query = Query(f"q{i}", name, prompt, reference="right")
        n_tokens = int(rng.integers(2, 21))
        outcomes = {}
        for stage, certainty in (("S", P_S[small]), ("L", P_L[large])):
            right = bool(rng.random() < certainty)
            answer = draft(stage, "right" if right else f"wrong {stage}", certainty, n_tokens, rng)
            outcomes[stage] = Outcome(answer, float(right))
        traces.append(Trace(query, outcomes))
        truths.append(Truth(kind, small, large))
    return traces, truths


def verified(traces: list[Trace], rng: np.random.Generator) -> list[Trace]:
    """The same with L's reading of every draft of S: accepted whole where both are right, else in part."""
    return [replace(trace, verifications={"S>L": _read(trace, rng)}) for trace in traces]


def drafted(traces: list[Trace]) -> list[Trace]:
    """The same where S has drafted every token of L's answer, and every other one was accepted."""
    return [replace(t, outcomes={**t.outcomes, "L": _drafted(t.outcomes["L"])}) for t in traces]


def _drafted(outcome: Outcome) -> Outcome:
    usage, n_saved = outcome.draft.usage, outcome.draft.usage.n_passes // 2
    usage = replace(usage, n_passes=usage.n_passes - n_saved, n_drafted=usage.n_decoded, n_saved=n_saved)
    return replace(outcome, draft=replace(outcome.draft, usage=usage))


def _read(trace: Trace, rng: np.random.Generator) -> Verification:
    small, large = (trace.outcomes[stage].draft for stage in "SL")
    n = len(small.tokens)
    accepted = small.text == large.text
    n_accepted = n if accepted else int(rng.integers(0, n))
    logprobs = large.logprobs[:n_accepted] + (-4.0,) * (n - n_accepted)
    usage = Usage(n_prompt=10, n_decoded=0, n_passes=1, n_verified=n)
    return Verification("L", "S", small.tokens, logprobs, n_accepted, usage, 0.1)


def p_both(small: float, large: float, agree: bool) -> tuple[float, float]:
    """P(S right), P(L right) given both certainties and whether the answers agree."""
    if agree:
        return 1.0, 1.0
    wrong = 1.0 - small * large
    return small * (1.0 - large) / wrong, large * (1.0 - small) / wrong


def true_graph(cost_s: float, cost_l: float) -> Graph:
    """The stopping problem of this world, exact: bins are the values that the certainties can take."""
    cells = list(product(range(3), range(3), (False, True)))
    both = np.array([max(p_both(P_S[small], P_L[large], agree)) for small, large, agree in cells])
    joint = np.zeros((3, len(cells)))
    for j, (small, large, agree) in enumerate(cells):
        p_agree = P_S[small] * P_L[large]
        joint[small, j] = L_GIVEN_S[small, large] * (p_agree if agree else 1.0 - p_agree)
    nodes = (Node("root", np.zeros(2), may_stop=False), Node("S", P_S), Node("L", P_L), Node("S+L", both))
    edges = (
        Edge("root", "S", np.full(2, cost_s), S_GIVEN_KIND, Action.draft("S")),
        Edge("root", "L", np.full(2, cost_l), S_GIVEN_KIND @ L_GIVEN_S, Action.draft("L")),
        Edge("S", "S+L", np.full(3, cost_l), joint, Action.draft("L")),
    )
    return Graph(nodes, edges, P_KIND)


@functools.cache
def fitted() -> PolicyArtifact:
    """A policy fitted on 800 queries of this world; fitted once a session."""
    traces, _ = sample(800, np.random.default_rng(7))
    return fit(traces, ladder(), fitted_at="2026-01-01")


@functools.cache
def fitted_verified() -> PolicyArtifact:
    """The same, fitted on 800 queries that L has read S's answers to."""
    rng = np.random.default_rng(7)
    return fit(verified(sample(800, rng)[0], rng), ladder(), fitted_at="2026-01-01")


@functools.cache
def fitted_drafting() -> PolicyArtifact:
    """The same, on the ladder whose L has a drafter."""
    rng = np.random.default_rng(7)
    return fit(drafted(verified(sample(800, rng)[0], rng)), drafting_ladder(), fitted_at="2026-01-01")


def drafts_of(trace: Trace, stages: str = "SL") -> Mapping[str, Draft]:
    """The answers of these stages, in that order."""
    return {stage: trace.outcomes[stage].draft for stage in stages}
