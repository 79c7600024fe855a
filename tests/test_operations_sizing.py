"""The fewest devices for a load, beside all placements tried by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from asd.errors import ConfigError
from asd.operations.population import Population
from asd.operations.runs import RunsHeader, Scenario
from asd.operations.sizing import Need, Servers, Sizing, placements
from asd.operations.traffic import Controller, Fixed
from asd.policies import FixedStage
from tests.queues import Planned, ladder, query


def sizing(most: int = 12, devices: dict[str, int] | None = None) -> Sizing:
    """Three in four are answered by S in a tenth of a second, the others by L in one; four a second come."""
    rng = np.random.default_rng(1)
    traces = [
        query(i, ["S", "L"] if rng.random() < 0.25 else ["S"], {"S": 0.1, "L": 1.0}) for i in range(200)
    ]
    population = Population(traces, ladder("SL"), 1.0, 1)
    asked = RunsHeader(
        ladder="x", sources={}, n_queries=200, servers={"S": (1, 1), "L": (1, 1)}, arrivals="poisson:4",
        users=None, seconds=600.0, window_s=600.0,
    )  # fmt: skip

    def controller(text: str, servers: Servers) -> Controller:
        return Fixed(FixedStage(text[7:]) if text.startswith("always") else Planned())

    return Sizing(Scenario(population, asked), devices or {"S": 1, "L": 2}, controller, 1, most)


def p95(found: Sizing, text: str, replicas: dict[str, int]) -> float:
    total = found.run(text, replicas)
    return np.inf if total.p95_s is None or total.n_inside > 40 else total.p95_s


def test_no_smaller_placement_would_do() -> None:
    """Every placement with fewer devices misses the target; the one that is found meets it."""
    made = sizing()
    size = made.smallest(["planned"], Need(1.6, 0.5))
    assert size is not None
    assert size.devices == size.replicas["S"] + 2 * size.replicas["L"]
    assert p95(made, "planned", dict(size.replicas)) <= 1.6
    smaller = [{"S": s, "L": n} for s in range(1, 12) for n in range(1, 6) if s + 2 * n < size.devices]
    assert smaller
    assert all(p95(made, "planned", replicas) > 1.6 for replicas in smaller)


def test_of_equal_totals_the_fastest_is_taken() -> None:
    """Four devices of one kind: a second replica for S is worth more than a third for L."""
    made = sizing(devices={"S": 1, "L": 1})
    slower, faster, fewer = {"S": 1, "L": 3}, {"S": 2, "L": 2}, {"S": 1, "L": 2}
    enough = p95(made, "planned", slower)
    assert p95(made, "planned", faster) < enough < p95(made, "planned", fewer)
    size = made.smallest(["planned"], Need(enough, 0.5))
    assert size is not None
    assert dict(size.replicas) == faster


def test_a_stage_that_is_never_asked_takes_no_device() -> None:
    """L alone answers 4 a second of a second each on five replicas or more: ten devices and none for S."""
    size = sizing(most=14).smallest(["always:L"], Need(3.0, 0.5))
    assert size is not None
    assert size.replicas == {"L": size.devices // 2}
    assert size.devices in {10, 12}


def test_each_setting_takes_its_own_stage() -> None:
    """Of two single stages the smaller bears the load on one device, whichever is named first."""
    for texts in (["always:L", "always:S"], ["always:S", "always:L"]):
        size = sizing(most=14).smallest(texts, Need(3.0, 0.0))
        assert size is not None
        assert (size.text, size.devices, size.replicas) == ("always:S", 1, {"S": 1})


def test_what_cannot_be_had_is_said() -> None:
    """Faster than a call, or better than the answers are: no number of devices helps."""
    assert sizing(most=6).smallest(["planned"], Need(0.05, 0.5)) is None
    assert sizing(most=4).smallest(["planned"], Need(9.0, 1.01)) is None
    with pytest.raises(ConfigError, match="positive P95"):
        sizing().smallest(["planned"], Need(0.0, 0.5))


def test_a_queue_that_grows_is_not_kept() -> None:
    """In a short run the first are fast enough, but those who wait at the end are too many."""
    made = sizing(most=3)
    crowded = RunsHeader(
        **{n: getattr(made.scenario.asked, n) for n in RunsHeader.__struct_fields__} | {"seconds": 30.0}
    )
    short = replace(made, scenario=replace(made.scenario, asked=crowded))
    assert short.smallest(["always:L"], Need(1000.0, 0.5)) is None


def test_placements_use_all_devices() -> None:
    assert set(placements([1, 2], 5)) == {(1, 2), (3, 1)}
    assert list(placements([2], 5)) == []
    assert set(placements([1, 1, 4], 7)) == {(1, 2, 1), (2, 1, 1)}
