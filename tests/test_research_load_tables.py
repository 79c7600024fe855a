"""Rows of the day's tables, from summaries and small runs of which the right numbers are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from asd.operations.books import StageWindow, Summary
from asd.operations.runs import SimulatedRun
from asd.research.load import tables
from asd.research.load.shop import Shop
from asd.research.study.claims import UNDER_LOAD
from tests.test_cli_simulate import Place, place  # noqa: F401  (a fixture)
from tests.test_research_load_control import shop  # noqa: F401  (a fixture)


def stage(**numbers: float) -> StageWindow:
    known = {"utilisation": 0.5, "mean_inside": 1.0, "visit_s": 1.0, "n_calls": 10, "n_visits": 20}
    return StageWindow(**(known | {"share_answered": 0.5} | numbers))  # type: ignore[arg-type]


def summary(start_s: float = 0.0, **numbers: Any) -> Summary:
    known: dict[str, Any] = {
        "seconds": 10.0, "n_arrived": 100, "n_answered": 100, "n_refused": 0, "n_failed": 0, "n_inside": 0,
        "mean_inside": 1.0, "latency_s": 1.0, "p50_s": 1.0, "p95_s": 2.0, "p99_s": 3.0, "quality": 0.9,
        "cost": 0.1, "stages": {"S": stage(), "L": stage()},
    }  # fmt: skip
    return Summary(start_s=start_s, **(known | numbers))


def rows(table: Any) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def day_of(windows: list[Summary], total: Summary) -> SimulatedRun:
    return SimulatedRun(controller="c", seed=1, total=total, windows=tuple(windows))


def test_production_is_judged_by_its_targets(shop: Shop) -> None:  # noqa: F811
    """One window of four has 1 % errors; all together have fewer; quality is one of the targets."""
    windows = [summary(10.0 * i, n_failed=int(i == 2), n_answered=99) for i in range(4)]
    total = summary(n_answered=396, n_failed=1, quality=0.8, seconds=40.0)
    found = {row["metric"]: row for row in rows(tables._production(shop, day_of(windows, total)))}
    up = found["share of windows with fewer than 1 % errors"]
    assert (up["value"], up["met"]) == (0.75, False)
    assert found["errors"]["value"] == pytest.approx(1 / 397)
    assert found["errors"]["met"] is True
    assert (found["quality"]["value"], found["quality"]["met"]) == (0.8, False)
    assert found["P99, s"]["value"] == 3.0
    assert found["answers a second"]["value"] == pytest.approx(9.9)
    assert found["use of the stages, mean"]["value"] == 0.5
    bad = summary(n_answered=90, n_failed=10)
    judged = {row["metric"]: row for row in rows(tables._production(shop, day_of([bad], bad)))}
    assert judged["errors"]["met"] is False


def test_quarters_are_weighted_by_their_answers(shop: Shop) -> None:  # noqa: F811
    """P95 is that of the worst window; a window without a P95 does not hide another's."""
    quarter = shop.asked.seconds / 4
    one = summary(
        0.0,
        n_answered=300,
        latency_s=1.0,
        p95_s=5.0,
        stages={"S": stage(), "L": stage(share_answered=0.2, utilisation=0.9)},
    )
    two = summary(
        1.0,
        latency_s=3.0,
        p95_s=None,
        quality=0.5,
        stages={"S": stage(), "L": stage(share_answered=0.6, utilisation=0.4)},
    )
    three = summary(2.0, n_answered=0, p95_s=2.0)
    [row] = rows(tables._hours(shop, day_of([one, two, three], one)))
    assert row["time"] == f"0 to {quarter / 3600.0:g} h"
    assert row["answers_per_s"] == pytest.approx(400 / 30)
    assert row["latency_s"] == pytest.approx(1.5)
    assert row["p95_s"] == 5.0
    assert row["answered_by_L"] == pytest.approx((0.2 * 300 + 0.6 * 100) / 400)
    assert row["use_L"] == pytest.approx((0.9 + 0.4 + 0.5) / 3)
    assert row["quality"] == pytest.approx((0.9 * 300 + 0.5 * 100) / 400)


def test_numbers_beside_a_text_are_rounded_too(shop: Shop) -> None:  # noqa: F811
    """And those of a column of numbers stay as they were."""
    seen = [("a", 0.123456789, 12345.678), ("b", "no data", 100.0), ("c", None, 7.0)]
    lines = shop.table("x", "X", ("k", "mixed", "n"), seen, "").markdown().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:7]]
    assert cells == [["a", "0.1235", "1.235e+04"], ["b", "no data", "100"], ["c", "-", "7"]]


def test_claims_are_held_against_the_tables(shop: Shop) -> None:  # noqa: F811
    """Latency falls by a fifth: the smaller of the two claimed gains holds; one window of four was out."""
    production = shop.table("production", "P", ("metric", "value"), [("up", 0.75)], "")
    columns = ("situation", "policy", "latency_s", "quality")
    seen = [
        ("high load", "blind", 0.5, 0.9),
        ("high load", "aware", 0.4, 0.8),
        ("low load", "blind", 9.0, 1.0),
    ]
    made = {"production": production, "before_after": shop.table("before_after", "B", columns, seen, "")}
    up, smaller, larger = rows(tables.claims(made))
    assert [(row["claim"], row["quantity"], row["claimed"]) for row in (up, smaller, larger)] == [*UNDER_LOAD]
    assert (up["claimed"], up["here"], up["holds"]) == (0.03, 25.0, False)
    assert (smaller["claimed"], smaller["here"], smaller["holds"]) == (-15.0, pytest.approx(-20.0), True)
    assert (larger["claimed"], larger["holds"]) == (-28.0, False)
    assert "aware against blind at high load, with a quality of 0.800 and 0.900" in tables.claims(made).note


def test_claims_of_a_load_that_nobody_was_answered_under_have_no_number(shop: Shop) -> None:  # noqa: F811
    """Short runs may hold no answer: said so, and what was simulated before is not lost."""
    production = shop.table("production", "P", ("metric", "value"), [("up", 0.75)], "")
    columns = ("situation", "policy", "latency_s", "quality")
    seen = [("high load", "blind", None, 0.0), ("high load", "aware", 0.4, 0.8)]
    made = {"production": production, "before_after": shop.table("before_after", "B", columns, seen, "")}
    _, smaller, larger = rows(tables.claims(made))
    assert (smaller["here"], smaller["holds"], larger["holds"]) == (None, None, None)


def test_devices_have_a_mean_a_peak_and_queries_a_call(shop: Shop) -> None:  # noqa: F811
    windows = [
        summary(0.0, stages={"S": stage(utilisation=u), "L": stage(n_calls=0)}) for u in (0.2, 0.9, 0.4)
    ]
    total = summary(stages={"S": stage(utilisation=0.5, mean_inside=3.0), "L": stage(n_calls=0)})
    small, large = rows(tables._devices(shop, day_of(windows, total)))
    assert (small["use_mean"], small["use_peak"], small["inside_mean"]) == (0.5, 0.9, 3.0)
    assert small["queries_per_call"] == 2.0
    assert large["queries_per_call"] is None


def test_a_queue_forgets_in_the_time_of_theory() -> None:
    """E[S] / (1 - rho)^2 of the slowest stage; a stage that has never worked counts for nothing."""
    total = summary(
        seconds=100.0,
        stages={
            "S": stage(utilisation=0.5, n_calls=100),
            "M": stage(utilisation=0.9, n_calls=90),
            "L": stage(n_calls=0),
        },
    )
    assert tables._relaxation(total) == pytest.approx(1.0 / 0.1**2)


@pytest.mark.parametrize(
    ("n", "rate", "mean", "p95", "said"),
    [
        (10, 13.8, 0.823, None, "impossible: more inside than 10 users"),
        (12, 13.8, 0.823, None, "possible"),
        (50, None, None, 1.478, "P95 is not below a second, as claimed"),
        (50, None, None, 0.9, "possible"),
    ],
)
def test_a_published_row_is_audited(
    n: int, rate: float | None, mean: float | None, p95: float | None, said: str
) -> None:
    assert tables._verdict(n, rate, mean, p95) == said


def test_the_peak_keeps_the_largest_stage_at_work(shop: Shop) -> None:  # noqa: F811
    """At 85 % of its time, in full calls, to which a query adds half of what it takes alone."""
    queries = shop.scenario.population.queries
    alone = [5e-3 * q.trace.outcomes["L"].draft.usage.n_decoded for q in queries]
    assert shop.rate() == pytest.approx(0.85 / (0.5 * float(np.mean(alone))))


def test_short_runs_are_no_longer_than_an_hour(shop: Shop) -> None:  # noqa: F811
    long = tables.msgspec.structs.replace(shop.asked, seconds=86_400.0)
    assert replace(shop, scenario=replace(shop.scenario, asked=long)).short().seconds == 3600.0
    assert shop.short().seconds == shop.asked.seconds


def test_a_day_has_a_fault_of_every_kind(shop: Shop) -> None:  # noqa: F811
    found = tables._failing(shop)
    assert [fault.partition(":")[0] for fault in found.faults] == ["memory", "delay", "slow", "overload"]
    assert [float(fault.rpartition(":")[2]) for fault in found.faults] == [4.0, 0.05, 2.0, 10.0]
    assert found.mtbf == {"S": (shop.asked.seconds, 180.0), "L": (shop.asked.seconds, 180.0)}


def test_situations_are_those_that_they_are_called(
    shop: Shop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is played, in pairs without and with sight of the queues, and every interval is passed on."""
    played: list[tuple[Any, str, float | None]] = []

    def play(self: Shop, asked: Any, text: str, interval_s: float | None = None) -> SimulatedRun:
        played.append((asked, text, interval_s))
        return day_of([], summary())

    monkeypatch.setattr(Shop, "play", play)
    tables.before_after(shop)
    rates = [float(asked.arrivals.partition(":")[2]) / shop.rate() for asked, *_ in played]
    assert rates == pytest.approx([1, 1, 0.2, 0.2, 0.6, 0.6, 1, 1], rel=1e-4)
    assert played[4][0].faults == (f"memory:L:0:{shop.asked.seconds:g}:2",)
    assert [text for _, text, _ in played] == [
        *(["optimal:20", "queue:20:5"] * 3),
        "optimal:80",
        "queue:80:5",
    ]
    played.clear()
    tables.intervals(shop)
    assert [interval for *_, interval in played] == [*tables.INTERVALS, *tables.INTERVALS]
    played.clear()
    loads = [row["load"] for row in rows(tables.load(shop)[0])]
    assert loads[::3] == pytest.approx([0.85 * factor for factor in tables.LOADS])
    users = rows(tables.users(shop)[0])
    assert [row["users_by_the_law"] for row in users] == pytest.approx([10.0 * 3.0] * 5)
