"""The oracle: for every query the best single stage, known beforehand.

Scope: it reads recorded scores, which no policy that serves may; it exists for replay only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from asd.errors import ConfigError, DataError
from asd.policies.blind import run_only
from asd.policies.checks import check_lam
from asd.prices import Prices
from asd.types import Decision, Drafts, Query, Trace, Verification

__all__ = ["Oracle"]


@dataclass(frozen=True, slots=True, eq=False)
class Oracle:
    """With foresight, per query, the single stage with the largest lam * score - cost. Replay only.

    It pays that stage alone. No upper bound where drafts are reused: there a cascade can do better.

    Attributes:
        best: Stage by (dataset, query id).
        lam: Cost units that one fully right answer is worth; what `best` was chosen for.
    """

    best: Mapping[tuple[str, str], str]
    lam: float

    @classmethod
    def from_traces(
        cls, traces: Iterable[Trace], prices: Mapping[str, Prices], cost_unit: float, lam: float
    ) -> Oracle:
        """Read the best stage of every query off its recorded outcomes; equals go to the cheaper stage.

        Args:
            traces: Scored outcomes of every stage on every query.
            prices: Price table by stage name.
            cost_unit: Mean price of a run of the largest stage alone on the workload, same raw unit.
            lam: Cost units that one fully right answer is worth.

        Raises:
            ConfigError: `lam` or `cost_unit` is no usable number, or a stage has no price.
            DataError: a query has no outcome, or one without a score.
        """
        check_lam(lam)
        if not (math.isfinite(cost_unit) and cost_unit > 0):
            raise ConfigError(f"cost_unit must be positive and finite, got {cost_unit}")
        best = {(t.query.dataset, t.query.id): _best_stage(t, prices, cost_unit, lam) for t in traces}
        return cls(best, lam)

    @property
    def name(self) -> str:
        """The name with its lam, as in `oracle(lam=2)`."""
        return f"oracle(lam={self.lam:g})"

    def decide(self, query: Query, drafts: Drafts, verification: Verification | None = None) -> Decision:  # noqa: ARG002
        """Run the best stage, then stop; `DataError` for a query it has no foresight of."""
        stage = self.best.get((query.dataset, query.id))
        if stage is None:
            raise DataError(
                f"the oracle never saw query {query.id!r} of {query.dataset!r}: it serves the replay of the "
                "traces it was built from only"
            )
        return run_only(stage, drafts)


def _best_stage(trace: Trace, prices: Mapping[str, Prices], cost_unit: float, lam: float) -> str:
    worth: dict[str, tuple[float, float]] = {}
    for stage, outcome in trace.outcomes.items():
        if outcome.score is None:
            raise DataError(f"query {trace.query.id!r} has no score for stage {stage!r}: score it first")
        if stage not in prices:
            raise ConfigError(f"no price for stage {stage!r}; there are prices for {sorted(prices)}")
        cost = prices[stage].cost(outcome.draft.usage) / cost_unit
        worth[stage] = (lam * outcome.score - cost, -cost)
    if not worth:
        raise DataError(f"query {trace.query.id!r} has no outcome of any stage")
    return max(worth, key=worth.__getitem__)
