"""What the live page shows, as rows of text and lines of numbers: computed here, laid out in `page.html`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import methodcaller
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from asd.prices import Money
from asd.serving.admission import Account
from asd.serving.monitoring.anomalies import Anomaly
from asd.serving.monitoring.events import ANSWERED
from asd.serving.monitoring.monitor import Monitor
from asd.serving.monitoring.page.charts import lines
from asd.serving.monitoring.page.devices import Device, devices
from asd.serving.monitoring.page.plan import FULL, capacity_plan
from asd.serving.monitoring.page.texts import NONE, seconds_text
from asd.serving.monitoring.timeline import BIN_S, BINS, Bin, Timeline, mean_of, percentiles
from asd.serving.tariff import MICRO

__all__ = ["Facts", "PageTable", "view"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page shows beside what the monitor knows.

    Attributes:
        ladder: Its name.
        unit: Of prices.
        money: What a unit is worth; None: unknown.
        setting: The policy of requests that name none, and what is promised of it.
        accounts: Spend and caps that may be seen; empty: no books are kept.
        engines: What engines tell of themselves, by stage.
    """

    ladder: str
    unit: str
    money: Money | None
    setting: str
    accounts: Sequence[Account] = ()
    engines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class PageTable(NamedTuple):
    """Names of columns, and rows of texts; the first column names the row."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def view(monitor: Monitor, facts: Facts) -> dict[str, object]:
    """Everything that `page.html` lays out, by name."""
    bins = monitor.timeline.last_bins()
    seconds = monitor.timeline.seconds_of(bins)
    return {
        "facts": facts,
        "headline": _headline(monitor, bins, seconds),
        "vitals": monitor.vitals(),
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "alarms": list(_alarms(monitor)),
        "latency": _latency(monitor.timeline),
        "latency_chart": _latency_chart(monitor.timeline),
        "outcomes": _outcomes(bins, seconds),
        "rate_chart": _chart(monitor.timeline, {"requests": _rate}),
        "quality": _quality(monitor),
        "mix": _mix(monitor),
        "spend": _spend(bins, seconds, facts),
        "spend_chart": _chart(monitor.timeline, {"spend": lambda one: one.micros / MICRO / BIN_S}),
        "stages": _stages(monitor, bins),
        "queue_chart": _chart(monitor.timeline, _looked(monitor, "waiting ")),
        "devices": _devices(devices(), facts.engines),
        "plan": _plan(monitor, bins, seconds),
        "guarantee": _guarantee(monitor),
        "anomalies": _anomalies(monitor.anomalies.latest),
        "evidence": sorted(monitor.anomalies.sums.items()),
        "is_warm": monitor.anomalies.is_warm,
        "steering": _steering(bins),
        "unheld": monitor.unheld,
        "steering_chart": _chart(monitor.timeline, _looked(monitor, "set ")),
        "network": _network(bins, seconds),
        "network_chart": _chart(
            monitor.timeline, {"in": lambda one: one.received / BIN_S, "out": lambda one: one.sent / BIN_S}
        ),
    }


def _headline(monitor: Monitor, bins: Sequence[Bin], seconds: float) -> list[tuple[str, str]]:
    outcomes = _count(bins)
    answered = sum(outcomes[name] for name in ANSWERED)
    p95 = percentiles(one.seconds for one in monitor.timeline.recent())[95]
    delivered = monitor.evaluation.delivered()
    return [
        ("requests a second", f"{sum(outcomes.values()) / seconds:.3g}"),
        ("answered", _share(answered, sum(outcomes.values()))),
        ("P95", seconds_text(p95)),
        ("quality kept", NONE if delivered.share is None else f"{delivered.share:.1%}"),
        ("open", f"{monitor.vitals().n_open} of {monitor.vitals().most_open}"),
        ("up for", _duration(time.time() - monitor.timeline.started_s)),
    ]


def _alarms(monitor: Monitor) -> Iterator[str]:
    for anomaly in monitor.anomalies.active.values():
        yield f"{_said(anomaly)} since {_clock(anomaly)}"
    if monitor.evaluation.at_risk:
        yield f"the promised quality of {monitor.evaluation.promised:.1%} is not kept"
    if monitor.shift is not None and monitor.shift.alarm:
        yield f"queries no longer look like those of the guarantee ({monitor.shift.signal})"
    if monitor.unheld:
        yield monitor.unheld
    for name in sorted(monitor.vitals().resting):
        yield f"stage {name} rests after failures"


def _latency(timeline: Timeline) -> PageTable:
    recent = timeline.recent()
    rows = {
        "request": [one.seconds for one in recent],
        "first token (TTFT)": [one.first_s for one in recent],
        "output token (TPOT)": [one.per_token_s for one in recent if one.per_token_s is not None],
    }
    for stage in sorted({one.stage for one in recent}):
        rows[f"answered by {stage}"] = [one.seconds for one in recent if one.stage == stage]
    return PageTable(
        ("", "n", "P50", "P95", "P99"),
        [(name, str(len(of)), *map(seconds_text, percentiles(of).values())) for name, of in rows.items()],
    )


def _latency_chart(timeline: Timeline) -> Markup:
    def of(q: float) -> list[float | None]:
        return [float(np.quantile(one.seconds, q)) if one.seconds else None for one in _whole(timeline)]

    return lines({"P50": of(0.5), "P95": of(0.95)}, " s")


def _outcomes(bins: Sequence[Bin], seconds: float) -> PageTable:
    counts = _count(bins)
    rows = [(name, str(n), f"{n / seconds:.3g}") for name, n in counts.most_common()]
    tokens = sum(one.n_tokens for one in bins)
    return PageTable(
        ("", "n", "a second"), [*rows, ("tokens decoded", f"{tokens:,}", f"{tokens / seconds:.3g}")]
    )


def _quality(monitor: Monitor) -> PageTable:
    found = monitor.evaluation.delivered()
    known = [one.p_good for one in monitor.timeline.recent() if one.p_good is not None]
    share = NONE if found.share is None else f"{found.share:.1%} ({found.low:.1%} to {found.high:.1%})"
    rows = [
        ("mean p_good, last five minutes", f"{np.mean(known):.3f}" if known else NONE),
        (f"share of {monitor.reference}'s answers kept, 95 %", share),
        ("compared in the shadow", str(found.n)),
        ("promised", NONE if found.promised is None else f"{found.promised:.1%}"),
    ]
    n, likeness = monitor.evaluation.likeness()
    if n:
        told_of = ", ".join(f"{name} {value:.3f}" for name, value in likeness.items() if name != "quality")
        rows.append((f"like their references, {n} texts: {told_of}", f"{likeness['quality']:.3f}"))
    if (told := found.calibration) is None:
        return PageTable(
            ("", ""), [*rows, ("calibration of p_good", "too few scores (POST /v1/asd/feedback)")]
        )
    return PageTable(("", ""), [
        *rows,
        ("scored by people", f"{told.n}, mean {told.base_rate:.3f}"),
        ("calibration error of p_good", f"{told.calibration_error:.3f}"),
        ("Brier score", f"{told.brier:.3f}"),
        ("AUROC", NONE if told.auroc is None else f"{told.auroc:.3f}"),
    ])  # fmt: skip


def _mix(monitor: Monitor) -> list[tuple[str, int, float]]:
    counts = Counter(one.stage for one in monitor.timeline.recent())
    total = max(counts.total(), 1)
    return [(stage, counts[stage], counts[stage] / total) for stage in monitor.vitals().stages]


def _spend(bins: Sequence[Bin], seconds: float, facts: Facts) -> dict[str, object]:
    spent = sum(one.micros for one in bins)
    return {
        "an_hour": _amount(int(spent / seconds * 3600.0), facts),
        "accounts": [_account(one, facts) for one in facts.accounts if one.cap is not None or one.micros],
    }


def _account(one: Account, facts: Facts) -> tuple[str, str, str, str, float | None]:
    """Whose and when, spent, held, cap, and the share of the cap that is gone."""
    cap = NONE if one.cap is None else _amount(one.cap, facts)
    gone = None if not one.cap else min(1.0, (one.micros + one.held) / one.cap)
    when = "today" if one.period == "day" else "in total"
    return f"{one.key or 'all keys'}, {when}", _amount(one.micros, facts), _amount(one.held, facts), cap, gone


def _stages(monitor: Monitor, bins: Sequence[Bin]) -> PageTable:
    rows, now = [], monitor.vitals()
    for name, stage in now.stages.items():
        busy = mean_of(bins, f"busy {name}")
        own = [f"{n} {kind}" for (failed_at, kind), n in now.failures.items() if failed_at == name]
        failed, state = ", ".join(own) or NONE, "rests" if name in now.resting else "asked"
        others = NONE if stage.n_others is None else f"{stage.n_others:g}"
        queue = str(stage.n_waiting), str(stage.n_in_flight), others
        rows.append((name, *queue, _percent(busy), _percent(stage.memory), state, failed))
    columns = ("", "waiting", "in calls", "of others", "busy", "memory", "breaker", "failed calls")
    return PageTable(columns, rows)


def _devices(found: Iterable[Device], engines: Mapping[str, Mapping[str, float]]) -> PageTable:
    rows = [(one.name, _percent(one.busy), _percent(one.memory), one.detail) for one in found]
    for stage, gauges in engines.items():
        told = ", ".join(f"{name} {value:g}" for name, value in gauges.items())
        share = gauges.get("kv cache in use", gauges.get("memory"))
        rows.append((f"engine of {stage}", NONE, _percent(share), told))
    return PageTable(("", "busy", "memory", ""), rows)


def _plan(monitor: Monitor, bins: Sequence[Bin], seconds: float) -> PageTable:
    plan = capacity_plan(monitor.vitals(), bins, seconds, monitor.timeline.hours())
    return PageTable(("", "now", "next hour", f"{FULL:.0%} busy"), plan.rows())


def _guarantee(monitor: Monitor) -> list[str]:
    given, reading = monitor.watching.guarantee, monitor.shift
    told = str(given).splitlines() if given is not None else ["The policy has no guarantee (asd fit --keep)."]
    if reading is not None:
        told.append(
            f"Evidence that queries have changed: {reading.evidence:.3g} after {reading.n} (alarm at 100)."
        )
    return told


def _anomalies(latest: Iterable[Anomaly]) -> list[str]:
    return [_said(anomaly) for anomaly in list(latest)[:8]]


def _said(one: Anomaly) -> str:
    way = "above" if one.rises else "below"
    if one.signal == "latency":
        return f"latency {one.found:.2f} times what the load explains"
    return f"{one.signal} {way} its forecast: {one.found:.3g} for {one.expected:.3g}"


def _steering(bins: Sequence[Bin]) -> list[tuple[str, str]]:
    """As they were when somebody last looked: nobody has yet, in the first second of a bin."""
    last = next((one for one in reversed(bins) if one.n_looks), bins[-1])
    names = [name for name in last.looks if name.startswith("set ")]
    return [(name.removeprefix("set "), f"{last.mean(name):.4g}") for name in names]


def _network(bins: Sequence[Bin], seconds: float) -> PageTable:
    rows = {"received": sum(one.received for one in bins), "sent": sum(one.sent for one in bins)}
    return PageTable(
        ("", "kB", "kB a second"),
        [(name, f"{n / 1e3:,.1f}", f"{n / 1e3 / seconds:.3g}") for name, n in rows.items()],
    )


def _looked(monitor: Monitor, prefix: str) -> dict[str, Callable[[Bin], float | None]]:
    names = dict.fromkeys(
        name for one in monitor.timeline.bins for name in one.looks if name.startswith(prefix)
    )
    return {name.removeprefix(prefix): methodcaller("mean", name) for name in names}


def _chart(timeline: Timeline, of: Mapping[str, Callable[[Bin], float | None]]) -> Markup:
    return lines({name: [value(one) for one in _whole(timeline)] for name, value in of.items()})


def _whole(timeline: Timeline) -> list[Bin]:
    """Bins that have ended, so many that a chart is always as wide; those before the start are empty."""
    ended = list(timeline.bins)[:-1]
    return [Bin(0.0)] * (BINS - 1 - len(ended)) + ended


def _rate(one: Bin) -> float | None:
    return one.outcomes.total() / BIN_S if one.start_s else None


def _count(bins: Sequence[Bin]) -> Counter[str]:
    return sum((Counter[str](one.outcomes) for one in bins), start=Counter[str]())


def _amount(micros: int, facts: Facts) -> str:
    units = micros / MICRO
    amount = f"{units:,.0f}" if units >= 1e6 else f"{units:,.6g}"
    if facts.money is None:
        return f"{amount} {facts.unit}"
    return f"{amount} {facts.unit} ({units * facts.money.per_unit:.4g} {facts.money.currency})"


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{share:.0%}"


def _share(n: int, of: int) -> str:
    return f"{n / of:.1%}" if of else NONE


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds // 60) % 60, int(seconds // 3600)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {int(seconds) % 60} s"


def _clock(one: Anomaly) -> str:
    """When it began; anomalies know the time of a clock that nobody sets."""
    since = time.time() - (time.monotonic() - one.since_s)
    return datetime.fromtimestamp(since, UTC).strftime("%H:%M UTC")
