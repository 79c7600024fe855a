"""How long a call lasts: what each of its queries adds to it, by the ladder's price table.

Prices at a batch size are a query's share of a call of that size, so that a call of n queries lasts

    sum over its queries of  usage . prices(n),    n prices(n) linear between the batch sizes measured.

Where prices tell what a step takes with fewer rows open (`Prices.ragged`), decode steps are no shares: the
k-th longest answer of a call adds what its steps take with k rows open beyond what they take with k - 1.

Where prices are no times, counts add what they were seen to add to recorded calls of one query
(`asd.policy.seconds`), and calls are of one query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.policy.problem import Counts
from asd.prices import SECONDS, Prices
from asd.types import Usage

__all__ = ["CallRates", "ServiceDemand", "call_rates", "call_seconds", "check_alone", "ladder_rates"]

Array = npt.NDArray[np.float64]

_DECODING = 3
"""Where the counts of decode steps begin in `Usage.counts`."""


class ServiceDemand(NamedTuple):
    """Seconds that a query adds to a call of its stage.

    Attributes:
        share: To a call of 1, 2, ... queries, in the mean over those that it may be with.
        besides: The same without its decode steps; empty: prices do not tell what these take.
        ranked: Of its decode steps, where its answer is the longest, second longest, ... of the call.
    """

    share: tuple[float, ...]
    besides: tuple[float, ...] = ()
    ranked: tuple[float, ...] = ()


def call_seconds(demands: Sequence[ServiceDemand]) -> float:
    """How long a call of these lasts."""
    last = len(demands) - 1
    if not last or not demands[0].ranked:
        return sum([demand.share[last] for demand in demands])
    longest_first = sorted([demand.ranked for demand in demands], reverse=True)
    steps = sum([ranked[rank] for rank, ranked in enumerate(longest_first)])
    return steps + sum([demand.besides[last] for demand in demands])


class CallRates(NamedTuple):
    """Seconds that each of a query's counts (`Usage.counts`) adds to a call of a stage.

    Attributes:
        share: To a call of 1, 2, ... queries, shape (largest, 6).
        steps: Of decode steps with 1, 2, ... rows open, the same shape; None: prices do not tell.
    """

    share: Array
    steps: Array | None

    def demand(self, usage: Usage) -> ServiceDemand:
        """What a query of these counts adds."""
        counts = np.array(usage.counts)
        share = tuple((self.share @ counts).tolist())
        if self.steps is None:
            return ServiceDemand(share)
        besides = self.share[:, :_DECODING] @ counts[:_DECODING]
        ranked = np.maximum(np.diff(self.steps @ counts, prepend=0.0), 0.0)
        return ServiceDemand(share, tuple(besides.tolist()), tuple(ranked.tolist()))


def ladder_rates(
    ladder: Ladder, largest: int, seconds: Mapping[str, Counts] = MappingProxyType({})
) -> dict[str, CallRates]:
    """Of every stage, for calls of at most so many queries.

    Args:
        ladder: Supplies the prices.
        largest: Most queries in a call.
        seconds: Where prices are no times, what counts add to a call of one query, by stage.

    Raises:
        ConfigError: Prices are no times, and there are no such seconds or calls are of several queries.
    """
    if (unit_s := SECONDS.get(ladder.price_unit)) is None:
        return _recorded(ladder, largest, seconds)
    prices = {batch: ladder.prices_at(batch) for batch in ladder.batches}
    return {
        stage.name: _rates({batch: own[stage.name] for batch, own in prices.items()}, unit_s, largest)
        for stage in ladder.stages
    }


def _recorded(ladder: Ladder, largest: int, seconds: Mapping[str, Counts]) -> dict[str, CallRates]:
    if not seconds:
        raise ConfigError(
            f"prices in {ladder.price_unit!r} are no service times, and no seconds of calls are known: "
            "measure prices in milliseconds (asd price), declare them in s, or give traces with seconds, and "
            "a policy fitted on such (asd collect, asd fit)"
        )
    check_alone(largest)
    return {stage.name: CallRates(np.array([seconds[stage.name]]), None) for stage in ladder.stages}


def check_alone(largest: int) -> None:
    """`ConfigError` where calls may be of several queries, whose seconds nobody recorded."""
    if largest > 1:
        raise ConfigError(
            f"recorded seconds are those of calls of one query, not of {largest}: give --batch 1"
        )


def _rates(prices: Mapping[int, Prices], unit_s: float, largest: int) -> CallRates:
    share = unit_s * call_rates(prices, largest)
    if len(prices) < 2 or not all(own.ragged for size, own in prices.items() if size > 1):
        return CallRates(share, None)
    steps = call_rates({size: own.of_full_steps for size, own in prices.items()}, largest)
    steps[:, :_DECODING] = 0.0
    return CallRates(share, unit_s * np.arange(1, largest + 1)[:, None] * steps)


def call_rates(prices: Mapping[int, Prices], largest: int) -> Array:
    """What a query's counts (`Usage.counts`) add to a call of 1, 2, ... queries, shape (largest, 6).

    Args:
        prices: A query's share of a call, by batch size, 1 among them.
        largest: Most queries in a call; beyond the largest size measured, a share stays what it is there.
    """
    sizes = sorted(prices)
    of_call = np.array([size * np.array(prices[size].rates) for size in sizes])
    n = np.arange(1, largest + 1)
    within = np.column_stack([np.interp(n, sizes, column) for column in of_call.T])
    shares = within / np.minimum(n, sizes[-1])[:, None]
    return np.asarray(shares)
