"""Engines run a stage: prompts in, drafts out. One engine object serves one stage.

The border: an engine knows tokens, caches and devices; it knows nothing of cost, quality or policies.
Heavy libraries are imported inside the engine modules, never here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from asd.types import Draft, Query, Verification

__all__ = ["GREEDY", "Engine", "Sampling", "Verifier"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen: greedy at temperature 0, else softmax sampling from `rng`."""

    temperature: float = 0.0
    rng: np.random.Generator | None = None


GREEDY = Sampling()


class Engine(Protocol):
    """What the cascade needs from a runtime. `generate` answers in the order of the queries, or raises."""

    @property
    def stage_name(self) -> str:
        """Name of the stage this engine serves; goes into every draft."""

    def load(self) -> None:
        """Bring the weights into memory; a second call does nothing."""

    def unload(self) -> None:
        """Give the memory back; a later `generate` loads again."""

    def synchronise(self) -> None:
        """Wait until every device this stage uses is idle (for timing)."""

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        """Answer one batch of queries: one draft per query, same order."""


@runtime_checkable
class Verifier(Engine, Protocol):
    """An engine that can also score another stage's draft and go on from where it disagrees.

    Lossless: `continue_` after `verify` writes, token for token, what `generate` would have written.
    """

    def verify(self, queries: Sequence[Query], drafts: Sequence[Draft]) -> list[Verification]:
        """Read one draft per query in one forward pass; same order. Drafts may be another tokenizer's."""

    def continue_(self, queries: Sequence[Query], verifications: Sequence[Verification]) -> list[Draft]:
        """Go on after each accepted prefix, from the cache `verify` left where it is still there.

        The draft holds the whole answer, the accepted prefix included; its `usage` counts this call only.
        """
