"""The queue-aware policy: what waiting is charged, the table that is solved, the look-up of a decision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from asd.cascade import Cascade
from asd.errors import ConfigError, NoStageLeftError
from asd.evidence import Judgement
from asd.operations.arrivals import poisson
from asd.operations.control.backlog import (
    LEVELS,
    BacklogPolicy,
    BacklogProblem,
    Surcharge,
    level_of,
    surcharge,
)
from asd.operations.control.contenders import Contenders
from asd.operations.control.deciders import Lookup, Remembered
from asd.operations.population import Population, Situation
from asd.operations.simulator import Simulator
from asd.operations.state import StageState, SystemState
from asd.operations.stations import StageServer
from asd.operations.traffic import Open
from asd.stopping.graph import Graph
from asd.stopping.recursion import one_step, solve
from asd.types import Action
from tests.worlds import fitted_verified, ladder, sample, verified

TIMED = replace(ladder(), price_unit="ms")
"""A decoded token takes 1 ms at S and 5 ms at L: about 11 and 55 ms an answer."""
LAM, MU = 20.0, 15.0


@dataclass
class Queue:
    """A stage of which only the queue is known."""

    n_waiting: int = 0
    n_calls: int = 0
    replicas: int = 1
    batch: int = 1
    place: str | None = None
    is_resident: bool = True


def busy(use: float, replicas: int = 1, call_s: float = 1.0, per_call: float = 1.0) -> StageState:
    return StageState(replicas, 0, 0, use, None, call_s, per_call)


def test_a_backlog_is_counted_in_calls() -> None:
    """A free replica is no backlog; all that wait go in batches; a stage without replicas is out."""
    assert level_of(Queue(0, 0)) == level_of(Queue(5, 1, replicas=2)) == 0
    assert level_of(Queue(0, 1)) == level_of(Queue(8, 1, batch=16)) == 1
    assert [level_of(Queue(n, 1)) for n in (0, 1, 2, 3, 8, 9, 99)] == [1, 2, 2, 3, 3, 4, 4]
    assert level_of(Queue(16, 1, batch=16)) == 2
    assert level_of(Queue(0, 0, replicas=0)) == len(LEVELS) - 1


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.8])
def test_the_charge_is_the_marginal_cost_of_a_request(rho: float) -> None:
    """Over the states of M/M/1 its mean is d(lambda T)/d lambda = 1 / (1 - rho)^2 calls, at mu = 1."""
    charge = surcharge(busy(rho), 1, 1.0)
    total = charge.visit + charge.second
    at_level = [total[0] + n * (total[1] - total[0]) for n in range(2000)]  # linear in the backlog
    assert total[3] == pytest.approx(at_level[6])
    mean = sum((1 - rho) * rho**n * charged for n, charged in enumerate(at_level))
    assert mean == pytest.approx(1.0 / (1.0 - rho) ** 2)


def test_charges_grow_with_mu_calls_and_fewer_replicas() -> None:
    """The wait is the backlog's calls over the replicas; own time is the whole call's."""
    charge = surcharge(busy(0.5, replicas=2, call_s=3.0, per_call=4.0), 16, mu=2.0)
    assert charge.visit[:-1] == pytest.approx([2.0 * level * 1.5 for level in LEVELS[:-1]])
    assert math.isinf(charge.visit[-1])
    load = 0.5 * 4 / 16
    others = load ** (math.sqrt(6.0) - 1.0) / (1 - load)
    assert charge.second[0] == pytest.approx(2.0 * (4.0 + others))
    assert charge.second[1] == pytest.approx(2.0 * (4.0 + others + load / (1 - load) / 2))
    assert charge.size == 4
    assert np.isfinite(charge.second).all()


def test_a_stage_that_has_never_worked_charges_its_calls_only() -> None:
    charge = surcharge(replace(busy(0.5), call_s=None), 1, 3.0)
    assert charge.visit.tolist() == [0.0, 0.0, 0.0, 0.0, 0.0, math.inf]
    assert charge.second.tolist() == [3.0] * len(LEVELS)


def no_charge() -> Surcharge:
    return Surcharge(np.zeros(len(LEVELS)), np.zeros(len(LEVELS)), 1)


def problem(*, scaled: bool = True) -> BacklogProblem:
    fitted = fitted_verified()
    usage = {(e.source, e.parsed_action): np.array(e.usage) for e in fitted.problem.edges}
    rates = {"S": np.array([[0, 0, 0, 1e-3, 0, 0]]), "L": np.array([[0, 0, 0, 5e-3, 0, 0]])}
    return BacklogProblem(fitted.graph(), usage, rates, scaled=scaled)


def numbers(found: BacklogProblem, node: str, actions: bytes) -> np.ndarray:
    """Actions as in `asd.stopping.recursion`, shape (combinations, scales, bins)."""
    n_bins = found.graph.node(node).n_bins
    return np.frombuffer(actions, dtype=np.int8).reshape(-1, len(found.scales), n_bins).astype(int) - 1


def test_without_charges_the_recursion_is_the_library_s() -> None:
    """At every length of a query: lam / scale, as `OptimalPolicy` decides; one step ahead likewise."""
    found = problem()
    lams = LAM / np.array(found.scales[::-1])
    free = {"S": no_charge(), "L": no_charge()}
    exact, ahead_one = solve(found.graph, lams).action, one_step(found.graph, lams)
    for solved, expected in ((found.solve(LAM, free), exact), (found.solve(LAM, free, 0.0), ahead_one)):
        for node, actions in solved.actions.items():
            for combination in numbers(found, node, actions):
                assert (combination[::-1] == expected[node]).all(), node


def row_of(found: BacklogProblem, node: str, levels: Mapping[str, int]) -> int:
    """Of a combination of backlogs, among those that matter at the node."""
    row = 0
    for i in found.place(Judgement(node, 0, None, {}, 1.0)).stages:
        row = row * len(LEVELS) + levels[found.stages[i]]
    return row


def charged(graph: Graph, levels: Mapping[str, int], charges: Mapping[str, Surcharge]) -> Graph:
    """The problem with one combination's charges on its edges, built edge by edge."""
    seconds = {"S": 1e-3, "L": 5e-3}
    usage = {(e.source, e.parsed_action): np.array(e.usage) for e in fitted_verified().problem.edges}
    edges = []
    for edge in graph.edges:
        stage = edge.action.stage
        charge, level = charges[stage], levels[stage]
        work = usage[edge.source, edge.action][:, 3] * seconds[stage]
        edges.append(replace(edge, cost=edge.cost + charge.visit[level] + charge.second[level] * work))
    return Graph(graph.nodes, tuple(edges), graph.start)


@pytest.mark.parametrize("levels", [{"S": 0, "L": 0}, {"S": 0, "L": 3}, {"S": 4, "L": 0}, {"S": 2, "L": 4}])
def test_every_row_is_the_solution_of_its_own_problem(levels: dict[str, int]) -> None:
    """Beside a graph with that row's charges, solved by the library."""
    found = problem(scaled=False)
    charges = {"S": surcharge(busy(0.4, call_s=0.011), 1, MU), "L": surcharge(busy(0.8, call_s=0.055), 1, MU)}
    exact = solve(charged(found.graph, levels, charges), [LAM]).action
    for node, actions in found.solve(LAM, charges).actions.items():
        row = row_of(found, node, levels)
        assert (numbers(found, node, actions)[row, 0] == exact[node][0]).all(), node


@pytest.fixture(scope="module")
def contenders() -> Contenders:
    rng = np.random.default_rng(5)
    fitted = fitted_verified()
    population = Population(verified(sample(150, rng)[0], rng), TIMED, fitted.ladder.unit(), 1)
    return Contenders(fitted, population, {"S": (1, 1), "L": (2, 1)}, 1, Remembered(fitted.evidence()))


def queue_aware(contenders: Contenders, **queues: Queue) -> BacklogPolicy:
    controller = contenders.of("queue:20:30")
    policy = controller.policy(None)
    assert isinstance(policy, BacklogPolicy)
    controller.watch(queues)  # type: ignore[attr-defined]
    return policy


@pytest.mark.parametrize("domains", [(), ("mathematical",)])
def test_the_simulator_decides_as_the_policy_that_serves(
    contenders: Contenders, domains: tuple[str, ...]
) -> None:
    """In every state of every query, at changing backlogs, the look-up is what a cascade is told.

    So it is where S is for one domain only, which about half of the queries are of.
    """
    queues, known = {"S": Queue(), "L": Queue(replicas=2)}, contenders.population
    small, large = TIMED.stages
    specialised = replace(TIMED, stages=(replace(small, only=domains), large))
    population = Population([one.trace for one in known.queries], specialised, known.unit, 1)
    policy = queue_aware(contenders, **queues)
    cascade = Cascade(population.engines, policy, population.prices, only=population.only)
    lookup = Lookup(population, policy)
    rng, n_steps = np.random.default_rng(3), 0
    for situation in population.queries:
        for queue in queues.values():
            queue.n_calls, queue.n_waiting = queue.replicas * int(rng.integers(2)), int(rng.integers(20))
        here: Situation | None = situation
        while here is not None:
            journey = here.journey.copy()
            cascade.decide(journey)
            step = lookup.step(here, frozenset())
            assert step is not None
            assert (step.action, step.answer) == (journey.chosen.action, journey.chosen.answer)
            n_steps, here = n_steps + 1, step.after
    assert n_steps > (200 if domains else 300)


def test_a_longer_queue_is_avoided(contenders: Contenders) -> None:
    """The longer the queue of L, the fewer queries go there; with S full, they go straight to L."""
    shares = []
    for n in (0, 3, 30):
        queues = {"S": Queue(), "L": Queue(n, 2, replicas=2)}
        policy, population = queue_aware(contenders, **queues), contenders.population
        lookup = Lookup(population, policy)
        first = [lookup.step(situation, frozenset()) for situation in population.queries]
        again = [lookup.step(step.after, frozenset()) for step in first if step and step.after]
        shares.append(sum(bool(step) and step.stage == "L" for step in first + again))
    assert shares[0] > shares[1] > shares[2], shares


def test_stages_out_of_reach_are_never_asked(contenders: Contenders) -> None:
    """Without L nothing is verified by it either; without both there is nothing left, and it is said."""
    policy, population = queue_aware(contenders, S=Queue(), L=Queue()), contenders.population
    lookup = Lookup(population, policy)
    for situation in population.queries:
        step = lookup.step(situation, frozenset({"L"}))
        assert step is not None
        assert step.stage == "S"
        assert lookup.step(situation, frozenset({"S", "L"})) is None
    query = population.queries[0].trace.query
    assert policy.without({"S"}).decide(query, {}).action == Action.draft("L")
    with pytest.raises(NoStageLeftError, match="without L, S"):
        policy.without({"S"}).without({"L"}).decide(query, {})


def test_the_router_by_price_looks_at_no_answer(contenders: Contenders) -> None:
    """It chooses among all stages from the prompt, and what that one answers is returned."""
    lookup = Lookup(contenders.population, contenders.of("price:5:1").policy(None))  # type: ignore[arg-type]
    first = [lookup.step(situation, frozenset()) for situation in contenders.population.queries]
    assert {step.stage for step in first if step} == {"S", "L"}
    for step in first:
        assert step is not None
        assert step.after is not None
        then = lookup.step(step.after, frozenset())
        assert then is not None
        assert then.after is None


def state(**stages: StageState) -> SystemState:
    return SystemState(10.0, 5.0, stages, 0, 1.0, 0.0, 0.1, None)


def test_the_state_is_smoothed_and_solved_again(contenders: Contenders) -> None:
    """Half of the old state stays; a stage that rests keeps what is known of its calls."""
    controller = contenders.of("queue:20:1")
    policy = controller.policy(None)
    before = policy.table.solved  # type: ignore[attr-defined]
    resting = replace(busy(0.0, 2), call_s=None, per_call=None)
    assert controller.policy(state(S=busy(0.8, call_s=0.031), L=resting)) is policy
    assert policy.table.solved is not before  # type: ignore[attr-defined]
    known = controller.stages  # type: ignore[attr-defined]
    assert known["S"].utilisation == pytest.approx(0.4)
    expected = contenders.population.mean_call_s("S")
    assert known["S"].call_s == pytest.approx((expected + 0.031) / 2)
    assert known["L"].call_s == pytest.approx(contenders.population.mean_call_s("L"))
    assert controller.n_solved == 2  # type: ignore[attr-defined]
    assert controller.solving_s > 0.0  # type: ignore[attr-defined]


def total(contenders: Contenders, text: str, rate: float, seconds: float) -> tuple[float, float, int]:
    servers = {name: StageServer(*server) for name, server in contenders.servers.items()}
    arrivals = poisson(rate, np.random.default_rng(4))
    sim = Simulator(contenders.population, servers, contenders.of(text), Open(arrivals), 4)
    list(sim.run(seconds))
    whole = sim.books.total()
    return whole.latency_s, whole.quality, whole.n_answered


def test_seeing_the_queue_pays(contenders: Contenders) -> None:
    """Near saturation latency falls by a third at the same quality."""
    blind, aware = (total(contenders, text, 62.0, 100.0) for text in ("optimal:50", "queue:50:10"))
    assert aware[0] < 0.67 * blind[0]
    assert aware[1] == pytest.approx(blind[1], abs=0.015)


def test_decisions_are_counted(contenders: Contenders) -> None:
    """One at every step of every request, the last included."""
    controller = contenders.of("queue:50:0")
    servers = {name: StageServer(*server) for name, server in contenders.servers.items()}
    sim = Simulator(contenders.population, servers, controller, Open([0.0, 0.5, 1.0], [0, 0, 0]), 1)
    list(sim.run(600.0))
    policy = controller.policy(None)
    visits = sum(stay.n_visits for stay in sim.books.total().stages.values())
    assert policy.table.n_decisions == visits + 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["queue:5:-1", "queue:5:1:1.5", "queue:-5:1", "queue:5:inf"])
def test_weights_out_of_range_are_refused(contenders: Contenders, text: str) -> None:
    with pytest.raises(ConfigError, match="not"):
        contenders.of(text)


def test_what_a_burst_leaves_behind(contenders: Contenders) -> None:
    """Looking every 10 s, ours decides as before once the load is gone; the published multipliers stay.

    Their loop has no way back: every look at a late system moves them by 5 % in the same direction, so that
    a burst of a few minutes ends at their bounds whatever comes after.
    """
    ours, published = contenders.of("queue:20:5"), contenders.of("published:1")
    calm = state(S=busy(0.2, call_s=0.011), L=busy(0.2, 2, call_s=0.055))
    late = replace(state(S=busy(0.9, call_s=0.011), L=busy(0.95, 2, call_s=0.055)), latency_s=1.0)
    for _ in range(20):
        ours.policy(calm)
    before = dict(ours.policy(calm).table.solved.actions)  # type: ignore[attr-defined]
    for _ in range(30):
        ours.policy(late)
        published.policy(late)
    assert ours.policy(late).table.solved.actions != before  # type: ignore[attr-defined]
    for _ in range(30):
        ours.policy(calm)
        published.policy(calm)
    assert ours.policy(calm).table.solved.actions == before  # type: ignore[attr-defined]
    multipliers = published.multipliers  # type: ignore[attr-defined]
    assert multipliers["L"] == 3.0
    assert multipliers["S"] != pytest.approx(1.0)
