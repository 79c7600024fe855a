"""Regret of learning while answering, against the best fixed policy of the learner's own class.

A *world* deals queries: `ModelWorld` draws them from a stopping problem, so that (node, bin) is all there is
to know and the optimum is exact; `TraceWorld` draws recorded queries, which are not Markov in the bins: there
the best fixed table of actions is searched for, coordinate by coordinate from many starts, and said to be the
best *found*. Regret of a round is the comparator's expected value minus the plan's own, both over the world's
queries: no noise of the draw is in it, and it is never against the clairvoyant oracle.

Beliefs are brought up to date at rounds that grow by `GROWTH`, so 1e5 rounds take some two hundred plans.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError, DataError
from asd.research.theory.learning import Beliefs, Layout, Learner, RoundPlan, best
from asd.stopping.graph import FloatArray, IntArray

__all__ = [
    "Course",
    "ModelWorld",
    "RoundCounts",
    "Slope",
    "TraceWorld",
    "World",
    "best_table",
    "learn",
    "slope",
]

GROWTH = 1.05

FROM_ROUND = 1000
"""Slopes are fitted from here on: before it, the prior speaks."""


@dataclass(frozen=True, slots=True)
class RoundCounts:
    """What was seen in a stretch of rounds, summed: the increments of `Beliefs`."""

    moves: FloatArray
    right: FloatArray
    wrong: FloatArray


class World(Protocol):
    """Deals queries and says what a plan is worth on them."""

    @property
    def layout(self) -> Layout:
        """The problem as the learner sees it."""

    def play(self, plan: RoundPlan, n_rounds: int, rng: np.random.Generator) -> RoundCounts:
        """Play so many rounds for every seed."""

    def value(self, plan: RoundPlan, lam: float) -> FloatArray:
        """Expected value of a round under the plan, shape (S,)."""

    def comparator(self, lam: float) -> float:
        """Expected value of a round under the best fixed table of actions."""


class _RoundsInFlight:
    """Rounds in flight, shape (S, n): where each stands; walks until all have stopped."""

    def __init__(
        self, layout: Layout, plan: RoundPlan, bins: IntArray, rng: np.random.Generator | None
    ) -> None:
        self.layout, self.plan, self.rng = layout, plan, rng
        self.node = np.zeros(bins.shape, dtype=np.intp)
        self.bin = bins
        self.cost = np.zeros(bins.shape)
        self.moves = np.zeros((len(bins), layout.n_edges, layout.n_bins, layout.n_bins))

    def run(self, arrive: Callable[[IntArray, IntArray], IntArray]) -> None:
        """Take edges until all have stopped; `arrive(edge, bin)` gives the bins at the targets."""
        seed = np.broadcast_to(np.arange(len(self.bin))[:, None], self.bin.shape)
        for _ in range(self.layout.depth):
            edge = self.layout.edge_of[self.node, self._actions(seed)]
            going = edge >= 0
            arrived = np.where(going, arrive(edge, self.bin), self.bin)
            where = (seed[going], edge[going], self.bin[going], arrived[going])
            np.add.at(self.moves, where, 1)
            self.cost += np.where(going, self.layout.cost[edge, self.bin], 0)
            self.node = np.where(going, self.layout.target[edge], self.node)
            self.bin = arrived

    def _actions(self, seed: IntArray) -> IntArray:
        planned = self.plan.actions[seed, self.node, self.bin]
        if self.plan.random_share == 0 or self.rng is None:
            return planned
        legal = self.layout.legal[self.node]
        chances = self.rng.random((*legal.shape,)) * legal
        at_random = self.rng.random(planned.shape) < self.plan.random_share
        return np.where(at_random, chances.argmax(axis=-1), planned)

    def play(self, quality: FloatArray) -> RoundCounts:
        """What the learner gets to see, given the quality of every returned answer, shape (S, n)."""
        seed = np.broadcast_to(np.arange(len(self.bin))[:, None], self.bin.shape)
        right = np.zeros((len(self.bin), self.layout.n_nodes, self.layout.n_bins))
        wrong = np.zeros_like(right)
        np.add.at(right, (seed, self.node, self.bin), quality)
        np.add.at(wrong, (seed, self.node, self.bin), 1 - quality)
        return RoundCounts(self.moves, right, wrong)


class ModelWorld:
    """Queries drawn from a stopping problem; simulated."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._kernels, self._p = layout.kernels, layout.p
        self._cumulative = self._kernels.cumsum(axis=-1)

    def play(self, plan: RoundPlan, n_rounds: int, rng: np.random.Generator) -> RoundCounts:
        """Draw bins by the kernels and answers by the success probabilities."""
        shape = (len(plan.actions), n_rounds)
        walk = _RoundsInFlight(self.layout, plan, rng.choice(len(self._start), shape, p=self._start), rng)

        def arrive(edge: IntArray, bins: IntArray) -> IntArray:
            rows = self._cumulative[edge, bins]
            drawn = rng.random(shape)[..., None] * rows[..., -1:]
            return np.asarray((rows <= drawn).sum(axis=-1).clip(max=rows.shape[-1] - 1))

        walk.run(arrive)
        return walk.play((rng.random(shape) < self._p[walk.node, walk.bin]).astype(float))

    @property
    def _start(self) -> FloatArray:
        return self.layout.graph.start

    def value(self, plan: RoundPlan, lam: float) -> FloatArray:
        """Exact: the recursion without the maximum, random actions averaged over."""
        layout = self.layout
        worth = np.zeros(plan.actions.shape)
        for node in reversed(range(layout.n_nodes)):
            options = np.zeros((layout.edge_of.shape[1], *worth[:, node].shape))
            options[0] = lam * self._p[node]
            for action, edge in enumerate(layout.edge_of[node]):
                if edge >= 0:
                    then = worth[:, layout.target[edge]] @ self._kernels[edge].T
                    options[action] = then - layout.cost[edge]
            planned = np.take_along_axis(options, plan.actions[None, :, node], axis=0)[0]
            at_random = options[layout.legal[node]].mean(axis=0)
            worth[:, node] = (1 - plan.random_share) * planned + plan.random_share * at_random
        return np.asarray(worth[:, 0, : len(self._start)] @ self._start)

    def comparator(self, lam: float) -> float:
        """The optimum."""
        actions = best(self.layout, self._kernels[None], self._p[None], lam)
        return float(self.value(RoundPlan(actions), lam)[0])


class TraceWorld:
    """Recorded queries drawn with replacement; replayed.

    Args:
        layout: The problem as the learner sees it.
        bins: Bin of every query at every node, shape (items, N).
        quality: Quality of the best answer there, in [0, 1], same shape (unread at the root).
        seed: Of the search for the comparator.

    Raises:
        DataError: The arrays are empty or do not fit the layout.
    """

    def __init__(self, layout: Layout, bins: IntArray, quality: FloatArray, seed: int = 0) -> None:
        if len(bins) == 0 or bins.shape != quality.shape or bins.shape[1] != layout.n_nodes:
            raise DataError(f"need (items, {layout.n_nodes}), got {bins.shape} and {quality.shape}")
        self.layout, self._bins, self._quality, self._seed = layout, bins, quality, seed
        self._best: dict[float, float] = {}

    def play(self, plan: RoundPlan, n_rounds: int, rng: np.random.Generator) -> RoundCounts:
        """Draw queries; where they lead is recorded."""
        item = rng.integers(len(self._bins), size=(len(plan.actions), n_rounds))
        walk = _RoundsInFlight(self.layout, plan, self._bins[item, 0], rng)
        walk.run(lambda edge, _: self._bins[item, self.layout.target[edge]])
        return walk.play(self._quality[item, walk.node])

    def value(self, plan: RoundPlan, lam: float) -> FloatArray:
        """Mean over all recorded queries; random actions are averaged over draws of each query."""
        repeats = 1 if plan.random_share == 0 else 4
        item = np.tile(np.arange(len(self._bins)), (len(plan.actions), repeats))
        rng = np.random.default_rng(self._seed)
        walk = _RoundsInFlight(self.layout, plan, self._bins[item, 0], rng)
        walk.run(lambda edge, _: self._bins[item, self.layout.target[edge]])
        return np.asarray((lam * self._quality[item, walk.node] - walk.cost).mean(axis=1))

    def comparator(self, lam: float) -> float:
        """The best table found; searched for once a lam."""
        if lam not in self._best:
            actions = best_table(self, lam, n_starts=20, rng=np.random.default_rng(self._seed))
            self._best[lam] = float(self.value(RoundPlan(actions[None]), lam)[0])
        return self._best[lam]


def best_table(world: World, lam: float, n_starts: int, rng: np.random.Generator) -> IntArray:
    """The best fixed table of actions found: coordinate ascent from random tables, shape (N, B).

    Every pass tries every action of every (node, bin) in all starts at once; it ends when none improves.
    """
    layout = world.layout
    chances = rng.random((n_starts, layout.n_nodes, layout.n_bins, layout.edge_of.shape[1]))
    actions = (chances * layout.legal[:, None, :]).argmax(axis=-1)
    value = world.value(RoundPlan(actions), lam)
    while True:
        before = value.max()
        for node, bin_ in np.ndindex(layout.n_nodes, layout.n_bins):
            for action in np.flatnonzero(layout.legal[node]):
                tried = actions.copy()
                tried[:, node, bin_] = action
                worth = world.value(RoundPlan(tried), lam)
                better = worth > value
                actions[better], value[better] = tried[better], worth[better]
        if value.max() <= before:
            return np.asarray(actions[value.argmax()])


@dataclass(frozen=True, slots=True)
class Course:
    """How a learner fared: cumulative regret after some numbers of rounds, shape (S, len(rounds))."""

    learner: str
    rounds: IntArray
    regret: FloatArray


def learn(
    learner: Learner,
    worlds: Sequence[World],
    lam: float,
    n_rounds: int,
    n_seeds: int,
    seed: int,
    *,
    keep: float = 1.0,
) -> Course:
    """Play `n_rounds`, the worlds one after another for equal stretches (one world: nothing drifts).

    Args:
        learner: Who plays.
        worlds: All of one layout.
        lam: Trade-off weight.
        n_rounds: In all.
        n_seeds: Independent learners.
        seed: Of every draw.
        keep: Weight that what was seen keeps at every update; below 1 the learner follows a drift.

    Raises:
        ConfigError: No world, no rounds or no seeds.
    """
    if not worlds or n_rounds < 1 or n_seeds < 1:
        raise ConfigError(f"nothing to learn from {len(worlds)} worlds, {n_rounds} rounds, {n_seeds} seeds")
    rng = np.random.default_rng(seed)
    beliefs = Beliefs.empty(worlds[0].layout, n_seeds)
    comparators = [world.comparator(lam) for world in worlds]
    rounds, regrets = [0], [np.zeros(n_seeds)]
    while rounds[-1] < n_rounds:
        played = rounds[-1]
        which, stretch = _next_stretch(played, n_rounds, len(worlds))
        plan = learner.plan(beliefs, lam, played, rng)
        seen = worlds[which].play(plan, stretch, rng)
        beliefs.forget(keep)
        beliefs.moves += seen.moves
        beliefs.right += seen.right
        beliefs.wrong += seen.wrong
        lost = comparators[which] - worlds[which].value(plan, lam)
        rounds.append(played + stretch)
        regrets.append(regrets[-1] + stretch * lost)
    return Course(learner.name, np.array(rounds[1:]), np.stack(regrets[1:], axis=1))


def _next_stretch(played: int, n_rounds: int, n_worlds: int) -> tuple[int, int]:
    """Which world is played and for how long: growing within a world, and never across its end."""
    length = math.ceil(n_rounds / n_worlds)
    which = played // length
    within = played - which * length
    end = min(n_rounds, (which + 1) * length) - played
    return which, min(end, max(1, int(within * (GROWTH - 1))))


@dataclass(frozen=True, slots=True)
class Slope:
    """Exponent of growth of regret in T, with a 95 % bootstrap interval over the seeds."""

    value: float
    low: float
    high: float


def slope(course: Course, rng: np.random.Generator, n_resamples: int = 1000) -> Slope:
    """Slope of log mean regret over log rounds from `FROM_ROUND` on.

    Raises:
        DataError: Fewer than three points, or the mean regret is not positive there.
    """
    late = course.rounds >= FROM_ROUND
    rounds, regret = np.log(course.rounds[late]), course.regret[:, late]
    if len(rounds) < 3 or (regret.mean(axis=0) <= 0).any():
        raise DataError(f"{course.learner}: no growth to fit a slope to from round {FROM_ROUND} on")
    chosen = rng.integers(len(regret), size=(n_resamples, len(regret)))
    means = regret[chosen].mean(axis=1)
    slopes = _slopes(rounds, np.log(means[(means > 0).all(axis=1)]))
    low, high = np.quantile(slopes, [0.025, 0.975])
    return Slope(float(_slopes(rounds, np.log(regret.mean(axis=0))[None])[0]), float(low), float(high))


def _slopes(x: FloatArray, y: npt.NDArray[np.float64]) -> FloatArray:
    """Least-squares slope of every row of y over x."""
    centred = x - x.mean()
    return np.asarray(y @ centred / (centred @ centred))
