"""Choosing on rows that fitted nothing: which method, and which setting delivers what is asked.

Methods compete by inner cross-validation: for each, sum over a sweep of lam of its realised value

    sum_lam (lam * quality - cost) / (1 + lam)

every term in proportion to what is at stake there (an answer, and a call of the dearest stage). One winner
for the whole sweep: a winner per lam follows the noise of a few hundred rows (tried: it costs more than it
gains). For the same reason the first member stays unless another is surely worth more: by two standard errors
of their difference row by row (tried: by none, a half, one, one and a half).

A loss that is asked for ("at most 1 point below the best single stage") is read off the hull of the points

    (mean cost, mean(d) - z * sd(d) / sqrt(n)),    d = quality - quality of the reference, row by row

of the winner's out-of-fold curve, z the normal quantile of the confidence stated, together with the reference
itself, (its mean cost, 0): a setting, or the mix of two neighbouring ones that loses what was asked, no less.
The reference is the best single stage on the rows fitted on; where nothing is cheaper it is the fallback.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from statistics import NormalDist

import msgspec
import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError
from asd.research.offline.curves import SWEEP, Curve, best_stage, cross_validate_all, sweep
from asd.research.offline.policies import STOPS, Bought, Fitted, Method, RowActions, Sight
from asd.research.offline.signals import cost_unit
from asd.research.recordings.recording import Recording
from asd.stopping.hull import Hull

__all__ = [
    "CONFIDENCE",
    "Always",
    "Best",
    "CrossValidation",
    "FittedBest",
    "MixtureShare",
    "SelectedMix",
    "deliver",
    "reference_stage",
]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

CONFIDENCE = 0.75
"""How sure a setting must be to deliver what is asked."""


SURELY = 2.0
"""Standard errors by which a member must be worth more than the first."""


class MixtureShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Played for a share of the queries; lam None: the reference stage alone."""

    lam: float | None
    share: float


@dataclass(frozen=True, slots=True)
class SelectedMix:
    """What was picked for an asked loss.

    Attributes:
        loss: Asked, in quality.
        settings: One, or two whose shares sum to 1.
        expected_loss: Mean loss on out-of-fold rows.
    """

    loss: float
    settings: tuple[MixtureShare, ...]
    expected_loss: float

    @property
    def lams(self) -> list[float]:
        """Where the winner has to be played."""
        return [setting.lam for setting in self.settings if setting.lam is not None]


@dataclass(frozen=True, slots=True)
class Best:
    """The first member, or the one that inner cross-validation surely values more, fitted on all rows.

    Attributes:
        members: Methods, the one to be doubted last first.
        most_rows: Members compete on no more rows than this, evenly spaced: time goes into every member
            five times over, and on two thousand a difference is nearly as sure as it matters.
    """

    members: tuple[Method, ...]
    n_folds: int = 5
    most_rows: int = 2_000
    name: str = "best by cross-validation"

    def fit(self, train: Recording) -> FittedBest:
        """Let the members compete, fit the winner on all rows."""
        contest = self.compete(train)
        return FittedBest(self.members[contest.winner].fit(train), contest)

    def compete(self, train: Recording) -> CrossValidation:
        """Cross-validate every member."""
        train = train.thinned(self.most_rows)
        curves = cross_validate_all(self.members, train, SWEEP, self.n_folds)
        unit = cost_unit(train)
        best = _surely_best(np.stack([(1.0 / (1.0 + curve.lams)) @ curve.values(unit) for curve in curves]))
        reference = reference_stage(train)
        return CrossValidation(
            winner=best,
            name=self.members[best].name,
            curve=curves[best],
            reference=reference,
            quality=train.scores[:, reference],
            cost=float(train.costs[:, reference].mean()),
        )


def _surely_best(worth: Array) -> int:
    """The row of largest mean if it is surely larger than the first row's, else the first, shape (k, n)."""
    best = int(worth.mean(axis=1).argmax())
    more = worth[best] - worth[0]
    return best if more.mean() > SURELY * more.std() / np.sqrt(len(more)) else 0


@dataclass(frozen=True, slots=True, eq=False)
class CrossValidation:
    """What cross-validation said.

    Attributes:
        winner: Position of the member.
        name: Its name.
        curve: Its curve on rows that had not fitted it.
        reference: Position of the best single stage on the rows.
        quality: Its scores, shape (n,).
        cost: Its mean cost, in the recording's unit.
    """

    winner: int
    name: str
    curve: Curve
    reference: int
    quality: Array
    cost: float

    def ask(self, loss: float, confidence: float = CONFIDENCE) -> SelectedMix:
        """The cheapest mix that loses no more than asked, as sure as stated; else the fallback.

        Raises:
            ConfigError: `loss` is not a number from 0 on.
        """
        if not loss >= 0.0:
            raise ConfigError(f"ask for a loss of 0 or more, got {loss}")
        more = self.curve.quality - self.quality
        lost = np.append(-more.mean(axis=1), 0.0)
        noise = np.append(more.std(axis=1, ddof=1) / np.sqrt(more.shape[1]), 0.0)
        surely = -lost - NormalDist().inv_cdf(confidence) * noise
        cost = np.append(self.curve.cost.mean(axis=1), self.cost)
        lams = [*self.curve.lams.tolist(), None]
        mix = _mix(cost, surely, -loss)
        settings = tuple(MixtureShare(lams[i], share) for i, share in mix)
        return SelectedMix(loss, settings, float(sum(share * lost[i] for i, share in mix)))


def _mix(cost: Array, quality: Array, wanted: float) -> list[tuple[int, float]]:
    """Positions and shares of the one or two points that give the quality wanted at the least cost."""
    hull = Hull(zip(cost.tolist(), quality.tolist(), strict=True))
    above = int(np.searchsorted(hull.qualities, wanted))
    corners = [
        int(np.flatnonzero((cost == hull.costs[i]) & (quality == hull.qualities[i]))[-1])
        for i in range(max(above - 1, 0), above + 1)
    ]
    if len(corners) == 1:
        return [(corners[0], 1.0)]
    below, beyond = hull.qualities[above - 1], hull.qualities[above]
    share = float((wanted - below) / (beyond - below))
    mix = [(corners[0], 1.0 - share), (corners[1], share)]
    return [(i, part) for i, part in mix if part > 0.0]


@dataclass(frozen=True, slots=True, eq=False)
class FittedBest:
    """The winner, and how it won."""

    fitted: Fitted
    contest: CrossValidation

    def on(self, rows: Recording) -> Sight:
        """Look at rows with the winner."""
        return self.fitted.on(rows)


def deliver(asked: SelectedMix, played: Curve, rows: Recording, reference: int) -> Curve:
    """Rows by what was picked; where that is a mix, a checksum of its name says which a query gets.

    Args:
        asked: What was picked.
        played: The winner on these rows, at every lam of the settings, others as well.
        rows: The rows.
        reference: Position of the stage that answers where a setting says so.
    """
    settings = [
        sweep(Always(reference), rows, [1.0]) if s.lam is None else played.at(s.lam) for s in asked.settings
    ]
    if len(settings) == 1:
        return settings[0]
    coin = np.array([zlib.crc32("\n".join(key).encode()) / 2**32 for key in rows.keys])
    first = coin < asked.settings[0].share
    return Curve(
        settings[0].lams,
        *(
            np.where(first.reshape(1, -1, *[1] * (a.ndim - 2)), a, b)
            for a, b in zip(*(curve[1:] for curve in settings), strict=True)
        ),
    )


def reference_stage(rows: Recording) -> int:
    """The best single stage: largest mean score, the cheaper of equals."""
    return best_stage(rows.scores.mean(axis=0), rows.costs.mean(axis=0))


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

    def choose(self, lam: float, bought: Bought, index: Index) -> RowActions:  # noqa: ARG002
        """Call the stage, then stop."""
        action = STOPS if self.stage in bought else self.stage
        return RowActions(np.full(len(index), action), np.full(len(index), self.stage))
