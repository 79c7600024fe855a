"""What was promised about a policy, as it is stored with it: what `asd fit --keep` or `--cap-cost` came to.

    with probability 1 - delta over the draw of the calibration rows, on queries like them:
    mean quality >= keep * the reference's, mean of min(cost, cost_bound) <= cap_cost

The reference is the best single stage on the fitting rows. Where no setting passed, `Grant.lam` is None: the
fallback is a single stage, nothing is saved, and `n_needed` says about how many rows would do. Scope: a
record and its words; `asd.guarantee.certificate` makes it.
"""

from __future__ import annotations

from asd.measurement.records import Record

__all__ = ["EVERYTHING", "Grant", "Guarantee"]

EVERYTHING = "*"
"""Name of the one group where the promise is about all datasets together."""


class Grant(Record, frozen=True, kw_only=True):
    """What is promised for one group of queries.

    Attributes:
        stage: The single stage compared with and, where `lam` is None, used: the best on the fitting rows
            (with a cap on cost alone, the cheapest).
        n: Calibration rows.
        lam: Trade-off weight of the policy that passed; None: not enough evidence for any.
        p_value: Of that policy, of two requirements the larger; None without one.
        n_needed: Where `lam` is None: rows that would do at even odds if they were like these; None where
            no number of such rows would, because the target is missed or nothing is saved.
        quality: Mean score of what is used, on the calibration rows.
        stage_quality: Of the single stage.
        cost: Mean cost of what is used, in cost units, on the calibration rows.
        stage_cost: Of the single stage.
        watched: `asd.guarantee.monitor.signals` of what is used on the calibration rows, by name: what live
            queries are compared with.
    """

    stage: str
    n: int
    lam: float | None
    p_value: float | None
    n_needed: int | None
    quality: float
    stage_quality: float
    cost: float
    stage_cost: float
    watched: dict[str, tuple[float, ...]]

    @property
    def saving(self) -> float:
        """Share of the single stage's cost that is not paid (0 if it is free), from the calibration rows."""
        return 1.0 - self.cost / self.stage_cost if self.stage_cost else 0.0

    def __str__(self) -> str:
        if self.lam is None or self.p_value is None:
            remedy = "no number of such rows" if self.n_needed is None else f"about {self.n_needed} rows"
            return f"not enough evidence in {self.n} rows ({remedy} would do): always {self.stage}, saving 0"
        return (
            f"lam {self.lam:.3g}: quality {self.quality:.3f} against {self.stage_quality:.3f} of "
            f"{self.stage} alone, saving {self.saving:.1%} (p = {self.p_value:.2g}, {self.n} rows)"
        )


class Guarantee(Record, frozen=True, kw_only=True):
    """A promise and, for every group, what it came to.

    Attributes:
        keep: Share of the reference's quality that is kept; None: not asked for.
        cap_cost: What the mean cost stays below, cost units; None: not asked for.
        cost_bound: Costs beyond this count as this where the cap is concerned: every stage of the ladder, on
            the dearest of the fitting rows, cost units.
        delta: Probability that any of it is wrong, all groups together.
        n_lams: Settings that could have been chosen.
        grants: By dataset, or one for `EVERYTHING`.
        batch: Queries a call: at the prices of another batch size the policy is another one, and nothing is
            promised.
    """

    keep: float | None
    cap_cost: float | None
    cost_bound: float
    delta: float
    n_lams: int
    grants: dict[str, Grant]
    batch: int = 1

    def __str__(self) -> str:
        parts = []
        if self.keep is not None:
            parts.append(f"at least {self.keep:.4g} of the reference's quality")
        if self.cap_cost is not None:
            parts.append(f"mean cost of at most {self.cap_cost:g} (costs above {self.cost_bound:.3g} cut)")
        promised = f"with probability {1 - self.delta:.4g}, at batch {self.batch}: {', and '.join(parts)}"
        lines = [promised]
        return "\n".join([*lines, *(f"{_label(group)}{grant}" for group, grant in self.grants.items())])


def _label(group: str) -> str:
    return "" if group == EVERYTHING else f"{group}: "
