"""A certified floor as it is kept: what was promised, for what, and a digest of every table that passed.

Whoever uses it solves the tables again from the values that it holds; one that comes out as another table is
refused, so that nothing decides which was not certified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Literal

from asd.errors import ConfigError, DataError
from asd.measurement.records import Record
from asd.operations.control.backlog import LEVELS, Solved
from asd.operations.control.bearing import Bearing, Demand
from asd.operations.control.floor import FloorSetting
from asd.policy.artifact import PolicyArtifact
from asd.schema import msgspec

__all__ = ["CertifiedTable", "FloorRecord"]

AGAIN = "certify again (asd control --tables floor --out FILE)"


class CertifiedTable(Record, frozen=True, kw_only=True):
    """A table that passed.

    Attributes:
        mu: Cost units that a second is worth in it.
        worst: Mean score of the calibration rows whatever the queues do.
        p_value: Of "the floor is not kept".
        digest: Of its actions (`Solved.digest`).
    """

    mu: float
    worst: float
    p_value: float
    digest: str


class FloorRecord(Record, frozen=True, kw_only=True):
    """The file of `asd control --out`.

    Attributes:
        ladder: Its fingerprint.
        policy: Digest of the fitted policy.
        keep: Share of the largest stage's quality.
        delta: Probability that the promise is wrong.
        lam: Cost units that one fully right answer is worth in all tables.
        load: Share of every stage's time in use, for which they were solved.
        mus: The grid that was tested.
        tables: Those that passed, the first of the grid.
        floor: Mean score on the calibration rows that is kept.
        servers: Replicas and largest call, by stage.
        batch: Queries a call that the policy was priced for.
        call_s: What a call of one query was expected to take, by stage.
        full_call_s, demands: As of `Bearing`, for the last of the tables.
        rows: The calibration rows (`asd.operations.population.row_name`), which cannot judge it.
    """

    format: Literal["asd-floor"] = "asd-floor"
    schema_version: Literal[1] = 1
    provenance: Literal["replayed"] = "replayed"
    ladder: str
    policy: str
    keep: float
    delta: float
    lam: float
    load: float
    mus: tuple[float, ...]
    tables: tuple[CertifiedTable, ...]
    floor: float
    servers: dict[str, tuple[int, int]]
    batch: int
    call_s: dict[str, float]
    full_call_s: tuple[float, ...]
    demands: tuple[Demand, ...]
    rows: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.tables or tuple(table.mu for table in self.tables) != self.mus[: len(self.tables)]:
            raise DataError(f"the certified tables are not the first of the grid {list(self.mus)}; {AGAIN}")
        n = len(self.servers)
        sizes = {len(counts) for demand in self.demands for counts in demand[:3]}
        counts = len(self.full_call_s), len(self.demands)
        if not n or sizes != {n} or counts != (n, (len(LEVELS) - 1) ** n):
            raise DataError(f"the demands are not those of {n} stages at every backlog; {AGAIN}")

    @property
    def digest(self) -> str:
        """Of all that it holds, 16 hexadecimal digits."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]

    @property
    def bearing(self) -> Bearing:
        """What requests take under the last of the tables."""
        sizes = tuple(size for _, size in self.servers.values())
        return Bearing(tuple(self.servers), sizes, self.full_call_s, self.demands)

    @property
    def bears(self) -> float:
        """Requests a second that they bear at any P95, every stage on devices of its own."""
        replicas = {stage: n for stage, (n, _) in self.servers.items()}
        return self.bearing.rate(replicas, [(stage,) for stage in replicas])

    def check(self, fitted: PolicyArtifact, servers: Mapping[str, tuple[int, int]], lam: float) -> None:
        """`ConfigError` where the floor was certified for something else, which it names with the remedy."""
        if fitted.ladder.fingerprint != self.ladder:
            raise ConfigError(
                f"the floor was certified for a ladder with fingerprint {self.ladder}, not for "
                f"{fitted.ladder.name!r} ({fitted.ladder.fingerprint}): give that --ladder, or {AGAIN}"
            )
        if fitted.digest != self.policy:
            raise ConfigError(
                f"the floor was certified for a policy with digest {self.policy}, not for {fitted.digest}: "
                f"give that --policy, or {AGAIN}"
            )
        if lam != self.lam:
            raise ConfigError(
                f"the floor was certified for lam {self.lam:g}, not for {lam:g}: write "
                f"floored:{self.lam:g}:P95, or {AGAIN[:-1]} --lam {lam:g})"
            )
        for stage, (replicas, batch) in servers.items():
            if (replicas, batch) != self.servers[stage]:
                known = "replicas {} and batch {}".format(*self.servers[stage])
                raise ConfigError(
                    f"the floor was certified for stage {stage!r} with {known}, not with {replicas} and "
                    f"{batch}: run it with those, or {AGAIN[:-1]} --replicas {stage}={replicas} "
                    f"--batch {batch})"
                )

    def settings(self, solve: Callable[[float], Solved]) -> list[FloorSetting]:
        """The certified settings, solved again; `ConfigError` where a table comes out as another one."""
        found = []
        for table in self.tables:
            solved = solve(table.mu)
            if solved.digest != table.digest:
                raise ConfigError(
                    f"the table of mu {table.mu:g} has digest {solved.digest} here, {table.digest} was "
                    f"certified: the file was changed, or another version of asd or numpy solved it; {AGAIN}"
                )
            found.append(FloorSetting(table.mu, solved, table.worst, table.p_value))
        return found
