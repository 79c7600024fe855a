"""A day's money: what one look changes, a day that ends at its budget, and a cap that nothing passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asd.errors import ConfigError
from asd.operations.arrivals import poisson
from asd.operations.control.backlog import QueueAware
from asd.operations.control.budget import DayBudget, Paced
from asd.operations.control.contenders import Contenders
from asd.operations.runs import RunsHeader, Scenario, run
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
    return Paced(inner, DayBudget(budget, lambda _: demand), **others)


class Looks:
    """Looks at a controller whose interval has spent so much; days begin as they do in the books."""

    def __init__(self, made: Paced, now: float = 0.0, spent_today: float = 0.0) -> None:
        self.made, self.now, self.today = made, now, spent_today

    def after(self, spent: float, seconds: float = LOOK_S) -> float:
        """What lam is scaled by then."""
        self.today = spent + (self.today if self.now // DAY_S == (self.now + seconds) // DAY_S else 0.0)
        self.now += seconds
        seen = state(S=busy(0.5, call_s=0.011), L=busy(0.5, 2, call_s=0.055))
        self.made.policy(replace(seen, now_s=self.now, seconds=seconds, spent=spent, spent_today=self.today))
        assert self.made.lam == pytest.approx(LAM * self.made.budget_scale)
        return self.made.budget_scale


def test_one_look_by_hand(contenders: Contenders) -> None:  # noqa: F811
    """Twice what was due: lam falls by exp(-step); what was overspent is taken from what is due later."""
    looks = Looks(paced(contenders, 288.0, step=0.5, forget=0.0))
    assert looks.after(2.0) == pytest.approx(np.exp(-0.5))  # one was due
    assert looks.after(286.0 / 287.0) == pytest.approx(np.exp(-0.5))
    assert looks.after(0.0) == pytest.approx(1.0)
    assert looks.after(0.0) == pytest.approx(1.0)  # never above what was asked for
    assert looks.after(1e9) == pytest.approx(np.exp(-0.5 * 3.0))  # one look may not throw it far
    looks.made.policy(state(S=busy(0.5, call_s=0.011), L=busy(0.5, 2, call_s=0.055)))  # no books
    assert looks.made.budget_scale == pytest.approx(np.exp(-0.5 * 3.0))


def test_a_start_in_the_afternoon_spreads_what_is_left(contenders: Contenders) -> None:  # noqa: F811
    """At three, with 60 % of the money spent, a 108th of the other 40 % is due in five minutes."""
    looks = Looks(paced(contenders, 288.0, step=0.5, forget=0.0), 15 * 3600.0, 0.6 * 288.0)
    due = 0.4 * 288.0 / (9 * 12)
    assert looks.after(due) == pytest.approx(1.0)
    assert looks.after(1.5 * due) == pytest.approx(np.exp(-0.25))
    assert looks.after(due * (1 - 2.5 / 108) / (1 - 2 / 108)) == pytest.approx(np.exp(-0.25))


def test_what_is_due_follows_the_demand_that_is_expected(contenders: Contenders) -> None:  # noqa: F811
    """In the half of the day that has three quarters of the demand, three times as much is due."""
    for demand, share in (((1.0, 3.0), 0.25), ((3.0, 1.0), 0.75)):
        looks = Looks(paced(contenders, 100.0, demand, step=0.5, forget=0.0))
        assert looks.after(1.5 * 100.0 * share / (DAY_S / 2 / LOOK_S)) == pytest.approx(np.exp(-0.25))


def test_every_day_is_expected_to_be_its_own(contenders: Contenders) -> None:  # noqa: F811
    """The demand is asked for once a day, by the number of the day."""
    asked: list[int] = []

    def demand(day: int) -> tuple[float, ...]:
        asked.append(day)
        return (1.0,)

    inner = contenders.of(f"queue:{LAM}:0")
    assert isinstance(inner, QueueAware)
    looks = Looks(Paced(inner, DayBudget(1.0, demand)), 20_000 * DAY_S - 2 * LOOK_S)
    for _ in range(4):
        looks.after(0.0)
    assert asked == [19_999, 20_000]
    looks = Looks(paced(contenders, 1.0, (1.0, 0.0)))
    with pytest.raises(ConfigError, match=r"demand of a day is positive, not \[1\.0, 0\.0\]"):
        looks.after(0.0)


def test_a_new_day_has_its_own_budget(contenders: Contenders) -> None:  # noqa: F811
    """Where nothing is left and nothing was spent, nothing changes until midnight."""
    looks = Looks(paced(contenders, 288.0, step=0.5, forget=0.0), DAY_S - 2 * LOOK_S)
    assert looks.after(288.0) == pytest.approx(np.exp(-0.5))  # of the 144 that were due
    assert looks.after(0.0) == pytest.approx(np.exp(-0.5))
    assert looks.after(0.5) == pytest.approx(np.exp(-0.25))  # of the one that was due


def test_a_look_across_midnight_is_about_the_new_day(contenders: Contenders) -> None:  # noqa: F811
    """What was spent before midnight is yesterday's: here all that was spent today was due."""
    made = paced(contenders, 288.0, step=0.5, forget=0.0)
    seen = state(S=busy(0.5, call_s=0.011), L=busy(0.5, 2, call_s=0.055))
    made.policy(replace(seen, now_s=DAY_S + LOOK_S / 2, seconds=LOOK_S, spent=7.0, spent_today=0.5))
    assert made.budget_scale == pytest.approx(1.0)
    made.policy(replace(seen, now_s=DAY_S + LOOK_S / 2, seconds=LOOK_S, spent=7.0, spent_today=1.0))
    assert made.budget_scale == pytest.approx(np.exp(-0.5))


def test_spending_where_nothing_is_due_is_overspending(contenders: Contenders) -> None:  # noqa: F811
    looks = Looks(paced(contenders, 288.0, step=0.5, forget=0.0))
    looks.after(288.0)
    assert looks.after(1.0) == pytest.approx(np.exp(-3.0))


def test_what_was_learned_is_forgotten(contenders: Contenders) -> None:  # noqa: F811
    """A look at which exactly what was due is spent takes a share of log m away."""
    looks = Looks(paced(contenders, 288.0, step=0.5, forget=0.25))
    assert looks.after(2.0) == pytest.approx(np.exp(-0.5))
    assert looks.after(286.0 / 287.0) == pytest.approx(np.exp(-0.375))


def test_a_budget_is_part_of_the_name(contenders: Contenders) -> None:  # noqa: F811
    """Simulated it stands in the text; where a server's cap is the budget it must not."""
    made = contenders.of("paced:50:2:288")
    assert made.name == "paced(lam=50,mu=2,budget=288)"
    assert made.policy(None).name == made.name
    served = replace(contenders.steering, day=DayBudget(7.0)).makers["paced"]
    assert served("50", "2").name == "paced(lam=50,mu=2,budget=7)"
    for refused in (lambda: served("50", "2", "288"), lambda: contenders.of("paced:50:2")):
        with pytest.raises(ConfigError, match="with --cap-day and --ledger"):
            refused()


def test_a_simulated_run_is_capped_at_its_budget(contenders: Contenders) -> None:  # noqa: F811
    """As the ledger does it: what could pass the budget is refused."""
    asked = RunsHeader(
        ladder="x", sources={}, n_queries=150, servers=dict(contenders.servers), arrivals="poisson:2",
        users=None, seconds=7200.0, window_s=600.0,
    )  # fmt: skip
    scenario, amount = Scenario(contenders.population, asked), 50.0
    free = run(scenario, contenders.of("queue:50:0"), 1, lambda _: None).total
    assert free.cost * free.n_answered > 10 * amount
    held = run(scenario, contenders.of(f"paced:50:0:{amount}"), 1, lambda _: None).total
    assert 0.9 * amount < held.cost * held.n_answered <= amount
    assert held.n_refused > 0


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
    [{"step": 0.0}, {"forget": 1.0}, {"least": 0.0}, {"least": 2.0}, {"budget": 0.0}, {"budget": np.inf}],
)
def test_settings_out_of_range_are_refused(contenders: Contenders, others: dict[str, float]) -> None:  # noqa: F811
    given_ = {"budget": 5.0} | others
    with pytest.raises(ConfigError, match="positive"):
        paced(contenders, **given_)
