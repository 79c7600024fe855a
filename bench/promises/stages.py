"""Stages that write a token now and then, and fail in eight ways when they are told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from asd.cancellation import CancelToken, tokens_of
from asd.engines import GREEDY, Sampling
from asd.errors import (
    ConfigError,
    EngineError,
    OutOfMemoryError,
    PartialBatchError,
    RefusedError,
    UnavailableError,
)
from asd.ladder import Ladder, Stage
from asd.prices import Prices
from asd.types import STOP, Action, Decision, Draft, Query, Usage, Verification

__all__ = ["FAULTS", "LADDER", "Climb", "WritingStage"]

TOKEN_S = 0.002
N_TOKENS = 10
ENDLESS_S = 30.0
LADDER = Ladder(
    "writing",
    tuple(Stage(name, f"writing/{name}", Prices(1.0, 0.01, rate)) for name, rate in (("S", 0.1), ("L", 0.4))),
    "declared",
    "declared, for stages that compute nothing",
)

Fault = Callable[[Sequence[Query]], None]


def _down(_: Sequence[Query]) -> None:
    raise UnavailableError("the connection was refused")


def _late(_: Sequence[Query]) -> None:
    time.sleep(0.3)
    raise TimeoutError("no reply in time")


def _broken(_: Sequence[Query]) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _full(queries: Sequence[Query]) -> None:
    if len(queries) > 1:
        raise OutOfMemoryError("the batch does not fit")


def _refusing(_: Sequence[Query]) -> None:
    raise RefusedError("filtered")


def _partial(queries: Sequence[Query]) -> None:
    why = {i: EngineError("one of them failed") for i in range(0, len(queries), 2)}
    done = {i: _draft("S", N_TOKENS) for i in range(1, len(queries), 2)}
    raise PartialBatchError("half of them failed", done, why)


def _deaf(_: Sequence[Query]) -> None:
    time.sleep(1.0)  # hears no cancellation


def _silent(queries: Sequence[Query]) -> None:
    for token in tokens_of(queries):
        gone = threading.Event()
        with token.calling(gone.set):
            gone.wait(5)
    raise UnavailableError("said nothing for 5 s")


FAULTS: Mapping[str, Fault] = {
    "connection refused": _down,
    "time-out": _late,
    "device error": _broken,
    "memory short": _full,
    "query refused": _refusing,
    "half a batch": _partial,
    "deaf for 1 s": _deaf,
    "silent": _silent,
}


@dataclass
class WritingStage:
    """A stage that writes `N_TOKENS` tokens, or as many as are asked for, until it is cancelled.

    Args:
        stage_name: Its name.
        faults: Those that befall it, each as probable.
        p_fault: Probability that a call meets one of them.
        endless: It writes until it is cancelled, `ENDLESS_S` at most.

    Attributes:
        ended_at: When the work for a query ended, by its prompt (`time.monotonic`).
        met: How often each fault was met.
    """

    stage_name: str
    faults: Collection[str] = ()
    p_fault: float = 0.0
    endless: bool = False
    seed: int = 0
    ended_at: dict[str, float] = field(default_factory=dict)
    met: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def load(self) -> None:
        """Nothing to load."""

    unload = synchronise = load

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:  # noqa: ARG002
        """Write, or fail."""
        if self.faults and self._rng.random() < self.p_fault:
            name = str(self._rng.choice(list(self.faults)))
            self.met[name] = self.met.get(name, 0) + 1
            FAULTS[name](queries)
        tokens, counts = tokens_of(queries), [0] * len(queries)
        most = ENDLESS_S / TOKEN_S if self.endless else N_TOKENS
        while still_open := [
            i for i, n in enumerate(counts) if n < most and not self._is_over(queries[i], tokens[i])
        ]:
            for i in still_open:
                counts[i] += 1
            time.sleep(TOKEN_S)
        return [_draft(self.stage_name, max(1, n)) for n in counts]

    def _is_over(self, query: Query, token: CancelToken) -> bool:
        if token.cancelled:
            self.ended_at.setdefault(query.prompt, time.monotonic())
        return token.cancelled


def _draft(stage: str, n: int) -> Draft:
    return Draft(stage, "a" * n, tuple(range(n)), (-0.1,) * n, n == N_TOKENS, Usage(3, n, n), n * TOKEN_S)


class Climb:
    """Asks one stage after the other and returns the last one's answer."""

    name = "climb"

    def __init__(self, stages: Sequence[str]) -> None:
        self.stages = tuple(stages)

    def decide(
        self,
        query: Query,  # noqa: ARG002
        drafts: Mapping[str, Draft],
        verification: Verification | None = None,  # noqa: ARG002
    ) -> Decision:
        """The next stage, or the end."""
        left = [stage for stage in self.stages if stage not in drafts]
        action = Action.draft(left[0]) if left else STOP
        return Decision(action, next(reversed([None, *drafts])), dict.fromkeys(drafts, 0.5))

    def without(self, stages: Collection[str]) -> Climb:
        """The others."""
        left = [stage for stage in self.stages if stage not in stages]
        if not left:
            raise ConfigError("no stage is left")
        return Climb(left)
