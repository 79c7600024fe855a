"""Policies: in a state (what has been bought so far), stop or run which stage next.

One protocol for the optimal policy and for everything it is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from asd.types import Decision, Draft, Query


class Policy(Protocol):
    """`decide` is called with the drafts bought so far (insertion order = order of the calls; empty at first).

    It must not stop on an empty mapping, and must name only stages that have not been run.
    """

    @property
    def name(self) -> str:
        """Short, unique in a sweep, stable over runs: it becomes part of a baseline key."""

    def decide(self, query: Query, drafts: Mapping[str, Draft]) -> Decision:
        """Choose the next action for one query."""
