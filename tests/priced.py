"""A stage on a fake clock that takes exactly what its price table says, for tests of measuring."""

from __future__ import annotations

from collections.abc import Sequence

from asd.engines import GREEDY, LOSSLESS, Acceptance, Sampling
from asd.prices import Prices
from asd.testing import FakeClock
from asd.types import Draft, Query, Usage, Verification


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

    def verify(
        self,
        queries: Sequence[Query],
        drafts: Sequence[Draft],
        acceptance: Acceptance = LOSSLESS,  # noqa: ARG002
    ) -> list[Verification]:
        """Reads the drafts, accepting nothing; the clock advances likewise."""
        read = [self._read(query, draft) for query, draft in zip(queries, drafts, strict=True)]
        self.clock.advance(sum(self.prices.cost(verification.usage) for verification in read) / 1e3)
        return read

    def continue_(
        self,
        queries: Sequence[Query],
        verifications: Sequence[Verification],
        acceptance: Acceptance = LOSSLESS,  # noqa: ARG002
    ) -> list[Draft]:
        """Nothing is accepted, so going on is answering."""
        assert not any(verification.n_accepted for verification in verifications)
        return self.generate(queries)

    def _read(self, query: Query, draft: Draft) -> Verification:
        n = len(draft.tokens)
        usage = Usage(n_prompt=len(query.prompt), n_decoded=0, n_passes=1, n_verified=n)
        return Verification(self.stage_name, draft.stage, draft.tokens, (-9.0,) * n, 0, usage, 0.0)

    def _draft(self, query: Query) -> Draft:
        n = int(query.id)
        usage = Usage(n_prompt=len(query.prompt), n_decoded=n, n_passes=n)
        return Draft(self.stage_name, "", tuple(range(n)), (-0.1,) * n, True, usage, 0.0)


class PricedDrafted(PricedEngine):
    """The same with a drafter: `prices` are those of the two together, `alone` has its own."""

    def __init__(self, stage_name: str, prices: Prices, alone: Prices, clock: FakeClock) -> None:
        super().__init__(stage_name, prices, clock)
        self.alone = PricedEngine(stage_name, alone, clock)
