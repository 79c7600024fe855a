"""Answers that one stage wrote twice and not alike: how near were the two?

In float32 greedy decoding writes the same tokens however queries are batched, drafted for or verified. A
shorter dtype rounds the logits, and how depends on the shape of a call: where two tokens are nearer, either
may be written, and all that follows it is another text. So a difference has a gap, in nats:

    gap = |log p(a) - log p(b)|     of the two tokens at the first place where the answers differ,

both read by the stage itself in one verification pass over the prefix that they share. Within `rounding` it
is a near-tie, which is counted; beyond, the answer is not one that the stage would have written: a failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asd.engines import Engine, Verifier, alone
from asd.evaluation.live import TimedPasses
from asd.evaluation.replay import walk_of
from asd.types import Completion, Draft, Query, Trace

__all__ = ["OF_TIES", "Ties", "gap", "rounding", "ties_of"]

OF_TIES = ("near_ties", "widest_gap")
"""Metrics that are measured outside float32 only."""

ROUNDING = {"float32": 1e-4, "float16": 0.0625, "bfloat16": 0.5}
"""Nats within which two tokens are a near-tie: four units in the last place of a logit of 16 to 32."""


@dataclass(frozen=True, slots=True)
class Ties:
    """Answers that the same stage wrote when they were replayed, but not alike.

    Attributes:
        gaps: Of those that differ; 0 where only the way there does.
        n: Answers compared.
        rounding: Of the dtype, in nats.
    """

    gaps: tuple[float, ...]
    n: int
    rounding: float

    @property
    def share(self) -> float:
        """Of the answers, those that differ by a near-tie."""
        return sum(one <= self.rounding for one in self.gaps) / self.n

    @property
    def widest(self) -> float:
        """The widest gap; 0 where no answer differs."""
        return max(self.gaps, default=0.0)


def rounding(dtype: str) -> float:
    """Of the coarsest of the dtypes in "bfloat16+float32"; of one that is not known ("auto"), bfloat16's."""
    return max(ROUNDING.get(part, ROUNDING["bfloat16"]) for part in dtype.split("+"))


def ties_of(timed: TimedPasses, traces: Sequence[Trace], engines: Mapping[str, Engine], dtype: str) -> Ties:
    """Every live answer beside the replayed one.

    Args:
        timed: The live answers.
        traces: What was recorded of the same items, in the same order.
        engines: One a stage; of those that cannot verify no gap is known, so no difference is a near-tie.
        dtype: That the stages compute in.
    """
    pairs = zip(timed.completions, timed.expected, traces, strict=True)
    gaps = [_gap_of(live, trace, engines) for live, replayed, trace in pairs if _is_other(live, replayed)]
    return Ties(tuple(found for found in gaps if found is not None), len(timed.completions), rounding(dtype))


def gap(engine: Verifier, query: Query, first: Draft, second: Draft) -> float:
    """Between the tokens where two answers of this stage first differ; 0 where one is only longer."""
    read = engine.verify([query, query], [first, second])
    for (a, log_a), (b, log_b) in zip(*(zip(v.tokens, v.logprobs, strict=True) for v in read), strict=False):
        if a != b:
            return float(abs(log_a - log_b))
    return 0.0


def _is_other(live: Completion, replayed: Completion) -> bool:
    """The same stage answered, in other words or by another way."""
    return live.stage == replayed.stage and (live.text, walk_of(live)) != (replayed.text, walk_of(replayed))


def _gap_of(live: Completion, trace: Trace, engines: Mapping[str, Engine]) -> float | None:
    replayed, engine = trace.outcomes[live.stage].draft, alone(engines[live.stage])
    if live.text == replayed.text:
        return 0.0
    if not isinstance(engine, Verifier):
        return None
    own = next(draft for draft in reversed(live.drafts) if draft.stage == live.stage)
    return gap(engine, live.query, replayed, own)
