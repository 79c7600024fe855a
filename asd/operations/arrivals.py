"""When requests come: Poisson, the published day, recorded instants, and recorded clients.

Every source is an iterator of seconds in ascending order from 0, drawn in blocks, so that memory does not
grow with the length of a run. Real traffic is bursts of a few clients: the counts of minutes vary far
more than those of a Poisson stream. A recorded stream is therefore made lighter by leaving out whole
clients (`clients`), never by dropping requests at random, which would make it Poisson.
"""

from __future__ import annotations

import csv
import gzip
import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, groupby, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError, DataError

__all__ = [
    "POISSON", "WINDOW_S", "Client", "Pattern", "bursts", "clients", "instants_of", "merged", "number_of",
    "poisson", "read_clients", "read_instants", "rows_of", "surge",
]  # fmt: skip

Array = npt.NDArray[np.float64]

_BLOCK = 4096
POISSON = "poisson"
"""Arrivals that are not recorded."""
WINDOW_S = 600.0
"""Length of the windows of recorded clients."""
_OF_WINDOWS = ("rate_rps", "rate", "rps", "qps", "count", "requests")
"""Columns by which a row is a window of time, not a request."""


def poisson(rate: float, rng: np.random.Generator) -> Iterator[float]:
    """A Poisson stream of `rate` requests a second, without end."""
    if not (math.isfinite(rate) and rate > 0.0):
        raise ConfigError(f"a rate of arrivals is a positive number of requests a second, not {rate}")
    now = 0.0
    while True:
        instants = now + rng.exponential(1.0 / rate, _BLOCK).cumsum()
        yield from instants.tolist()
        now = float(instants[-1])


@dataclass(frozen=True, slots=True)
class Pattern:
    """A day by hours: requests a second at some hours, straight lines between, over midnight too.

    Attributes:
        hours: Ascending whole hours, in [0, 24).
        rates: Requests a second at each.
        surges: What the rate is multiplied with in a minute of burst, at each.
        p_burst: Share of the minutes that are bursts.
        scale: Of all rates.

    Raises:
        ConfigError: The scale is no positive number.
    """

    hours: tuple[int, ...] = (8, 9, 12, 14, 18, 22)
    rates: tuple[float, ...] = (12, 15, 25, 20, 12, 4)
    surges: tuple[float, ...] = (3.0, 2.8, 2.0, 2.2, 2.5, 1.3)
    p_burst: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.scale < math.inf:
            raise ConfigError(f"the rates of a day are scaled by a positive number, not {self.scale:g}")

    def rate(self, seconds: npt.ArrayLike) -> Array:
        """Requests a second outside bursts, at these times of the run, which begins at midnight."""
        return self.scale * self._at(seconds, self.rates)

    def draw(self, rng: np.random.Generator) -> Iterator[float]:
        """A Poisson stream at this rate, in each minute that of its middle, which is its mean."""
        for start in count(0, 60):
            factor = self._at(start, self.surges) if rng.random() < self.p_burst else 1.0
            n = rng.poisson(60.0 * factor * self.rate(start + 30))
            yield from (start + 60.0 * np.sort(rng.random(n))).tolist()

    def _at(self, seconds: npt.ArrayLike, values: tuple[float, ...]) -> Array:
        return np.asarray(np.interp(np.asarray(seconds) / 3600.0, self.hours, values, period=24.0))


def read_instants(path: str | Path, speed: float = 1.0) -> list[float]:
    """Recorded instants, a column `t_s` or `t_ms` of a CSV file (`.gz` is unpacked), from 0 on.

    Args:
        path: The file.
        speed: How much faster they come than they did.

    Raises:
        DataError: The file cannot be read, or is none of instants (`instants_of`).
    """
    found = instants_of(rows_of(path), path)
    return [(instant - found[0]) / speed for instant in found]


def instants_of(rows: Sequence[Mapping[str, str]], path: str | Path) -> list[float]:
    """Instants in seconds as recorded, ascending, of a file whose rows are requests.

    Raises:
        DataError: There is no column `t_s` or `t_ms`, it holds what is no time, or rows are windows: how
            requests come within one is not recorded, and as a Poisson stream they would lose their bursts.
    """
    columns = list(rows[0]) if rows else []
    column = next((name for name in ("t_s", "t_ms") if name in columns), None)
    if column is None:
        raise DataError(f"{path} has no rows with a column t_s or t_ms; give a file of arrivals")
    if wide := [name for name in columns if name in _OF_WINDOWS]:
        raise DataError(
            f"a row of {path} is a window of time (column {wide[0]}), not a request, and when requests come "
            "within it is not recorded; give instants, a request a row, or clients with family and shape"
        )
    unit = 1.0 if column == "t_s" else 1e3
    return sorted(number_of(row, column, path) / unit for row in rows)


class Client(NamedTuple):
    """One client in one stretch of time: a renewal process of gamma or Weibull gaps.

    Attributes:
        name: Of the client.
        start_s: Of the stretch.
        rate: Requests a second.
        family: "G" (gamma) or "W" (Weibull).
        shape: Of the distribution of its gaps; their mean is 1 / rate.
    """

    name: str
    start_s: float
    rate: float
    family: str
    shape: float


def read_clients(path: str | Path) -> list[Client]:
    """Recorded clients: columns client, t_s, rate_rps, family, shape of a CSV file (`.gz` is unpacked).

    Raises:
        DataError: The file cannot be read, holds no row, a column is missing, a value is out of range, or
            windows do not begin `WINDOW_S` after each other.
    """
    try:
        found = [_client(row, path) for row in rows_of(path)]
    except KeyError as error:
        raise DataError(f"{path} is no file of clients ({error}); see asd/operations/README.md") from error
    if not found:
        raise DataError(f"{path} holds no client; give a row for each and every window of {WINDOW_S:g} s")
    _check_windows(found, path)
    return found


def _check_windows(recorded: Sequence[Client], path: str | Path) -> None:
    """Windows of another length would be played on top of each other, or with silence between them."""
    gaps = np.diff(np.unique([client.start_s for client in recorded]))
    if not gaps.size:
        return
    apart = float(gaps.min() if (gaps % WINDOW_S).any() else np.gcd.reduce(gaps.astype(np.int64)))
    if apart != WINDOW_S:
        raise DataError(
            f"windows of {path} begin {apart:g} s after each other, those of clients last {WINDOW_S:g} s; "
            "split or join them, and write those in which nobody asked with a rate of 0"
        )


def _client(row: Mapping[str, str], path: str | Path) -> Client:
    start_s, rate, shape = (number_of(row, column, path) for column in ("t_s", "rate_rps", "shape"))
    if row["family"] not in {"G", "W"} or shape == 0.0:
        raise DataError(
            f"{path}: gaps of client {row['client']!r} have family {row['family']!r} and shape {shape:g}; "
            "write G (gamma) or W (Weibull) and a positive shape"
        )
    return Client(row["client"], start_s, rate, row["family"], shape)


def clients(
    recorded: Iterable[Client],
    rng: np.random.Generator,
    *,
    rate: float | None = None,
    start_s: float = 0.0,
    stretch_s: float = WINDOW_S,
) -> Iterator[float]:
    """Streams of recorded clients together, each a renewal process at its recorded rate.

    Args:
        recorded: One entry a client and stretch.
        rng: Draws the clients and their gaps.
        rate: Mean requests a second wanted over all that is left: clients drawn at random until they would
            make more; None: all of them.
        start_s: Where in the recording the run begins.
        stretch_s: Length of a stretch.

    Raises:
        DataError: Nothing is recorded from there on.
    """
    entries = sorted((e for e in recorded if e.start_s >= start_s and e.rate > 0), key=lambda e: e.start_s)
    if not entries:
        raise DataError(f"no client is recorded from {start_s} s on; begin earlier")
    if rate is not None:
        kept = _thinned(entries, rate, rng, entries[-1].start_s + stretch_s - start_s, stretch_s)
        entries = [entry for entry in entries if entry.name in kept]
    for begin, together in groupby(entries, key=lambda entry: entry.start_s):
        found = np.concatenate([_renewals(entry, stretch_s, rng) for entry in together])
        yield from (begin - start_s + np.sort(found)).tolist()


def bursts(recorded: Sequence[Client], rate: float, n: int, rng: np.random.Generator) -> list[float]:
    """Clients from a random hour on, as many as make about that rate, with time stretched to make it so.

    Args:
        recorded: One entry a client and stretch.
        rate: Requests a second.
        n: Requests.
        rng: Draws the hour, the clients and their gaps.

    Raises:
        DataError: Fewer are recorded from that hour on.
    """
    last = max(client.start_s for client in recorded)
    start = 3600.0 * int(rng.integers(max(1, int(last / 7200.0))))
    found = list(islice(clients(recorded, rng, rate=rate, start_s=start), n))
    if len(found) < n:
        raise DataError(f"{len(found)} of {n} requests are recorded from {start:g} s on; ask for fewer")
    scale = (n / rate) / (found[-1] - found[0])
    return [(instant - found[0]) * scale for instant in found]


def _thinned(
    entries: list[Client], rate: float, rng: np.random.Generator, seconds: float, stretch_s: float
) -> set[str]:
    """Clients in a random order, as long as they do not exceed the rate together; at least the lightest."""
    means: dict[str, float] = {}
    for entry in entries:
        means[entry.name] = means.get(entry.name, 0.0) + entry.rate * stretch_s / seconds
    kept, total = {min(means, key=means.__getitem__)}, min(means.values())
    for name in rng.permutation(sorted(means)).tolist():
        if name not in kept and total + means[name] <= rate:
            kept.add(name)
            total += means[name]
    return kept


def _renewals(client: Client, seconds: float, rng: np.random.Generator) -> Array:
    """Instants of a stationary renewal process in the stretch: its mean count is rate x seconds, however few.

    The first instant is a uniform share of a gap that is drawn by its length (inspection paradox), so that
    the stretch begins nowhere in particular.
    """
    n = int(seconds * client.rate * 1.5) + 64
    found = rng.random() * _gaps(client, 1, rng, by_length=True)
    while found[-1] < seconds:
        found = np.append(found, found[-1] + _gaps(client, n, rng).cumsum())
    return found[found < seconds]


def _gaps(client: Client, n: int, rng: np.random.Generator, *, by_length: bool = False) -> Array:
    """Gaps of mean 1 / rate; `by_length`: each as likely as it is long, density x f(x) / mean."""
    if client.family == "G":
        return rng.gamma(client.shape + by_length, 1.0 / (client.shape * client.rate), n)
    inverse = 1.0 / client.shape
    return rng.gamma(1.0 + by_length * inverse, 1.0, n) ** inverse / (math.gamma(1.0 + inverse) * client.rate)


def surge(start_s: float, seconds: float, rate: float, rng: np.random.Generator) -> Iterator[float]:
    """Additional requests for a while: a forced overload."""
    n = rng.poisson(rate * seconds)
    yield from np.sort(start_s + seconds * rng.random(n)).tolist()


def merged(*streams: Iterable[float]) -> Iterator[float]:
    """Several streams as one."""
    return heapq.merge(*streams)


def rows_of(path: str | Path) -> list[dict[str, str]]:
    """Rows of a CSV file, by column; `DataError` where it cannot be read."""
    try:
        with (
            gzip.open(path, "rt", encoding="utf8", newline="")
            if Path(path).suffix == ".gz"
            else Path(path).open(encoding="utf8", newline="")
        ) as file:
            return list(csv.DictReader(file))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read arrivals from {path}: {error}") from error


def number_of(row: Mapping[str, str], column: str, path: str | Path) -> float:
    """A number of a row of a CSV file; `DataError` where it is not finite and at least 0."""
    try:
        value = float(row[column])
    except (TypeError, ValueError):  # a row that is too short holds None
        value = math.nan
    if not 0.0 <= value < math.inf:
        raise DataError(f"{path}: {row[column]!r} in column {column} is not a number of at least 0")
    return value
