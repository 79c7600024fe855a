"""What a policy artifact remembers of its fit, and what every setting was worth on held-out rows."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from asd.evidence.metrics import Reliability
from asd.measurement.records import Record

__all__ = ["SURELY", "Errors", "FitRecord", "HeldOutSetting", "Method", "MethodComparison", "Replayed"]

Method = Literal["dp", "lists"]
"""Backward induction ("dynamic programming"), or a vote of lists."""

SURELY = 2.0
"""Standard errors by which lists must be cheaper to be chosen."""


class Errors(Record, frozen=True, kw_only=True):
    """Standard errors of the means of a replay over its rows.

    Attributes:
        quality: Of the mean score.
        cost: Of the mean cost, in units.
        lost: Of the mean score less the largest stage's, row by row.
        saved: Of the mean cost less the largest stage's alone, row by row.
    """

    quality: float
    cost: float
    lost: float
    saved: float


class Replayed(Record, frozen=True, kw_only=True):
    """What the policy of one lam was worth on rows that neither its evidence nor its kernels had seen.

    Attributes:
        lam: Trade-off weight.
        quality: Mean score.
        cost: Mean priced cost in units: runs of the largest stage alone.
        model_value: What the solved problem promised; lam * quality - cost is what was realised.
        alternative_value: What was realised with the other choice of `FitRecord.scaled`; where lists were
            fitted, by backward induction.
        errors: How sure the means are; None in files of versions that did not say.
    """

    lam: float
    quality: float
    cost: float
    model_value: float
    alternative_value: float
    errors: Errors | None = None

    def lower_quality(self, share: float, largest_error: float, z: float) -> float:
        """Quality less `z` standard errors of how far it lies above `share` of the largest stage's.

        With d the score less the largest stage's, that is the error of mean(d) + (1 - share) * mean(largest),
        at most the sum of its parts' errors. Without errors, the quality itself.
        """
        if self.errors is None:
            return self.quality
        return self.quality - z * (self.errors.lost + abs(1.0 - share) * largest_error)

    def __str__(self) -> str:
        if self.errors is None:
            return f"quality {self.quality:.3f}, cost {self.cost:.3f}"
        quality, cost = _interval(self.quality, self.errors.quality), _interval(self.cost, self.errors.cost)
        return f"quality {self.quality:.3f} ({quality}), cost {self.cost:.3f} ({cost})"

    def upper_cost(self, z: float) -> float:
        """Cost plus `z` standard errors of what it saves; without errors, the cost itself."""
        return self.cost if self.errors is None else self.cost + z * self.errors.saved


@dataclass(frozen=True, slots=True)
class HeldOutSetting:
    """The setting that is to keep a share of the largest stage's quality.

    Attributes:
        lam: The lam; None: the largest stage alone.
        why: In words, what was found on held-out rows.
    """

    lam: float | None
    why: str


class MethodComparison(Record, frozen=True, kw_only=True):
    """What the choice of a method rests on.

    Attributes:
        share: Of the largest stage's quality, asked for.
        dp: Held-out cost of backward induction at that quality, cost units.
        lists: The same of lists.
        error: Standard error of the difference.
        n_rows: Rows it was measured on.
    """

    share: float
    dp: float
    lists: float
    error: float
    n_rows: int

    @property
    def chosen(self) -> Method:
        """By the rule."""
        return "lists" if self.lists - self.dp < -SURELY * self.error else "dp"

    @property
    def turning_point(self) -> int | None:
        """Rows at which this difference would be two standard errors; None where lists are not cheaper."""
        if self.lists >= self.dp:
            return None
        return round(self.n_rows * (SURELY * self.error / (self.lists - self.dp)) ** 2)

    def __str__(self) -> str:
        costs = f"at {self.share:.4g} of the largest stage's quality backward induction costs {self.dp:.3f}"
        found = f"{costs}, lists {self.lists:.3f} (standard error of the difference {self.error:.3f})"
        if self.turning_point is None:
            return f"{found}: backward induction, which more rows would change only if lists became cheaper"
        if self.chosen == "lists":
            return f"{found}: lists; on fewer than {self.turning_point:,} rows it would not be sure"
        return (
            f"{found}: backward induction; lists if the difference stays the same on {self.turning_point:,} "
            f"rows in place of {self.n_rows:,}"
        )


class FitRecord(Record, frozen=True, kw_only=True):
    """Where the numbers come from.

    Attributes:
        fitted_at: When, as given by the caller.
        seed: Of the folds and of the root's cells.
        n_folds: Of the cross-fitting.
        n_rows: Queries fitted on, by dataset.
        n_unscored: Queries left out because an outcome was not scored.
        n_refused: Queries left out because a stage refused to answer them, or to read a draft.
        scaled: Long queries are decided at lam / scale, because that was worth more out of fold.
        reliability: Of every head out of fold, by node and stage ("root": from the prompt alone).
        largest_quality: Mean score of the largest stage alone.
        largest_error: Its standard error; 0 in files of versions that did not say.
        replayed: Out-of-fold value of the policy, by lam.
        batched: The same at the prices of larger batches, by their size.
        contest: How lists compare with backward induction, where they were counted.
    """

    fitted_at: str
    seed: int
    n_folds: int
    n_rows: dict[str, int]
    n_unscored: int
    scaled: bool
    reliability: dict[str, dict[str, Reliability]]
    largest_quality: float
    replayed: tuple[Replayed, ...]
    batched: dict[int, tuple[Replayed, ...]]
    n_refused: int = 0
    largest_error: float = 0.0
    contest: MethodComparison | None = None

    def __repr__(self) -> str:
        return f"FitRecord({sum(self.n_rows.values())} queries, {len(self.replayed)} lams, {self.fitted_at})"


def _interval(mean: float, error: float) -> str:
    """The normal 95 % interval, in words."""
    width = NormalDist().inv_cdf(0.975) * error
    return f"{mean - width:.3f} to {mean + width:.3f}"
