"""Workloads: where queries come from and how an answer is scored. One dataset a module."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from asd.quality.thinking import without_thinking
from asd.types import Query

__all__ = ["FreeText", "Split", "Versioned", "Workload", "score_of"]

Split = Literal["fit", "calibrate", "test"]
"""Disjoint by construction: what fits predictor and policy, what calibrates a guarantee, what is reported."""


class Workload(Protocol):
    """A named set of queries with a scoring rule."""

    @property
    def name(self) -> str:
        """Name of the dataset; the `dataset` of its queries."""

    def queries(self, split: Split, limit: int) -> list[Query]:
        """The first `limit` queries of a split, always the same ones in the same order."""

    def score(self, query: Query, text: str) -> float:
        """Quality of an answer in [0, 1]; what a model thought aloud before it is left out of `text`."""


@runtime_checkable
class Versioned(Protocol):
    """A workload whose rows come from somewhere, and that can say which they are."""

    @property
    def version(self) -> str:
        """Checksums or commits; equal versions have equal rows."""


@runtime_checkable
class FreeText(Protocol):
    """A workload that says what its answers are, so that texts may be measured by likeness to a reference."""

    @property
    def kind(self) -> str:
        """One of "text", "translation", "summary"; anything else is right or wrong, whatever the words."""

    def reply(self, text: str) -> str:
        """The part of what a model wrote that counts."""


def score_of(workload: Workload, query: Query, text: str) -> float:
    """Quality of what a model wrote: by its workload, without what it thought aloud."""
    return workload.score(query, without_thinking(text))
