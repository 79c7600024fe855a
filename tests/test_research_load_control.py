"""`asd control`: a device lost, a budget, a floor, regret and swings, as tables of a small cascade."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from asd.cli import main
from asd.errors import DataError
from asd.ladder import Ladder
from asd.measurement.files import read_record
from asd.operations.control.floor_record import FloorRecord
from asd.operations.population import Population, row_name
from asd.operations.runs import Runs, RunsHeader, Scenario
from asd.policy.artifact import load
from asd.research.load import control
from asd.research.load.loops import loop_of
from asd.research.load.shop import Shop
from asd.research.study.record import StudyTable, Value
from asd.traces import read_traces
from tests.test_cli_simulate import Place, place, simulate  # noqa: F401  (a fixture)


def rows(tables: list[StudyTable], name: str) -> list[dict[str, Value]]:
    [table] = [table for table in tables if table.name == name]
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


@pytest.fixture(scope="module")
def shop(place: Place) -> Shop:  # noqa: F811
    fitted, ladder = load(place.policy), Ladder.load(place.ladder)
    population = Population(list(read_traces(place.traces)), ladder, fitted.ladder.unit(1), 4)
    asked = RunsHeader(
        ladder="made-up",
        sources={},
        n_queries=len(population.queries),
        servers={"S": (1, 4), "L": (1, 4)},
        arrivals="poisson:0.2",
        users=None,
        seconds=360.0,
        window_s=60.0,
    )
    return Shop(Scenario(population, asked), fitted, "queue:20:5", "optimal:20", 1)


@pytest.mark.slow
def test_a_lost_device_is_survived(shop: Shop) -> None:
    """A quarter of a stage's replicas gone at the peak: everybody is answered, as well, and soon as fast."""
    found = rows(control.loss(shop), "loss")
    assert [row["stage"] for row in found] == ["S", "L"]
    for row in found:
        assert (row["replicas"], row["left"]) == (4, 0.75)
        assert row["answered"] >= 0.995  # type: ignore[operator]
        assert row["quality_lost"] <= 0.03  # type: ignore[operator]
        assert row["recovered_s"] is not None
        assert row["recovered_s"] <= 60.0  # type: ignore[operator]


@pytest.mark.slow
def test_a_budget_is_spent_and_never_passed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """By two days of one run, with few requests, so that one of them is a larger share of the money."""
    monkeypatch.setattr(control, "DAYS", 2)
    monkeypatch.setattr(control, "SEEDS", 1)
    [row] = rows(control.budget(shop), "budget")
    assert row["spent_most"] <= 1.0  # type: ignore[operator]
    assert row["unspent_most"] <= 0.01  # type: ignore[operator]
    assert row["hour_over_share"] <= 1.5  # type: ignore[operator]


@pytest.mark.slow
def test_a_floor_is_certified_and_kept(shop: Shop) -> None:
    tables = control.floor(shop)
    tested = rows(tables, "certified")
    passed = [bool(row["certified"]) for row in tested]
    assert passed == [
        all(one["p_value"] <= shop.promise.delta for one in tested[: i + 1]) for i in range(len(tested))
    ]
    assert passed[0]
    assert not passed[-1]
    for row in rows(tables, "floor"):
        assert row["quality"] >= row["floor"] - 0.02  # type: ignore[operator]
        assert row["looks"] == 12
    said = [row["looks_that_said_so"] for row in rows(tables, "floor")]
    assert said[0] > 0 == said[-1]  # type: ignore[operator]


@pytest.mark.slow
def test_regret_is_against_what_was_best_in_hindsight(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The schedule may change at every interval, so it is never worse than a constant."""
    monkeypatch.setattr(control, "COURSES", 2)
    found = rows(control.regret(shop), "regret")
    for row in found:
        assert row["to_schedule"] >= row["to_constant"]  # type: ignore[operator]
    ours = [row for row in found if row["policy"] == shop.ours]
    assert ours[-1]["to_constant"] < 0.1  # type: ignore[operator]
    assert [row["intervals"] for row in ours] == sorted(row["intervals"] for row in ours)  # type: ignore[type-var]


def test_slopes_of_regret_have_an_interval_over_runs() -> None:
    """Student's, by hand: 1, 2 and 3 are 2 give or take 4.303 / sqrt(3); a run without one leaves none."""
    reach = 4.302652729911275 / 3**0.5
    assert control._mean([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0 - reach, 2.0 + reach))
    assert control._mean([1.0, None, 3.0]) == control._mean([1.0]) == (None, None, None)


def test_a_course_of_regret_by_hand() -> None:
    """Sixteen intervals in which the policy loses 2, one arm 1 and the other 3, but for the first."""
    arms = np.array([np.ones(16), 3.0 * np.ones(16)])
    arms[:, 0] = 1.5, 0.5
    found = control._course(np.cumsum(np.full(16, 2.0)), arms)
    assert found.counts == [1, 2, 4, 8, 16]
    assert found.shares[0, -1] == pytest.approx((32.0 - 16.5) / 32.0)
    assert found.shares[1, -1] == pytest.approx((32.0 - 15.5) / 32.0)
    assert found.shares[:, 0] == pytest.approx([0.75, 0.75])
    assert found.slopes[1] == pytest.approx(control._slope(found.counts, [1.5, 2.5, 4.5, 8.5, 16.5]))


def test_regret_by_hand() -> None:
    """Arms lose 3 + 1 and 1 + 2: the better constant 3, the schedule 2."""
    own, arms = np.array([2.0, 5.0]), np.array([[3.0, 1.0], [1.0, 2.0]])
    assert control._regrets(own, arms, [1, 2]) == ([1.0, 2.0], [1.0, 3.0])


def test_shares_of_a_budget_by_hand() -> None:
    """Of 10 a day the second hour has a fifth: 3 of 2 are one and a half."""
    by_hour = np.array([[4.0, 3.0], [7.0, 2.0]])
    assert control._shares(by_hour, 10.0, np.array([4.0, 1.0])) == pytest.approx((0.9, 0.3, 1.5))


def window(start_s: float, p95_s: float | None = None, share: float = 0.0, n_answered: int = 1) -> Any:
    stages = {"L": SimpleNamespace(share_answered=share)}
    return SimpleNamespace(start_s=start_s, seconds=10.0, p95_s=p95_s, stages=stages, n_answered=n_answered)


def test_recovered_is_as_fast_as_before_or_a_fifth_slower() -> None:
    after = [window(50.0, None), window(60.0, 1.21), window(70.0, 1.2), window(80.0, 1.0)]
    assert control._recovered(after, 1.0, 45.0) == 35.0
    assert control._recovered(after[:2], 1.0, 45.0) is None


def test_a_swing_has_no_direction() -> None:
    """And a window without answers has no share."""
    shares = [window(0, share=0.2), window(10, share=0.5), window(20, n_answered=0), window(30, share=0.1)]
    assert control._swing(shares, "L") == pytest.approx(0.35)


def test_a_slope_is_that_of_the_logarithms() -> None:
    assert control._slope([1, 4, 16], [1.0, 2.0, 4.0]) == pytest.approx(0.5)
    assert control._slope([1, 4, 16], [1.0, -2.0, 4.0]) is None


@pytest.mark.slow
def test_looks_every_ten_seconds_do_not_oscillate(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """After bursts ours swings as chance does."""
    monkeypatch.setattr(control, "acting", lambda *_: None)
    [table] = control.stability(shop)
    blind, ours, *_ = rows([table], "stability")
    assert ours["swing_calm"] <= 1.5 * blind["swing_calm"] + 0.01  # type: ignore[operator]


@pytest.mark.slow
def test_the_gain_that_breaks_the_published_controller(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it acts its looks add to what they answer: bursts move its thresholds to where they do not bear a
    load that they bore at first. Ours takes back a share of a deviation, looks no more often than theory
    allows at a higher load too, and swings in the calm no more than thresholds that nobody moves.
    """
    monkeypatch.setattr(control, "OPTIMIZER", "published:0.9")
    monkeypatch.setattr(control, "acting", lambda *_: 3.0)
    monkeypatch.setattr(control, "NEAR", (0.8,))
    held, published, ours = rows(control.stability(shop), "stability_moved")
    assert published["gain"] < 0.0 <= ours["gain"] < 1.0  # type: ignore[operator]
    assert published["optimum_s"] == "none: adds to what it answers"
    assert 0.0 < loop_of(shop, shop.ours, 4.0).optimum <= control.LOOKS_S  # type: ignore[operator]
    assert published["latency_calm_s"] > 10.0 * held["latency_calm_s"]  # type: ignore[operator]
    assert published["share_calm"] > held["share_calm"] + 0.05  # type: ignore[operator]
    assert ours["latency_calm_s"] <= held["latency_calm_s"]  # type: ignore[operator]
    assert ours["swing_calm"] <= 1.5 * held["swing_calm"] + 0.01  # type: ignore[operator]


def asked(place: Place, *more: str) -> Result:  # noqa: F811
    files = [str(place.traces), "--ladder", str(place.ladder), "--policy", str(place.policy)]
    return CliRunner().invoke(main, ["control", *files, "--batch", "4", *more])


@pytest.mark.slow
def test_tables_are_printed(place: Place) -> None:  # noqa: F811
    found = asked(place, "--tables", "stability,loss", "--hours", "0.02", "--lam", "20")
    assert found.exit_code == 0, found.output
    assert found.output.index("Looks every ten seconds") < found.output.index("A device lost at the peak")
    assert "simulated, recorded outcomes on 240 queries" in found.output


@pytest.mark.slow
def test_a_certified_floor_is_kept_in_a_file(place: Place, tmp_path: Path) -> None:  # noqa: F811
    """And what was certified with it is run by name, on the queries that did not certify it."""
    out = tmp_path / "floor.json"
    found = asked(place, "--tables", "floor", "--hours", "0.1", "--lam", "20", "--out", str(out))
    assert found.exit_code == 0, found.output
    floor = read_record(out, FloorRecord)
    assert f"{len(floor.tables)} certified settings of lam 20 are in {out}" in found.output
    assert len(floor.rows) == 120
    ran = ("--policies", "floored:20:0.4", "--certified-floor", str(out))
    runs = tmp_path / "runs.json"
    found = simulate(place, *ran, "--arrivals", "poisson:10", "--json", str(runs))
    assert found.exit_code == 0, found.output
    assert "120 queries that certified the floor are left out" in found.output
    assert "0% of its looks warned of its target" in found.output
    kept = read_record(runs, Runs)
    assert (kept.asked.n_queries, kept.asked.sources["floor"]) == (120, floor.digest)
    assert kept.runs[0].unheld == 0.0
    rate = f"poisson:{2.0 * floor.bears:g}"
    found = simulate(place, *ran, "--arrivals", rate, "--hours", "0.05")
    assert "100% of its looks warned of its target" in found.output
    for more, said in (
        (("--replicas", "L=2"), "stage 'L' with replicas 1 and batch 4, not with 2 and 4"),
        (("--batch", "2"), "with replicas 1 and batch 4, not with 1 and 2"),
        (("--plan", "0.5"), "leave floored out"),
        (("--policies", "floored:8:0.4"), "write floored:20:P95"),
        (("--policies", "optimal:8"), "give both or neither"),
    ):
        refused = simulate(place, *ran, *more)
        assert refused.exit_code == 2
        assert said in refused.output
    served = CliRunner().invoke(
        main, ["serve", "--controller", "floored:20:0.4", "--certified-floor", str(out)]
    )
    assert served.exit_code == 2
    assert f"a ladder with fingerprint {floor.ladder}, not for 'tiny'" in served.output


def test_a_floor_that_only_its_own_queries_could_judge_is_refused(place: Place, tmp_path: Path) -> None:  # noqa: F811
    population = Population(list(read_traces(place.traces)), Ladder.load(place.ladder), 1.0, 4)
    rows = [row_name(query.trace.query) for query in population.queries]
    assert [row_name(one.trace.query) for one in population.without(rows[1:]).queries] == rows[:1]
    with pytest.raises(DataError, match="no query is left"):
        population.without(rows)


@pytest.mark.slow
def test_nothing_is_written_where_nothing_is_certified(place: Place, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "floor.json"
    found = asked(place, "--tables", "floor", "--hours", "0.02", "--keep", "1", "--out", str(out))
    assert found.exit_code == 2
    assert "no setting was certified" in found.output
    assert not out.exists()


@pytest.mark.slow
def test_a_lower_floor_certifies_more(place: Place, tmp_path: Path) -> None:  # noqa: F811
    """And the file says which it was; what is no share is refused."""
    out, n = tmp_path / "floor.json", []
    for keep in ("0.95", "0.8"):
        more = ("--hours", "0.02", "--lam", "20", "--keep", keep, "--delta", "0.2", "--out", str(out))
        assert asked(place, "--tables", "floor", *more).exit_code == 0
        floor = read_record(out, FloorRecord)
        assert (floor.keep, floor.delta) == (float(keep), 0.2)
        n.append(len(floor.tables))
    assert n[0] < n[1]
    assert asked(place, "--tables", "floor", "--keep", "1.5").exit_code == 2
    assert asked(place, "--tables", "floor", "--delta", "0").exit_code == 2


def test_a_file_of_a_floor_is_asked_for_with_its_table(place: Place, tmp_path: Path) -> None:  # noqa: F811
    found = asked(place, "--tables", "loss", "--out", str(tmp_path / "floor.json"))
    assert found.exit_code == 2
    assert "name floor in --tables, not loss" in found.output


@pytest.mark.parametrize("tables", ["", "lost", "loss,lost"])
def test_tables_that_there_are_not_are_refused(place: Place, tables: str) -> None:  # noqa: F811
    found = asked(place, "--tables", tables)
    assert found.exit_code == 2
    assert "name some of loss, floor, regret, stability, budget" in found.output
