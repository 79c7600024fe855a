"""How often the anomaly detector of a server cries wolf, and how soon it sees what is wrong.

    ASD_DATA=... python -m bench.anomalies                     # eight weeks: an hour of one core
    ASD_DATA=... python -m bench.anomalies --weeks 1 --days 0.5 --starts 1

Everything is **simulated**: outcomes of the embedded ladder, recorded once, are drawn by the simulator of
`asd.operations`, at the arrivals of recorded clients (`load/servegen_clients_*_14d.csv.gz` in `ASD_DATA`),
thinned by whole clients: to `--rate` in whole weeks (the fewer requests, the less even are minutes in which
nothing is wrong), to 12 a second where something goes wrong. Failures are drawn: one request in a hundred.

False alarms: whole weeks in which nothing is wrong, bursts and daily shapes of the recordings apart. The
upper limit is that of a Poisson rate, at 95 %. Delays: stretches of a few hours at different times of the
recordings; after two thirds of each, either calls take 1.5 times as long, or a request costs 1.5 times as
much, or twice as many fail, or twice as many arrive, which is no anomaly.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import click
import numpy as np
from scipy.stats import chi2
from tabulate import tabulate

import asd
from asd.ladder import TINY_POLICY
from asd.operations.arrivals import Client, clients, merged, read_clients
from asd.operations.control.deciders import Remembered
from asd.operations.population import Population, Situation
from asd.operations.simulator import Simulator
from asd.operations.stations import Request, StageServer
from asd.operations.traffic import Fixed, Open
from asd.policies import OptimalPolicy
from asd.policy.artifact import load
from asd.serving.monitoring.anomalies import Anomaly, AnomalyDetector, Observation
from asd.traces import read_traces

__all__ = ["anomalies", "observed", "upper_limit"]

WEEK_S, HOUR_S = 7 * 86_400.0, 3_600.0
POSITIVE = click.FloatRange(0, min_open=True)
RECORDINGS = ("m-large", "m-small")
RATE = 12.0
"""Requests a second where something goes wrong."""
P_FAIL = 0.01
LAM = 5.0
MOST_DELAY_S = 600.0
MOST_A_WEEK = 1.0

Fault = Literal["nothing", "latency", "spend", "errors", "arrivals"]
FAULTS: tuple[Fault, ...] = ("latency", "spend", "errors", "arrivals")
"""The first three are signals of the detector by the same name, the last is no fault."""


@dataclass(frozen=True, slots=True)
class RecordedStretch:
    """A piece of a recording, and what goes wrong in it.

    Attributes:
        traces: File of the outcomes.
        recording: Which clients.
        start_s: Where in the recording it begins.
        seconds: Its length.
        rate: Requests a second that are left of it.
        seed: Of the clients that are left, their requests, queries and failures.
        fault: What is wrong from `since_s` on.
        since_s: Seconds from the beginning.
    """

    traces: Path
    recording: str
    start_s: float
    seconds: float
    rate: float
    seed: int
    fault: Fault = "nothing"
    since_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Watched:
    """What the detector said of a stretch.

    Attributes:
        n: Requests that ended.
        rate: Requests a second in the ten minutes from the fault on (of all, where there is none).
        found: Every anomaly.
    """

    n: int
    rate: float
    found: tuple[Anomaly, ...]


def watch(stretch: RecordedStretch) -> Watched:
    """Simulate a stretch, and let the detector see every request as it ends."""
    population, policy = _population(stretch.traces)
    detector, found, ends = AnomalyDetector(population.stages), list[Anomaly](), list[float]()
    for seen in observed(population, policy, stretch):
        if isinstance(seen, Observation):
            found += detector.observe(seen)
            ends.append(seen.ended_s)
        else:
            detector.arrive(seen)
    until = stretch.since_s + MOST_DELAY_S if stretch.since_s else stretch.seconds
    n = bisect_left(ends, until) - bisect_left(ends, stretch.since_s)
    return Watched(len(ends), n / (until - stretch.since_s), tuple(found))


def observed(
    population: Population, policy: OptimalPolicy, stretch: RecordedStretch
) -> Iterator[float | Observation]:
    """What happens in a stretch: when requests come, and what becomes of them."""
    rng = np.random.default_rng([stretch.seed, 7])
    ended: list[tuple[Request, float]] = []
    arrived, ends, p_good = list[float](), list[float](), dict[Situation, float | None]()
    servers = {name: StageServer() for name in population.stages}
    traffic = Open(_noted(_arrivals(stretch), arrived))
    simulator = Simulator(population, servers, Fixed(policy), traffic, stretch.seed)
    simulator.on_end = lambda request, now: ended.append((request, now))
    if stretch.fault == "latency":
        simulator.agenda.at(stretch.since_s, partial(_slow_down, simulator))
    n_told = 0
    for _ in simulator.run(stretch.seconds):
        for request, now in ended:
            while n_told < len(arrived) and arrived[n_told] <= now:
                yield arrived[n_told]
                n_told += 1
            is_on = stretch.fault != "nothing" and request.arrived >= stretch.since_s
            n_inside = bisect_left(arrived, request.arrived) - bisect_left(ends, request.arrived)
            ends.append(now)
            if request.situation not in p_good:
                p_good[request.situation] = _p_good(policy, request)
            failed = rng.random() < P_FAIL * (2.0 if is_on and stretch.fault == "errors" else 1.0)
            yield Observation(
                arrived_s=request.arrived,
                ended_s=now,
                outcome="failed" if failed else "answered",
                n_inside=n_inside,
                cost=request.cost * (1.5 if is_on and stretch.fault == "spend" else 1.0),
                stage=None if failed else request.doing.answer,
                p_good=None if failed else p_good[request.situation],
            )
        ended.clear()


def upper_limit(n: int, weeks: float) -> float:
    """Of the rate of a Poisson process that was seen to happen n times, at 95 %."""
    return float(chi2.ppf(0.95, 2 * (n + 1))) / 2.0 / weeks


@click.command()
@click.option("--traces", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Outcomes, as `asd collect` writes them.")  # fmt: skip
@click.option("--questions", type=click.IntRange(1), default=60, show_default=True,
              help="Of every workload, that are asked once where there are no --traces.")  # fmt: skip
@click.option("--weeks", type=click.IntRange(1), default=8, show_default=True)
@click.option("--days", type=POSITIVE, default=7.0, show_default=True, help="Length of a week.")
@click.option(
    "--rate", type=POSITIVE, default=4.0, show_default=True, help="Requests a second in these weeks."
)
@click.option("--starts", type=click.IntRange(0), default=10, show_default=True, help="Runs of every fault.")
@click.option("--hours", type=POSITIVE, default=6.0, show_default=True, help="Length of such a run.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True)
def anomalies(  # noqa: PLR0913, PLR0917  (one argument an option)
    traces: Path | None,
    questions: int,
    weeks: int,
    days: float,
    rate: float,
    starts: int,
    hours: float,
    jobs: int,
) -> None:
    """Count false alarms and delays; exit code 1 where alarms or a median delay are more than is claimed."""
    if "ASD_DATA" not in os.environ:
        raise click.UsageError("ASD_DATA names no folder of recorded loads; set it")
    with TemporaryDirectory() as folder, ProcessPoolExecutor(jobs) as pool:
        outcomes = _collected(Path(folder), questions) if traces is None else traces
        click.echo("simulated: outcomes of the embedded ladder, recorded arrivals")
        calm = [_week(outcomes, k, days, rate) for k in range(weeks)]
        rightly = _false_alarms(zip(calm, pool.map(watch, calm), strict=True), days / 7.0)
        wrong = [_start(outcomes, k, hours, fault) for fault in FAULTS for k in range(starts)]
        soon = _delays(list(zip(wrong, pool.map(watch, wrong), strict=True)))
    sys.exit(not (rightly and soon))


def _false_alarms(weeks: Iterable[tuple[RecordedStretch, Watched]], length: float) -> bool:
    """Tell every week as it comes (each so many weeks long), then all of them."""
    n = n_weeks = 0
    for stretch, seen in weeks:
        where = f"{stretch.recording} from day {stretch.start_s / 86_400:g}, seed {stretch.seed}"
        alarms = ", ".join(map(_told, seen.found)) or "none"
        click.echo(f"{where}: {seen.n:,} requests, {seen.rate:.1f}/s; false alarms: {alarms}")
        n, n_weeks = n + len(seen.found), n_weeks + 1
    most = upper_limit(n, n_weeks * length)
    click.echo(
        f"\n{n} false alarms in {n_weeks * length:.3g} weeks: at most {most:.2f} a week (95 %, Poisson)\n"
    )
    return most <= MOST_A_WEEK or n_weeks * length < 3.0  # too few weeks to show it


def _told(one: Anomaly) -> str:
    return f"{one.signal} {one.expected:.3g} -> {one.found:.3g} at {one.at_s / HOUR_S:.1f} h"


def _delays(runs: Sequence[tuple[RecordedStretch, Watched]]) -> bool:
    rows, fine = [], True
    for fault in FAULTS:
        seen = [(stretch, one) for stretch, one in runs if stretch.fault == fault]
        if not seen:
            continue
        delays = [] if fault == "arrivals" else [_delay(stretch, one) for stretch, one in seen]
        others = sum(found.signal != fault for _, one in seen for found in one.found)
        rate = np.mean([one.rate for _, one in seen])
        rows.append([fault, len(seen), f"{rate:.1f}", *_minutes(delays), others])
        fine &= bool(np.median(delays) <= MOST_DELAY_S) if delays else not others
    heads = ["from then on", "runs", "requests/s", "minutes to the alarm, median", "longest", "other alarms"]
    click.echo(tabulate(rows, heads))
    return fine


def _delay(stretch: RecordedStretch, seen: Watched) -> float:
    after = [
        one.at_s - stretch.since_s
        for one in seen.found
        if one.signal == stretch.fault and one.at_s >= stretch.since_s
    ]
    return min(after, default=np.inf)


def _minutes(delays: Sequence[float]) -> list[str]:
    return [f"{value / 60.0:.1f}" for value in (np.median(delays), max(delays))] if delays else ["-", "-"]


def _week(traces: Path, k: int, days: float, rate: float) -> RecordedStretch:
    """Another recording, then another week of it, then other clients."""
    recording, week = RECORDINGS[k % 2], (k // 2) % 2
    return RecordedStretch(traces, recording, week * WEEK_S, days * 86_400.0, rate, k)


def _start(traces: Path, k: int, hours: float, fault: Fault) -> RecordedStretch:
    seconds = hours * HOUR_S
    start_s = (7.0 + 29.0 * k) * HOUR_S  # at all times of the day
    return RecordedStretch(
        traces, RECORDINGS[k % 2], start_s, seconds, RATE, 100 + k, fault, 2.0 * seconds / 3.0
    )


def _arrivals(stretch: RecordedStretch) -> Iterator[float]:
    """Clients of the stretch alone, thinned to the rate; twice as many of them where that is what happens."""
    within = [
        client
        for client in _clients(stretch.recording)
        if stretch.start_s <= client.start_s < stretch.start_s + stretch.seconds
    ]
    stream = clients(
        within, np.random.default_rng([stretch.seed, 1]), rate=stretch.rate, start_s=stretch.start_s
    )
    if stretch.fault != "arrivals":
        return stream
    late = replace(stretch, seed=stretch.seed + 1000, fault="nothing")
    return merged(stream, (t for t in _arrivals(late) if t >= stretch.since_s))


def _noted(stream: Iterable[float], into: list[float]) -> Iterator[float]:
    for instant in stream:
        into.append(instant)
        yield instant


def _slow_down(simulator: Simulator, _: object) -> None:
    for station in simulator.stations.values():
        station.slowdown = 1.5


def _p_good(policy: OptimalPolicy, request: Request) -> float | None:
    """Of the answer that was returned, as the policy judged it then."""
    journey = request.situation.journey
    decided = policy.decide(journey.query, journey.drafts, journey.verification)
    return None if decided.answer is None else decided.p_good.get(decided.answer)


@cache
def _clients(recording: str) -> list[Client]:
    return read_clients(Path(os.environ["ASD_DATA"]) / "load" / f"servegen_clients_{recording}_14d.csv.gz")


@cache
def _population(traces: Path) -> tuple[Population, OptimalPolicy]:
    ladder, fitted = asd.Ladder.load("tiny"), load(TINY_POLICY)
    policy = fitted.policy(LAM, ladder=ladder)
    assert isinstance(policy, OptimalPolicy)
    remembered = replace(policy, evidence=Remembered(policy.evidence))
    return Population(read_traces(traces), ladder, fitted.ladder.unit(1)), remembered


def _collected(folder: Path, questions: int) -> Path:
    path = folder / "traces.jsonl"
    asd.collect("tiny", out=path, limit=questions)
    return path


if __name__ == "__main__":
    anomalies()
