"""Learning while answering: beliefs count what was seen, plans equal the recursion, regret is measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from asd.errors import ConfigError, DataError
from asd.evaluation.problems import subset_problem
from asd.research.theory.learning import (
    Beliefs,
    ExploreThenCommit,
    Greedy,
    Layout,
    PosteriorSampling,
    RoundPlan,
    best,
)
from asd.research.theory.regret import Course, ModelWorld, TraceWorld, best_table, learn, slope
from asd.stopping.graph import Edge, Graph, Node
from asd.stopping.recursion import evaluate, solve
from asd.types import Action

LAM = 6.0


def problem(seed: int = 0, stages: str = "ABC", n_bins: int = 4) -> Graph:
    return subset_problem(stages, n_bins, np.random.default_rng(seed))


def chain(p_first: tuple[float, float], p_last: float, cost: float) -> Graph:
    """The first stage is right for sure or not at all, by its bin; the second costs more."""
    one = np.ones(1)
    nodes = (
        Node("", np.zeros(1), may_stop=False),
        Node("A", np.array(p_first)),
        Node("AB", np.array([p_last])),
    )
    edges = (
        Edge("", "A", one, np.array([[0.5, 0.5]]), Action.draft("A")),
        Edge("A", "AB", np.full(2, cost), np.ones((2, 1)), Action.draft("B")),
    )
    return Graph(nodes, edges, one)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_plan_is_the_exact_recursion(seed: int) -> None:
    """Backward induction over seeds gives the actions that `solve` gives."""
    graph = problem(seed)
    layout = Layout(graph)
    actions = best(layout, layout.kernels[None], layout.p[None], LAM)[0]
    solution = solve(graph, [LAM])
    for i, node in enumerate(graph.nodes):
        np.testing.assert_array_equal(actions[i, : node.n_bins] - 1, solution.action[node.name][0])


@pytest.mark.parametrize("seed", range(3))
def test_the_value_of_a_plan_is_that_of_evaluate(seed: int) -> None:
    """A random table of actions is worth in the world what the recursion without the maximum says."""
    graph, rng = problem(seed), np.random.default_rng(seed)
    layout = Layout(graph)
    legal = np.broadcast_to(layout.legal[:, None, :], (*layout.p.shape, layout.legal.shape[1]))
    actions = (rng.random(legal.shape) * legal).argmax(axis=-1)
    told = {node.name: actions[i] - 1 for i, node in enumerate(graph.nodes)}
    exact = evaluate(graph, told, [LAM]).expected_value[0]
    assert ModelWorld(layout).value(RoundPlan(actions[None]), LAM)[0] == pytest.approx(exact)


def test_random_actions_are_averaged_over() -> None:
    """At a share of one every legal action is as likely: worked by hand on a chain."""
    layout = Layout(chain((0.2, 0.8), 0.9, cost=2.0))
    plan = RoundPlan(np.zeros((1, 3, 2), dtype=np.intp), random_share=1.0)
    by_hand = -1 + 0.5 * (LAM * 0.5) + 0.5 * (LAM * 0.9 - 2)
    assert ModelWorld(layout).value(plan, LAM)[0] == pytest.approx(by_hand)


def test_what_is_not_returned_is_not_seen() -> None:
    """One quality a round, at the node where it stopped; one transition for every edge taken."""
    layout = Layout(problem())
    world, rng = ModelWorld(layout), np.random.default_rng(0)
    plan = RoundPlan(best(layout, layout.kernels[None], layout.p[None], LAM))
    seen = world.play(plan, 500, rng)
    assert (seen.right + seen.wrong).sum() == pytest.approx(500)
    stopping = plan.actions[0] == 0
    assert (seen.right + seen.wrong)[0][~stopping].sum() == 0
    assert seen.moves.sum() >= 500


def test_drawn_worlds_have_the_frequencies_of_the_problem() -> None:
    """Transitions and successes seen over many rounds approach kernels and success probabilities."""
    layout = Layout(chain((0.2, 0.8), 0.9, cost=2.0))
    actions = np.zeros((1, 3, 2), dtype=np.intp)
    actions[0, 0, 0] = 1
    actions[0, 1, 0] = 1  # the first bin goes on, the second stops
    seen = ModelWorld(layout).play(RoundPlan(actions), 20_000, np.random.default_rng(1))
    assert seen.moves[0, 0, 0] / 20_000 == pytest.approx([0.5, 0.5], abs=0.02)
    assert seen.right[0, 1, 1] / (seen.right + seen.wrong)[0, 1, 1] == pytest.approx(0.8, abs=0.02)
    assert seen.right[0, 2, 0] / (seen.right + seen.wrong)[0, 2, 0] == pytest.approx(0.9, abs=0.02)


def test_beliefs_without_data_are_flat_and_follow_data() -> None:
    """The posterior mean is uniform at first and the observed share in the end; draws scatter around it."""
    layout = Layout(problem())
    beliefs = Beliefs.empty(layout, n_seeds=400)
    kernels, p = beliefs.mean()
    np.testing.assert_allclose(kernels, 1 / layout.n_bins)
    np.testing.assert_allclose(p, 0.5)
    beliefs.moves[:, 0, 0, 1] = 30.0
    beliefs.right[:, 1, 0] = 9.0
    kernels, p = beliefs.draw(np.random.default_rng(0))
    mean_kernels, mean_p = beliefs.mean()
    np.testing.assert_allclose(kernels.mean(axis=0)[0], mean_kernels[0, 0], atol=0.1)
    assert p[:, 1, 0].mean() == pytest.approx(9.5 / 10, abs=0.02)
    assert mean_p[0, 1, 0] == pytest.approx(9.5 / 10)


def test_narrow_nodes_get_no_probability_beyond_their_bins() -> None:
    """A target with one bin keeps all its mass there, drawn or averaged."""
    layout = Layout(chain((0.2, 0.8), 0.9, cost=2.0))
    beliefs = Beliefs.empty(layout, n_seeds=3)
    for kernels, _ in (beliefs.mean(), beliefs.draw(np.random.default_rng(0))):
        assert (kernels[:, 1, :, 1] == 0).all()
        np.testing.assert_allclose(kernels.sum(axis=-1), 1)


def test_posterior_sampling_learns_and_greed_need_not() -> None:
    """Posterior sampling's regret grows slower than linearly, and ends below that of random actions."""
    world = ModelWorld(Layout(problem(1, n_bins=6)))
    sampling = learn(PosteriorSampling(), [world], LAM, 20_000, n_seeds=10, seed=0)
    random = learn(ExploreThenCommit(20_000), [world], LAM, 20_000, n_seeds=10, seed=0)
    assert slope(sampling, np.random.default_rng(0)).high < 0.9
    assert slope(random, np.random.default_rng(0)).value == pytest.approx(1, abs=0.02)
    assert sampling.regret[:, -1].mean() < 0.2 * random.regret[:, -1].mean()


def test_regret_is_never_negative_where_the_optimum_is_exact() -> None:
    """No plan beats the comparator on a problem drawn from the model."""
    world = ModelWorld(Layout(problem(2)))
    course = learn(Greedy(0.1), [world], LAM, 2_000, n_seeds=5, seed=0)
    assert (np.diff(course.regret, axis=1) >= -1e-9).all()
    assert course.rounds[-1] == 2_000


def test_forgetting_follows_a_drift() -> None:
    """When the problem changes half way, forgetting ends with less regret than remembering."""
    before, after = (Layout(chain((0.9, p), 0.95, cost=3.0)) for p in (0.9, 0.1))
    worlds = [ModelWorld(before), ModelWorld(after)]
    fixed = learn(Greedy(0.05), worlds, LAM, 40_000, n_seeds=10, seed=0)
    forgetful = learn(Greedy(0.05), worlds, LAM, 40_000, n_seeds=10, seed=0, keep=0.9)
    assert forgetful.regret[:, -1].mean() < fixed.regret[:, -1].mean()


def traces(n: int, layout: Layout, seed: int) -> TraceWorld:
    """Recorded queries whose quality is not a function of the bins."""
    rng = np.random.default_rng(seed)
    bins = rng.integers(layout.n_bins, size=(n, layout.n_nodes))
    return TraceWorld(layout, bins, rng.random((n, layout.n_nodes)))


def test_the_best_table_is_found_by_brute_force_too() -> None:
    """Coordinate ascent from many starts finds what trying every table finds."""
    layout = Layout(problem(3, "AB", n_bins=2))
    world = traces(30, layout, 0)
    found = best_table(world, LAM, 20, np.random.default_rng(0))
    cells = [np.flatnonzero(layout.legal[node]) for node in range(layout.n_nodes) for _ in range(2)]
    tables = np.stack(np.meshgrid(*cells, indexing="ij"), axis=-1).reshape(-1, layout.n_nodes, 2)
    exhaustive = world.value(RoundPlan(tables), LAM).max()
    assert world.value(RoundPlan(found[None]), LAM)[0] == pytest.approx(exhaustive)
    assert world.comparator(LAM) == pytest.approx(exhaustive)


def test_playing_every_recorded_query_gives_the_value() -> None:
    """The mean over draws of what is earned approaches the value over the recording."""
    layout = Layout(problem(4))
    world = traces(200, layout, 1)
    plan = RoundPlan(best(layout, layout.kernels[None], layout.p[None], LAM))
    seen = world.play(plan, 50_000, np.random.default_rng(0))
    cost = np.einsum("ebc,eb->", seen.moves[0], layout.cost) / 50_000
    earned = LAM * seen.right.sum() / 50_000 - cost
    assert earned == pytest.approx(world.value(plan, LAM)[0], rel=0.02)


def test_a_slope_is_the_exponent_of_growth() -> None:
    """Regret that grows as the square root has slope one half, with an interval around it."""
    rounds = np.geomspace(100, 1e5, 60).astype(int)
    noise = np.random.default_rng(0).normal(1, 0.1, size=(20, 1))
    course = Course("exact", rounds, noise * np.sqrt(rounds))
    found = slope(course, np.random.default_rng(1))
    assert found.value == pytest.approx(0.5, abs=0.01)
    assert found.low <= found.value <= found.high


def test_wrong_input_is_named() -> None:
    """No rounds, no worlds, a share beyond one, traces of another shape, regret that never grows."""
    world = ModelWorld(Layout(problem()))
    with pytest.raises(ConfigError, match="0 rounds"):
        learn(Greedy(), [world], LAM, 0, 1, 0)
    with pytest.raises(ConfigError, match="0 worlds"):
        learn(Greedy(), [], LAM, 10, 1, 0)
    with pytest.raises(ConfigError, match=r"1\.5"):
        Greedy(1.5)
    with pytest.raises(ConfigError, match="at least 1 round"):
        ExploreThenCommit(0)
    with pytest.raises(DataError, match="need"):
        TraceWorld(world.layout, np.zeros((0, 8), dtype=int), np.zeros((0, 8)))
    course = learn(Greedy(), [world], LAM, 2_000, 2, 0)
    with pytest.raises(DataError, match="no growth"):
        slope(replace(course, regret=np.zeros_like(course.regret)), np.random.default_rng(0))
