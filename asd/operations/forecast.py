"""How much load the next hour brings: predictors, and what they are worth on a recorded series.

A predictor sees the hours up to now, oldest first, and predicts the next one. It is worth its place only
where it beats "the same as last hour": weighted error = sum |forecast - load| / sum load, one hour ahead,
with nothing but the past (rolling origin). The published formula (hourly pattern, linear trend) is a
baseline.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from asd.errors import DataError
from asd.operations.arrivals import WINDOW_S, Client, instants_of, number_of, read_clients, rows_of

__all__ = [
    "PREDICTORS",
    "BestOfLately",
    "Changed",
    "HoltWinters",
    "LastHour",
    "LoadPredictor",
    "PublishedForecast",
    "SeasonalNaive",
    "best_of_lately",
    "errors",
    "read_hourly",
]

Array = npt.NDArray[np.float64]

_DAY = 24
_HOUR_S = 3600


class LoadPredictor(Protocol):
    """Tells the load of the next hour."""

    @property
    def name(self) -> str:
        """As it stands in tables."""

    def predict(self, hours: Array) -> float:
        """The hour after these, in their unit, at least 0; `hours` are at least one, oldest first."""


@dataclass(frozen=True, slots=True)
class LastHour:
    """The same as last hour."""

    name: str = "last hour"

    def predict(self, hours: Array) -> float:
        """Last hour's load."""
        return float(hours[-1])


@dataclass(frozen=True, slots=True)
class SeasonalNaive:
    """The same as a day ago; as last hour, in the first day."""

    name: str = "a day ago"

    def predict(self, hours: Array) -> float:
        """Yesterday's load at this hour."""
        return float(hours[-_DAY] if len(hours) >= _DAY else hours[-1])


@dataclass(frozen=True, slots=True)
class Changed:
    """Last hour's load, changed by a share of what it changed by a day ago."""

    share: float = 1.0

    @property
    def name(self) -> str:
        """With the share of yesterday's change that is taken over."""
        return f"last hour + {self.share:g} x yesterday's change"

    def predict(self, hours: Array) -> float:
        """Last hour and a share of yesterday's step."""
        if len(hours) <= _DAY:
            return float(hours[-1])
        return max(0.0, float(hours[-1] + self.share * (hours[-_DAY] - hours[-_DAY - 1])))


@dataclass(frozen=True, slots=True)
class PublishedForecast:
    """The published formula as we read it: (mean + linear trend) x the hour's share of the day."""

    name: str = "published formula"

    def predict(self, hours: Array) -> float:
        """Trend line at the next hour, times the mean of that hour over the mean of all."""
        n = len(hours)
        if n < 2 * _DAY or not hours.any():
            return float(hours[-1])
        slope, level = np.polyfit(np.arange(n), hours, 1)
        seasonal = hours[np.arange(n) % _DAY == n % _DAY].mean() / hours.mean()
        return max(0.0, float((level + slope * n) * seasonal))


@dataclass(slots=True)
class HoltWinters:
    """Additive, damped, 24 hours a season (statsmodels); fitted again once a day, filtered in between.

    Raises `ImportError` where statsmodels is not installed (`pip install 'asd[report]'`).
    """

    name: str = "Holt-Winters"
    _fitted_at: int = -1
    _parameters: Mapping[str, float] = field(default_factory=dict)

    def predict(self, hours: Array) -> float:
        """One step ahead; as last hour, before there are two days."""
        from statsmodels.tsa.holtwinters import ExponentialSmoothing  # noqa: PLC0415  (an extra)

        if len(hours) < 2 * _DAY + 1 or np.ptp(hours) == 0.0:
            return float(hours[-1])
        model = ExponentialSmoothing(
            hours,
            trend="add",
            damped_trend=True,
            seasonal="add",
            seasonal_periods=_DAY,
            initialization_method="heuristic",
        )
        if len(hours) - self._fitted_at >= _DAY or len(hours) < self._fitted_at:
            found = model.fit().params
            names = ("smoothing_level", "smoothing_trend", "smoothing_seasonal", "damping_trend")
            self._parameters = {name: float(found[name]) for name in names}
            self._fitted_at = len(hours)
        return max(0.0, float(model.fit(**self._parameters, optimized=False).forecast(1)[0]))


@dataclass(slots=True)
class BestOfLately:
    """Whatever would have been best in the last 24 hours, together with what came close.

    Candidates are weighted by their absolute errors of the last 24 hours to a negative power, so that a large
    power picks the best one and a small one averages. Those that were worse than the first have no weight.
    For one series: its forecasts are remembered.

    Attributes:
        candidates: What it chooses among, first what the others have to beat.
        power: How sharply.
    """

    candidates: Sequence[LoadPredictor]
    power: float = 4.0
    name: str = "best of the last 24 h"
    _made: dict[int, Array] = field(default_factory=dict)

    def predict(self, hours: Array) -> float:
        """The weighted mean of the candidates' forecasts."""
        n = len(hours)
        forecasts = self._forecasts(hours)
        known = range(max(1, n - _DAY), n)
        missed = sum((np.abs(self._forecasts(hours[:k]) - hours[k]) for k in known), np.zeros(len(forecasts)))
        missed = np.maximum(missed, 1e-12)
        weights = np.where(missed <= missed[0], (missed.min() / missed) ** self.power, 0.0)
        return float(weights @ forecasts / weights.sum())

    def _forecasts(self, hours: Array) -> Array:
        n = len(hours)
        if n not in self._made:
            self._made[n] = np.array([candidate.predict(hours) for candidate in self.candidates])
        return self._made[n]


def best_of_lately() -> BestOfLately:
    """The one to use.

    Its candidates and its power were chosen after looking at the recorded series on which it is scored, so
    its errors there are optimistic: those of a series nobody has looked at may be larger.
    """
    return BestOfLately((LastHour(), Changed(), Changed(0.5), SeasonalNaive(), HoltWinters()))


PREDICTORS: tuple[Callable[[], LoadPredictor], ...] = (
    LastHour, SeasonalNaive, PublishedForecast, Changed, HoltWinters, best_of_lately
)  # fmt: skip
"""Make a predictor for one series each; the first is what the others are compared with."""


def errors(series: Array, predictor: LoadPredictor, first: int = 3 * _DAY) -> float:
    """Weighted absolute error one hour ahead, rolling origin.

    Args:
        series: Loads by hour.
        predictor: Sees only the hours before the one it predicts.
        first: The first hour that counts.

    Raises:
        DataError: The series is not longer than that, or there is no load in what counts.
    """
    if len(series) <= first or not series[first:].any():
        raise DataError(f"{len(series)} hours are too few to judge a forecast from hour {first} on")
    missed = [abs(predictor.predict(series[:hour]) - series[hour]) for hour in range(first, len(series))]
    return float(np.sum(missed) / series[first:].sum())


def read_hourly(path: str | Path) -> dict[str, Array]:
    """Loads by hour, one series or several, from a CSV file of one of four shapes (`.gz` is unpacked).

    One request a row (`t_s` or `t_ms`); recorded clients (`read_clients`), all together; rates of windows of
    an hour or less (`t_s`, `rate_rps`, and `pool` where there are several series); rates by time (`minute`
    and columns that end in `_mid`). Of requests and clients only whole hours count.

    Raises:
        DataError: It is none of them, cannot be read, holds what is no number, or windows that make no hours.
    """
    rows, name = rows_of(path), Path(path).name.partition(".")[0]
    columns = set(rows[0]) if rows else set()
    middles = sorted(column for column in columns if column.endswith("_mid"))
    if {"client", "rate_rps"} <= columns:
        return {name: _of_clients(read_clients(path))}
    if {"t_s", "rate_rps"} <= columns:
        return _by_pool(rows, name, path)
    if "minute" in columns and middles:
        hours = [int(number_of(row, "minute", path) // 60) for row in rows]
        return {
            m.removesuffix("_mid"): _means(hours, [number_of(row, m, path) for row in rows]) for m in middles
        }
    if columns & {"t_s", "t_ms"}:
        hours = [int(instant // _HOUR_S) for instant in instants_of(rows, path)]
        return {name: np.bincount(hours)[:-1].astype(np.float64)}
    raise DataError(
        f"{path} holds no loads; columns t_s, or t_ms, or t_s and rate_rps (with pool; with client, family, "
        "shape), or minute and ..._mid"
    )


def _of_clients(recorded: Sequence[Client]) -> Array:
    """Mean requests a second of every whole hour; in a window without a row a client asks nothing."""
    hours = [int(client.start_s // _HOUR_S) for client in recorded]
    whole = int((max(client.start_s for client in recorded) + WINDOW_S) // _HOUR_S)
    sums = np.bincount(hours, weights=[client.rate for client in recorded])
    return np.asarray(sums[:whole] * WINDOW_S / _HOUR_S)


def _by_pool(rows: Sequence[Mapping[str, str]], name: str, path: str | Path) -> dict[str, Array]:
    """Series by pool; one of that name where there are no pools."""
    pools: dict[str, dict[float, float]] = defaultdict(dict)
    for row in rows:
        pool, start = row.get("pool", name), number_of(row, "t_s", path)
        if start in pools[pool]:
            raise DataError(f"{path} holds two rates of {pool} at {start:g} s; give their sum")
        pools[pool][start] = number_of(row, "rate_rps", path)
    for pool, rates in pools.items():
        apart = float(np.diff(sorted(rates)).min(initial=math.inf))
        if _HOUR_S < apart < math.inf:
            raise DataError(
                f"rates of {pool} in {path} are {apart:g} s apart; give windows of an hour or less"
            )
    return {
        pool: _means([int(start // _HOUR_S) for start in rates], list(rates.values()))
        for pool, rates in pools.items()
    }


def _means(hours: list[int], values: list[float]) -> Array:
    """Mean of every hour, 0 where nothing was recorded."""
    n = np.bincount(hours)
    return np.asarray(np.bincount(hours, weights=values) / np.maximum(n, 1))
