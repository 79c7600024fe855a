"""A day's money at the real endpoint, with the clock in hand: spread, and after a restart too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from asd.cli import main
from asd.engines import GREEDY, Sampling
from asd.errors import StorageError
from asd.operations.control.budget import DayBudget, Demand, Paced, flat
from asd.operations.control.steering import STEERED, named, steering_of
from asd.operations.live import Meter
from asd.operations.traffic import DAY_S, Controller
from asd.serving.admission import Spent
from asd.serving.cashier import Cashier
from asd.serving.endpoint.application import Application
from asd.serving.endpoint.service import Capacity, Service, tariff_of
from asd.serving.endpoint.settings import SettingCache
from asd.serving.ledger import Caps, Ledger
from asd.serving.spending import read_demand, read_spending
from asd.serving.tariff import MICRO
from asd.testing import FakeClock
from asd.types import Draft, Query
from tests.books import TARIFF, asked, ms, ran
from tests.endpoint import application, chat, post
from tests.test_operations_backlog import TIMED
from tests.test_serving_steered import timed_policy, until
from tests.worlds import sample

DAY = 20_000
HOUR, LOOK_S = 3600.0, 120.0
RECORDED = {trace.query.prompt: trace for trace in sample(200, np.random.default_rng(11))[0]}


class Recorded:
    """A stage that answers as it was recorded to."""

    def __init__(self, stage_name: str) -> None:
        self.stage_name = stage_name

    def load(self) -> None: ...

    unload = synchronise = load

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:  # noqa: ARG002
        return [RECORDED[str(query.prompt)].outcomes[self.stage_name].draft for query in queries]


class Place:
    """A ledger and a clock that outlive a server."""

    def __init__(self, path: Path, demand: Demand = flat) -> None:
        self.path, self.demand = path, demand
        self.clock = FakeClock(DAY * DAY_S)
        self.prompts = cycle(RECORDED)
        self.statuses: list[int] = []
        self.scales: list[float] = []

    def serve(self, text: str, cap: float, hours: float) -> list[float]:
        """Serve for so long; what is spent in each hour, in the price unit."""
        return asyncio.run(self._serve(text, cap, hours))

    async def _serve(self, text: str, cap: float, hours: float) -> list[float]:
        async with self.server(text, cap) as (app, controller):
            return [await self._hour(app, controller) for _ in range(round(hours))]

    @asynccontextmanager
    async def server(self, text: str, cap: float) -> AsyncIterator[tuple[Application, Controller]]:
        """A server on this ledger, and what steers it."""
        fitted, engines = timed_policy(), {stage: Recorded(stage) for stage in "SL"}
        caps, tariff = Caps(day=round(cap * MICRO)), tariff_of(TIMED, engines)
        day = DayBudget(cap, self.demand) if text.startswith("paced") else None
        made: list[Controller] = []

        def steering(servers: Mapping[str, tuple[int, int]]) -> Controller:
            made.append(named(text, steering_of(fitted, TIMED, servers, day).makers, STEERED))
            return made[0]

        books = Cashier(self.path, tariff, caps, keyless=True, clock=self.clock, monotonic=self.clock)
        with books as cashier:
            settings = SettingCache(fitted, TIMED)
            service = Service(engines, TIMED, settings, fitted.model.forms, cashier, Capacity())
            with closing(service):
                service.monitor.meter = Meter(service.dispatcher, "SL", self.clock)
                service.steer_by(steering)
                yield application(service), made[0]
                await asyncio.wait_for(service.drained(), 30)

    async def _hour(self, app: Application, controller: Controller) -> float:
        before = spent(self.path)
        for _ in range(round(HOUR / LOOK_S)):
            self.statuses.append((await post(app, chat(next(self.prompts), max_tokens=20))).status)
            await until(lambda: not app.service.n_open)
            self.clock.advance(LOOK_S)
            await app.service.look(controller)
            self.scales.append(app.service.steering().get("budget_scale", 1.0))
        return spent(self.path) - before


def spent(path: Path) -> float:
    return read_spending(path).micros / MICRO


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "ledger.db")


def hourly(tmp_path: Path) -> float:
    """What an hour costs when nobody paces it."""
    return float(np.mean(Place(tmp_path / "free.db").serve("queue:50:0", 1e6, 4)))


@pytest.mark.slow
def test_a_day_s_money_is_spread_over_the_day(place: Place, tmp_path: Path) -> None:
    """With 60 % of what lam 50 would spend: lam falls, every request is answered, and no part of the day is
    dear; under the same cap alone the money is gone early, and who comes then is refused.
    """
    cap = 0.6 * 24 * hourly(tmp_path)
    by_hour = np.array(place.serve("paced:50:0", cap, 24))
    assert 0.97 * cap <= by_hour.sum() <= cap
    assert by_hour.reshape(4, 6).sum(axis=1) == pytest.approx([cap / 4] * 4, rel=0.15)
    assert min(place.scales) < 0.5
    assert place.statuses.count(200) >= 0.99 * len(place.statuses)
    capped = Place(tmp_path / "capped.db")
    late = np.array(capped.serve("queue:50:0", cap, 24))
    assert late.sum() <= cap
    assert late[-6:].sum() < 0.05 * cap
    assert capped.statuses.count(429) > 0.2 * len(capped.statuses)


@pytest.mark.slow
def test_a_server_that_starts_in_the_afternoon_spreads_what_is_left(place: Place, tmp_path: Path) -> None:
    """The first server, unpaced, is stopped at three with more than its share spent; the next one paces the
    rest over nine hours, as its books say what was spent before it began.
    """
    free = hourly(tmp_path)
    cap = 15 * free / 0.75
    before = sum(place.serve("queue:50:0", cap, 15))
    assert before == pytest.approx(0.75 * cap, rel=0.1)
    after = np.array(place.serve("paced:50:0", cap, 9))
    left = cap - before
    assert 0.95 * left <= after.sum() <= left
    assert after.reshape(3, 3).sum(axis=1) == pytest.approx([left / 3] * 3, rel=0.25)


@pytest.mark.slow
def test_money_is_kept_for_the_hours_that_are_expected_to_want_it(tmp_path: Path) -> None:
    """Where the evening is expected to bring three times as much, a quarter of the money goes before noon."""
    place = Place(tmp_path / "ledger.db", lambda _: (1.0, 3.0))
    cap = 0.6 * 24 * hourly(tmp_path)
    morning = sum(place.serve("paced:50:0", cap, 12))
    assert morning == pytest.approx(0.25 * cap, rel=0.15)


def test_books_that_cannot_be_read_end_no_steering(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, the settings stay, and the next look finds the books again."""
    read = Cashier.spent

    async def locked(_: Cashier) -> Spent:
        monkeypatch.setattr(Cashier, "spent", read)
        raise StorageError("locked by somebody else")

    async def test() -> None:
        async with place.server("paced:50:0", 1e6) as (app, controller):
            assert isinstance(controller, Paced)
            controller.inner.interval_s, before = 0.01, controller.inner.n_solved
            steering = asyncio.create_task(app.service.steer())
            await until(lambda: controller.inner.n_solved > before)
            steering.cancel()

    monkeypatch.setattr(Cashier, "spent", locked)
    asyncio.run(test())
    assert "settings stay as they are: locked by somebody else" in caplog.text


def test_a_shadow_run_is_spent_too(tmp_path: Path) -> None:
    """The ledger's reading, by its own clock and day: what yesterday's requests cost is not today's."""
    clock = FakeClock(DAY * DAY_S + 23 * HOUR)
    with Ledger(tmp_path / "ledger.db", TARIFF, clock=clock) as ledger:
        ledger.hold(asked("r1", stages="SL", shadow="L"))
        ledger.settle("r1", [ran("S", 3), ran("L", 2, shadow=True)])
        ledger.hold(asked("r2"))  # open: held, not spent
        assert ledger.spent() == Spent(clock.now, ms(23), ms(23))
        clock.advance(2 * HOUR)
        ledger.settle("r2", [ran("S", 4)])
        assert ledger.spent() == Spent(clock.now, 0, ms(27))


def test_demand_is_learned_from_whole_days(tmp_path: Path) -> None:
    """Nothing is known on the first two days; then requests of each hour of at most seven days count."""
    path = tmp_path / "ledger.db"
    clock = FakeClock(DAY * DAY_S + 18 * HOUR)
    with Ledger(path, TARIFF, clock=clock) as ledger:
        assert read_demand(path, DAY) == (1.0,) * 24
        ids = iter(range(10**6))

        def ask(n: int) -> None:
            for _ in range(n):
                ledger.hold(asked(f"r{next(ids)}"))

        ask(5)  # of a day that began before its ledger
        assert read_demand(path, DAY + 1) == (1.0,) * 24
        clock.now = (DAY + 1) * DAY_S + 9.5 * HOUR
        ask(3)
        clock.now += 14 * HOUR
        ask(1)
        expected = [1.0] * 24
        assert read_demand(path, DAY + 1) == tuple(expected)
        expected[9], expected[23] = 4.0, 2.0
        assert read_demand(path, DAY + 2) == read_demand(path, DAY + 8) == tuple(expected)
        assert read_demand(path, DAY + 9) == (1.0,) * 24


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--controller paced:5:1", "with --cap-day and --ledger"),
        ("--controller paced:5:1 --cap-day 5", "with --cap-day and --ledger"),
        ("--controller paced:5:1 --cap-day 0 --ledger {}", "budget is positive and finite, not 0"),
        ("--controller paced:5:1:50 --cap-day 5 --ledger {}", "with --cap-day and --ledger"),
        ("--controller paced:5", "'paced:5' is no policy"),
    ],
)
def test_what_cannot_be_paced_is_refused(line: str, said: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(main, ["serve", *line.format(tmp_path / "ledger.db").split()])
    assert found.exit_code == 2
    assert said in found.output
