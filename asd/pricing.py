"""A price table from a clock: per call, prompt token, decoded token and draft token verified, by stage.

Every stage answers the same queries one at a time and, where it can, reads the smallest stage's drafts of
them, all taking turns, after a warm-up; the seconds of a call are then explained by its counts
(`asd.ladder.Prices`) with non-negative least squares (scipy.optimize.nnls), each call's fastest pass standing
for it, because noise only ever adds. The result is frozen into a file beside the ladder, with where and when;
from then on priced cost is arithmetic on counts and does not move with the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from asd.engines import Engine, Verifier
from asd.engines.timing import time_calls
from asd.errors import ConfigError
from asd.ladder import Prices
from asd.measurement.timing import Clock
from asd.types import Draft, Query, Usage, Verification, pair_name

__all__ = ["LEAST_QUERIES", "measure_prices"]

LEAST_QUERIES = 12
"""Fewer cannot tell four prices apart."""

Call = Callable[[list[Query]], Sequence[Draft | Verification]]


def measure_prices(
    engines: Mapping[str, Engine],
    queries: Sequence[Query],
    n_passes: int = 3,
    clock: Clock = time.perf_counter,
) -> dict[str, Prices]:
    """Prices in milliseconds at batch 1, by stage name; of verification for all but the smallest stage.

    Args:
        engines: One engine a stage, smallest first.
        queries: Of different lengths, with answers of different lengths.
        n_passes: How often every stage answers every query.
        clock: Reads seconds.

    Raises:
        ConfigError: Too few queries, or all prompts and answers of one length.
    """
    if len(queries) < LEAST_QUERIES:
        raise ConfigError(f"{len(queries)} queries cannot tell prices apart; give at least {LEAST_QUERIES}")
    calls: dict[str, Call] = {name: engine.generate for name, engine in engines.items()}
    calls |= _verifying(engines, queries)
    timings = time_calls(calls, engines, queries, n_passes, clock)
    drafter = next(iter(engines))
    prices = {}
    for name in engines:
        of_stage = [call for call in (name, pair_name(drafter, name)) if call in calls]
        usages = [result.usage for call in of_stage for [result] in timings.results[call]]
        seconds = np.concatenate([timings.seconds[call].min(axis=0) for call in of_stage])
        prices[name] = _explain(usages, seconds)
    return prices


def _verifying(engines: Mapping[str, Engine], queries: Sequence[Query]) -> dict[str, Call]:
    """Calls that read the smallest stage's drafts of these queries, one a larger stage that can verify."""
    (drafter, smallest), *larger = engines.items()
    drafts = {(query.dataset, query.id): smallest.generate([query]) for query in queries}

    def read(engine: Verifier, asked: list[Query]) -> list[Verification]:
        return engine.verify(asked, drafts[asked[0].dataset, asked[0].id])

    return {
        pair_name(drafter, name): partial(read, engine)
        for name, engine in larger
        if isinstance(engine, Verifier)
    }


def _explain(usages: Sequence[Usage], seconds: NDArray[np.float64]) -> Prices:
    counts = np.array([(1, use.n_prompt, use.n_passes, use.n_verified) for use in usages], dtype=float)
    if not counts[:, 3].any():
        counts = counts[:, :3]
    if np.linalg.matrix_rank(counts) < counts.shape[1]:
        raise ConfigError("prompts or answers are all of one length: their prices cannot be told apart")
    # relative errors count: the long answers must not decide alone
    solution, _ = nnls(counts / seconds[:, None], np.ones(len(seconds)))
    return Prices(*(round(1e3 * float(price), 5) for price in solution))
