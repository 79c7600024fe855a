"""What is known about the answers so far, as one calibrated number per answer.

Scope: evidence reads drafts and prompts, never references, scores or tags; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from asd.types import Drafts, Query, Verification

__all__ = ["Evidence", "Judgement"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """One state as the stopping problem sees it.

    Attributes:
        node: Name of the node: "root", the stages run so far in ladder order joined by "+" ("S+L"), or with
            the stage that has read the best of their answers ("S+M>L").
        bin: Index into the node's bins.
        answer: Stage whose answer is the best so far (None at the root).
        p_good: Calibrated success probability of every answer so far, by stage; with a current verification,
            of the answer that was verified.
        scale: Expected cost of going on from here relative to the mean query (1.0: as long as the mean).
    """

    node: str
    bin: int
    answer: str | None
    p_good: Mapping[str, float]
    scale: float


class Evidence(Protocol):
    """Turns a prompt, the drafts bought so far and the current verification into a `Judgement`."""

    def judge(self, query: Query, drafts: Drafts, verification: Verification | None = None) -> Judgement:
        """Where in the stopping problem this query stands."""
