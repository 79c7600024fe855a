"""A stage on a fake clock that takes exactly what its price table says, for tests of measuring."""

from __future__ import annotations

from collections.abc import Sequence

from asd.engines import GREEDY, Sampling
from asd.ladder import Prices
from asd.testing import FakeClock
from asd.types import Draft, Query, Usage


class PricedEngine:
    """Writes as many tokens as the query's id says; the clock runs by `prices` (milliseconds)."""

    def __init__(self, stage_name: str, prices: Prices, clock: FakeClock) -> None:
        self.stage_name = stage_name
        self.prices = prices
        self.clock = clock

    def load(self) -> None:
        """Nothing to load."""

    def unload(self) -> None:
        """Nothing to unload."""

    def synchronise(self) -> None:
        """No device."""

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:  # noqa: ARG002
        """One draft a query; the clock advances by their priced milliseconds."""
        drafts = [self._draft(query) for query in queries]
        self.clock.advance(sum(self.prices.cost(draft.usage) for draft in drafts) / 1e3)
        return drafts

    def _draft(self, query: Query) -> Draft:
        n = int(query.id)
        usage = Usage(n_prompt=len(query.prompt), n_decoded=n, n_passes=n)
        return Draft(self.stage_name, "", tuple(range(n)), (-0.1,) * n, True, usage, 0.0)
