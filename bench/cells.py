"""From what a run saw to the cells of its record: names, units, directions, tolerances, provenance.

Tolerances, and why: a point of quality is what a reader would notice; priced cost repeats exactly on one
machine and may differ by a flipped token on another; interleaved ratios of two runs on a shared CPU differ by
several per cent, so 15 % is the smallest loss that is surely real there, 30 % for the few questions of the
rivals and 50 % where only a few units of many questions are timed, as at larger batches; bare seconds are
comparable on an accelerator, while on a shared CPU they only tell when something takes several times as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from asd.evaluation.live import Live, Timed
from asd.evaluation.replay import Replay
from asd.evaluation.statistics import samples_needed
from asd.measurement.records import Cell, Direction, Kind, Metric
from asd.measurement.timing import Timings
from asd.types import Provenance, Usage, Verification
from bench.frontier import hull_quality
from bench.hardware import Footprint
from bench.headline import Headline

__all__ = [
    "cost_cell",
    "frontier_cell",
    "hardware_cell",
    "headline_cell",
    "latency_cell",
    "overhead_cell",
    "planned_cell",
    "quality_cell",
    "rival_cell",
    "sweep_cell",
    "verification_cell",
]

Array = NDArray[np.float64]

QUALITY, COST, COUNT = 0.01, 0.02, 0.02
RATIO, RATIO_OF_RIVALS, RATIO_OF_FEW = 0.15, 0.3, 0.5
ENOUGH = 20
"""Units timed, for `RATIO`."""
SECONDS = {"cpu": 2.0, "accelerator": 0.2}
DERIVED_QUALITY = 0.02
SHARE = 0.05
PLANNED = 0.5

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


def latency_cell(replay: Replay, timed: Timed, device: str) -> Cell:
    """Speed-up over the largest stage alone, seconds at the median and, with enough samples, at P95."""
    tolerance = SECONDS["cpu" if device == "cpu" else "accelerator"]
    per_item = tuple(timed.seconds.min(axis=0).tolist())
    metrics = [
        _speedup(timed.seconds, timed.largest),
        Metric(
            name="p50_s", unit="s", kind="time", direction="lower", provenance="measured",
            value=float(np.median(timed.seconds)), tolerance=tolerance, seconds=per_item,
        ),
        _value("agreement", "share of answers", "count", "higher", SHARE, timed.agreement, "measured"),
    ]  # fmt: skip
    if timed.seconds.size >= samples_needed(0.95):
        p95 = float(np.quantile(timed.seconds, 0.95))
        metrics.append(
            Metric(
                name="p95_s", unit="s", kind="time", direction="lower", provenance="measured",
                value=p95, tolerance=tolerance, needs=samples_needed(0.95),
            )
        )  # fmt: skip
    return _cell("latency", replay, *metrics)


def frontier_cell(replay: Replay, fixed: Sequence[Replay]) -> Cell:
    """Quality beyond what mixing single stages at random buys for the same cost."""
    points = np.array([[r.cost.mean(), r.quality.mean()] for r in fixed]).T
    mixed = float(hull_quality(points, np.array([replay.cost.mean()]))[0])
    gain = float(replay.quality.mean()) - mixed
    metric = _value("gain_over_mixing", "share right", "quality", "higher", DERIVED_QUALITY, gain)
    return _cell("frontier", replay, metric)


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
    return Cell(
        suite="frontier", policy=headline.name,
        metrics=(
            _speedup(headline.seconds, headline.largest),
            _value(
                "relative_quality", "of the largest's", "quality", "higher",
                DERIVED_QUALITY, headline.relative_quality,
            ),
            _value("cost", "runs of the largest", "cost", "lower", COST, headline.cost),
            _value(
                "agreement", "share of answers", "count", "higher", SHARE, headline.agreement, "measured"
            ),
        ),
    )  # fmt: skip


def hardware_cell(footprint: Footprint, device: str) -> Cell:
    """What one contender takes of the hardware, all datasets together (`bench.hardware`)."""
    tolerance = SECONDS["cpu" if device == "cpu" else "accelerator"]
    metrics = [
        _speedup(footprint.seconds, footprint.largest),
        Metric(
            name="device_s", unit="s a query", kind="time", direction="lower", provenance="measured",
            value=footprint.device_s, tolerance=tolerance,
        ),
        Metric(
            name="queries_per_s", unit="queries a second", kind="time", direction="higher",
            provenance="measured", value=footprint.n_devices / footprint.device_s, tolerance=tolerance,
        ),
        Metric(
            name="first_visible_s", unit="s", kind="time", direction="lower", provenance="measured",
            value=float(np.median(footprint.first_visible_s)), tolerance=tolerance,
        ),
        _value("batch", "queries a call", "count", "same", 0.0, footprint.batch, "measured"),
    ]  # fmt: skip
    if footprint.memory_mib is not None:
        metrics.append(
            _value("memory_mib", "MiB of weights", "count", "lower", COUNT, footprint.memory_mib, "measured")
        )
    return Cell(suite="hardware", policy=footprint.name, metrics=tuple(metrics))


def planned_cell(share: float, speed_up: float) -> Cell:
    """What the planning model of the ladder allows at a share of the largest stage's quality."""
    metric = _value("planned_speedup", "x", "count", "same", PLANNED, speed_up, "simulated")
    return Cell(suite="frontier", policy=f"planned@{share:g}", metrics=(metric,))


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
            _speedup(timings.seconds[own], timings.seconds[rival], RATIO_OF_RIVALS),
            _value("agreement", "share of answers", "count", "higher", SHARE, same, "measured"),
        ),
    )  # fmt: skip


def overhead_cell(policy: str, name: str, seconds: Sequence[float]) -> Cell:
    """Seconds of one piece of the policy's own work."""
    metric = Metric(
        name=name, unit="s", kind="time", direction="lower", provenance="measured",
        value=float(np.median(seconds)), tolerance=SECONDS["cpu"], seconds=tuple(seconds),
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


def _speedup(seconds: Array, largest: Array, tolerance: float = RATIO) -> Metric:
    tolerance = tolerance if seconds.shape[1] >= ENOUGH else RATIO_OF_FEW
    passes = largest.sum(axis=1) / seconds.sum(axis=1)
    return Metric(
        name="speedup", unit="x", kind="time", direction="higher", provenance="measured",
        value=float(np.median(passes)), tolerance=tolerance, passes=tuple(passes.tolist()),
        seconds=tuple(seconds.min(axis=0).tolist()),
        yardstick=tuple(largest.min(axis=0).tolist()),
    )  # fmt: skip


def _per_item(
    name: str, unit: str, kind: Kind, direction: Direction, tolerance: float, items: Array
) -> Metric:
    return Metric(
        name=name, unit=unit, kind=kind, direction=direction, provenance="replayed",
        value=float(items.mean()), tolerance=tolerance,
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
