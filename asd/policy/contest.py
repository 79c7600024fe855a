"""Backward induction or a vote of lists: which of them is cheaper at the quality asked for, on held-out rows.

A method's cost at a quality is read off the hull of its settings and the largest stage alone. The difference
of two methods has the standard error of 200 resamples of the rows, both hulls and the quality asked for
recomputed in each.

The rule: backward induction, which knows every order of the stages, unless lists are cheaper by more than two
standard errors; equal costs keep it too. (A choice that follows smaller differences follows their noise.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError
from asd.policy.heldout import Alone, HeldOut
from asd.policy.record import MethodComparison
from asd.stopping.hull import Hull

__all__ = ["compete"]

Array = npt.NDArray[np.float64]

_N_RESAMPLES = 200


def compete(dp: HeldOut, lists: HeldOut, alone: Alone, share: float, seed: int = 0) -> MethodComparison:
    """Compare two methods on the same rows.

    Args:
        dp: Backward induction, held out.
        lists: Lists, held out.
        alone: The largest stage on the same rows.
        share: Of its mean score, in (0, 1].
        seed: Of the resamples.

    Raises:
        ConfigError: `share` is out of range.
    """
    if not 0.0 < share <= 1.0:
        raise ConfigError(f"ask for a share of the largest stage's quality in (0, 1], got {share}")
    n = len(alone.quality)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=_N_RESAMPLES) / n
    weights = np.concatenate([np.full((1, n), 1.0 / n), drawn])
    by_dp, by_lists = (_costs(method, alone, share, weights) for method in (dp, lists))
    error = (by_lists - by_dp)[1:].std(ddof=1)
    return MethodComparison(
        share=share, dp=float(by_dp[0]), lists=float(by_lists[0]), error=float(error), n_rows=n
    )


def _costs(method: HeldOut, alone: Alone, share: float, weights: Array) -> Array:
    """Cost at the share of quality by rows weighted in every draw, shape (draws,)."""
    qualities, costs = weights @ method.quality.T, weights @ method.cost.T
    largest, dearest = weights @ alone.quality, weights @ alone.cost
    hulls = [
        Hull([*zip(cost.tolist(), quality.tolist(), strict=True), (float(most), float(best))])
        for quality, cost, best, most in zip(qualities, costs, largest, dearest, strict=True)
    ]
    # The largest stage is on or below the hull, so that a share of its quality is reached.
    found = [hull.cost_at(share * float(best)) for hull, best in zip(hulls, largest, strict=True)]
    return np.array(found, dtype=np.float64)
