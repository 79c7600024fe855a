"""The words of the gate: verdicts, what they rest on, and the exit code they lead to.

exit code   meaning
0           nothing failed
1           pytest's own: a test failed
10          REGRESSED or BELOW_TARGET
11          MISSING: the baseline has a measurement that this run should have made and did not
12          CANNOT_JUDGE, under --strict; also a run that cannot be made here (no GPU, a library missing)
13          INCONCLUSIVE or PARTIAL, under --strict
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # scipy takes seconds to import, and the plugin is loaded for every pytest session
    from asd.evaluation.statistics import Loss

__all__ = ["CANNOT_RUN", "Finding", "Report", "Verdict"]

CANNOT_RUN = 12
"""Exit code of a run that cannot be made on this machine."""


class Verdict(StrEnum):
    """What the gate says about a metric, mildest first."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    NEW = "NEW"
    PARTIAL = "PARTIAL"
    INCONCLUSIVE = "INCONCLUSIVE"
    CANNOT_JUDGE = "CANNOT_JUDGE"
    MISSING = "MISSING"
    BELOW_TARGET = "BELOW_TARGET"
    REGRESSED = "REGRESSED"

    @property
    def severity(self) -> int:
        """Place in the order from mildest to worst."""
        return list(Verdict).index(self)


_FAILS = {Verdict.REGRESSED: 10, Verdict.BELOW_TARGET: 10, Verdict.MISSING: 11}
_FAILS_STRICT = {Verdict.CANNOT_JUDGE: CANNOT_RUN, Verdict.INCONCLUSIVE: 13, Verdict.PARTIAL: 13}


@dataclass(frozen=True, slots=True)
class Finding:
    """One verdict: on a metric of a cell, on a pool of cells, or on the run as a whole.

    `cells` are the ids of the cells it rests on; empty where `cell` is the one.
    """

    cell: str
    metric: str
    verdict: Verdict
    baseline: float | None = None
    current: float | None = None
    loss: Loss | None = None
    note: str = ""
    cells: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """All findings of a run, what differs in its surroundings, and what the process should exit with."""

    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]
    strict: bool

    @property
    def verdict(self) -> Verdict:
        """The worst finding; NEW measurements do not spoil a PASS."""
        worst = max((finding.verdict for finding in self.findings), key=lambda v: v.severity)
        return Verdict.PASS if worst is Verdict.NEW else worst

    @property
    def exit_code(self) -> int:
        """0, or the code of the worst finding that fails."""
        fails = _FAILS | (_FAILS_STRICT if self.strict else {})
        return fails.get(self.verdict, 0)

    @property
    def undecided(self) -> set[str]:
        """Ids of the cells that an INCONCLUSIVE finding rests on."""
        unclear = [finding for finding in self.findings if finding.verdict is Verdict.INCONCLUSIVE]
        return {cell for finding in unclear for cell in (finding.cells or (finding.cell,))}

    def of(self, cell: str, metric: str) -> Finding | None:
        """The worst finding on one metric of one cell."""
        found = [f for f in self.findings if (f.cell, f.metric) == (cell, metric)]
        return max(found, key=lambda finding: finding.verdict.severity, default=None)
