"""A day in production against its targets: the published ones, those that follow from the day, or one's own.

    uptime       share of windows with fewer than 1 % errors   at least .999 (99.97 % is only claimed)
    p99_s        P99 of latency                                at most that of the largest stage alone, idle
    error_rate   share of requests without an answer           at most .01 (published)
    rate         answers a second                              at least 99 % of the requests that came
    quality      mean score                                    at least .85 (published)
    use          mean use of the stages                        at most .85 (published: where costs are raised)
    memory_mib   all replicas at their peaks                   none: which devices there are is not known

Scope: judging one simulated run; it is made by `asd.research.load.tables`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from asd.errors import ConfigError
from asd.operations.books import Summary
from asd.research.load.devices import MeteredRun, StageMemory
from asd.research.load.shop import Shop
from asd.research.study.record import StudyTable, Value

__all__ = ["METRICS", "UNKNOWN", "production", "targets_of", "unknown_memory"]

ERRORS = 0.01
LEAST_P99 = 299
"""Queries below which nothing is said of a 99th percentile."""
UNKNOWN = StageMemory(1, None, None, "nothing was said of its memory")


class ProductionMetric(NamedTuple):
    """What a row of the table is called, and whether its target is the least or the most that is allowed."""

    label: str
    at_least: bool


METRICS = {
    "uptime": ProductionMetric("share of windows with fewer than 1 % errors", True),
    "p99_s": ProductionMetric("P99, s", False),
    "error_rate": ProductionMetric("errors", False),
    "rate": ProductionMetric("answers a second", True),
    "quality": ProductionMetric("quality", True),
    "use": ProductionMetric("use of the stages, mean", False),
    "memory_mib": ProductionMetric("memory of all replicas at their peaks, MiB", False),
}


class ProductionTarget(NamedTuple):
    """What is aimed at, if anything, and where that is from."""

    value: float | None
    source: str


def targets_of(texts: tuple[str, ...]) -> dict[str, float]:
    """Targets of one's own, `NAME=NUMBER` each.

    Raises:
        ConfigError: A metric is not known, or a target no number of at least 0.
    """
    found = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            found[name] = -1.0
        if name not in METRICS or not 0.0 <= found[name] < float("inf"):
            raise ConfigError(f"--target {text!r}: write NAME=NUMBER with a name of {', '.join(METRICS)}")
    return found


def production(shop: Shop, done: MeteredRun) -> StudyTable:
    """Every metric, its target, whether that is met, and where it is from."""
    values, targets = _values(shop, done), _targets(shop, done.run.total)
    rows = [
        (metric.label, "no data" if values[name] is None else values[name], target.value,
         _is_met(metric, values[name], target.value), target.source)
        for name, metric in METRICS.items()
        for target in [targets[name]]
    ]  # fmt: skip
    note = (
        f"{done.run.controller}, {done.run.total.n_arrived:,} requests; every stage fails once a day on "
        "average and is back in three minutes; a time each of small calls, slow network, slow stage and "
        "surge."
    )
    columns = ("metric", "value", "target", "met", "target_is")
    note = " ".join((note, *unknown_memory(shop)))
    return shop.table("production", "A day in production", columns, rows, note)


def unknown_memory(shop: Shop) -> Iterator[str]:
    """A sentence for every stage of whose memory something is not known."""
    for stage in shop.scenario.population.stages:
        if why := shop.memory.get(stage, UNKNOWN).unknown:
            yield f"No data on the memory of {stage}: {why}."


def _values(shop: Shop, done: MeteredRun) -> Mapping[str, float | None]:
    total, windows = done.run.total, done.run.windows
    return {
        "uptime": sum(w.error_rate < ERRORS for w in windows) / len(windows),
        "p99_s": total.p99_s,
        "error_rate": total.error_rate,
        "rate": total.rate,
        "quality": total.quality,
        "use": sum(stage.utilisation for stage in total.stages.values()) / len(total.stages),
        "memory_mib": _all_memory(shop, done),
    }


def _all_memory(shop: Shop, done: MeteredRun) -> float | None:
    total = 0.0
    for name, meter in done.meters.items():
        peak = shop.memory.get(name, UNKNOWN).peak_mib(meter)
        if peak is None:
            return None
        total += shop.asked.servers[name][0] * peak
    return total


def _targets(shop: Shop, total: Summary) -> Mapping[str, ProductionTarget]:
    found = {
        "uptime": ProductionTarget(0.999, "ours; 0.9997 is claimed"),
        "p99_s": _alone_p99(shop),
        "error_rate": ProductionTarget(ERRORS, "published"),
        "rate": ProductionTarget(
            (1.0 - ERRORS) * total.n_arrived / total.seconds, "99 % of the requests that came"
        ),
        "quality": ProductionTarget(0.85, "published"),
        "use": ProductionTarget(0.85, "published: above it all costs are raised"),
        "memory_mib": ProductionTarget(None, "none: give --target memory_mib=..."),
    }
    return found | {name: ProductionTarget(value, "--target") for name, value in shop.targets.items()}


def _alone_p99(shop: Shop) -> ProductionTarget:
    """Of the largest stage where nobody waits: what its calls of one query take."""
    population, largest = shop.scenario.population, shop.largest
    if len(population.queries) < LEAST_P99:
        return ProductionTarget(None, f"none: fewer than {LEAST_P99} queries; give --target p99_s=...")
    counts = [query.trace.outcomes[largest].draft.usage.counts for query in population.queries]
    seconds = np.array(counts) @ population.rates[largest][0]
    return ProductionTarget(float(np.quantile(seconds, 0.99)), f"P99 of {largest} alone on an idle server")


def _is_met(metric: ProductionMetric, value: float | None, target: float | None) -> Value:
    if value is None or target is None:
        return None
    return value >= target if metric.at_least else value <= target
