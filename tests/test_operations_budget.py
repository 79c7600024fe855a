"""A day's money: what one look changes, a day that ends at its budget, and a cap that nothing passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asd.errors import ConfigError
from asd.operations.arrivals import poisson
from asd.operations.contenders import Contenders
from asd.operations.control.backlog import QueueAware
from asd.operations.control.budget import Paced
from asd.operations.simulator import Simulator
from asd.operations.stations import StageServer
from asd.operations.traffic import DAY_S, Cap, Controller, Fixed, Open, RunSettings
from asd.policies import FixedStage
from tests.queues import one_stage
from tests.test_operations_backlog import busy, contenders, state  # noqa: F401  (a fixture)

LAM, LOOK_S = 50.0, 300.0


def paced(
    place: Contenders,
    budget: float,
    demand: tuple[float, ...] = (1.0,),
    **others: float,
) -> Paced:
    inner = place.of(f"queue:{LAM}:0")
    assert isinstance(inner, QueueAware)
    inner.interval_s = LOOK_S
    return Paced(inner, budget, demand, **others)


def test_one_look_by_hand(contenders: Contenders) -> None:  # noqa: F811
    """Twice what was due: lam falls by exp(-step); what was overspent is taken from what is due later."""
    made = paced(contenders, 288.0, step=0.5, forget=0.0)
    seen = state(S=busy(0.5, call_s=0.011), L=busy(0.5, 2, call_s=0.055))
    made.policy(replace(seen, now_s=LOOK_S, spent=2.0))  # one was due
    assert made.inner.lam == pytest.approx(LAM * np.exp(-0.5))
    due = 286.0 / 287.0
    made.policy(replace(seen, now_s=2 * LOOK_S, spent=due))
    assert made.inner.lam == pytest.approx(LAM * np.exp(-0.5))
    made.policy(replace(seen, now_s=3 * LOOK_S, spent=0.0))
    assert made.inner.lam == pytest.approx(LAM)
    made.policy(replace(seen, now_s=4 * LOOK_S, spent=0.0))
    assert made.inner.lam == pytest.approx(LAM)  # never above what was asked for
    made.policy(replace(seen, now_s=5 * LOOK_S, spent=1e9))
    assert made.inner.lam == pytest.approx(LAM * np.exp(-0.5 * 3.0))  # one look may not throw it far
    made.policy(seen)  # nothing is known of the money
    assert made.inner.lam == pytest.approx(LAM * np.exp(-0.5 * 3.0))


def test_what_is_due_follows_the_demand_that_is_expected(contenders: Contenders) -> None:  # noqa: F811
    """In the half of the day that has three quarters of the demand, three times as much is due."""
    seen = state(S=busy(0.5, call_s=0.011), L=busy(0.5, 2, call_s=0.055))
    looks = DAY_S / 2 / LOOK_S
    for demand, share in (((1.0, 3.0), 0.25), ((3.0, 1.0), 0.75)):
        made = paced(contenders, 100.0, demand, step=0.5, forget=0.0)
        made.policy(replace(seen, now_s=LOOK_S, spent=1.5 * 100.0 * share / looks))
        assert made.inner.lam == pytest.approx(LAM * np.exp(-0.25))


def test_a_new_day_has_its_own_budget(contenders: Contenders) -> None:  # noqa: F811
    """Where nothing is left and nothing was spent, nothing changes until midnight."""
    made = paced(contenders, 288.0, step=0.5, forget=0.0)
    seen = state(S=busy(0.5, call_s=0.011), L=busy(0.5, 2, call_s=0.055))
    made.policy(replace(seen, now_s=LOOK_S, spent=288.0))
    made.policy(replace(seen, now_s=2 * LOOK_S, spent=0.0))
    made.policy(replace(seen, now_s=DAY_S, spent=0.0))
    assert made.inner.lam == pytest.approx(LAM * np.exp(-1.5))
    made.policy(replace(seen, now_s=DAY_S + LOOK_S, spent=0.5))  # of the one that was due
    assert made.inner.lam == pytest.approx(LAM * np.exp(-1.25))


def test_spending_where_nothing_is_due_is_overspending(contenders: Contenders) -> None:  # noqa: F811
    made = paced(contenders, 288.0, step=0.5, forget=0.0)
    seen = state(S=busy(0.5, call_s=0.011), L=busy(0.5, 2, call_s=0.055))
    made.policy(replace(seen, now_s=LOOK_S, spent=288.0))
    made.policy(replace(seen, now_s=2 * LOOK_S, spent=1.0))
    assert made.inner.lam == pytest.approx(LAM * np.exp(-3.0))


def test_what_was_learned_is_forgotten(contenders: Contenders) -> None:  # noqa: F811
    """A look at which exactly what was due is spent takes a share of log m away."""
    made = paced(contenders, 288.0, step=0.5, forget=0.25)
    seen = state(S=busy(0.5, call_s=0.011), L=busy(0.5, 2, call_s=0.055))
    made.policy(replace(seen, now_s=LOOK_S, spent=2.0))
    assert made.inner.lam == pytest.approx(LAM * np.exp(-0.5))
    made.policy(replace(seen, now_s=2 * LOOK_S, spent=286.0 / 287.0))
    assert made.inner.lam == pytest.approx(LAM * np.exp(-0.375))


def spent_by_hour(place: Contenders, controller: Controller, rate: float, amount: float) -> np.ndarray:
    servers = {name: StageServer(*server) for name, server in place.servers.items()}
    cap = Cap(amount, place.population.dearest_cost())
    arrivals = Open(poisson(rate, np.random.default_rng(3)))
    sim = Simulator(place.population, servers, controller, arrivals, 2, RunSettings(3600.0, cap=cap))
    return np.diff([0.0, *(sim.spent for _ in sim.run(DAY_S))])


def test_at_midnight_a_cap_begins_anew(contenders: Contenders) -> None:  # noqa: F811
    """It is spent on either day, and passed on none."""
    bound = contenders.population.dearest_cost()
    servers = {name: StageServer(*server) for name, server in contenders.servers.items()}
    arrivals = Open([day * DAY_S + 10.0 * i for day in (0, 1) for i in range(200)])
    settings = RunSettings(DAY_S, cap=Cap(5.0 * bound, bound))
    sim = Simulator(contenders.population, servers, Fixed(FixedStage("L")), arrivals, 2, settings)
    first, second = np.diff([0.0, *(sim.spent for _ in sim.run(2 * DAY_S))])
    assert 3.9 * bound < first <= 5.0 * bound
    assert 3.9 * bound < second <= 5.0 * bound


@pytest.mark.slow
def test_a_day_ends_at_its_budget(contenders: Contenders) -> None:  # noqa: F811
    """With 70 % of the money, no hour is dear and nothing is left; with a cap alone it is gone early."""
    rate, amount = 0.4, 0.7 * 0.4 * DAY_S * 0.75
    free = spent_by_hour(contenders, contenders.of(f"queue:{LAM}:0"), rate, 1e9)
    assert free.sum() > 1.1 * amount
    ours = spent_by_hour(contenders, paced(contenders, amount), rate, amount)
    assert 0.996 * amount <= ours.sum() <= amount
    assert ours.max() <= 1.5 * amount / 24
    capped = spent_by_hour(contenders, contenders.of(f"queue:{LAM}:0"), rate, amount)
    assert capped.sum() <= amount
    assert capped[-1] < 0.1 * amount / 24


@settings(max_examples=30, deadline=None)
@given(st.floats(0.5, 60.0), st.integers(1, 40), st.floats(0.0, 2.0), st.integers(0, 2**16), st.booleans())
def test_a_cap_is_never_passed(amount: float, n: int, gap: float, seed: int, at_midnight: bool) -> None:
    """Whatever comes at whatever times: calls that run hold what they may cost; a new day begins anew."""
    population = one_stage(np.random.default_rng(seed).uniform(0.5, 2.0, 20))
    start = DAY_S - 5.0 if at_midnight else 0.0
    arrivals = Open([start + gap * i for i in range(n)])
    cap = Cap(amount, population.dearest_cost())
    sim = Simulator(
        population,
        {"S": StageServer(1, 1)},
        Fixed(FixedStage("S")),
        arrivals,
        seed,
        RunSettings(DAY_S, cap=cap),
    )
    list(sim.run(2 * DAY_S))
    total = sim.books.total()
    assert sim.spent <= (2.0 if at_midnight else 1.0) * amount + 1e-9
    assert total.n_answered + total.n_refused == n
    if amount >= n * cap.bound:
        assert total.n_refused == 0


@pytest.mark.parametrize(
    "others",
    [{"step": 0.0}, {"forget": 1.0}, {"least": 0.0}, {"least": 2.0}, {"budget": 0.0}, {"demand": ()}],
)
def test_settings_out_of_range_are_refused(contenders: Contenders, others: dict[str, float]) -> None:  # noqa: F811
    given_ = {"budget": 5.0, "demand": (1.0,)} | others
    with pytest.raises(ConfigError, match="positive"):
        paced(contenders, **given_)  # type: ignore[arg-type]
