"""The detector of anomalies: what it finds, how soon, and what it leaves alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from asd.serving.monitoring.anomalies import ACCEPTED, STEP_S, Anomaly, AnomalyDetector, Observation
from asd.serving.monitoring.cusum import GUARD, LIMIT, STEPS, WARM_UP
from bench.anomalies import anomalies, upper_limit

FROM_S = 1.8 * 3600.0
"""When something happens, seconds from the beginning."""
RATE = 12.0


def traffic(hours: float, seed: int = 0, rate: float = RATE, **later: float) -> Iterator[Observation]:
    """Requests that end at once, one after the other; from `FROM_S` on, something is so many times larger."""
    rng = np.random.default_rng(seed)
    changes = dict.fromkeys(("load", "seconds", "errors", "cost", "large", "p_good"), 1.0) | later
    stretches = [(0.0, FROM_S, dict.fromkeys(changes, 1.0)), (FROM_S, 3600.0 * hours, changes)]
    for begin, end, factor in stretches:
        n = rng.poisson(max(0.0, end - begin) * rate * factor["load"])
        at = np.sort(rng.uniform(begin, max(begin, end), n))
        large = rng.random(n) < 0.3 * factor["large"]
        failed = rng.random(n) < 0.01 * factor["errors"]
        seconds = rng.lognormal(0.0, 0.8, n) * np.where(large, 4e-3, 1e-3) * factor["seconds"]
        cost = rng.gamma(2.0, np.where(large, 4.0, 1.0)) * factor["cost"]
        p_good = np.minimum(1.0, rng.beta(8, 2, n) * factor["p_good"])
        rows = zip(at.tolist(), seconds.tolist(), failed, large, cost.tolist(), p_good.tolist(), strict=True)
        for now, took, fails, is_large, paid, p in rows:
            ended, stage = "failed" if fails else "answered", "L" if is_large else "S"
            answer = (None, None) if fails else (stage, p)
            yield Observation(now, now + took, ended, 3, paid, *answer)


def watched(requests: Iterator[Observation]) -> tuple[AnomalyDetector, list[Anomaly]]:
    detector, found = AnomalyDetector(("S", "L")), list[Anomaly]()
    for one in requests:
        detector.arrive(one.arrived_s)
        found += detector.observe(one)
    return detector, found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_where_nothing_is_wrong(seed: int) -> None:
    """Hours of 12 requests a second, and of 1."""
    assert watched(traffic(3, seed))[1] == []
    assert watched(traffic(12, seed, rate=1.0))[1] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("later", "signal", "rises"),
    [
        ({"seconds": 1.5}, "latency", True),
        ({"errors": 2.0}, "errors", True),
        ({"cost": 1.5}, "spend", True),
        ({"p_good": 0.93}, "p_good", False),
        ({"p_good": 1.07}, "p_good", True),
        ({"large": 1.4}, "mix L", True),
        ({"large": 0.6}, "mix L", False),
    ],
)
def test_what_is_wrong_is_found_within_ten_minutes(later: dict[str, float], signal: str, rises: bool) -> None:
    """At 12 requests a second; it says since when, and how much."""
    _, found = watched(traffic(FROM_S / 3600 + 0.4, **later))
    mine = [one for one in found if one.signal == signal]
    assert mine, found
    assert mine[0].rises is rises
    assert FROM_S - 2 * STEP_S <= mine[0].since_s <= FROM_S + 3 * STEP_S
    assert FROM_S < mine[0].at_s <= FROM_S + 600
    assert (mine[0].found > mine[0].expected) is rises


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.3, 2.5])
def test_more_or_fewer_requests_are_no_anomaly(factor: float) -> None:
    assert watched(traffic(FROM_S / 3600 + 0.5, rate=6.0, load=factor))[1] == []


def minutes(values: list[float], n: int = 60) -> list[Observation]:
    """So many requests a minute that all take so long."""
    return [
        Observation(
            STEP_S * i + k * STEP_S / n, STEP_S * i + k * STEP_S / n + value, "answered", 0, 1.0, "S", 0.9
        )
        for i, value in enumerate(values)
        for k in range(n)
    ]


def noisy(n: int, seed: int = 0) -> list[float]:
    return (0.1 * np.exp(0.05 * np.random.default_rng(seed).standard_normal(n))).tolist()


def test_no_single_minute_is_an_alarm_and_no_sooner_than_promised_is_one() -> None:
    """However odd it is."""
    calm = noisy(WARM_UP + 60)
    for n_odd in (1, 2):
        assert watched(iter(minutes([*calm, *[5.0] * n_odd, *noisy(30, 1)])))[1] == []
    [found] = watched(iter(minutes([*calm, *[5.0] * 10])))[1]
    assert found.since_s == pytest.approx(STEP_S * len(calm), abs=1.5 * STEP_S)
    assert math.ceil(LIMIT / (LIMIT / 3)) * STEP_S <= found.at_s - found.since_s <= (STEPS + 2) * STEP_S


def test_nothing_is_judged_before_enough_is_known() -> None:
    assert watched(iter(minutes([*noisy(WARM_UP - 5), *[5.0] * 4])))[1] == []


def test_an_anomaly_ends_when_it_is_over_and_is_the_new_normal_when_it_is_not() -> None:
    calm = noisy(WARM_UP + 60)
    detector, found = watched(iter(minutes([*calm, *[0.3] * 15, *noisy(40, 2)])))
    assert [one.signal for one in found] == ["latency"]
    assert detector.active == {}
    slow = [3 * value for value in noisy(ACCEPTED + GUARD + WARM_UP + 60, 3)]
    detector, found = watched(iter(minutes([*calm, *slow])))
    assert [one.signal for one in found] == ["latency"]
    assert detector.active == {}
    assert detector.is_warm


def test_a_backlog_in_which_easy_requests_end_first_is_no_change_of_the_mix() -> None:
    """Requests count in the minute in which they came."""
    rng, seen = np.random.default_rng(0), list[Observation]()
    for i in range(150):
        for at in np.sort(rng.random(200)) * STEP_S + i * STEP_S:
            large = rng.random() < 0.3
            wait = 180.0 * large if 100 <= i < 104 else 0.0
            stage = "L" if large else "S"
            seen.append(Observation(at, at + 0.1 + wait, "answered", 0, 1.0 + large, stage, 0.9))
    arrivals = sorted(one.arrived_s for one in seen)
    detector, found, told = AnomalyDetector(("S", "L")), list[Anomaly](), 0
    for one in sorted(seen, key=lambda one: one.ended_s):
        while told < len(arrivals) and arrivals[told] <= one.ended_s:
            detector.arrive(arrivals[told])
            told += 1
        found += detector.observe(one)
    assert [one.signal for one in found if one.signal != "latency"] == []


def test_clients_that_leave_say_nothing_of_the_server() -> None:
    """Whatever was spent for them."""
    requests = minutes(noisy(150))
    left = [one._replace(outcome="gone", cost=9.0 if i > 6000 else 1.0) if i % 3 else one
            for i, one in enumerate(requests)]  # fmt: skip
    detector, found = watched(iter(left))
    assert found == []
    assert detector.is_warm


def test_the_upper_limit_is_that_of_a_poisson_rate() -> None:
    """As tables have it: 3.00 for none, 4.74 for one, 7.75 for three."""
    assert [round(upper_limit(n, 1.0), 2) for n in (0, 1, 3)] == [3.0, 4.74, 7.75]
    assert upper_limit(0, 8.0) == pytest.approx(0.374, abs=1e-3)


def test_recorded_loads_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ASD_DATA", raising=False)
    (traces := tmp_path / "traces.jsonl").touch()
    done = CliRunner().invoke(anomalies, ["--traces", str(traces), "--weeks", "1"])
    assert done.exit_code != 0
    assert "ASD_DATA" in done.output


@pytest.mark.parametrize(
    ("option", "value"), [("--days", "-1"), ("--rate", "0"), ("--hours", "0"), ("--traces", "nowhere.jsonl")]
)
def test_the_measurement_refuses_what_it_cannot_run_with(option: str, value: str) -> None:
    """Before anything is simulated, by the name of the option and its value."""
    refused = CliRunner().invoke(anomalies, [option, value], env={"ASD_DATA": "."})
    assert refused.exit_code == 2
    assert f"'{option}'" in refused.output
    assert value in refused.output
