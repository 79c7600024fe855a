"""Runs of a scenario: what a seed decides, what settings reach the simulator, means with their intervals."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from asd.errors import ConfigError, DataError
from asd.operations.runs import RunsHeader, Scenario, arrivals_of, mean_of, run, runs_of
from asd.operations.traffic import Cap, Fixed
from asd.policies import FixedStage
from asd.schema import msgspec
from tests.queues import one_stage

ASKED = RunsHeader(
    ladder="x",
    sources={},
    n_queries=50,
    servers={"S": (2, 1)},
    arrivals="poisson:3",
    users=None,
    seconds=200.0,
    window_s=50.0,
)


def scenario(**changed: object) -> Scenario:
    population = one_stage(np.random.default_rng(1).uniform(0.1, 0.9, 50))
    return Scenario(population, msgspec.structs.replace(ASKED, **changed))


def policy() -> Fixed:
    return Fixed(FixedStage("S"))


def total(found: Scenario, seed: int) -> object:
    return run(found, policy(), seed, lambda _: None).total


def test_a_seed_decides_everything() -> None:
    """Arrivals, queries and failures: the same seed twice, another one otherwise."""
    for changed in ({}, {"arrivals": "", "users": (5, 1.0)}, {"mtbf": {"S": (20.0, 5.0)}}):
        found = scenario(**changed)
        assert total(found, 3) == total(found, 3) != total(found, 4)


def test_failures_are_drawn_by_the_seed() -> None:
    """Instants and queries apart: with both recorded, seeds differ in failures alone."""

    def up(seed: int) -> float:
        sim = scenario(mtbf={"S": (20.0, 5.0)}).simulator(policy(), seed)
        ups = []
        for _ in range(40):
            list(sim.run(5.0))
            ups.append(sim.stations["S"].replicas)
        assert set(ups) > {2}
        return sum(ups) / 40

    shares = [up(seed) for seed in range(6)]
    assert len(set(shares)) > 2
    assert 1.2 < np.mean(shares) < 1.95  # each of two replicas is up four fifths of the time


def test_queries_are_drawn_by_the_seed() -> None:
    """Of the same recorded instants."""
    recorded = scenario(arrivals="poisson:3")

    def first(seed: int) -> list[int]:
        sim = recorded.simulator(policy(), seed)
        return [next(sim._drawn) for _ in range(20)]

    assert first(1) == first(1) != first(2)


def test_overloads_come_on_top() -> None:
    quiet, loud = scenario(), scenario(faults=("overload:0:200:30",), seconds=200.0)
    extra = total(loud, 1).n_arrived - total(quiet, 1).n_arrived  # type: ignore[attr-defined]
    assert extra == pytest.approx(6000, rel=0.05)


def test_what_is_refused_is_settled_by_the_scenario() -> None:
    few = total(scenario(most_inside=1, arrivals="poisson:30"), 1)
    assert few.n_refused > 0.5 * few.n_arrived  # type: ignore[attr-defined]
    sim = scenario().simulator(policy(), 1, Cap(5.0, 1.0))
    list(sim.run(200.0))
    assert sim.books.total().n_refused > 0
    assert sim.spent <= 5.0


def test_arrivals_by_name() -> None:
    """A scale multiplies; in `bursts` some minutes have surges, in `day` none has."""

    def n(text: str, seconds: float = 4 * 3600.0) -> int:
        stream = arrivals_of(text, np.random.default_rng(2))
        return sum(1 for _ in iter(lambda: next(stream) < seconds, False))

    assert n("poisson:2") == pytest.approx(2 * 4 * 3600, rel=0.02)
    day, bursts = n("day"), n("bursts")
    assert n("day:0.1") == pytest.approx(0.1 * day, rel=0.05)
    assert n("bursts:0.1") == pytest.approx(0.1 * bursts, rel=0.05)
    assert 1.005 * day < bursts < 1.2 * day
    with pytest.raises(ConfigError, match="are none"):
        arrivals_of("poisson", np.random.default_rng(2))


def test_recorded_arrivals_are_brought_to_a_rate(tmp_path: Path) -> None:
    """Instants faster or slower; clients by leaving some out."""
    instants, clients = tmp_path / "instants.csv", tmp_path / "clients.csv"
    instants.write_text("t_s\n" + "\n".join(str(2 * n) for n in range(101)))
    found = list(arrivals_of(f"{instants}:5", np.random.default_rng(1)))
    assert found[-1] == pytest.approx(101 / 5)
    assert list(arrivals_of(str(instants), np.random.default_rng(1)))[-1] == 200.0
    rows = [f"c{n},{t},2,G,1" for t in (0, 600) for n in range(20)]
    clients.write_text("client,t_s,rate_rps,family,shape\n" + "\n".join(rows))

    def rate(text: str) -> float:
        stream = list(islice(arrivals_of(text, np.random.default_rng(3)), 2000))
        return len(stream) / stream[-1]

    assert rate(str(clients)) > 3 * rate(f"{clients}:8")


INSTANTS, CLIENTS = "client,t_s\na,50\nb,100\na,250\n", "client,t_s,rate_rps,family,shape\n"


@pytest.mark.parametrize(
    ("text", "rate", "end"),
    [
        (INSTANTS, "", 200.0),
        (INSTANTS, ":0.5", 6.0),
        (CLIENTS + "a,6000,1,G,1\nb,6600,0,G,1\n", "", 1200.0),
        (CLIENTS + "a,6000,1,G,1\n", ":9", 600.0),
    ],
)
def test_a_recording_lasts_as_long_as_the_run(tmp_path: Path, text: str, rate: str, end: float) -> None:
    """It begins at 0 and is played to its end; what was not recorded is no time without requests. Instants
    may have clients.
    """
    path = tmp_path / "recorded.csv"
    path.write_text(text)
    found = list(arrivals_of(f"{path}{rate}", np.random.default_rng(1), end))
    assert 0.0 <= found[0] < 20.0
    assert found[-1] <= end
    assert total(scenario(arrivals=f"{path}{rate}", seconds=end), 1).n_arrived > 1  # type: ignore[attr-defined]
    with pytest.raises(
        DataError, match=rf"ends after {end:g} s, .* run at most {end / 3600 - 5e-5:.4f} hours"
    ):
        scenario(arrivals=f"{path}{rate}", seconds=end + 0.1).simulator(policy(), 1)


def test_runs_are_made_once_and_afresh(tmp_path: Path) -> None:
    """A controller is made for every run; what the file holds is not run again."""
    made: list[int] = []

    def make() -> Fixed:
        made.append(1)
        return policy()

    path, seen = tmp_path / "runs.json", []
    runs_of(scenario(), [make], [1, 2], path, seen.append)
    assert (len(made), len(seen)) == (2, 8)
    again = runs_of(scenario(), [make], [1, 2, 3], path, seen.append)
    assert len(seen) == 12
    assert [one.seed for one in again.runs] == [1, 2, 3]


def test_a_mean_has_the_interval_of_its_t_test() -> None:
    values = [1.0, 2.0, 4.0, 8.5]
    found = mean_of(values)
    low, high = ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.value - found.half, found.value + found.half) == pytest.approx((low, high))
    assert mean_of([3.0]) == (3.0, 0.0)
    assert str(mean_of([3.0])) == "3"


def test_halves_share_no_query() -> None:
    first, second = scenario().halves()
    ids = [{s.trace.query.id for s in half.population.queries} for half in (first, second)]
    assert not ids[0] & ids[1]
    assert [half.asked.n_queries for half in (first, second)] == [len(one) for one in ids] == [25, 25]
