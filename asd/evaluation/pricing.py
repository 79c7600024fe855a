"""A price table from a clock: per call, prompt token, decoded token and draft token verified, by stage.

Every stage answers the same queries, so many a call, and, where it can, reads the smallest stage's drafts of
them, all taking turns, after a warm-up; the seconds of a call are then explained by its counts
(`asd.ladder.Prices`) with non-negative least squares (scipy.optimize.nnls), each call's fastest pass standing
for it, because noise only ever adds. Counts of a call are summed over its queries, so prices at a batch size
are a query's share: that a call lasts as long as its longest answer is shared out among all in it. They hold
for full calls of such queries. A decode step takes what its open rows take, linear between the batch sizes
measured, so that a call whose rows write n_1 >= n_2 >= ... tokens takes n_1 s(1) + n_2 (s(2) - s(1)) + ...
for them. How much more that was than shares of full steps is kept beside the prices (`Prices.ragged`): calls
of other queries, or of fewer, can be told from it (`asd.operations.population`). The result is frozen into a
file beside the ladder, with where and when; from then on priced cost is arithmetic on counts and does not
move with the machine. A stage with a drafter answers with and without it: what drafting adds to the stage's
own work is the price of a drafted token, and there is none where drafting is no faster.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from asd.engines import Drafted, Engine, Verifier, alone
from asd.engines.batches import batches, until_settled
from asd.engines.timing import take_turns
from asd.errors import ConfigError, PartialBatchError, RefusedError
from asd.measurement.timing import Clock, Timings
from asd.prices import Prices
from asd.schema import msgspec
from asd.stopping.acceptance import acceptance_rate, best_block
from asd.types import NO_CALL, Draft, Query, Usage, Verification, pair_name

__all__ = ["LEAST_CALLS", "explain", "measure_batches", "measure_prices", "plan_block"]

_LOG = logging.getLogger(__name__)

DRAFTED = "drafted "
"""Opens the name of a call that a stage answers with its drafter."""
LEAST_CALLS = 12
"""Fewer cannot tell four prices apart."""

Call = Callable[[list[Query]], Sequence[Draft | Verification]]


def measure_prices(
    engines: Mapping[str, Engine],
    queries: Sequence[Query],
    n_passes: int = 3,
    clock: Clock = time.perf_counter,
    batch: int = 1,
    *,
    mixed: bool = False,
) -> dict[str, Prices]:
    """Prices of a query in milliseconds, by stage name; of verification for all but the smallest stage.

    Args:
        engines: One engine a stage, smallest first.
        queries: Of different lengths, with answers of different lengths.
        n_passes: How often every stage answers every query.
        clock: Reads seconds.
        batch: Queries a call.
        mixed: Calls are of queries as they happen to come, as a server's are, not of prompts of like length;
            they last longer, because the longest answer of a call decides.

    Queries that a stage refuses are left out, which is logged.

    Raises:
        ConfigError: Too few queries, or all prompts and answers of one length.
    """
    return measure_batches(engines, {batch: queries}, n_passes, clock, mixed=mixed)[batch]


def measure_batches(
    engines: Mapping[str, Engine],
    queries: Mapping[int, Sequence[Query]],
    n_passes: int = 3,
    clock: Clock = time.perf_counter,
    *,
    mixed: bool = False,
    tell: Callable[[str], object] = lambda _: None,
) -> dict[int, dict[str, Prices]]:
    """The same at several batch sizes, which take turns too.

    A machine that is slow for a minute slows one pass of some sizes; the fastest pass of each call stands.

    Args:
        engines: As of `measure_prices`.
        queries: By batch size.
        n_passes: As of `measure_prices`.
        clock: As of `measure_prices`.
        mixed: As of `measure_prices`.
        tell: Called before every pass of a size.

    Raises:
        ConfigError: As `measure_prices`.
    """
    units = {batch: _units(asked, batch, mixed=mixed) for batch, asked in queries.items()}
    try:
        return _measured(engines, n_passes, clock, units, tell)
    except (RefusedError, PartialBatchError):
        answered = {batch: _answered_by_all(engines, asked, batch) for batch, asked in queries.items()}
        left = {batch: len(asked) - len(answered[batch]) for batch, asked in queries.items()}
        if not any(left.values()):
            raise
    for batch, n in left.items():
        _LOG.warning("batch %d: %d of %d queries are refused and left out", batch, n, len(queries[batch]))
    units = {batch: _units(asked, batch, mixed=mixed) for batch, asked in answered.items()}
    return _measured(engines, n_passes, clock, units, tell)


def _answered_by_all(engines: Mapping[str, Engine], queries: Sequence[Query], batch: int) -> list[Query]:
    """The queries that no stage refuses."""
    left = list(queries)
    for name, engine in engines.items():
        asked = left

        def call(places: list[int], engine: Engine = engine, asked: list[Query] = asked) -> list[Draft]:
            return engine.generate([asked[i] for i in places])

        refused = {i for found in until_settled(name, call, asked, batch) for i in found.refused}
        left = [query for i, query in enumerate(asked) if i not in refused]
    return left


def _units(queries: Sequence[Query], batch: int, *, mixed: bool) -> list[list[Query]]:
    """The calls to time, all of them full."""
    if mixed:
        order = np.random.default_rng(0).permutation(len(queries)).tolist()
        units = [order[i : i + batch] for i in range(0, len(order), batch)]
    else:
        units = batches(queries, batch)
    full = [[queries[i] for i in unit] for unit in units if len(unit) == batch]
    if len(full) < LEAST_CALLS:
        raise ConfigError(
            f"{len(queries)} queries cannot tell prices at batch {batch} apart; give at least "
            f"{LEAST_CALLS * batch}"
        )
    return full


def _measured(
    engines: Mapping[str, Engine],
    n_passes: int,
    clock: Clock,
    units: Mapping[int, Sequence[list[Query]]],
    tell: Callable[[str], object],
) -> dict[int, dict[str, Prices]]:
    turns = {
        batch: take_turns(_calls(engines, calls), engines, calls, clock) for batch, calls in units.items()
    }
    for number in range(1, n_passes + 1):
        for batch, of_size in turns.items():
            tell(f"pass {number} of {n_passes}, batch {batch}")
            of_size.walk(1)
    found: dict[int, dict[str, Prices]] = {}
    for batch in sorted(turns):
        found[batch] = _prices(engines, turns[batch].timings, found)
    return {batch: found[batch] for batch in turns}


def _calls(engines: Mapping[str, Engine], units: Sequence[list[Query]]) -> dict[str, Call]:
    """What is timed: every stage answers alone, reads the smallest's drafts, answers with its drafter."""
    return {
        **{name: alone(engine).generate for name, engine in engines.items()},
        **_verifying(engines, units),
        **{DRAFTED + name: each.generate for name, each in engines.items() if isinstance(each, Drafted)},
    }


def _prices(
    engines: Mapping[str, Engine],
    timings: Timings[Sequence[Draft | Verification]],
    smaller: Mapping[int, Mapping[str, Prices]],
) -> dict[str, Prices]:
    calls, drafter, prices = timings.seconds, next(iter(engines)), {}
    for name in engines:
        of_stage = [call for call in (name, pair_name(drafter, name)) if call in calls]
        usages = [[result.usage for result in unit] for call in of_stage for unit in timings.results[call]]
        seconds = np.concatenate([timings.seconds[call].min(axis=0) for call in of_stage])
        prices[name] = explain(usages, seconds, {size: rows[name] for size, rows in smaller.items()})
        if (drafted := DRAFTED + name) in calls:
            usages = [[result.usage for result in unit] for unit in timings.results[drafted]]
            fast, slow = (float(timings.seconds[call].min(axis=0).sum()) for call in (drafted, name))
            prices[name] = _with_drafter(prices[name], usages, fast, slow)
    return prices


def _with_drafter(plain: Prices, usages: Sequence[Sequence[Usage]], fast: float, slow: float) -> Prices:
    """What is not explained by the stage's own work, by drafted token; no price where drafting is no faster.

    Args:
        plain: Prices of the stage without its drafter.
        usages: Of the calls with it.
        fast: Seconds that these took.
        slow: Seconds of the same without a drafter.
    """
    total = sum((usage for call in usages for usage in call), start=NO_CALL)
    if fast >= slow or not total.n_drafted:
        return plain
    without = msgspec.structs.replace(plain, per_drafted=0.0)
    own = sum(without.cost(usage) for call in usages for usage in call)
    per_drafted = round(max(0.0, 1e3 * fast - own) / total.n_drafted, 5)
    return msgspec.structs.replace(plain, per_drafted=per_drafted)


def _verifying(engines: Mapping[str, Engine], units: Sequence[list[Query]]) -> dict[str, Call]:
    """Calls that read the smallest stage's drafts of these queries, one a larger stage that can verify."""
    (drafter, smallest), *larger = engines.items()
    drafts = {(unit[0].dataset, unit[0].id): smallest.generate(unit) for unit in units}

    def read(engine: Verifier, asked: list[Query]) -> list[Verification]:
        return engine.verify(asked, drafts[asked[0].dataset, asked[0].id])

    return {
        pair_name(drafter, name): partial(read, engine)
        for name, engine in larger
        if isinstance(engine, Verifier)
    }


def explain(
    usages: Sequence[Sequence[Usage]],
    seconds: NDArray[np.float64],
    smaller: Mapping[int, Prices] = MappingProxyType({}),
) -> Prices:
    """The prices, in milliseconds, by which the counts of calls come nearest to their seconds.

    Args:
        usages: Of every query of every call, as many a call.
        seconds: What every call took, shape (calls,).
        smaller: Prices of smaller calls, by batch size: what a step takes once few rows are open.

    Raises:
        ConfigError: All prompts or all answers are of one length.
    """
    counts = np.array([np.sum([use.counts for use in call], axis=0) for call in usages], dtype=float)
    lengths = np.array(
        [sorted((use.counts[3] for use in call), reverse=True) for call in usages], dtype=float
    )
    size, most = lengths.shape[1], max(smaller, default=0)
    known, more = lengths[:, :most] @ _added(smaller), lengths[:, most:].sum(axis=1)
    columns = [counts[:, 0], counts[:, 1], more, *([counts[:, 2]] if counts[:, 2].any() else [])]
    explaining = np.column_stack(columns)  # in the order of `Prices`
    if np.linalg.matrix_rank(explaining) < explaining.shape[1]:
        raise ConfigError("prompts or answers are all of one length: their prices cannot be told apart")
    # relative errors count: the long answers must not decide alone
    solution, _ = nnls(explaining / seconds[:, None], 1.0 - known / seconds)
    per_call, per_prompt, added, *per_verified = solution.tolist()
    share = float((known + added * more).sum() / lengths.sum())
    step = float(_added(smaller).sum() + added * (size - most))
    prices = Prices(*(round(1e3 * price, 5) for price in (per_call, per_prompt, share, *per_verified)))
    return msgspec.structs.replace(prices, ragged=round(size * share / step, 4)) if most and step else prices


def _added(prices: Mapping[int, Prices]) -> NDArray[np.float64]:
    """Seconds by which a step with 1, 2, ... open rows takes longer than with one less, up to the most."""
    sizes = sorted(prices)
    steps = [1e-3 * size * prices[size].of_full_steps.per_decoded_token for size in sizes]
    return np.diff(np.interp(range(max(sizes, default=0) + 1), [0, *sizes], [0.0, *steps]))


def plan_block(drafter: Prices, verifier: Prices, verifications: Sequence[Verification]) -> int:
    """Block length with the most tokens per price; 0: plain decoding is cheaper.

    Args:
        drafter: Prices at the batch size in question.
        verifier: Likewise.
        verifications: Of the drafter's answers by the verifier: how much is accepted.

    Raises:
        ConfigError: The verifier's decoded tokens cost nothing, or no token was ever verified.
    """
    unit = verifier.per_decoded_token
    if unit <= 0:
        raise ConfigError("the verifier's decoded tokens cost nothing; measure its prices first")
    verified = verifier.per_prompt_token if verifier.per_verified is None else verifier.per_verified
    rate = acceptance_rate([(v.n_accepted, len(v.tokens)) for v in verifications])
    return best_block(rate, drafter.per_decoded_token / unit, verified / unit)
