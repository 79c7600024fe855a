"""A price table from a clock: what a call of each stage costs per call, prompt token and decoded token.

Every stage answers the same queries one at a time, stages taking turns, after a warm-up; the seconds of a
call are then explained by its counts with non-negative least squares (scipy.optimize.nnls), each query's
fastest pass standing for it, because noise only ever adds. The result is frozen into a file beside the
ladder, with where and when; from then on priced cost is arithmetic on counts and does not move with the
machine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from asd.engines import Engine
from asd.engines.timing import time_stages
from asd.errors import ConfigError
from asd.ladder import Prices
from asd.measurement.timing import Clock
from asd.types import Draft, Query

__all__ = ["LEAST_QUERIES", "measure_prices"]

LEAST_QUERIES = 12
"""Fewer cannot tell three prices apart."""


def measure_prices(
    engines: Mapping[str, Engine],
    queries: Sequence[Query],
    n_passes: int = 3,
    clock: Clock = time.perf_counter,
) -> dict[str, Prices]:
    """Prices in milliseconds at batch 1, by stage name.

    Args:
        engines: One engine a stage.
        queries: Of different lengths, with answers of different lengths.
        n_passes: How often every stage answers every query.
        clock: Reads seconds.

    Raises:
        ConfigError: Too few queries, or all prompts and answers of one length.
    """
    if len(queries) < LEAST_QUERIES:
        raise ConfigError(f"{len(queries)} queries cannot tell prices apart; give at least {LEAST_QUERIES}")
    timings = time_stages(engines, queries, n_passes, clock)
    return {
        name: _explain([draft for [draft] in timings.results[name]], timings.seconds[name].min(axis=0))
        for name in engines
    }


def _explain(drafts: Sequence[Draft], seconds: NDArray[np.float64]) -> Prices:
    counts = np.array([(1, draft.usage.n_prompt, draft.usage.n_decoded) for draft in drafts], dtype=float)
    if np.linalg.matrix_rank(counts) < counts.shape[1]:
        raise ConfigError("prompts or answers are all of one length: their prices cannot be told apart")
    # relative errors count: the long answers must not decide alone
    solution, _ = nnls(counts / seconds[:, None], np.ones(len(seconds)))
    return Prices(*(round(1e3 * float(price), 5) for price in solution))
