"""The shift monitor: exact betting, false alarms at the stated rate, and an alarm on another dataset."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest

from asd.errors import ConfigError, DataError
from asd.guarantee.certificate import Promise, calibrate, play
from asd.guarantee.monitor import Jumper, ShiftMonitor, signals
from asd.guarantee.record import EVERYTHING
from asd.policies import FixedStage
from asd.policy.artifact import PolicyArtifact
from asd.policy.fit import fit
from asd.types import STOP, Action, Completion, Decision, Query, Trace
from tests import worlds


def completion(length: int = 10, cost: float = 1.0, p: float | None = 0.7, value: float = 2.0) -> Completion:
    query = Query("q", "d", "x" * length)
    known = {} if p is None else {"S": p}
    values = {} if p is None else {Action.draft("S"): value, Action.draft("L"): value - 1}
    decisions = (Decision(Action.draft("S"), None, {}, values), Decision(STOP, "S", known))
    return Completion(query=query, stage="S", text="", drafts=(), decisions=decisions, cost=cost)


def test_signals_are_read_off_the_completion() -> None:
    """Prompt, price, value of the best first action, probability of the answer returned."""
    seen = signals(completion(12, 3.0, 0.6, 4.0))
    assert seen == {"prompt_characters": 12.0, "cost": 3.0, "value": 4.0, "p_good": 0.6}
    assert signals(completion(p=None)).keys() == {"prompt_characters", "cost"}


def test_capital_is_the_mixture_over_all_paths_of_the_accounts() -> None:
    """Against the sum over every sequence of directions, weighted by how money moves between accounts."""
    p_values = [0.1, 0.9, 0.3, 0.05, 0.5]
    jumper = Jumper()
    for p in p_values:
        jumper.bet(p)
    total = 0.0
    for path in product((-1, 0, 1), repeat=6):
        stays = [0.99 * (a == b) + 0.01 / 3 for a, b in pairwise(path)]
        bets = [1 + e * (p - 0.5) for e, p in zip(path[1:], p_values, strict=True)]
        total += np.prod(stays) * np.prod(bets) / 3
    assert jumper.capital == pytest.approx(total)


def streams(n_streams: int, n_live: int, shift: float) -> list[bool]:
    """Whether each of many monitors rang: 200 calibration rows, values with ties, live ones shifted."""
    rng = np.random.default_rng(0)
    rang = []
    for _ in range(n_streams):
        lengths, costs = rng.integers(5, 15, 200), rng.gamma(2, 1, 200)
        calibration = {"prompt_characters": lengths.astype(float).tolist(), "cost": costs.tolist()}
        monitor = ShiftMonitor(calibration, alpha=0.1, rng=rng)
        for length, cost in zip(rng.integers(5, 15, n_live), rng.gamma(2, 1, n_live) + shift, strict=True):
            monitor.watch(completion(int(length), float(cost), p=None))
        rang.append(monitor.reading.alarm)
    return rang


@pytest.mark.slow
def test_false_alarms_stay_below_alpha_over_the_whole_stream() -> None:
    """200 monitors over 300 queries each: at most one in ten ever rings."""
    assert np.mean(streams(200, 300, 0.0)) <= 0.1


def test_a_shift_rings_within_a_hundred_queries() -> None:
    """Costs half a standard deviation higher."""
    assert np.mean(streams(50, 100, 1.0)) > 0.95


def test_an_alarm_stays() -> None:
    """Back to normal, the evidence falls and the alarm is still on; the signal that rang is named."""
    rng = np.random.default_rng(1)
    calibration = {"prompt_characters": [10.0] * 300, "cost": rng.random(300).tolist()}
    monitor = ShiftMonitor(calibration, alpha=0.05, rng=rng)
    while not monitor.watch(completion(cost=5.0, p=None)).alarm:
        assert monitor.reading.n < 40
    assert monitor.reading.signal == "cost"
    for cost in rng.random(300):
        monitor.watch(completion(cost=float(cost), p=None))
    assert monitor.reading.evidence < 20
    assert monitor.reading.alarm


def dataset(n: int, seed: int, name: str, *, hard: bool = False) -> list[Trace]:
    """A made-up dataset; the hard one has only queries that S is unsure of."""
    traces, truths = worlds.sample(4 * n if hard else n, np.random.default_rng(seed), name)
    kept = [t for t, truth in zip(traces, truths, strict=True) if not hard or truth.small < 2][:n]
    return [Trace(replace(t.query, id=f"{name}-{seed}-{t.query.id}"), t.outcomes) for t in kept]


@pytest.fixture(scope="module")
def guaranteed() -> PolicyArtifact:
    fitting = dataset(300, 0, "easy")
    fitted = fit(fitting, worlds.ladder(), fitted_at="2026-01-01", lams=(2.0,))
    promise = Promise(delta=0.1, keep=0.7)
    calibration = dataset(300, 1, "easy")
    return calibrate(fitted, fitting, calibration, worlds.ladder(), promise, np.random.default_rng(0))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "hard", "rings"), [("easy", False, False), ("hard", True, True)])
def test_fitted_on_one_dataset_it_rings_on_another_and_not_on_the_same(
    guaranteed: PolicyArtifact, name: str, hard: bool, rings: bool
) -> None:
    """The guarantee carries what its calibration rows looked like; the cascade runs on 300 live queries."""
    grant = guaranteed.guarantee.grants[EVERYTHING]
    assert grant.lam is not None
    monitor = ShiftMonitor(grant.watched, alpha=0.05, rng=np.random.default_rng(2))
    played = play(guaranteed.guaranteed_policy(), dataset(300, 3, name, hard=hard), worlds.ladder(), 1.0)
    readings = [monitor.watch(done) for done in played.completions]
    assert readings[-1].alarm == rings


@pytest.mark.slow
def test_what_cannot_be_watched_is_refused(guaranteed: PolicyArtifact) -> None:
    """No rate, nothing to compare with, completions of another kind of policy."""
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="alpha"):
        ShiftMonitor({"cost": [1.0]}, alpha=1.0, rng=rng)
    for nothing in ({}, {"cost": []}):
        with pytest.raises(ConfigError, match="nothing to compare"):
            ShiftMonitor(nothing, alpha=0.1, rng=rng)
    grant = guaranteed.guarantee.grants[EVERYTHING]
    [done] = play(FixedStage("L"), dataset(1, 4, "easy"), worlds.ladder(), 1.0).completions
    with pytest.raises(DataError, match="different policies"):
        ShiftMonitor(grant.watched, alpha=0.1, rng=rng).watch(done)
