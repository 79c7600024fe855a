"""How many devices a load takes: the fewest on which a policy keeps a quality and a 95th percentile.

Totals are tried from the smallest on; of a total every placement that uses it up, and of a policy every
setting, on the same traffic. A stage that a policy never asks takes no device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from asd.errors import ConfigError
from asd.operations.books import Summary
from asd.operations.runs import RunsHeader, Scenario
from asd.operations.traffic import Controller
from asd.schema import msgspec

__all__ = ["Need", "Size", "Sizing", "keeps", "placements"]

Servers = Mapping[str, tuple[int, int]]


class Need(NamedTuple):
    """What is to be kept.

    Attributes:
        p95_s: Most seconds of the 95th percentile.
        keep: Least share of what the largest stage scores on the same queries.
    """

    p95_s: float
    keep: float


@dataclass(frozen=True, slots=True)
class Size:
    """The fewest devices of a policy.

    Attributes:
        text: Policy and setting.
        devices: How many.
        replicas: Of every stage that takes one.
        total: What it came to there.
    """

    text: str
    devices: int
    replicas: Mapping[str, int]
    total: Summary


@dataclass(frozen=True, slots=True)
class Sizing:
    """A search for the fewest devices.

    Attributes:
        scenario: The load; its replicas do not count.
        devices: That a replica of each stage takes, by stage.
        controller: What a text names, on these servers.
        seed: Of the traffic.
        most: Devices beyond which nothing is looked for.
    """

    scenario: Scenario
    devices: Mapping[str, int]
    controller: Callable[[str, Servers], Controller]
    seed: int
    most: int

    def smallest(self, texts: Sequence[str], need: Need) -> Size | None:
        """The fewest devices on which one of a policy's settings keeps what is needed; None: `most` are few.

        Of several ways with as many devices that of least P95.

        Raises:
            ConfigError: A need is no positive number, or a text names no policy.
        """
        if not (need.p95_s > 0.0 and need.keep >= 0.0):
            raise ConfigError(f"plan for a positive P95 and a share of quality of at least 0, not {need}")
        for n in range(1, self.most + 1):
            found = [size for size in self._tried(texts, n) if keeps(size.total, need)]
            if found:
                return min(found, key=lambda size: size.total.p95_s or 0.0)
        return None

    def _used(self, text: str) -> tuple[str, ...]:
        """The stages that a policy may ask: one, or all."""
        name, _, stage = text.partition(":")
        return (stage,) if name == "always" and stage in self.devices else tuple(self.devices)

    def _tried(self, texts: Sequence[str], n: int) -> Iterator[Size]:
        for text in texts:
            used = self._used(text)
            for replicas in placements([self.devices[stage] for stage in used], n):
                placed = dict(zip(used, replicas, strict=True))
                yield Size(text, n, placed, self.run(text, placed))

    def run(self, text: str, replicas: Mapping[str, int]) -> Summary:
        """What a setting comes to with these replicas."""
        asked = self.scenario.asked
        servers = {stage: (replicas.get(stage, 1), batch) for stage, (_, batch) in asked.servers.items()}
        there: RunsHeader = msgspec.structs.replace(asked, servers=servers)
        sim = replace(self.scenario, asked=there).simulator(self.controller(text, servers), self.seed)
        for _ in sim.run(asked.seconds):
            pass
        return sim.books.total()


def placements(sizes: Sequence[int], total: int) -> Iterator[tuple[int, ...]]:
    """Replicas, at least one of each, that take exactly so many devices."""
    first, *others = sizes
    if not others:
        if total >= first and total % first == 0:
            yield (total // first,)
        return
    for n in range(1, total // first + 1):
        for more in placements(others, total - n * first):
            yield (n, *more)


def keeps(total: Summary, need: Need) -> bool:
    """Whether the needs are met, with everybody answered but those on the way."""
    slow = total.p95_s is None or total.p95_s > need.p95_s
    left_behind = total.n_inside > max(20.0, 0.02 * total.n_arrived)
    return not slow and total.keeps(need.keep) and not left_behind
