"""The interval that theory predicts: on a loop that is calculated, and on policies whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from asd.errors import ConfigError
from asd.operations.control.published import PublishedOptimizer
from asd.operations.runs import RunsHeader
from asd.research.load import loops
from asd.research.load.loops import FeedbackLoop
from asd.research.load.shop import Shop
from tests.test_cli_simulate import place  # noqa: F401  (a fixture)
from tests.test_research_load_control import shop  # noqa: F401  (a fixture)
from tests.test_research_load_tables import stage, summary


def settled(gain: float, relaxation_s: float, interval_s: float) -> tuple[float, float]:
    """A loop in small steps of time: the least it comes to after a deviation of 1, and where it ends.

    The state follows the answer in the relaxation time; a look sees its mean since the last one.
    """
    step = min(interval_s, relaxation_s) / 100.0
    per_look, state, answer, course = round(interval_s / step), 1.0, 1.0, [1.0]
    for _ in range(60):
        seen = []
        for _ in range(per_look):
            state += step / relaxation_s * (answer - state)
            seen.append(state)
        answer -= gain * float(np.mean(seen))
        course += seen
    return min(course), abs(course[-1])


@pytest.mark.parametrize("gain", [0.2, 0.5, 0.7])
@pytest.mark.parametrize("relaxation_s", [0.5, 4.0])
def test_a_loop_settles_from_the_optimum_on(gain: float, relaxation_s: float) -> None:
    """At the predicted interval it comes back; at a tenth of it, it swings to the other side, and wider."""
    optimum = FeedbackLoop(gain, relaxation_s).optimum
    assert isinstance(optimum, float)
    assert gain / optimum * (optimum + relaxation_s) == pytest.approx(1.0)
    low, end = settled(gain, relaxation_s, optimum)
    assert end < 1e-3
    assert settled(gain, relaxation_s, optimum / 10.0)[0] < min(low, -0.3)


def test_where_there_is_no_optimum_it_is_said() -> None:
    assert FeedbackLoop(0.0, 1.0).optimum == "any: moves nothing"
    assert FeedbackLoop(-0.1, 1.0).optimum == "none: adds to what it answers"
    assert FeedbackLoop(1.0, 1.0).optimum == "none: overshoots"
    assert FeedbackLoop(0.5, math.inf).optimum == "none: the queues only grow"
    assert FeedbackLoop(0.5, 3.0).optimum == 3.0


def asked(shop: Shop) -> RunsHeader:  # noqa: F811
    return loops.msgspec.structs.replace(shop.asked, servers={"S": (1, 4), "L": (2, 4)})


def test_a_queue_forgets_in_the_time_of_theory(shop: Shop) -> None:  # noqa: F811
    """E[S] / (1 - load)^2 of the slowest stage, by hand: two replicas of L, in half-full calls 90 %."""
    total = summary(
        seconds=100.0,
        stages={
            "S": stage(utilisation=0.5, n_calls=100, n_visits=100),
            "L": stage(utilisation=0.9, n_calls=90, n_visits=180),
        },
    )
    small, large = 0.5 / (1 - 0.5 / 4) ** 2, 1.0 / (1 - 0.9 / 2) ** 2
    assert loops.relaxation_s(asked(shop), total) == pytest.approx(max(small, large))
    only = replace_stages(total, L=stage(n_calls=0))
    assert loops.relaxation_s(asked(shop), only) == pytest.approx(small)
    full = replace_stages(total, S=stage(utilisation=1.0, n_calls=10, n_visits=40))
    assert math.isinf(loops.relaxation_s(asked(shop), full))


def replace_stages(total: object, **stages: object) -> object:
    return loops.msgspec.structs.replace(total, stages={**total.stages, **stages})  # type: ignore[attr-defined, type-var]


@pytest.mark.slow
def test_one_that_does_not_look_at_queues_has_no_gain(shop: Shop) -> None:  # noqa: F811
    """A second that is worth nothing: whatever load is believed in, the same is decided."""
    assert loops.loop_of(shop, "queue:8:0", 4.0).gain == 0.0
    assert 0.1 < loops.loop_of(shop, "queue:8:8", 4.0).gain < 0.5
    with pytest.raises(ConfigError, match="'optimal:20' has no loop"):
        loops.loop_of(shop, "optimal:20", 1.0)


def test_steps_that_cost_latency_add_to_the_deviation(
    shop: Shop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In ten looks the published optimiser raises latency by a half: by hand; unmoved, it has no gain."""
    long = loops.msgspec.structs.replace(shop.asked, seconds=300.0)
    made = shop.controller(long, "published:0.2")
    assert isinstance(made, PublishedOptimizer)
    assert loops._published(shop, long, "published:0.2", made) == 0.0
    seen = iter((0.2, 0.3))
    monkeypatch.setattr(loops, "_run", lambda *_: summary(latency_s=next(seen)))
    gain = loops._published(shop, long, "published:0.2", made)
    assert gain == pytest.approx(-math.log(1.5) / 10 / math.log(1.2))


def test_the_least_load_at_which_something_is_moved(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    gains = {factor: 0.0 if factor < 4.0 else -0.1 for factor in loops.FACTORS}
    monkeypatch.setattr(loops, "loop_of", lambda _shop, _text, factor: FeedbackLoop(gains[factor], 1.0))
    assert loops.acting(shop, "published:0.2") == 4.0
    monkeypatch.setattr(loops, "loop_of", lambda *_: FeedbackLoop(0.0, 1.0))
    assert loops.acting(shop, "published:0.2") is None
    long = replace(shop.scenario, asked=loops.msgspec.structs.replace(shop.asked, seconds=7200.0))
    chosen = loops.at(replace(shop, scenario=long), 2.0)
    assert (chosen.seconds, chosen.arrivals) == (300.0, f"poisson:{2.0 * shop.rate():g}")
