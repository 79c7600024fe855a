"""Choosing on rows that fitted nothing: which method, and which setting delivers what is asked.

Methods compete by inner cross-validation: for each, sum over a sweep of lam of its realised value

    sum_lam (lam * quality - cost) / (1 + lam)

every term in proportion to what is at stake there (an answer, and a call of the dearest stage). One winner
for the whole sweep: a winner per lam follows the noise of a few hundred rows (tried: it costs more than it
gains).

A loss that is asked for ("at most 1 point below the best single stage") picks the cheapest setting of the
winner's out-of-fold curve for which

    mean(d) - z * sd(d) / sqrt(n) >= -loss,    d = quality - quality of the reference, row by row

with z the normal quantile of the confidence stated. The reference is the best single stage on the rows fitted
on; it is also the fallback, with nothing saved, where no setting passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from asd.study.curves import SWEEP, Curve, cross_validate
from asd.study.policies import STOPS, Bought, Choice, Fitted, Method, Sight
from asd.study.recording import Recording

__all__ = ["Asked", "Best", "FittedBest", "reference_stage"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

CONFIDENCE = 0.6
"""How sure a setting must be to deliver what is asked."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A setting picked for an asked loss.

    Attributes:
        loss: Asked, in quality.
        lam: The setting; None: the fallback, the reference stage for every query.
        expected_loss: Mean loss of the setting on out-of-fold rows.
    """

    loss: float
    lam: float | None
    expected_loss: float


@dataclass(frozen=True, slots=True)
class Best:
    """The member that inner cross-validation values most, fitted on all rows.

    Attributes:
        members: Methods in order of preference; the first of equals is taken.
    """

    members: tuple[Method, ...]
    n_folds: int = 5
    name: str = "asd"

    def fit(self, train: Recording) -> FittedBest:
        """Cross-validate every member, fit the winner."""
        curves = [cross_validate(member, train, SWEEP, self.n_folds) for member in self.members]
        unit = float(train.costs.mean(axis=0).max()) or 1.0
        worth = [float((curve.values(unit).mean(axis=1) / (1.0 + curve.lams)).sum()) for curve in curves]
        best = int(np.argmax(worth))
        member = self.members[best]
        return FittedBest(member.name, member.fit(train), curves[best], reference_stage(train), train)


@dataclass(frozen=True, slots=True, eq=False)
class FittedBest:
    """The winner, and its curve on rows that had not fitted it."""

    winner: str
    fitted: Fitted
    curve: Curve
    reference: int
    train: Recording

    def on(self, rows: Recording) -> Sight:
        """Look at rows with the winner."""
        return self.fitted.on(rows)

    def ask(self, loss: float, confidence: float = CONFIDENCE) -> Asked:
        """The cheapest setting that loses no more than asked, as sure as stated; else the fallback."""
        more = self.curve.quality - self.train.scores[:, self.reference]
        n = more.shape[1]
        noise = more.std(axis=1, ddof=1) / np.sqrt(n)
        safe = more.mean(axis=1) - NormalDist().inv_cdf(confidence) * noise >= -loss
        costs = np.where(safe, self.curve.cost.mean(axis=1), np.inf)
        best = int(costs.argmin())
        if not costs[best] < self.train.costs[:, self.reference].mean():
            return Asked(loss, None, 0.0)
        return Asked(loss, float(self.curve.lams[best]), float(-more[best].mean()))


def reference_stage(rows: Recording) -> int:
    """The best single stage: largest mean score, the cheaper of equals."""
    quality, cost = rows.scores.mean(axis=0), rows.costs.mean(axis=0)
    return min(range(len(quality)), key=lambda k: (-quality[k], cost[k]))


@dataclass(frozen=True, slots=True, eq=False)
class Always:
    """One stage for every row, whatever lam; a method, a fitted method and a sight at once."""

    stage: int
    name: str = "always"

    def fit(self, train: Recording) -> Always:  # noqa: ARG002
        """Nothing to fit."""
        return self

    def on(self, rows: Recording) -> Always:  # noqa: ARG002
        """Nothing to look at."""
        return self

    def choose(self, lam: float, bought: Bought, index: Index) -> Choice:  # noqa: ARG002
        """Call the stage, then stop."""
        action = STOPS if self.stage in bought else self.stage
        return Choice(np.full(len(index), action), np.full(len(index), self.stage))
