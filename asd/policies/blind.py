"""Policies that look at no answer: one stage, a draw, or every stage drafting for the next."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np

from asd.errors import ConfigError
from asd.policies.checks import check_stages
from asd.types import STOP, VERIFY, Action, Decision, Drafts, Query, Verification

__all__ = ["FixedStage", "Lossless", "RandomMix", "run_only"]


@dataclass(frozen=True, slots=True)
class FixedStage:
    """Run one stage and return its answer, whatever it is."""

    stage: str

    @property
    def name(self) -> str:
        """The name with its stage, as in `always(L)`."""
        return f"always({self.stage})"

    def decide(self, query: Query, drafts: Drafts, verification: Verification | None = None) -> Decision:  # noqa: ARG002
        """Run the stage, then stop."""
        return run_only(self.stage, drafts)


@dataclass(frozen=True, slots=True)
class Lossless:
    """Every stage drafts for the next, which verifies and continues it: the last one's own answer, sooner.

    Changes time, never text: what is returned is what the last stage writes alone.

    Attributes:
        chain: Stages in the order in which they answer, at least two.

    Raises:
        ConfigError: there are fewer than two stages, or one is named twice.
    """

    chain: tuple[str, ...]

    def __post_init__(self) -> None:
        check_stages(self.chain)
        if len(self.chain) < 2:
            raise ConfigError(f"a draft needs another stage to verify it, got the stages {self.chain}")

    def without(self, stages: Collection[str]) -> Lossless | FixedStage:
        """The chain of the others, or the last one alone; `ConfigError` where the last one is not left."""
        *others, last = self.chain
        if last in stages:
            raise ConfigError(f"the text is that of {last}, which cannot be done without")
        drafting = [name for name in others if name not in stages]
        return Lossless((*drafting, last)) if drafting else FixedStage(last)

    @property
    def name(self) -> str:
        """The name with its stages, as in `lossless(S>L)`."""
        return f"lossless({VERIFY.join(self.chain)})"

    @property
    def actions(self) -> tuple[Action, ...]:
        """What it does before it stops."""
        first, *others = self.chain
        onwards = ((Action.verify(stage), Action.draft(stage)) for stage in others)
        return (Action.draft(first), *chain.from_iterable(onwards))

    def decide(self, query: Query, drafts: Drafts, verification: Verification | None = None) -> Decision:  # noqa: ARG002
        """Draft, verify, continue, and so on up to the last stage."""
        n_done = 2 * len(drafts) - 1 + (verification is not None) if drafts else 0
        latest = self.chain[len(drafts) - 1] if drafts else None
        return Decision(STOP if n_done == len(self.actions) else self.actions[n_done], latest)


@dataclass(frozen=True, slots=True, eq=False)
class RandomMix:
    """Run one stage drawn at random and return its answer; the draw is fixed by the seed and the query.

    Attributes:
        weights: How often each stage is drawn, relative to the others.
        seed: Another seed is another draw for every query.

    Raises:
        ConfigError: a weight is negative or not finite, or all are zero; the seed is negative.
    """

    weights: Mapping[str, float]
    seed: int

    def __post_init__(self) -> None:
        given = list(self.weights.values())
        if not all(math.isfinite(w) and w >= 0 for w in given) or not sum(given) > 0:
            raise ConfigError(f"weights must be finite, not negative, not all zero, got {dict(self.weights)}")
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}")

    @property
    def name(self) -> str:
        """The name with weights and seed, as in `random(S=1,L=1,seed=0)`."""
        mix = ",".join(f"{stage}={weight:g}" for stage, weight in self.weights.items())
        return f"random({mix},seed={self.seed})"

    def decide(self, query: Query, drafts: Drafts, verification: Verification | None = None) -> Decision:  # noqa: ARG002
        """Run the stage drawn for this query, then stop."""
        rng = np.random.default_rng([self.seed, zlib.crc32(f"{query.dataset}\0{query.id}".encode())])
        p = np.array(list(self.weights.values()))
        drawn = int(rng.choice(len(p), p=p / p.sum()))
        return run_only(list(self.weights)[drawn], drafts)


def run_only(stage: str, drafts: Drafts) -> Decision:
    """Run a stage and return its answer, whatever else has answered."""
    if stage in drafts:
        return Decision(STOP, stage)
    return Decision(Action.draft(stage), next(reversed([None, *drafts])))
