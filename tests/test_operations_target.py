"""The worth of a second, learned: one update by hand, the loop closed, and the gain that breaks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from asd.errors import ConfigError
from asd.operations.arrivals import merged, poisson, surge
from asd.operations.books import Summary
from asd.operations.control.backlog import BacklogPolicy, QueueAware
from asd.operations.control.contenders import Contenders
from asd.operations.control.target import P95Target
from asd.operations.simulator import Simulator
from asd.operations.state import SystemState
from asd.operations.stations import StageServer
from asd.operations.traffic import Gauge, Open, RunSettings
from tests.test_operations_backlog import busy, contenders, state  # noqa: F401  (a fixture)

LAM, LOOK_S = 50.0, 2.0


def held(contenders: Contenders, target_s: float, **settings: float) -> P95Target:  # noqa: F811
    made = contenders.of(f"target:{LAM}:{target_s}")
    assert isinstance(made, P95Target)
    made.inner.interval_s = LOOK_S
    return replace(made, **settings)  # type: ignore[arg-type]


def test_one_update_by_hand(contenders: Contenders) -> None:  # noqa: F811
    """Twice the target: mu grows by step x lam / target; below it falls; bounds hold; no data, no change."""
    made = held(contenders, 0.1, step=0.2, forget=0.1, most=0.5)
    calls = {"S": busy(0.5, call_s=0.011), "L": busy(0.5, 2, call_s=0.055)}
    seen = state(**calls)
    unit = LAM / 0.1
    for p95_s, expected in (
        (0.2, 0.2),
        (0.1, 0.18),
        (0.05, 0.062),
        (9.0, 0.5),
        (0.0, 0.25),
        (0.0, 0.025),
        (0.0, 0),
    ):
        made.policy(replace(seen, p95_s=p95_s))
        assert made.inner.mu == pytest.approx(expected * unit)
    made.policy(replace(seen, p95_s=0.2))
    before = made.inner.mu
    made.policy(seen)
    assert made.inner.mu == before > 0.0


@dataclass
class Spy:
    """Writes down mu at every look."""

    made: P95Target
    mus: list[float]
    name: str = "spy"
    interval_s: float = LOOK_S

    @property
    def inner(self) -> QueueAware:
        return self.made.inner

    def watch(self, gauges: Mapping[str, Gauge]) -> None:
        self.made.watch(gauges)

    def policy(self, state: SystemState | None) -> BacklogPolicy:
        found = self.made.policy(state)
        self.mus.append(self.made.inner.mu)
        return found


def run(
    place: Contenders, controller: P95Target | Spy, seconds: float, surge_s: tuple[float, float]
) -> tuple[list[Summary], list[float]]:
    """Windows of ten looks, and mu at the end of each; a surge comes on top of half a load."""
    rng = np.random.default_rng(11)
    arrivals = merged(poisson(30.0, rng), surge(surge_s[0], surge_s[1], 35.0, rng))
    servers = {name: StageServer(*server) for name, server in place.servers.items()}
    settings = RunSettings(10 * LOOK_S)
    sim = Simulator(place.population, servers, controller, Open(arrivals), 4, settings)
    windows, mus = [], []
    for window in sim.run(seconds):
        windows.append(window)
        mus.append(controller.inner.mu)
    return windows, mus


@pytest.mark.slow
def test_the_target_is_held_in_a_surge_and_forgotten_after_it(contenders: Contenders) -> None:  # noqa: F811
    """Without it P95 would be far above; afterwards a second is worth little again, and quality is back."""
    target = 0.25
    windows, mus = run(contenders, held(contenders, target), 300.0, (60.0, 140.0))
    free, _ = run(contenders, held(contenders, 1e6), 300.0, (60.0, 140.0))
    late = [w.p95_s for w in windows[5:10]]
    assert np.median(late) < 1.3 * target  # type: ignore[arg-type]
    assert np.median([w.p95_s for w in free[5:10]]) > 1.5 * target  # type: ignore[arg-type]
    assert max(mus[3:10]) > 2.0 * mus[-1]
    assert np.mean([w.quality for w in windows[5:10]]) < np.mean([w.quality for w in windows[-3:]])


@pytest.mark.slow
def test_too_large_a_gain_breaks_the_loop(contenders: Contenders) -> None:  # noqa: F811
    """At a hundred times the step mu jumps between its bounds at every look; at the default it does not."""

    def swings(step: float) -> float:
        """Mean change of mu from look to look in the second half, as a share of its range."""
        mus: list[float] = []
        run(contenders, Spy(held(contenders, 0.25, step=step), mus), 160.0, (0.0, 160.0))
        return float(np.abs(np.diff(mus[len(mus) // 2 :])).mean() / (10.0 * LAM / 0.25))

    assert swings(0.2) < 0.05
    assert swings(20.0) > 0.2


@pytest.mark.parametrize("text", ["target:5:0", "target:5:-1", "target:5"])
def test_targets_out_of_range_are_refused(contenders: Contenders, text: str) -> None:  # noqa: F811
    with pytest.raises(ConfigError):
        contenders.of(text)
