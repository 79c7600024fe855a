"""Rows of the day's tables, from summaries and small runs of which the right numbers are known."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from asd.errors import ConfigError
from asd.operations.books import StageWindow, Summary
from asd.operations.runs import SimulatedRun
from asd.research.load import production, tables
from asd.research.load.devices import CallMeter, MeteredRun, StageMemory
from asd.research.load.loops import FeedbackLoop
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


def judged(shop: Shop, windows: list[Summary], total: Summary, **meters: CallMeter) -> dict[str, Any]:  # noqa: F811
    found = rows(production.production(shop, MeteredRun(day_of(windows, total), meters)))
    return dict(zip(production.METRICS, found, strict=True))


def test_production_is_judged_by_its_targets(shop: Shop) -> None:  # noqa: F811
    """One window of four has 1 % errors; all together have fewer; two in a hundred are not answered."""
    windows = [summary(10.0 * i, n_failed=int(i == 2), n_answered=99) for i in range(4)]
    total = summary(n_arrived=404, n_answered=396, n_failed=1, quality=0.8, seconds=40.0)
    found = judged(shop, windows, total)
    told = {name: (row["value"], row["target"], row["met"]) for name, row in found.items()}
    assert told["uptime"] == (0.75, 0.999, False)
    assert told["error_rate"] == (pytest.approx(1 / 397), 0.01, True)
    assert told["quality"] == (0.8, 0.85, False)
    assert told["rate"] == (pytest.approx(9.9), pytest.approx(0.99 * 10.1), False)
    assert told["use"] == (0.5, 0.85, True)
    assert told["p99_s"] == (3.0, None, None)
    assert "fewer than 299 queries" in found["p99_s"]["target_is"]
    bad = summary(n_answered=90, n_failed=10)
    full = {"S": stage(utilisation=0.9), "L": stage(utilisation=0.9)}
    assert judged(shop, [bad], bad)["error_rate"]["met"] is False
    assert judged(shop, [bad], summary(stages=full))["use"]["met"] is False


def test_targets_of_ones_own_count(shop: Shop) -> None:  # noqa: F811
    """In place of what there is; where something has no value, it meets nothing."""
    own = replace(shop, targets=production.targets_of(("p99_s=3", "memory_mib=64", "quality=0")))
    found = judged(own, [summary()], summary(quality=0.0), S=CallMeter(), L=CallMeter())
    assert [found[name]["met"] for name in ("p99_s", "quality", "memory_mib")] == [True, True, None]
    assert found["memory_mib"]["value"] == "no data"
    assert {found[name]["target_is"] for name in ("p99_s", "quality", "memory_mib")} == {"--target"}
    for wrong in ("p98=1", "p99_s", "p99_s=-1", "p99_s=nan", "p99_s=inf"):
        with pytest.raises(ConfigError, match=f"--target '{wrong}': write NAME=NUMBER"):
            production.targets_of((wrong,))


def test_memory_is_that_of_all_replicas(shop: Shop) -> None:  # noqa: F811
    """Two replicas of L with 10 MiB of weights and 3 tokens of 2 MiB each; one of S with 5 MiB."""
    memory = {"S": StageMemory(1, 5.0, 1.0, ""), "L": StageMemory(1, 10.0, 2.0, "")}
    asked = tables.msgspec.structs.replace(shop.asked, servers={"S": (1, 4), "L": (2, 4)})
    own = replace(
        shop,
        memory=memory,
        scenario=replace(shop.scenario, asked=asked),
        targets={"memory_mib": 36.0},
    )
    found = judged(own, [summary()], summary(), S=CallMeter(), L=CallMeter(most_tokens=3))["memory_mib"]
    assert (found["value"], found["met"]) == (37.0, False)


def test_a_percentile_of_the_largest_stage_is_a_target(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """What its calls of one query take where nobody waits: 5 ms a token."""
    few = copy(shop.scenario.population)
    by_length = sorted(few.queries, key=lambda q: q.trace.outcomes["L"].draft.usage.n_decoded)
    few.queries = [*by_length[:1] * 97, *by_length[-1:] * 3]
    monkeypatch.setattr(production, "LEAST_P99", len(few.queries))
    own = replace(shop, scenario=replace(shop.scenario, population=few))
    found = judged(own, [summary()], summary())["p99_s"]
    longest = by_length[-1].trace.outcomes["L"].draft.usage.n_decoded
    assert found["target"] == pytest.approx(5e-3 * longest)
    assert longest > by_length[0].trace.outcomes["L"].draft.usage.n_decoded
    assert found["target_is"] == "P99 of L alone on an idle server"


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
    """And what they hold and carry; of what is not known it is said."""
    windows = [
        summary(0.0, stages={"S": stage(utilisation=u), "L": stage(n_calls=0)}) for u in (0.2, 0.9, 0.4)
    ]
    total = summary(stages={"S": stage(utilisation=0.5, mean_inside=3.0), "L": stage(n_calls=0)})
    meter = CallMeter(
        most_tokens=8, tokens_s=60.0, calls_s=10.0, n_bytes=700, peak_bytes_per_s=90.0, delays_s=2.0
    )
    own = replace(shop, memory={"S": StageMemory(2, 5.0, 1.0, ""), "L": StageMemory(1, 10.0, None, "of why")})
    done = MeteredRun(day_of(windows, total), {"S": meter, "L": CallMeter()})
    small, large = rows(tables._devices(own, done))
    assert (small["use_mean"], small["use_peak"], small["inside_mean"]) == (0.5, 0.9, 3.0)
    assert small["queries_per_call"] == 2.0
    assert large["queries_per_call"] is None
    told = ("devices_each", "weights_mib", "memory_mean_mib", "memory_peak_mib")
    assert [small[name] for name in told] == [2, 5.0, 5.0 + 0.5 * 6.0, 13.0]
    assert [large[name] for name in told] == [1, 10.0, "no data", "no data"]
    carried = ("network_mean_bytes_per_s", "network_peak_bytes_per_s", "delays_s")
    assert [small[name] for name in carried] == [70.0, 90.0, 2.0]
    assert "No data on the memory of L: of why." in tables._devices(own, done).note


@pytest.mark.parametrize(
    ("found", "factor", "told"),
    [
        (3.0, 3.0, "3 times the high load, the least tried at which the published optimiser changes"),
        (None, 1.0, "Up to 8 times the high load the published optimiser changes no decision"),
    ],
)
def test_intervals_are_tried_where_the_published_optimiser_acts(
    shop: Shop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    found: float | None,
    factor: float,
    told: str,
) -> None:
    """Both policies at that load, every interval beside what their own loops predict."""
    played: list[tuple[str, str, float | None]] = []
    loops = {shop.ours: FeedbackLoop(0.5, 2.0), "published:0.2": FeedbackLoop(-0.5, math.inf)}

    def play(self: Shop, asked: Any, text: str, interval_s: float | None = None) -> SimulatedRun:
        played.append((asked.arrivals, text, interval_s))
        assert asked.window_s == 300.0
        later = summary(300.0, latency_s=2.0, n_answered=300), summary(600.0, latency_s=4.0)
        return day_of([summary(0.0, latency_s=9.0), *later], summary())

    monkeypatch.setattr(Shop, "play", play)
    monkeypatch.setattr(tables, "acting", lambda *_: found)
    monkeypatch.setattr(tables, "loop_of", lambda _, text, at: loops[text] if at == factor else None)
    [table] = tables.intervals(shop)
    assert {arrivals for arrivals, *_ in played} == {f"poisson:{factor * shop.rate():g}"}
    assert [(text, interval) for _, text, interval in played] == [
        (text, interval) for text in loops for interval in tables.INTERVALS
    ]
    ours, theirs = rows(table)[0], rows(table)[-1]
    assert (ours["relaxation_s"], ours["gain"], ours["optimum_s"]) == (2.0, 0.5, 2.0)
    assert (ours["latency_s"], ours["settled_s"]) == (1.0, 2.5)
    assert (theirs["relaxation_s"], theirs["optimum_s"]) == (None, "none: adds to what it answers")
    assert table.note.startswith(told)


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
    loads = [row["load"] for row in rows(tables.load(shop)[0])]
    assert loads[::3] == pytest.approx([0.85 * factor for factor in tables.LOADS])
    users = rows(tables.users(shop)[0])
    assert [row["users_by_the_law"] for row in users] == pytest.approx([10.0 * 3.0] * 5)
