"""What the harness does not measure any more, by name: no run is blamed for what old baselines have of it.

A pattern matches "cell metric": "latency[tiny-text-optimal-lam=1] p95_s". Left out of new recordings.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

__all__ = ["RETIRED", "is_retired"]

RETIRED = {
    "hardware[[]* first_visible_s": "ttft_s is its name",
    "latency[[]* p95_s": "20 questions of a data set are too few: see hardware[*] p95_s",
    "overhead[[]published-features] *": "features of the five-model predictor, which no policy uses",
    "overhead[[]ensemble-*] *": "the five-model predictor, which no policy uses",
    "frontier[[]planned@*] planned_speedup": "a plan made before training: `asd tiny bound`",
}
"""By pattern, why."""


def is_retired(cell: str, metric: str) -> bool:
    """Whether this was measured once and is not any more."""
    return any(fnmatchcase(f"{cell} {metric}", pattern) for pattern in RETIRED)
