"""Do live queries still look like the calibration rows? A guarantee holds for queries drawn like those.

Watched are a few numbers of every completion (`signals`), none of which needs a reference. Each is ranked
among those of the calibration rows and of the live queries before it: a conformal p-value, with ties broken
at random, is uniform on [0, 1] and independent of the earlier ones as long as all come from one distribution.
A test martingale bets against that (the simple jumper of Vovk, Gammerman and Shafer, "Algorithmic Learning in
a Random World", ch. 7): three accounts, e = -1, 0, 1, where

    account_e <- 99 % of itself and 1/3 % of all three, times 1 + e * (p - 1/2)

and the capital is their sum. The mean of the signals' capitals is a martingale too, and reaches 1/alpha with
probability alpha at most if nothing has changed, however long one watches (Ville): one false alarm in
1/alpha monitors, over their whole lives. Values that move up or down are found, a change of spread alone is
not.

Scope: it warns. What to do about it (calibrate again) is the operator's decision.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from asd.errors import ConfigError, DataError
from asd.types import Completion

__all__ = ["Jumper", "Reading", "ShiftMonitor", "signals"]

_DIRECTIONS = (-1.0, 0.0, 1.0)
_JUMP = 0.01


def signals(completion: Completion) -> dict[str, float]:
    """What is watched of one query: its length, cost, and what the evidence says where it is asked.

    `value` is what the policy expects from the prompt alone, `p_good` the calibrated success probability of
    the answer returned; a policy that does not look at evidence has neither.
    """
    seen = {"prompt_characters": float(completion.query.n_characters), "cost": completion.cost}
    first, last = completion.decisions[0], completion.decisions[-1]
    if first.values:
        seen["value"] = max(first.values.values())
    if completion.stage in last.p_good:
        seen["p_good"] = last.p_good[completion.stage]
    return seen


class Jumper:
    """The simple jumper martingale: capital grows while p-values are not uniform."""

    def __init__(self) -> None:
        self._accounts = [1.0 / len(_DIRECTIONS)] * len(_DIRECTIONS)

    @property
    def capital(self) -> float:
        """What one unit has become."""
        return sum(self._accounts)

    def bet(self, p: float) -> None:
        """Bet on the next p-value, and see it."""
        share = _JUMP * self.capital / len(_DIRECTIONS)
        self._accounts = [
            ((1.0 - _JUMP) * account + share) * (1.0 + direction * (p - 0.5))
            for account, direction in zip(self._accounts, _DIRECTIONS, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Reading:
    """The monitor after a query.

    Attributes:
        n: Live queries seen.
        evidence: Mean capital over the signals; 1 at first.
        signal: The one with the largest capital.
        alarm: Whether the evidence has reached 1/alpha, now or before.
    """

    n: int
    evidence: float
    signal: str
    alarm: bool


class ShiftMonitor:
    """Watches a stream of completions of one policy.

    Args:
        calibration: `signals` of the same policy on the calibration rows, by name (`Grant.watched`).
        alpha: Probability of ever raising a false alarm.
        rng: Breaks ties.

    Raises:
        ConfigError: `alpha` is not between 0 and 1, or there is nothing to compare with.
    """

    def __init__(
        self, calibration: Mapping[str, Sequence[float]], *, alpha: float, rng: np.random.Generator
    ) -> None:
        if not 0.0 < alpha < 1.0:
            raise ConfigError(
                f"alpha, the probability of a false alarm, must be between 0 and 1, got {alpha}"
            )
        if not calibration or not all(calibration.values()):
            raise ConfigError(f"nothing to compare live queries with: signals {sorted(calibration)}")
        self._seen = {name: sorted(values) for name, values in calibration.items()}
        self._jumpers = {name: Jumper() for name in calibration}
        self._alpha, self._rng = alpha, rng
        self._reading = Reading(0, 1.0, min(calibration), False)

    @property
    def reading(self) -> Reading:
        """The state after the latest query."""
        return self._reading

    def watch(self, completion: Completion) -> Reading:
        """Take one live query in.

        Raises:
            DataError: The completion has other signals than the calibration rows: another kind of policy.
        """
        live = signals(completion)
        if live.keys() != self._seen.keys():
            raise DataError(
                f"a query has signals {sorted(live)}, the calibration rows {sorted(self._seen)}: they are of "
                "different policies"
            )
        for name, value in live.items():
            self._jumpers[name].bet(self._rank(name, value))
        capital = {name: jumper.capital for name, jumper in self._jumpers.items()}
        evidence = sum(capital.values()) / len(capital)
        alarm = self._reading.alarm or evidence >= 1.0 / self._alpha
        self._reading = Reading(self._reading.n + 1, evidence, max(capital, key=capital.__getitem__), alarm)
        return self._reading

    def _rank(self, name: str, value: float) -> float:
        """Conformal p-value of a value among all before it, which it then joins."""
        seen = self._seen[name]
        below, above = bisect_left(seen, value), bisect_right(seen, value)
        insort(seen, value)
        return (below + self._rng.random() * (above - below + 1)) / len(seen)
