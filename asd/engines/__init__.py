"""Engines run a stage: prompts in, drafts out. One engine object serves one stage.

Scope: an engine knows tokens, caches and devices; it knows nothing of cost, quality or policies.
Heavy libraries are imported inside the engine modules, never here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from asd.types import NO_CALL, Draft, Query, Usage, Verification

__all__ = [
    "GREEDY",
    "LOSSLESS",
    "Acceptance",
    "Accepting",
    "Concurrent",
    "Drafted",
    "Engine",
    "Gauged",
    "Sampling",
    "StepMode",
    "Stepping",
    "TakesTurns",
    "Verifier",
    "accepted",
    "alone",
    "continuation_usage",
    "step_mode",
]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen: greedy at temperature 0, else drawn.

    Attributes:
        temperature: Tokens are drawn from softmax(logits / temperature); 0: the most probable one is taken.
        rng: Where the draws come from; needed above temperature 0.
        top_p: Draw from the nucleus only: the most probable tokens, as few as have at least this probability
            together at the temperature, in (0, 1] (arXiv 1904.09751).
    """

    temperature: float = 0.0
    rng: np.random.Generator | None = None
    top_p: float = 1.0


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Acceptance:
    """When a verifier takes a token of a draft as its own, and how it chooses where it does not.

    Attributes:
        sampling: How the verifier chooses tokens. Lossless: at temperature 0 the answer is the one it would
            have written alone, above it one drawn from the same distribution, whatever the draft.
        tolerance: None, or lenient: a token is taken while its probability is at least this share of the
            most probable one's, in (0, 1]; greedy from the first other one on. Changes answers.
    """

    sampling: Sampling = GREEDY
    tolerance: float | None = None


LOSSLESS = Acceptance()


class Engine(Protocol):
    """What the cascade needs from a runtime. `generate` answers in the order of the queries, or raises.

    An answer counts what it took (`Usage`): a text without a decoded token or a forward pass is refused.

    A stage that fails raises `EngineError`, `OSError` (a `TimeoutError` is one), `RuntimeError` or
    `MemoryError`; `PartialBatchError` where some answers came about, `OutOfMemoryError` where fewer queries
    may fit. Anything else is taken for a bug and ends the run, so translate what your library raises.

    An optional `close()` gives back what `unload` does not; a cascade calls it at its end, else `unload`.
    """

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
    """An engine that can also score another stage's draft and continue from where it disagrees.

    Lossless: `continue_` after `verify` writes, token for token, what `generate` would have written.
    """

    def verify(
        self, queries: Sequence[Query], drafts: Sequence[Draft], acceptance: Acceptance = LOSSLESS
    ) -> list[Verification]:
        """Read one draft per query in one forward pass; same order. Drafts may be another tokenizer's.

        `Verification.text` is set only where `continue_` would return it without writing a token.
        """

    def continue_(
        self,
        queries: Sequence[Query],
        verifications: Sequence[Verification],
        acceptance: Acceptance = LOSSLESS,
    ) -> list[Draft]:
        """Go on after each accepted prefix, from the cache `verify` left where it is still there.

        The draft holds the whole answer, the accepted prefix included; its `usage` counts this call only.
        `acceptance` is the one that `verify` was given.
        """


@runtime_checkable
class Concurrent(Engine, Protocol):
    """An engine that takes several calls at once, each from a thread of its own, and batches by itself."""

    @property
    def concurrency(self) -> int:
        """Most calls at a time."""


@runtime_checkable
class Accepting(Engine, Protocol):
    """An engine that can follow some of `Query.extras`; others refuse such a query (`RefusedError`)."""

    @property
    def accepts(self) -> frozenset[str]:
        """Names among "tools" and "response_format"."""


@runtime_checkable
class Gauged(Engine, Protocol):
    """An engine that can tell how busy whatever it asks is."""

    def gauges(self) -> Mapping[str, float]:
        """Numbers by name; may take seconds, and is empty where nothing is told.

        "running" and "waiting" are requests that its server has, whoever sent them, "kv cache in use" is a
        share of its room for keys and values, "memory" one of its device's memory.
        """


@runtime_checkable
class TakesTurns(Engine, Protocol):
    """An engine that may not be in memory when it is asked, and is loaded then."""

    @property
    def is_resident(self) -> bool:
        """Whether a call could begin without a load."""


@runtime_checkable
class Drafted(Verifier, Protocol):
    """A stage for which a smaller one drafts while it writes: the same answers, sooner."""

    @property
    def alone(self) -> Verifier:
        """The same stage without its drafter."""


StepMode = Literal["eager", "static", "graph", "compiled"]
"""How a stage makes its decode steps: each launched from Python over a cache that grows ("eager") or one of a
fixed size ("static"), or replayed from a CUDA graph ("graph"), whose kernels a compiler fused ("compiled").
"""


@runtime_checkable
class Stepping(Engine, Protocol):
    """An engine that says how it makes its decode steps, so that times of two modes are never compared."""

    @property
    def step_mode(self) -> StepMode | None:
        """The slowest mode since the stage was loaded; before, the one that its options ask for.

        None: it is not known, as of a server.
        """


def step_mode(engine: Engine) -> StepMode | None:
    """How an engine makes its decode steps; None: it does not say."""
    return engine.step_mode if isinstance(engine, Stepping) else None


def accepted(engine: Engine) -> frozenset[str]:
    """What of `Query.extras` an engine can follow."""
    return engine.accepts if isinstance(engine, Accepting) else frozenset()


def alone(engine: Engine) -> Engine:
    """The engine without its drafter, if it has one."""
    return engine.alone if isinstance(engine, Drafted) else engine


def continuation_usage(own: Draft, verification: Verification) -> Usage:
    """Counts of `continue_` where the cache is still there, from what the verifier writes alone.

    Args:
        own: The verifier's own answer to the query.
        verification: What it said of the draft.
    """
    n_left = len(own.tokens) - verification.n_accepted
    if n_left <= 0:
        return NO_CALL
    return Usage(n_prompt=0, n_decoded=n_left, n_passes=n_left - 1)
