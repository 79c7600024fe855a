"""How much longer than the mean a query is, seen from the answers so far.

A query s times as dear as the mean is decided at lam / s without solving again (all edges scale alike). The
scale is a log-linear regression of the largest stage's priced cost on the token counts of the latest answer,

    scale = exp(bias + w_prompt * log(1 + n_prompt) + w_decoded * log(1 + n_decoded)),   clipped to [1/8, 8],

so that a draft whose length says little about the cost of going on moves the scale little. All three numbers
are zero, hence the scale 1, where `asd.policy.fit` found on held-out rows that scaling does not pay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from asd.schema import msgspec
from asd.types import Drafts, Usage

__all__ = ["LengthScale", "fit_length_scale", "usage_alone"]

_LARGEST = math.log(8.0)
_LEAST = 1.0 / 64.0
"""Costs relative to the mean are taken as at least this: a free call has no logarithm."""


class LengthScale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Expected cost of going on relative to the mean query, from the usage of the latest answer."""

    bias: float = 0.0
    w_prompt: float = 0.0
    w_decoded: float = 0.0

    def __call__(self, usage: Usage) -> float:
        """Scale of one query, 1.0 for the mean one."""
        log_scale = (
            self.bias
            + self.w_prompt * math.log1p(usage.n_prompt)
            + self.w_decoded * math.log1p(usage.n_decoded)
        )
        return math.exp(min(_LARGEST, max(-_LARGEST, log_scale)))


def usage_alone(drafts: Drafts, in_hand: Sequence[str]) -> Usage:
    """Counts of the latest answer as if its stage had written it alone, however it came about.

    The prompt's length is that of the first stage that answered, which always reads it; a later one may
    have continued a draft.
    """
    n_written = drafts[in_hand[-1]].n_tokens
    return Usage(drafts[in_hand[0]].usage.n_prompt, n_written, n_written)


def fit_length_scale(usages: Sequence[Usage], costs: npt.NDArray[np.float64]) -> LengthScale:
    """Least squares on logarithms, shifted so that the scale of the rows it was fitted on has mean 1.

    Args:
        usages: Of the latest answer, one per row.
        costs: What the largest stage cost on the same rows, shape (n,), their mean positive.
    """
    counts = np.array([(math.log1p(u.n_prompt), math.log1p(u.n_decoded)) for u in usages])
    log_costs = np.log(np.maximum(costs / costs.mean(), _LEAST))
    # centred, so that a count that never varies gets no weight instead of a share of the intercept
    w_prompt, w_decoded = np.linalg.lstsq(counts - counts.mean(axis=0), log_costs, rcond=None)[0]
    bias = -math.log(np.exp(counts @ (w_prompt, w_decoded)).mean())
    return LengthScale(bias, float(w_prompt), float(w_decoded))
