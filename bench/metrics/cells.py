"""From what a run saw to the cells of its record: names, units, directions, tolerances, provenance.

Tolerances, and why: a point of quality is what a reader would notice; priced cost repeats exactly on one
machine and may differ by a flipped token on another. A ratio of times has to bear what differs between two
runs and not within one: between two recordings of the embedded ladder on one machine, all ratios of a data
set (20 units) moved together by up to 15 %, those over all data sets (80 units) by up to 4 %; together with
the noise of few passes, 35 and 25 % are the smallest losses that are surely real, and 50 % where only a few
units of many questions are timed, as at larger batches. Bare seconds are comparable on an accelerator, while
on a shared CPU they only tell when something takes several times as long.

Every number that another draw of items would move carries its interval; counts repeat exactly. What is summed
up from items that are compared one by one (relative quality, gain over mixing) is a summary: held to targets,
and not compared a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from asd.evaluation.live import Live, TimedPasses
from asd.evaluation.replay import Replay
from asd.evaluation.statistics import (
    Bootstrap,
    mean_interval,
    quantile_interval,
    ratio_interval,
    samples_needed,
)
from asd.measurement.records import Cell, Direction, Kind, Metric, Passes
from asd.measurement.timing import Timings
from asd.schema import msgspec
from asd.types import Provenance, Usage, Verification
from bench.gate.frontier import hull_quality
from bench.metrics.hardware import Footprint
from bench.metrics.headline import Headline
from bench.metrics.ties import OF_TIES

__all__ = [
    "cost_cell",
    "frontier_cell",
    "hardware_cell",
    "headline_cell",
    "latency_cell",
    "overhead_cell",
    "quality_cell",
    "rival_cell",
    "sweep_cell",
    "verification_cell",
]

Array = NDArray[np.float64]

QUALITY, COST, COUNT = 0.01, 0.02, 0.02
RATIOS = ((60, 0.25), (20, 0.35), (0, 0.5))
"""Units timed, from so many on, and the tolerance of a ratio of their times."""
SECONDS = {"cpu": 2.0, "accelerator": 0.2}
SHARE = 0.05

BOOTSTRAP = Bootstrap()
"""Of the intervals in a record."""

ACCEPTED = ("none", "to_25", "to_50", "to_75", "to_100", "all")
"""Bins of the accepted share of a draft, in per cent; the middle ones hold their lower border."""


def quality_cell(replay: Replay) -> Cell:
    """Mean score, item by item."""
    metric = _per_item("quality", "share right", "quality", "higher", QUALITY, replay.quality)
    return _cell("quality", replay, metric)


def cost_cell(replay: Replay) -> Cell:
    """Priced cost item by item; tokens, passes and the mix of returned stages as means."""
    counts = [
        _value("decoded_tokens", "tokens", "count", "lower", COUNT, float(replay.n_decoded.mean())),
        _value("passes", "passes", "count", "lower", COUNT, float(replay.n_passes.mean())),
    ]
    if replay.n_verified.any():
        read, accepted = float(replay.n_verified.mean()), float(replay.n_accepted.mean())
        counts += [
            _value("verified_tokens", "tokens", "count", "lower", COUNT, read),
            _value("accepted_tokens", "tokens", "count", "higher", COUNT, accepted),
        ]
    shares = [
        _value(f"share_{stage}", "share of items", "count", "same", SHARE, share)
        for stage, share in replay.shares.items()
    ]
    cost = _per_item("cost", "runs of the largest", "cost", "lower", COST, replay.cost)
    return _cell("cost", replay, cost, *counts, *shares)


def latency_cell(replay: Replay, timed: TimedPasses, device: str) -> Cell:
    """Speed-up over the largest stage alone, and seconds at the median."""
    return _cell(
        "latency",
        replay,
        _speedup(timed.seconds, timed.largest),
        Metric(
            name="p50_s", unit="s", kind="time", direction="lower", provenance="measured",
            value=float(np.median(timed.seconds)), tolerance=_seconds_tolerance(device),
            interval=quantile_interval(np.median(timed.seconds, axis=0), 0.5),
            samples=_passes(timed.seconds),
        ),
        _value("agreement", "share of answers", "count", "higher", SHARE, timed.agreement, "measured"),
    )  # fmt: skip


def frontier_cell(replay: Replay, fixed: Sequence[Replay]) -> Cell:
    """Quality beyond what mixing single stages at random buys for the same cost."""
    points = np.array([[r.cost.mean(), r.quality.mean()] for r in fixed]).T
    mixed = float(hull_quality(points, np.array([replay.cost.mean()]))[0])
    gain = float(replay.quality.mean()) - mixed
    return _cell("frontier", replay, _summary("gain_over_mixing", "share right", "higher", gain))


def sweep_cell(dataset: str, sweep: Sequence[Replay], live: Live) -> Cell:
    """How many different policies the sweep consists of: over all items, and among the timed ones."""
    n_distinct = len({replay.walks for replay in sweep})
    return Cell(
        suite="frontier", policy="optimal", dataset=dataset,
        metrics=(
            _value("distinct_policies", "policies", "count", "same", 1.0, n_distinct),
            _value("timed_arms", "arms", "count", "same", 1.0, live.n_arms, "measured"),
        ),
    )  # fmt: skip


def headline_cell(headline: Headline) -> Cell:
    """Live speed-up of one setting over all datasets, and its quality relative to the largest stage's."""
    agreement = float(np.mean([one.agreement for one in headline.timed]))
    metrics = [
        _speedup(headline.seconds, headline.largest),
        _summary(
            "cost", "runs of the largest", "lower", float(headline.costs.mean()),
            mean_interval(headline.costs, BOOTSTRAP),
        ),
        _value("agreement", "share of answers", "count", "higher", SHARE, agreement, "measured"),
    ]  # fmt: skip
    if headline.reference.any():  # else nothing is relative to it
        relative = float(headline.quality.mean() / headline.reference.mean())
        interval = ratio_interval(headline.quality, headline.reference, BOOTSTRAP)
        metrics.insert(1, _summary("relative_quality", "of the largest's", "higher", relative, interval))
    return Cell(suite="frontier", policy=headline.name, metrics=(*metrics, *_ties(headline)))


def _ties(headline: Headline) -> list[Metric]:
    """Outside float32: answers that differ by a near-tie, and the widest gap of one that differs."""
    if not headline.ties:
        return []
    share = float(np.mean([ties.share for ties in headline.ties]))
    widest = max(ties.widest for ties in headline.ties)
    values = zip(OF_TIES, ("share of answers", "nats"), (share, widest), strict=True)
    return [_summary(name, unit, "lower", value, provenance="measured") for name, unit, value in values]


def hardware_cell(footprint: Footprint, device: str) -> Cell:
    """What one contender takes of the hardware, all datasets together (`bench.metrics.hardware`)."""
    tolerance, share = _seconds_tolerance(device), footprint.n_devices / footprint.n_queries
    totals, first = footprint.seconds.sum(axis=1), footprint.ttft_s
    n_units = footprint.seconds.shape[1]
    low, high = ratio_interval(
        footprint.seconds * share * n_units, np.ones_like(footprint.seconds), BOOTSTRAP
    )
    rate = footprint.n_devices / footprint.device_s
    metrics = [
        _speedup(footprint.seconds, footprint.largest),
        Metric(
            name="device_s", unit="s a query", kind="time", direction="lower", provenance="measured",
            value=float(np.median(totals)) * share, tolerance=tolerance, interval=(low, high),
            samples=_passes(footprint.seconds),
        ),
        _summary(
            "queries_per_s", "queries a second", "higher", rate,
            (footprint.n_devices / high, footprint.n_devices / low), "measured",
        ),
        Metric(
            name="ttft_s", unit="s", kind="time", direction="lower", provenance="measured",
            value=float(np.median(first)), tolerance=tolerance, interval=quantile_interval(first, 0.5),
            samples=_passes(first[None, :]),
        ),
        *_tail(footprint),
        _value("batch", "queries a call", "count", "same", 0.0, footprint.batch, "measured"),
    ]  # fmt: skip
    if footprint.memory_mib is not None:
        metrics.append(
            _value("memory_mib", "MiB of weights", "count", "lower", COUNT, footprint.memory_mib, "measured")
        )
    return Cell(suite="hardware", policy=footprint.name, metrics=tuple(metrics))


def _tail(footprint: Footprint) -> list[Metric]:
    """Seconds of a question at P95 where a unit is one question, and there are enough of them."""
    n_units, needed = footprint.seconds.shape[1], samples_needed(0.95)
    if n_units != footprint.n_queries or n_units < needed:
        return []
    seconds = np.median(footprint.seconds, axis=0)
    value, interval = float(np.quantile(seconds, 0.95)), quantile_interval(seconds, 0.95)
    return [
        msgspec.structs.replace(_summary("p95_s", "s", "lower", value, interval, "measured"), needs=needed)
    ]


def verification_cell(
    dataset: str, pair: str, verifications: Sequence[Verification], alone: Sequence[Usage]
) -> Cell:
    """What one stage said of another's drafts: tokens read and accepted, passes, how much of a draft stands.

    The histogram is over the accepted share of a draft: none of it, quarters, all of it.

    Args:
        dataset: Whose questions.
        pair: Drafter and verifier, as in "S>L".
        verifications: One an item.
        alone: What the verifier takes to answer alone, one an item.
    """
    shares = np.array([v.n_accepted / len(v.tokens) if v.tokens else 1.0 for v in verifications])
    bins = np.where(shares == 0.0, 0, np.where(shares == 1.0, 5, 1 + np.floor(4 * shares))).astype(int)
    counts = np.bincount(bins, minlength=len(ACCEPTED)) / len(shares)
    finish = _mean(
        v.usage.n_passes + max(0, use.n_decoded - v.n_accepted - 1)
        for v, use in zip(verifications, alone, strict=True)
    )
    metrics = [
        _value(
            "verified_tokens", "tokens", "count", "lower", COUNT, _mean(len(v.tokens) for v in verifications)
        ),
        _value(
            "accepted_tokens", "tokens", "count", "higher", COUNT, _mean(v.n_accepted for v in verifications)
        ),
        _value("passes", "passes", "count", "lower", COUNT, _mean(v.usage.n_passes for v in verifications)),
        _value("passes_to_finish", "passes", "count", "lower", COUNT, finish),
        _value("passes_alone", "passes", "count", "same", COUNT, _mean(use.n_passes for use in alone)),
    ]
    metrics += [
        _value(f"accepted_{label}", "share of drafts", "count", "same", SHARE, share)
        for label, share in zip(ACCEPTED, counts, strict=True)
    ]
    return Cell(suite="verification", policy=pair, dataset=dataset, metrics=tuple(metrics))


def rival_cell(own: str, rival: str, timings: Timings[str]) -> Cell:
    """How many times faster one way to the same answers is than another, and how often they are the same."""
    pairs = zip(timings.results[own], timings.results[rival], strict=True)
    same = _mean(ours == theirs for ours, theirs in pairs)
    return Cell(
        suite="rivals", policy=f"{own} over {rival}",
        metrics=(
            _speedup(timings.seconds[own], timings.seconds[rival]),
            _value("agreement", "share of answers", "count", "higher", SHARE, same, "measured"),
        ),
    )  # fmt: skip


def overhead_cell(policy: str, name: str, seconds: Array) -> Cell:
    """Seconds of one piece of the policy's own work, shape (passes, rounds)."""
    metric = Metric(
        name=name, unit="s", kind="time", direction="lower", provenance="measured",
        value=float(np.median(seconds)), tolerance=SECONDS["cpu"],
        interval=quantile_interval(np.median(seconds, axis=0), 0.5),
        samples=_passes(seconds),
    )  # fmt: skip
    return Cell(suite="overhead", policy=policy, metrics=(metric,))


def _mean(numbers: Iterable[float]) -> float:
    return float(np.mean(list(numbers)))


def _cell(suite: str, replay: Replay, *metrics: Metric) -> Cell:
    contender = replay.contender
    return Cell(
        suite=suite,
        policy=contender.name,
        dataset=replay.outcomes.dataset,
        lam=contender.lam,
        metrics=metrics,
    )


def _speedup(seconds: Array, largest: Array) -> Metric:
    tolerance = next(tolerance for n_units, tolerance in RATIOS if seconds.shape[1] >= n_units)
    passes = largest.sum(axis=1) / seconds.sum(axis=1)
    return Metric(
        name="speedup", unit="x", kind="time", direction="higher", provenance="measured",
        value=float(np.median(passes)), tolerance=tolerance,
        interval=ratio_interval(largest, seconds, BOOTSTRAP),
        samples=_passes(seconds),
        reference=_passes(largest),
    )  # fmt: skip


def _per_item(
    name: str, unit: str, kind: Kind, direction: Direction, tolerance: float, items: Array
) -> Metric:
    return Metric(
        name=name, unit=unit, kind=kind, direction=direction, provenance="replayed",
        value=float(items.mean()), tolerance=tolerance, interval=mean_interval(items, BOOTSTRAP),
        items=tuple(float(f"{item:.6g}") for item in items),
    )  # fmt: skip


def _value(
    name: str,
    unit: str,
    kind: Kind,
    direction: Direction,
    tolerance: float,
    value: float,
    provenance: Provenance = "replayed",
) -> Metric:
    return Metric(
        name=name, unit=unit, kind=kind, direction=direction, provenance=provenance,
        value=float(value), tolerance=tolerance,
    )  # fmt: skip


def _summary(
    name: str,
    unit: str,
    direction: Direction,
    value: float,
    interval: tuple[float, float] | None = None,
    provenance: Provenance = "replayed",
) -> Metric:
    return Metric(
        name=name, unit=unit, kind="summary", direction=direction, provenance=provenance,
        value=value, tolerance=0.0, interval=interval,
    )  # fmt: skip


def _passes(seconds: Array) -> Passes:
    """As a record keeps them: six digits of shape (passes, units)."""
    return tuple(tuple(float(f"{second:.6g}") for second in of_pass) for of_pass in seconds)


def _seconds_tolerance(device: str) -> float:
    return SECONDS["cpu" if device == "cpu" else "accelerator"]
