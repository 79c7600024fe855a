"""When a verifier takes a drafted token as its own, and what it writes instead where it does not.

    lossless   accept x with probability min(1, p(x) / q(x)); after the first rejection draw from the residual
               max(p - q, 0), normalised (arXiv 2211.17192, algorithm 1)
    greedy     the same with p a point mass at the argmax: accept x where it is the argmax
    lenient    accept x while p(x) >= tolerance * max p; a mode of its own, whose loss is to be measured

p is the verifier's distribution, q the one the draft was drawn from. The rule with q is exact only where
the draft is an unconditional draw from a known q (block speculation). In a cascade the choice to verify has
looked at the draft, and q may be unknown: then q is a point mass at the drafted token (`point_mass`), which
accepts x with probability p(x), else draws from p without x, and is exact given any draft whatever.

Speculation in blocks of k pays by how many tokens a round yields (`expected_tokens`) for what it costs
(`best_block`). Scope: numbers only; engines supply probabilities and uniforms, and act on the answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError

__all__ = [
    "accept_lenient",
    "accept_lossless",
    "acceptance_rate",
    "best_block",
    "draw",
    "expected_tokens",
    "n_leading",
    "point_mass",
    "residual",
]

Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

MOST_DRAFTED = 32
"""Longest block that `best_block` considers."""


def accept_lossless(p: Array, q: Array, uniforms: Array) -> BoolArray:
    """Which tokens pass a test of probability min(1, p/q).

    Args:
        p: The verifier's probability of every drafted token, shape (k,).
        q: The drafter's, shape (k,), positive; 1 where the draft is a point mass.
        uniforms: Independent draws from [0, 1), shape (k,).
    """
    return np.asarray(uniforms * q < p)


def accept_lenient(p: Array, p_max: Array, tolerance: float) -> BoolArray:
    """Which tokens are at least `tolerance` times as probable as the most probable one, shape (k,).

    Raises:
        ConfigError: `tolerance` is not in (0, 1].
    """
    if not 0 < tolerance <= 1:
        raise ConfigError(f"tolerance must be in (0, 1], not {tolerance}; 1 accepts the most probable only")
    return np.asarray(p >= tolerance * p_max)


def n_leading(accepted: BoolArray) -> int:
    """How many tokens come before the first rejection."""
    return len(accepted) if accepted.all() else int(accepted.argmin())


def point_mass(token: int, n_vocab: int) -> Array:
    """All probability on one token, shape (n_vocab,)."""
    q = np.zeros(n_vocab)
    q[token] = 1.0
    return q


def residual(p: Array, q: Array) -> Array:
    """What is drawn from after a rejection: max(p - q, 0), normalised, shape (n_vocab,).

    Where p and q are equal nothing is ever rejected; rounding may still ask, and then p is as good.
    """
    rest = np.maximum(p - q, 0.0)
    total = rest.sum()
    return np.asarray(rest / total if total > 0 else p)


def draw(p: Array, uniform: float) -> int:
    """The token at `uniform` of the distribution function of p (shape (n_vocab,), any positive sum)."""
    cumulative = np.cumsum(p)
    last = np.searchsorted(cumulative, cumulative[-1])  # the product may round up to the total
    return int(min(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"), last))


def acceptance_rate(counts: Iterable[tuple[int, int]]) -> float:
    """Share of drafted tokens that pass their test, of those that were put to one.

    Args:
        counts: Of every draft its accepted and its drafted tokens; what follows a rejection was not tested.

    Raises:
        ConfigError: No token was ever tested.
    """
    n_accepted = n_tested = 0
    for accepted, drafted in counts:
        n_accepted += accepted
        n_tested += min(accepted + 1, drafted)
    if n_tested == 0:
        raise ConfigError("no drafted token was ever verified, so there is no rate of acceptance")
    return n_accepted / n_tested


def expected_tokens(acceptance: float, block: int) -> float:
    """Tokens a round of speculation yields: (1 - a^(k+1)) / (1 - a), the verifier's own one included."""
    return float(sum(acceptance**i for i in range(block + 1)))


def best_block(acceptance: float, draft_cost: float, verify_cost: float) -> int:
    """The block length with the most tokens per cost; 0: drafting does not pay.

    A round of k drafted tokens costs 1 + k * (draft_cost + verify_cost) and yields `expected_tokens`; the
    verifier alone costs 1 and yields 1. Tokens are taken to be accepted independently.

    Args:
        acceptance: Probability that a drafted token is accepted, in [0, 1].
        draft_cost: Cost of drafting a token, in decoding passes of the verifier.
        verify_cost: Cost of one more token in a verifying pass, same unit.

    Raises:
        ConfigError: `acceptance` is not in [0, 1], or a cost is negative or not finite.
    """
    if not 0 <= acceptance <= 1:
        raise ConfigError(f"acceptance must be in [0, 1], not {acceptance}")
    for cost in (draft_cost, verify_cost):
        if not (math.isfinite(cost) and cost >= 0):
            raise ConfigError(f"the costs of drafting and verifying must be at least 0, not {cost}")
    per_token = draft_cost + verify_cost
    rates = [expected_tokens(acceptance, k) / (1 + k * per_token) for k in range(MOST_DRAFTED + 1)]
    return int(np.argmax(rates))
