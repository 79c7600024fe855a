"""The table of backlogs beside plain recursion: four stages, one combination of backlogs at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from asd.evidence import Judgement
from asd.operations.control.backlog import (
    LEVELS,
    BacklogPolicy,
    BacklogProblem,
    BacklogTable,
    Solved,
    Surcharge,
    surcharge,
)
from asd.stopping.graph import Edge, FloatArray, Graph, Node
from asd.stopping.states import moves, states
from asd.types import STOP, Action
from tests.test_operations_backlog import Queue, busy

STAGES, N_BINS, BATCH, LAM = "ABCD", 3, 4, 9.0
PAIRS = ("A>B", "A>D", "B>D", "C>D")
OUT = len(LEVELS) - 1
AT_LEVEL = (Queue(), Queue(0, 1), Queue(1, 1), Queue(3, 1), Queue(9, 1), Queue(replicas=0))
"""A queue at every level of its backlog."""


class Setting(NamedTuple):
    """A problem of four stages, and what waiting for them is charged."""

    graph: Graph
    usage: Mapping[tuple[str, Action], FloatArray]
    rates: Mapping[str, FloatArray]
    charges: Mapping[str, Surcharge]

    def table(self, ahead: float) -> Solved:
        problem = BacklogProblem(self.graph, self.usage, self.rates, scaled=True)
        return problem.solve(LAM, self.charges, ahead)


def setting(seed: int) -> Setting:
    """Made up: every stage drafts, some read the drafts of others; dearer stages are better and busier."""
    rng = np.random.default_rng(seed)
    nodes = [
        Node(state.name, rng.random(N_BINS) ** (1.0 / (1 + len(state.answered))), bool(state.answered))
        for state in states(STAGES, PAIRS)
    ]
    edges, usage = [], {}
    for move in moves(STAGES, PAIRS):
        kernel = rng.dirichlet(np.ones(N_BINS), N_BINS)
        cost = rng.random(N_BINS) * (1 + STAGES.index(move.stage))
        edges.append(Edge(move.source.name, move.target.name, cost, kernel, move.action))
        usage[move.source.name, move.action] = rng.integers(0, 9, (N_BINS, 6)).astype(float)
    rates = {stage: 0.02 * rng.random((BATCH, 6)) for stage in STAGES}
    seen = {s: busy(0.3 + 0.1 * i, call_s=0.1 + 0.2 * i, per_call=1.0 + i) for i, s in enumerate(STAGES)}
    charges = {stage: surcharge(state, BATCH, 1.0) for stage, state in seen.items()}
    return Setting(Graph(tuple(nodes), tuple(edges), np.full(N_BINS, 1 / N_BINS)), usage, rates, charges)


def plain(
    place: Setting, levels: Mapping[str, int], scale: float, ahead: float
) -> Callable[[str, int], tuple[float, Action | None]]:
    """What a state is worth and what to do there at these backlogs, number by number."""

    @cache
    def solved(node: str, at: int) -> tuple[float, Action | None]:
        here = place.graph.node(node)
        stop = LAM * float(here.p[at])
        options: list[tuple[float, Action | None]] = [(stop, STOP)] if here.may_stop else []
        for edge in place.graph.outgoing(node):
            stage = edge.action.stage
            charge, level = place.charges[stage], levels[stage]
            if level == OUT:
                continue
            counts, rates = place.usage[node, edge.action][at], place.rates[stage][charge.size - 1]
            seconds = sum(float(n) * float(rate) for n, rate in zip(counts, rates, strict=True))
            cost = scale * (float(edge.cost[at]) + float(charge.second[level]) * seconds)
            then = sum(float(p) * solved(edge.target, b)[0] for b, p in enumerate(edge.kernel[at]))
            options.append((then - cost - float(charge.visit[level]), edge.action))
        best, action = max(options, key=lambda option: option[0], default=(-math.inf, None))
        return (stop + ahead * (best - stop) if here.may_stop else best), action

    return solved


def first_actions(place: Setting, seed: int, ahead: float) -> set[Action | None]:
    """What is done first at backlogs and lengths drawn at random, after all states were compared there."""
    rng, table = np.random.default_rng(seed), BacklogTable(place.table(ahead))
    problem = table.solved.problem
    policy = BacklogPolicy("looks up", None, table)  # type: ignore[arg-type]  # nothing is judged
    first: set[Action | None] = set()
    for _ in range(60):
        levels = {stage: int(rng.choice(len(LEVELS))) for stage in STAGES}
        scale = float(rng.choice(problem.scales))
        table.gauges = [AT_LEVEL[level] for level in levels.values()]
        expected = plain(place, levels, scale, ahead)
        for node in place.graph.nodes:
            for at in range(node.n_bins):
                answer = "A" if node.may_stop else None
                found = policy.action(problem.place(Judgement(node.name, at, answer, {}, scale)))
                assert found == expected(node.name, at)[1], (node.name, at, levels, scale)
                first |= {found} if answer is None else set()
    return first


@pytest.mark.parametrize(("seed", "ahead"), [(1, 1.0), (2, 1.0), (3, 0.4)])
def test_four_stages_are_decided_as_plain_recursion_does(seed: int, ahead: float) -> None:
    """In every state, stages out of reach among them."""
    assert len(first_actions(setting(seed), seed, ahead)) == len(STAGES)


def test_stages_that_are_asked_later_only_matter_too() -> None:
    """Where none is skipped, B to D can be asked after A only, and their backlogs decide whether A is."""
    place = setting(5)
    chain = [e for e in place.graph.edges if e.action == Action.draft(STAGES[len(e.source.split("+"))])]
    start = [e for e in place.graph.outgoing("root") if e.action.stage == "A"]
    graph = replace(place.graph, edges=(*start, *(e for e in chain if e.source in {"A", "A+B", "A+B+C"})))
    assert len(graph.edges) == len(STAGES)
    assert first_actions(place._replace(graph=graph), 5, 1.0) == {Action.draft("A"), None}


def test_all_stages_out_of_reach_leave_nothing_to_ask() -> None:
    table = BacklogTable(setting(1).table(1.0), [AT_LEVEL[OUT]] * len(STAGES))
    policy = BacklogPolicy("looks up", None, table)  # type: ignore[arg-type]  # nothing is judged
    place = table.solved.problem.place
    assert policy.action(place(Judgement("root", 0, None, {}, 1.0))) is None
    assert policy.action(place(Judgement("A", 0, "A", {}, 1.0))) == STOP


def test_a_state_has_a_number_for_those_backlogs_that_matter_to_it() -> None:
    """Of stages that can still be asked: all four at first, none once D has answered."""
    found = setting(1).table(1.0)
    numbers = {
        name: len(actions) // (len(found.problem.scales) * N_BINS) for name, actions in found.actions.items()
    }
    levels = len(LEVELS)
    assert {numbers[name] for name in ("D", "A+D", "A+B+C+D")} == {1}
    assert {numbers[name] for name in ("C", "A+C", "A+B+C>D")} == {levels}
    assert (numbers["root"], numbers["A"], numbers["A>B"], numbers["A>D"]) == (
        levels**4,
        levels**3,
        levels**3,
        levels**3,
    )


def test_every_choice_is_made_somewhere() -> None:
    """What `choices` names is what looking up at all backlogs gives, with stages out and without."""
    found = setting(2).table(1.0)
    policy = BacklogPolicy("looks up", None, BacklogTable(found))  # type: ignore[arg-type]
    place = found.problem.place(Judgement("root", 1, None, {}, 1.0))
    for out in (frozenset[str](), frozenset("B"), frozenset("BD"), frozenset("BCD")):
        seen = set()
        for levels in np.ndindex(*[OUT] * len(STAGES)):
            policy.table.gauges = [AT_LEVEL[level] for level in levels]
            seen.add(policy.action(place, out))
        assert found.choices(place, out) == seen
    assert len(found.choices(place)) > 2
    assert found.choices(place, frozenset("BCD")) == {Action.draft("A")}
