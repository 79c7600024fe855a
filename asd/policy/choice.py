"""Which policy of a fitted file is meant: by a weight, by a share of quality, or by what was guaranteed.

Nothing is solved here but what is returned; a setting that costs more than the largest stage alone and is
right no more often is never chosen on its own account, nor without a word where it was asked for.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.policies import FixedStage, Policy
from asd.policy.artifact import PolicyArtifact

__all__ = ["DEFAULT_LAM", "Choice", "choose"]

DEFAULT_LAM = 5.0
_LEAST = 1e-9
"""Smaller weights, 0 among them, have no other held-out rows near them."""


class Choice(NamedTuple):
    """A policy, and what whoever asked should know of it; empty where it is simply what was asked for."""

    policy: Policy
    note: str = ""


def choose(
    fitted: PolicyArtifact,
    ladder: Ladder,
    *,
    lam: float | None = None,
    quality: float | None = None,
    batch: int = 1,
) -> Choice:
    """The policy of a lam or of a share of quality; of neither: what is guaranteed, else `DEFAULT_LAM`.

    Args:
        fitted: What `asd fit` made.
        ladder: What the policy is going to steer.
        lam: Cost units that one fully right answer is worth.
        quality: Share of the reference's quality to keep, in (0, 1]: by the guarantee where it covers that,
            else by an estimate from held-out rows; where no setting keeps it, the largest stage answers.
        batch: Queries a call, which decides the prices.

    Raises:
        ConfigError: Both are given, one is out of range, every dataset has its own guarantee, or there are no
            prices or no guarantee at this batch size.
        PolicyMismatchError: The policy was fitted on another ladder.
    """
    if quality is not None:
        if lam is not None:
            raise ConfigError(f"give lam or quality, not both: lam = {lam:g}, quality = {quality:g}")
        return _keeping(fitted, ladder, quality, batch)
    if lam is not None:
        return Choice(fitted.policy(lam, ladder=ladder, batch=batch), _dearer(fitted, lam, batch))
    if fitted.guarantee is not None:
        return Choice(fitted.guaranteed_policy(ladder=ladder, batch=batch))
    return _default(fitted, ladder, batch)


def _keeping(fitted: PolicyArtifact, ladder: Ladder, share: float, batch: int) -> Choice:
    if not 0.0 < share <= 1.0:
        raise ConfigError(f"quality must be a share in (0, 1], got {share:g}")
    given = fitted.guarantee
    if given is not None and given.batch == batch and given.keep is not None and given.keep >= share:
        return Choice(fitted.guaranteed_policy(ladder=ladder, batch=batch))
    fitted.check(ladder)
    kept = fitted.keeping(share, batch)
    if kept.lam is None:
        return Choice(FixedStage(ladder.stages[-1].name), kept.why)
    return Choice(fitted.policy(kept.lam, ladder=ladder, batch=batch))


def _default(fitted: PolicyArtifact, ladder: Ladder, batch: int) -> Choice:
    """Nobody chose this lam: where it does not pay on held-out rows, the largest stage answers."""
    chosen = fitted.policy(DEFAULT_LAM, ladder=ladder, batch=batch)
    if not (dearer := _dearer(fitted, DEFAULT_LAM, batch)):
        return Choice(chosen)
    largest = ladder.stages[-1].name
    return Choice(FixedStage(largest), f"{largest} alone answers: {dearer}; give a lam, or fit on more rows")


def _dearer(fitted: PolicyArtifact, lam: float, batch: int) -> str:
    """What the lam came to on held-out rows, if the largest stage alone was cheaper and as good."""
    nearest = min(fitted.replayed(batch), key=lambda replayed: abs(math.log(replayed.lam / max(lam, _LEAST))))
    if not fitted.is_dearer(nearest):
        return ""
    return (
        f"on held-out rows lam {nearest.lam:g} came to {nearest}, and {fitted.model.stages[-1]} alone to "
        f"quality {fitted.fit.largest_quality:.3f} at cost 1"
    )
