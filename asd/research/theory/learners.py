"""Regret in three streams: a problem drawn from the records' own kernels, the records, and a drift.

    simulated   queries drawn from the stopping problem estimated on the reported rows; its optimum is exact
    replayed    the reported rows drawn with replacement; the comparator is the best table of actions found
    drifting    the same, one dataset after another for equal stretches

Nodes are the sets of stages that have answered, evidence is put in few bins so that 1e5 rounds can fill them;
expected costs are known to the learner, nothing else is. "frozen" is the optimum of the problem estimated on
the calibration rows, never brought up to date. Theory: posterior sampling's regret is O~(sqrt(T)).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from asd.policy.estimate import EstimationTable as States
from asd.policy.estimate import estimate_graph
from asd.research.study.material import Material
from asd.research.study.record import StudyTable, Value
from asd.research.theory.judged import coarse, judged
from asd.research.theory.learning import (
    Beliefs,
    ExploreThenCommit,
    Greedy,
    Layout,
    Learner,
    PosteriorSampling,
    RoundPlan,
    best,
)
from asd.research.theory.regret import FROM_ROUND, Course, ModelWorld, Slope, TraceWorld, World, learn, slope
from asd.stopping.graph import FloatArray, Graph, IntArray
from asd.types import Provenance

__all__ = ["DRIFTING", "LAM", "Frozen", "regret_tables", "theory_slope"]

LAM = 5.0
"""Where stopping early and going on are both right for many queries."""

DRIFTING = "drifting"
"""Opens the name of the stream whose questions change."""

N_BINS = 4
N_SEEDS = 20
N_ROUNDS = 100_000
KEEP = 0.98
"""Weight that what was seen keeps at every update of the learner that forgets."""

N_SHOWN = 40
"""Points of a course that are kept for the figure."""

N_ITEMS = 400
"""Most recorded queries that a stream is drawn from: the comparator's search walks all of them often."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """The same table of actions for ever: a policy fitted once."""

    actions: IntArray
    name: str = "frozen"

    def plan(self, beliefs: Beliefs, lam: float, n_played: int, rng: np.random.Generator) -> RoundPlan:  # noqa: ARG002
        """The table, for every learner."""
        return RoundPlan(np.broadcast_to(self.actions, (len(beliefs.right), *self.actions.shape)))


@dataclass(frozen=True, slots=True)
class _Stream:
    """Where rounds come from, and what that makes of the numbers."""

    name: str
    provenance: Provenance
    worlds: Sequence[World]


def regret_tables(
    material: Material, *, n_rounds: int = N_ROUNDS, n_seeds: int = N_SEEDS
) -> list[StudyTable]:
    """For the simulated and the recorded streams, final regret with slopes, and the courses.

    Args:
        material: What is studied.
        n_rounds: Queries a learner answers.
        n_seeds: Independent learners.
    """
    known, fresh = (
        judged(material.fitted, material.ladder, [t for o in part for t in o.traces], verify=False)
        for part in (material.calibration, material.test)
    )
    known, fresh = coarse(known, known, N_BINS), coarse(fresh, known, N_BINS)
    graph = estimate_graph(known)
    layout = Layout(graph)
    frozen = Frozen(best(layout, layout.kernels[None], layout.p[None], LAM)[0])
    learners: list[Learner] = [PosteriorSampling(), Greedy(), Greedy(0.05), ExploreThenCommit(n_rounds // 50)]
    learners.append(frozen)
    streams = _streams(material, layout, fresh)
    tables = []
    for provenance in ("simulated", "replayed"):
        fared = [
            (stream.name, course)
            for stream in streams
            if stream.provenance == provenance
            for course in _courses(stream, learners, n_rounds, n_seeds, material.seed)
        ]
        tables += _tables(material, provenance, fared)
    return tables


def _streams(material: Material, layout: Layout, fresh: States) -> list[_Stream]:
    datasets = np.repeat(np.arange(len(material.test)), [len(o.traces) for o in material.test])
    rng = np.random.default_rng(material.seed)
    streams = [
        _Stream("drawn from the problem", "simulated", [ModelWorld(Layout(_at_costs(fresh, layout.graph)))]),
        _Stream("recorded queries", "replayed", [_recorded(layout, fresh, np.arange(len(datasets)), rng)]),
    ]
    if len(material.test) > 1:
        drift = [_recorded(layout, fresh, np.flatnonzero(datasets == k), rng) for k in (0, 1)]
        names = " then ".join(outcomes.dataset for outcomes in material.test[:2])
        streams.append(_Stream(f"{DRIFTING}: {names}", "replayed", drift))
    return streams


def _at_costs(states: States, known: Graph) -> Graph:
    """The problem of these rows, at the costs that the learner is told."""
    own = estimate_graph(states)
    edges = tuple(
        type(edge)(edge.source, edge.target, told.cost, edge.kernel, edge.action)
        for edge, told in zip(own.edges, known.edges, strict=True)
    )
    return Graph(own.nodes, edges, own.start)


def _recorded(layout: Layout, states: States, index: IntArray, rng: np.random.Generator) -> TraceWorld:
    chosen = index if len(index) <= N_ITEMS else rng.choice(index, N_ITEMS, replace=False)
    nodes = [states.rows[node.name] for node in layout.graph.nodes]
    bins = np.stack([node.bins[chosen] for node in nodes], axis=1)
    return TraceWorld(layout, bins, np.stack([node.score[chosen] for node in nodes], axis=1))


def _courses(
    stream: _Stream, learners: Sequence[Learner], n_rounds: int, n_seeds: int, seed: int
) -> Iterator[Course]:
    for learner in learners:
        yield learn(learner, stream.worlds, LAM, n_rounds, n_seeds, seed)
    if len(stream.worlds) > 1:
        course = learn(PosteriorSampling(), stream.worlds, LAM, n_rounds, n_seeds, seed, keep=KEEP)
        yield Course("posterior sampling, forgetting", course.rounds, course.regret)


def theory_slope(rounds: IntArray) -> float:
    """Log-log slope of sqrt(T log T) over the rounds that slopes are fitted on."""
    late = rounds[rounds >= FROM_ROUND].astype(float)
    return float(np.polyfit(np.log(late), 0.5 * np.log(late * np.log(late)), 1)[0])


def _tables(
    material: Material, provenance: Provenance, fared: Sequence[tuple[str, Course]]
) -> list[StudyTable]:
    rng = np.random.default_rng(material.seed)
    title = "Regret of learning while answering" + (", simulated" if provenance == "simulated" else "")
    suffix = "_simulated" if provenance == "simulated" else ""
    note = (
        f"Cost units lost against the best fixed table of actions at lambda {LAM:g}, mean over learners with "
        f"a 95 % interval; slopes are of log regret over log rounds from {FROM_ROUND} on, a dash where "
        "regret does not grow there. A regret below zero would say that the table found is not the best."
    )
    final = StudyTable(
        name=f"regret{suffix}",
        title=title,
        provenance=provenance,
        measured_on=material.measured_on,
        n=material.n,
        columns=(
            *("stream", "learner", "rounds", "learners", "regret", "regret_low", "regret_high"),
            *("slope", "slope_low", "slope_high", "slope_sqrt_T_log_T"),
        ),
        rows=tuple(_final(stream, course, rng) for stream, course in fared),
        note=note,
    )
    courses = StudyTable(
        name=f"regret_course{suffix}",
        title=f"{title}: the course",
        provenance=provenance,
        measured_on=material.measured_on,
        n=material.n,
        columns=("stream", "learner", "rounds", "regret", "regret_low", "regret_high"),
        rows=tuple(row for stream, course in fared for row in _course(stream, course)),
        note="Mean over learners; between low and high lie 95 % of them.",
    )
    return [final, courses]


def _final(stream: str, course: Course, rng: np.random.Generator) -> tuple[Value, ...]:
    last = course.regret[:, -1]
    means = last[rng.integers(len(last), size=(1000, len(last)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    head = (stream, course.learner, int(course.rounds[-1]), len(last), float(last.mean()), low, high)
    return (*head, *_slope(course, rng), theory_slope(course.rounds))


def _slope(course: Course, rng: np.random.Generator) -> tuple[Value, Value, Value]:
    late = course.regret[:, course.rounds >= FROM_ROUND].mean(axis=0)
    if (late <= 0).any():
        return None, None, None
    found: Slope = slope(course, rng)
    return found.value, found.low, found.high


def _course(stream: str, course: Course) -> Iterator[tuple[Value, ...]]:
    late = np.flatnonzero(course.rounds >= 10)
    shown = np.unique(late[np.linspace(0, len(late) - 1, N_SHOWN).astype(int)])
    low, high = np.quantile(course.regret[:, shown], [0.025, 0.975], axis=0)
    means: FloatArray = course.regret[:, shown].mean(axis=0)
    for rounds, *values in zip(course.rounds[shown].tolist(), means, low, high, strict=True):
        yield (stream, course.learner, rounds, *map(float, values))
