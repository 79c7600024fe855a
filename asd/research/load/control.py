"""Tables of what control holds, simulated on recorded outcomes.

loss        a replica of every stage lost at the peak: answered, quality lost, time to recover
budget      a day's money under a cap, over days and seeds: unspent, and the dearest hour
floor       settings certified for a quality floor, and targets of P95 held within them
regret      against the best constant and the best schedule in hindsight, by number of intervals
stability   how much the answers of the largest stage swing from look to look, in bursts and after them; the
            same where the published optimiser acts, beside its own thresholds as they were at first
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from asd.operations.books import Summary
from asd.operations.control.bearing import bearing_of
from asd.operations.control.budget import DayBudget, Paced
from asd.operations.control.deciders import Decider
from asd.operations.control.floor import Floored, certify
from asd.operations.runs import RunsHeader, SimulatedRun, arrivals_of
from asd.operations.traffic import DAY_S, Controller
from asd.research.load.loops import acting, loop_of
from asd.research.load.shop import HOUR, Shop
from asd.research.load.tables import OPTIMIZER
from asd.research.study.record import StudyTable, Value
from asd.schema import msgspec

__all__ = ["CONTROL", "loss"]

REPLICAS = 4
"""Of every stage where one of them is lost: three quarters of the capacity are left."""
DAYS, SEEDS, SHARE = 10, 3, 0.7
"""Of the budget: days of a run, runs, and what is allowed as a share of what the policy would spend."""
LOAD = 0.7
"""Of the floor: of the stages, for which its tables are solved."""
TARGETS_S = (0.1, 0.3, 1.0)
MUS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
ARMS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5)
"""Constants that regret is against, as shares of lam."""
COURSES = 5
"""Runs of regret, each with arrivals of its own."""
LOOKS_S = 10.0
NEAR = (0.8, 0.9)
"""Loads with bursts, as shares of the steady one at which the published optimiser acts."""


def loss(shop: Shop) -> list[StudyTable]:
    """One replica of a stage is gone for a sixth of the run, at the load of the peak."""
    servers = {stage: (REPLICAS, batch) for stage, (_, batch) in shop.asked.servers.items()}
    span = min(HOUR, shop.asked.seconds)
    start, seconds = span / 3, span / 6
    rate = REPLICAS * shop.rate() / shop.asked.servers[shop.largest][0]
    rows: list[tuple[Value, ...]] = []
    for stage in servers:
        asked = shop.short(
            servers=servers,
            arrivals=f"poisson:{rate:g}",
            faults=(f"down:{stage}:{start:g}:{seconds:g}:1",),
            window_s=span / 60,
        )
        rows.append((stage, *_lost(shop.play(asked, shop.ours), start, start + seconds)))
    columns = (
        "stage", "replicas", "left", "answered", "quality_before", "quality_lost", "p95_before_s",
        "p95_worst_s", "recovered_s",
    )  # fmt: skip
    note = (
        f"{rate:.3g} requests a second; one replica is gone for {seconds:g} s. Answered: of those that ended "
        "from the loss on. Recovered: seconds after the repair until P95 is at most 1.2 times that before."
    )
    return [shop.table("loss", "A device lost at the peak", columns, rows, note)]


def _lost(done: SimulatedRun, start: float, end: float) -> tuple[Value, ...]:
    """What `loss` prints of a run; windows of its first sixth are left out."""
    before = [w for w in done.windows if start / 2 <= w.start_s and w.start_s + w.seconds <= start + 1e-9]
    during = [w for w in done.windows if start <= w.start_s < end]
    after = [w for w in done.windows if w.start_s >= end - 1e-9]
    usual, worst = _worst_p95(before), _worst_p95([*during, *after])
    quality = _quality(before)
    ended = sum(w.n_answered + w.n_failed + w.n_refused for w in [*during, *after])
    return (
        REPLICAS,
        (REPLICAS - 1) / REPLICAS,
        sum(w.n_answered for w in [*during, *after]) / ended,
        quality,
        quality - _quality(during),
        usual,
        worst,
        _recovered(after, usual, end),
    )


def _recovered(after: Sequence[Summary], usual: float, end: float) -> float | None:
    """Seconds from the repair to the end of the first window that is as fast as usual, or nearly so."""
    ends = (w.start_s + w.seconds - end for w in after if w.p95_s is not None and w.p95_s <= 1.2 * usual)
    return next(ends, None)


def _worst_p95(windows: Sequence[Summary]) -> float:
    return max((w.p95_s for w in windows if w.p95_s is not None), default=0.0)


def _quality(windows: Sequence[Summary]) -> float:
    return sum(w.quality * w.n_answered for w in windows) / sum(w.n_answered for w in windows)


def budget(shop: Shop) -> list[StudyTable]:
    """Runs of several days; what a day will be like is taken from another one."""
    expected = _by_hour(shop.asked.arrivals)
    lam = float(shop.ours.split(":")[1])
    usual = shop.fitted.optimal(lam)
    decider = Decider(shop.scenario.population, usual)
    queries = shop.scenario.population.queries
    mean_cost = float(np.mean([sum(step.cost for step in decider.walk(query)) for query in queries]))
    amount = SHARE * mean_cost * float(expected.sum())
    rows = [_spent(shop, amount, expected, seed) for seed in range(1, SEEDS + 1)]
    columns = (
        "seed", "days", "budget", "spent_most", "unspent_most", "hour_over_share", "refused", "quality",
    )  # fmt: skip
    note = (
        f"Arrivals {shop.asked.arrivals}; the budget is {SHARE:.0%} of what lam {lam:g} would spend without "
        "one. Spent and unspent: of the day where they are largest, as shares of its budget. An hour's share "
        "is that of its expected demand."
    )
    return [shop.table("budget", "A day's budget", columns, rows, note)]


def _by_hour(arrivals: str) -> np.ndarray:
    """Requests of every hour of a day that has been."""
    rng, counts = np.random.default_rng([0, 1]), np.zeros(24)
    for instant in arrivals_of(arrivals, rng, DAY_S):
        if instant >= DAY_S:
            break
        counts[int(instant // HOUR)] += 1
    return np.maximum(counts, 1.0)


def _spent(shop: Shop, amount: float, expected: np.ndarray, seed: int) -> tuple[Value, ...]:
    asked = msgspec.structs.replace(shop.asked, seconds=DAYS * DAY_S, window_s=HOUR)
    controller = shop.controller(asked, shop.ours)
    paced = Paced(controller, DayBudget(amount, lambda _: tuple(expected.tolist())))  # type: ignore[arg-type]
    sim = replace(shop.scenario, asked=asked).simulator(paced, seed)
    spent = [0.0]
    for window in sim.run(asked.seconds):
        shop.progress(window)
        spent.append(sim.spent)
    by_hour = np.diff(spent).reshape(DAYS, 24)
    total = sim.books.total()
    refused = total.n_refused / total.n_arrived
    return (seed, DAYS, amount, *_shares(by_hour, amount, expected), refused, total.quality)


def _shares(by_hour: np.ndarray, amount: float, expected: np.ndarray) -> tuple[float, float, float]:
    """Most of its budget that a day spent and left, and most of its share that an hour spent."""
    days, due = by_hour.sum(axis=1) / amount, amount * expected / expected.sum()
    return float(days.max()), float(1.0 - days.min()), float((by_hour / due).max())


def floor(shop: Shop) -> list[StudyTable]:
    """Half of the queries certify, the others come faster than the largest stage alone could take."""
    first, judged = shop.scenario.halves()
    calibration = first.population
    asked = shop.short(arrivals=f"poisson:{1.5 * shop.rate():g}")
    contenders, lam = shop.contenders(asked), float(shop.ours.split(":")[1])
    found = certify(
        calibration,
        contenders.evidence,
        contenders.steering.tables(lam, LOAD),
        MUS,
        shop.promise,
        np.random.default_rng(shop.seed),
    )
    tested: list[tuple[Value, ...]] = [
        (s.mu, s.worst, found.floor, s.p_value, i < found.n_passed) for i, s in enumerate(found.settings)
    ]
    n = len(calibration.queries)
    note = (
        f"lam {lam:g}; worst: whatever the queues do, on {n} rows; certified at delta {shop.promise.delta:g}."
    )
    columns = ("mu", "worst_quality", "floor", "p_value", "certified")
    tables = [shop.table("certified", "Settings certified for a floor", columns, tested, note)]
    if not found.n_passed:
        return tables
    last = found.certified[-1].solved
    bearing = bearing_of(calibration, contenders.evidence, last, contenders.servers)
    record = contenders.steering.floor_of(found, calibration, bearing, lam, LOAD)
    shop.certified(record)
    other, held = replace(shop, scenario=judged), replace(contenders, floor=record)
    rows = [_floored(other, asked, held.of(f"floored:{lam!r}:{target}")) for target in TARGETS_S]
    under_load = ("policy", "quality", "floor", "p95_s", "looks", "looks_that_said_so")
    note = (
        f"The floor: {record.keep:g} of the largest stage's quality on the very queries of the run. Said so: "
        f"that the target cannot be held, or may soon not be; {1.5 * shop.rate():.3g} requests a second "
        f"arrive, at any P95 the certified settings bear {record.bears:.3g}."
    )
    return [*tables, shop.table("floor", "A floor under load", under_load, rows, note)]


def _floored(shop: Shop, asked: RunsHeader, made: Controller) -> tuple[Value, ...]:
    """One run, in windows that end with a look."""
    assert isinstance(made, Floored)
    asked = msgspec.structs.replace(asked, window_s=made.interval_s)
    sim = replace(shop.scenario, asked=asked).simulator(made, shop.seed)
    for window in sim.run(asked.seconds):
        shop.progress(window)
    total = sim.books.total()
    keep = shop.promise.keep
    floor = None if total.reference is None or keep is None else keep * total.reference
    return made.name, total.quality, floor, total.p95_s, made.n_looks, made.n_unheld


def _bursty(shop: Shop, window_s: float, until: float = 1.0, factor: float = 0.6) -> RunsHeader:
    """A multiple of the peak's load, twice that for a minute in ten, up to a share of the run."""
    span, rate = min(HOUR, shop.asked.seconds), factor * shop.rate()
    starts = np.arange(span / 12, until * span, span / 6)
    faults = tuple(f"overload:{start:g}:{span / 60:g}:{rate:g}" for start in starts)
    return shop.short(arrivals=f"poisson:{rate:g}", faults=faults, window_s=window_s)


def regret(shop: Shop) -> list[StudyTable]:
    """What a window lost, in lam (1 - quality) + cost + mu * latency an answer, summed up."""
    lam = float(shop.ours.split(":")[1])
    policies = (shop.ours, f"gears:{lam:g}", OPTIMIZER)
    courses = [_courses(replace(shop, seed=shop.seed + k), policies) for k in range(COURSES)]
    rows: list[tuple[Value, ...]] = []
    for text in policies:
        own = [course[text] for course in courses]
        shares = np.mean([course.shares for course in own], axis=0)
        slopes = [value for side in (0, 1) for value in _mean([course.slopes[side] for course in own])]
        last = len(own[0].counts) - 1
        rows += [
            (text, count, *map(float, shares[:, k]), *(slopes if k == last else (None,) * 6))
            for k, count in enumerate(own[0].counts)
        ]
    columns = (
        "policy", "intervals", "to_constant", "to_schedule", "slope_constant", "slope_constant_low",
        "slope_constant_high", "slope_schedule", "slope_schedule_low", "slope_schedule_high",
    )  # fmt: skip
    note = (
        f"Regret against the best of {len(ARMS)} constant settings of lam, and against the best of them in "
        "every interval, as shares of what the policy itself lost; intervals of 30 s. Slope: of log regret "
        f"by log intervals, below 1 where regret an interval falls; mean of {COURSES} runs with its 95 % "
        "interval (Student), none where the regret of a run is not positive."
    )
    return [shop.table("regret", "Regret in hindsight", columns, rows, note)]


class _RegretCourse(NamedTuple):
    """Regret of a policy in one run: numbers of intervals, shares of shape (2, n), and slopes.

    Shares and slopes are against the best constant, and against the best schedule.
    """

    counts: list[int]
    shares: np.ndarray
    slopes: tuple[float | None, float | None]


def _courses(shop: Shop, policies: Sequence[str]) -> dict[str, _RegretCourse]:
    """Of one run of each policy, and one of every arm, on the same arrivals."""
    lam, mu = map(float, shop.ours.split(":")[1:3])
    asked = _bursty(shop, 30.0)

    def lost(text: str) -> np.ndarray:
        windows = shop.play(asked, text).windows
        return np.array(
            [w.n_answered * (lam * (1.0 - w.quality) + w.cost + mu * w.latency_s) for w in windows]
        )

    arms = np.array([lost(f"optimal:{lam * share:g}") for share in ARMS])
    return {text: _course(np.cumsum(lost(text)), arms) for text in policies}


def _course(own: np.ndarray, arms: np.ndarray) -> _RegretCourse:
    counts = sorted({max(1, len(own) * k // 16) for k in (1, 2, 4, 8, 16)})
    regrets = _regrets(own, arms, counts)
    shares = np.array(regrets) / own[np.array(counts) - 1]
    constant, schedule = (_slope(counts, against) for against in regrets)
    return _RegretCourse(counts, shares, (constant, schedule))


def _mean(slopes: Sequence[float | None]) -> tuple[float | None, float | None, float | None]:
    """With its interval; nothing where a run has none."""
    from asd.evaluation.statistics import student_interval  # noqa: PLC0415  (scipy takes a second)

    known = [slope for slope in slopes if slope is not None]
    if len(known) < max(2, len(slopes)):
        return None, None, None
    return float(np.mean(known)), *student_interval(known)


def _regrets(own: np.ndarray, arms: np.ndarray, counts: Sequence[int]) -> tuple[list[float], list[float]]:
    """After so many intervals, against the best arm and against the best of them in every interval.

    Args:
        own: What was lost until the end of every interval, shape (T,).
        arms: What each arm lost in it, shape (A, T).
        counts: Numbers of intervals.
    """
    best, schedule = np.cumsum(arms, axis=1).min(axis=0), np.cumsum(arms.min(axis=0))
    return [own[k - 1] - best[k - 1] for k in counts], [own[k - 1] - schedule[k - 1] for k in counts]


def _slope(counts: Sequence[int], regrets: Sequence[float]) -> float | None:
    if min(regrets) <= 0.0 or len(counts) < 2:
        return None
    return float(np.polyfit(np.log(counts), np.log(regrets), 1)[0])


def stability(shop: Shop) -> list[StudyTable]:
    """A look every ten seconds; bursts in the first half only."""
    asked = _bursty(shop, LOOKS_S, 0.5)
    lam = float(shop.ours.split(":")[1])
    rows: list[tuple[Value, ...]] = []
    for text in (shop.blind, shop.ours, f"target:{lam:g}:0.3", OPTIMIZER):
        done = shop.play(asked, text, LOOKS_S)
        rows.append((done.controller, *_steadiness(done, shop.largest), done.total.p95_s))
    columns = ("policy", "swing_bursts", "swing_calm", "share_bursts", "share_calm", "p95_s")
    note = (
        f"Swing: mean change of the share that {shop.largest} answers from one look to the next, {LOOKS_S:g} "
        "s later; that of the policy without control is chance. A loop that oscillates swings in the calm."
    )
    found = [shop.table("stability", "Looks every ten seconds", columns, rows, note)]
    factor = acting(shop, OPTIMIZER)
    return found if factor is None else [*found, _moved(shop, factor)]


def _moved(shop: Shop, factor: float) -> StudyTable:
    """The same near the load at which the published optimiser acts, and what comes of not looking."""
    rows: list[tuple[Value, ...]] = []
    loops = {text: loop_of(shop, text, factor) for text in (OPTIMIZER, shop.ours)}
    for share, (text, looks_s) in product(
        NEAR, ((OPTIMIZER, None), (OPTIMIZER, LOOKS_S), (shop.ours, LOOKS_S))
    ):
        asked = _bursty(shop, LOOKS_S, 0.5, share * factor)
        done = shop.play(asked, text, looks_s or math.inf)
        calm = [w for w in done.windows if w.start_s >= asked.seconds / 2 and w.n_answered]
        latency_s = sum(w.latency_s * w.n_answered for w in calm) / sum(w.n_answered for w in calm)
        loop = (None, None) if looks_s is None else (loops[text].gain, loops[text].optimum)
        steady = _steadiness(done, shop.largest)
        rows.append((done.controller, share, looks_s, *loop, *steady, latency_s, done.total.n_inside))
    columns = (
        "policy", "load", "looks_s", "gain", "optimum_s", "swing_bursts", "swing_calm", "share_bursts",
        "share_calm", "latency_calm_s", "inside_at_end",
    )  # fmt: skip
    note = (
        f"Load: of {factor * shop.rate():.3g} requests a second, {factor:g} times the high load and the "
        "least tried at which the published optimiser changes a decision; twice that in bursts. Gain, read "
        "off there: share of a deviation that one look takes back; a negative one adds to it, look by look. "
        "Optimum, by theory: from this interval on a loop settles. Without looks its thresholds stay."
    )
    return shop.table("stability_moved", "Looks where the published optimiser acts", columns, rows, note)


def _steadiness(done: SimulatedRun, stage: str) -> tuple[float, ...]:
    """Swing of a stage's share of the answers in the two halves of a run, and that share."""
    half = done.total.seconds / 2
    parts = [[w for w in done.windows if (w.start_s < half) == first] for first in (True, False)]
    shares = [float(np.mean([w.stages[stage].share_answered for w in part])) for part in parts]
    return (*(_swing(part, stage) for part in parts), *shares)


def _swing(windows: Sequence[Summary], stage: str) -> float:
    """Mean change, from window to window, of the share that a stage answers."""
    shares = [w.stages[stage].share_answered for w in windows if w.n_answered]
    return float(np.mean([abs(b - a) for a, b in pairwise(shares)]))


CONTROL: dict[str, Callable[[Shop], list[StudyTable]]] = {
    "loss": loss,
    "floor": floor,
    "regret": regret,
    "stability": stability,
    "budget": budget,
}
"""By name, in the order they are shown; the budget takes as long as the others together."""
