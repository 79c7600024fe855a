"""Tables of a day of operations: the published ones, simulated on recorded outcomes, as tables of a study.

    production       a day with failures of every stage against targets
    hours            the same by six hours
    devices          the same by stage
    before_after     high and low load, memory pressure, quality focus: without and with sight of the queues
    intervals        seconds between two solutions, beside the optimum that theory predicts
    categories       what the largest stage answers, by policy and kind of question
    users            a closed loop of 10 to 150 users, each row held to X (R + Z) = N
    load             latency by load
    published_users  what the published scalability table implies
    claims           published claims that a load or a day is needed for

Scope: what is asked of the simulator and how it is laid out; every number but the last's is `simulated`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from asd.measurement.records import Record
from asd.operations.books import Summary
from asd.operations.runs import RunsHeader, SimulatedRun
from asd.operations.stations import Request
from asd.research.load.devices import CallMeter, MeteredRun, metered_run
from asd.research.load.loops import FACTORS, acting, at, loop_of
from asd.research.load.production import UNKNOWN, production, unknown_memory
from asd.research.load.shop import HOUR, Shop
from asd.research.study.record import StudyTable, Value
from asd.schema import msgspec

__all__ = ["MAKERS", "TablesFile", "claims"]

USERS, THINK_S = (10, 25, 50, 100, 150), 2.0
INTERVALS, INTERVALS_S = (10.0, 30.0, 60.0, 300.0), 1800.0
"""Between two looks, and length of a run, seconds."""
OPTIMIZER = "published:0.2"
LOADS = (0.25, 0.5, 1.0, 1.5, 2.0)
LEAST = 59
"""Outcomes of a kind of question below which nothing is said of it."""
CLAIMED_DOWNTIME, CLAIMED_CHANGES = 0.03, (-15.0, -28.0)
"""Per cent; changes are of latency under load, dynamic against fixed."""
PUBLISHED = ((10, 13.8, 0.823, None), (50, None, None, 1.478))
"""Users, answers a second, mean and P95 latency in seconds, as far as they were published."""


class TablesFile(Record, frozen=True, kw_only=True):
    """Tables made so far, so that a run that was cut off continues from them."""

    format: Literal["asd-day"] = "asd-day"
    schema_version: Literal[2] = 2
    asked: RunsHeader
    policy: str
    seed: int
    targets: dict[str, float] = {}
    tables: tuple[StudyTable, ...] = ()


def day(shop: Shop) -> list[StudyTable]:
    """The day with failures: as a whole, by six hours, and by stage."""
    asked = _failing(shop)
    scenario = replace(shop.scenario, asked=asked)
    done = metered_run(scenario, shop.controller(asked, shop.ours), shop.seed, shop.progress)
    return [production(shop, done), _hours(shop, done.run), _devices(shop, done)]


def _failing(shop: Shop) -> RunsHeader:
    """A failure of every stage a day, and ten minutes of smaller calls, a slow network and a surge."""
    span, stages = shop.asked.seconds, shop.scenario.population.stages
    faults = (
        f"memory:{shop.largest}:{0.2 * span:g}:{span / 144:g}:4",
        f"delay:{stages[0]}:{0.4 * span:g}:{span / 144:g}:0.05",
        f"slow:{shop.largest}:{0.6 * span:g}:{span / 144:g}:2",
        f"overload:{0.8 * span:g}:{span / 144:g}:10",
    )
    mtbf = dict.fromkeys(stages, (span, 180.0))
    return msgspec.structs.replace(shop.asked, faults=faults, mtbf=mtbf)


def _hours(shop: Shop, done: SimulatedRun) -> StudyTable:
    quarter, rows = shop.asked.seconds / 4, []
    for i in range(4):
        own = [w for w in done.windows if i * quarter <= w.start_s < (i + 1) * quarter]
        n, seconds = sum(w.n_answered for w in own), sum(w.seconds for w in own)
        if not n:
            continue
        rows.append(
            (
                f"{i * quarter / HOUR:g} to {(i + 1) * quarter / HOUR:g} h",
                n / seconds,
                _weighted(own, "latency_s"),
                max((w.p95_s for w in own if w.p95_s is not None), default=None),
                sum(w.stages[shop.largest].share_answered * w.n_answered for w in own) / n,
                sum(w.stages[shop.largest].utilisation * w.seconds for w in own) / seconds,
                _weighted(own, "quality"),
            )
        )
    columns = (
        "time", "answers_per_s", "latency_s", "p95_s", f"answered_by_{shop.largest}", f"use_{shop.largest}",
        "quality",
    )  # fmt: skip
    return shop.table("hours", "The day by quarters", columns, rows, "P95: of the worst window.")


def _weighted(windows: Sequence[Summary], name: str) -> float:
    n = sum(w.n_answered for w in windows)
    return sum(float(getattr(w, name)) * w.n_answered for w in windows) / n


def _devices(shop: Shop, done: MeteredRun) -> StudyTable:
    rows = [(name, *_device(shop, done.run, name, done.meters[name])) for name in done.meters]
    columns = (
        "stage", "replicas", "devices_each", "use_mean", "use_peak", "inside_mean", "queries_per_call",
        "weights_mib", "memory_mean_mib", "memory_peak_mib", "network_mean_bytes_per_s",
        "network_peak_bytes_per_s", "delays_s",
    )  # fmt: skip
    note = (
        "Peak: the busiest window; of memory, the call of most tokens. Memory: of a replica while it is up, "
        "its weights and the keys and values of its call's prompts and whole answers; what a runtime takes "
        "beside is not in it. Network: text of prompts and of drafts to be read, to the stage, and of "
        "answers, back; what a protocol adds is not in it. Delays: that faults added to calls, all together."
    )
    return shop.table("devices", "The day by stage", columns, rows, " ".join((note, *unknown_memory(shop))))


def _device(shop: Shop, run: SimulatedRun, name: str, meter: CallMeter) -> tuple[Value, ...]:
    whole, memory = run.total.stages[name], shop.memory.get(name, UNKNOWN)
    held = memory.weights_mib, memory.mean_mib(meter, whole), memory.peak_mib(meter)
    return (
        shop.asked.servers[name][0],
        memory.devices,
        whole.utilisation,
        max(w.stages[name].utilisation for w in run.windows),
        whole.mean_inside,
        whole.n_visits / whole.n_calls if whole.n_calls else None,
        *("no data" if mib is None else mib for mib in held),
        meter.n_bytes / run.total.seconds,
        meter.peak_bytes_per_s,
        meter.delays_s,
    )


def before_after(shop: Shop) -> list[StudyTable]:
    """Four situations, without and with sight of the queues."""
    rate, seconds = shop.rate(), min(HOUR, shop.asked.seconds)
    lam = float(shop.ours.split(":")[1])
    mu = shop.ours.split(":")[2]
    situations = (
        ("high load", shop.short(), shop.blind, shop.ours),
        ("low load", shop.short(arrivals=f"poisson:{0.2 * rate:g}"), shop.blind, shop.ours),
        (
            "memory pressure",
            shop.short(
                faults=(f"memory:{shop.largest}:0:{seconds:g}:2",), arrivals=f"poisson:{0.6 * rate:g}"
            ),
            shop.blind,
            shop.ours,
        ),
        ("quality focus", shop.short(), f"optimal:{4 * lam:g}", f"queue:{4 * lam:g}:{mu}"),
    )
    rows: list[tuple[Value, ...]] = []
    for name, asked, *texts in situations:
        for text in texts:
            done = shop.play(asked, text)
            t = done.total
            rows.append((name, done.controller, t.latency_s, t.p95_s, t.quality, t.cost, t.n_inside))
    columns = ("situation", "policy", "latency_s", "p95_s", "quality", "cost", "inside_at_end")
    note = (
        f"{rate:.3g} requests a second at high load: {shop.largest} alone would be in use 85 % of the time."
    )
    return [shop.table("before_after", "Without and with sight of the queues", columns, rows, note)]


def intervals(shop: Shop) -> list[StudyTable]:
    """Seconds between two looks, of ours and of the published optimiser, beside what their loops predict."""
    rows: list[tuple[Value, ...]] = []
    found = acting(shop, OPTIMIZER)
    factor = found or 1.0
    asked = msgspec.structs.replace(at(shop, factor, INTERVALS_S), window_s=max(INTERVALS))
    for text in (shop.ours, OPTIMIZER):
        loop = loop_of(shop, text, factor)
        relaxation = None if math.isinf(loop.relaxation_s) else loop.relaxation_s
        for interval in INTERVALS:
            done = shop.play(asked, text, interval)
            t = done.total
            seen = (t.latency_s, t.p95_s, _settled(done), t.quality, t.n_inside)
            rows.append((done.controller, interval, *seen, relaxation, loop.gain, loop.optimum))
    columns = (
        "policy", "interval_s", "latency_s", "p95_s", "settled_s", "quality", "inside_at_end",
        "relaxation_s", "gain", "optimum_s",
    )  # fmt: skip
    note = (
        f"{_where(found)}, {factor * shop.rate():.3g} requests a second. Relaxation: seconds in which the "
        "slowest queue forgets how it was. Gain: share of a deviation that one look takes back. Optimum, by "
        "theory: relaxation x gain / (1 - gain), the least interval at which gain x delay < 1; of those "
        "above it the shortest is best. Ours sees the queues at every decision, and solves again for loads "
        f"only. A run begins idle, an interval before the first look; settled: mean latency after "
        f"{max(INTERVALS):g} s."
    )
    return [shop.table("intervals", "Seconds between two solutions", columns, rows, note)]


def _settled(done: SimulatedRun) -> float | None:
    """Mean latency once every interval has had a look."""
    own = [window for window in done.windows if window.start_s >= max(INTERVALS) and window.n_answered]
    return _weighted(own, "latency_s") if own else None


def _where(found: float | None) -> str:
    """The load of the intervals, and why it is that one."""
    if found is None:
        return f"Up to {FACTORS[-1]:g} times the high load the published optimiser changes no decision"
    return (
        f"{found:g} times the high load, the least tried at which the published optimiser changes decisions"
    )


def categories(shop: Shop) -> list[StudyTable]:
    """What the largest stage answers, by policy and data set."""
    rows: list[tuple[Value, ...]] = []
    texts = (shop.blind, shop.ours, "static:0.8", "router:1:0.8", f"always:{shop.largest}")
    for text in texts:
        asked = shop.short(arrivals=f"poisson:{0.6 * shop.rate():g}")
        controller = shop.controller(asked, text)
        sim = replace(shop.scenario, asked=asked).simulator(controller, shop.seed)
        answers: Counter[tuple[str, bool]] = Counter()

        def count(request: Request, _: float, answers: Counter[tuple[str, bool]] = answers) -> None:
            if request.step is not None:
                kind = request.situation.trace.query.dataset
                answers[kind, request.step.answer == shop.largest] += 1

        sim.on_end = count
        for window in sim.run(asked.seconds):
            shop.progress(window)
        recorded = Counter(query.trace.query.dataset for query in shop.scenario.population.queries)
        for kind, n in recorded.items():
            by_largest, by_others = answers[kind, True], answers[kind, False]
            share = by_largest / (by_largest + by_others) if by_largest + by_others else None
            rows.append((controller.name, kind, n, share if n >= LEAST else "no data"))
    columns = ("policy", "kind", "recorded", f"answered_by_{shop.largest}")
    note = f"No data: fewer than {LEAST} outcomes of a kind are recorded."
    return [shop.table("categories", "Use of the largest stage", columns, rows, note)]


def users(shop: Shop) -> list[StudyTable]:
    """A closed loop, every row with its law."""
    rows: list[tuple[Value, ...]] = []
    for n in USERS:
        t = shop.play(shop.short(users=(n, THINK_S), arrivals=""), shop.ours).total
        rows.append((n, t.rate, t.latency_s, t.p95_s, t.quality, t.rate * (t.latency_s + THINK_S)))
    columns = ("users", "answers_per_s", "latency_s", "p95_s", "quality", "users_by_the_law")
    note = f"Users think {THINK_S:g} s on average; by the law X (R + Z) = N."
    found = shop.table("users", "Scalability", columns, rows, note)
    audit: list[tuple[Value, ...]] = [
        (
            n,
            rate,
            mean,
            p95,
            None if rate is None or mean is None else rate * mean,
            _verdict(n, rate, mean, p95),
        )
        for n, rate, mean, p95 in PUBLISHED
    ]
    return [
        found,
        StudyTable(
            name="published_users",
            title="The published scalability table",
            provenance="replayed",
            measured_on="published figures",
            n=len(audit),
            columns=("users", "answers_per_s", "latency_s", "p95_s", "inside", "verdict"),
            rows=tuple(audit),
            note="By Little's law as many are inside as come a second times the seconds that they stay.",
        ),
    ]


def _verdict(n: int, rate: float | None, mean: float | None, p95: float | None) -> str:
    if rate is not None and mean is not None and rate * mean > n:
        return f"impossible: more inside than {n} users"
    if p95 is not None and p95 > 1.0:
        return "P95 is not below a second, as claimed"
    return "possible"


def load(shop: Shop) -> list[StudyTable]:
    """Latency by load, of the largest stage alone and of the cascade without and with sight of the queues."""
    rows: list[tuple[Value, ...]] = []
    for factor in LOADS:
        asked = shop.short(arrivals=f"poisson:{factor * shop.rate():g}")
        for text in (f"always:{shop.largest}", shop.blind, shop.ours):
            done = shop.play(asked, text)
            t = done.total
            rows.append((0.85 * factor, done.controller, t.latency_s, t.p95_s, t.quality, t.n_inside))
    columns = ("load", "policy", "latency_s", "p95_s", "quality", "inside_at_end")
    note = f"Load: of {shop.largest} alone in full calls; from 1 on its queue grows without end."
    return [shop.table("load", "Latency by load", columns, rows, note)]


def claims(made: Mapping[str, StudyTable]) -> StudyTable:
    """Published claims that a load or a day is needed for, beside these tables, by name."""
    production, compared = made["production"], made["before_after"]
    downtime = 100.0 * (1.0 - float(production.rows[0][1] or 0.0))
    blind, aware = (row for row in compared.rows if row[0] == "high load")
    latency, quality = (compared.columns.index(name) for name in ("latency_s", "quality"))
    under, beside = aware[latency], blind[latency]
    change = 100.0 * (float(under) / float(beside) - 1.0) if under and beside else None
    rows: list[tuple[Value, ...]] = [
        ("99.97 % uptime", "windows with 1 % errors or more, per cent", CLAIMED_DOWNTIME, downtime,
         downtime <= CLAIMED_DOWNTIME),
        *((f"dynamic control {-claimed:g} % better under load", "mean latency, change in per cent", claimed,
           change, None if change is None else change <= claimed) for claimed in CLAIMED_CHANGES),
    ]  # fmt: skip
    return msgspec.structs.replace(
        production,
        name="claims",
        title="Published claims about operations",
        columns=("claim", "quantity", "claimed", "here", "holds"),
        rows=tuple(rows),
        note=f"Uptime: of the day with failures. Control: {aware[1]} against {blind[1]} at high load, with a "
        f"quality of {aware[quality]:.3f} and {blind[quality]:.3f}. One run each.",
    )


MAKERS: dict[str, Callable[[Shop], list[StudyTable]]] = {
    "production": day,
    "before_after": before_after,
    "intervals": intervals,
    "categories": categories,
    "users": users,
    "load": load,
}
"""By the name of the first table that each makes, in the order they are shown."""


def hours_simulated(seconds: float) -> float:
    """Hours that all makers simulate together, for a day of so many seconds."""
    short = min(HOUR, seconds) / HOUR
    n_short = 8 + 5 + len(USERS) + 3 * len(LOADS)
    looked = 2 * len(INTERVALS) * min(INTERVALS_S, seconds) / HOUR
    return math.fsum([seconds / HOUR, n_short * short, looked])
