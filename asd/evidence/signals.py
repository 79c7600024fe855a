"""Other numbers known of an answer, beside its log-probabilities: brought to one scale without piled-up ends.

A served model's own confidence, a verifier's or a reward model's score, the share of samples that agree: a
`Draft` carries them by name. Log-probabilities are spread over magnitudes near 0, so that theirs is
-log(-v); shares become log-odds; scores keep their sign, sign(v) log(1 + |v|).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from asd.errors import DataError
from asd.types import Draft

__all__ = ["SignalKind", "kinds_of", "signal_features"]

SignalKind = Literal["log", "share", "score"]
"""What scale a signal is on."""

_LEAST = 1e-8
_HUGE = 1e9


def kinds_of(stage: str, drafts: Sequence[Draft]) -> dict[str, SignalKind]:
    """The scale of every signal of a stage's answers, by the range that it takes.

    Raises:
        DataError: Some answers have a signal and some do not, or one is not a number.
    """
    names = sorted({name for draft in drafts for name in draft.signals})
    for name in names:
        if n_without := sum(name not in draft.signals for draft in drafts):
            raise DataError(
                f"{n_without} of {len(drafts)} answers of stage {stage!r} have no signal {name!r}; record it "
                "for all of them or for none"
            )
    return {name: _kind([_number(draft, name) for draft in drafts]) for name in names}


def signal_features(draft: Draft, kinds: Mapping[str, SignalKind]) -> tuple[float, ...]:
    """One number a signal, in the order of `kinds`; minus infinity is the lowest there is.

    Raises:
        DataError: A signal is missing or not a number.
    """
    return tuple(_spread(kind, _number(draft, name)) for name, kind in kinds.items())


def _number(draft: Draft, name: str) -> float:
    value = draft.signals.get(name, math.nan)
    if math.isnan(value):
        raise DataError(
            f"an answer of stage {draft.stage!r} has no number for signal {name!r}; there are "
            f"{sorted(draft.signals)}: record it, or fit without it"
        )
    return value


def _kind(values: Sequence[float]) -> SignalKind:
    finite = [value for value in values if math.isfinite(value)]
    if max(finite, default=0.0) <= 0.0:
        return "log"
    return "share" if min(finite) >= 0.0 and max(finite) <= 1.0 else "score"


def _spread(kind: SignalKind, value: float) -> float:
    known = min(_HUGE, max(-_HUGE, value))
    if kind == "log":
        return -math.log(min(50.0, max(_LEAST, -known)))
    if kind == "share":
        share = min(1.0 - _LEAST, max(_LEAST, known))
        return math.log(share / (1.0 - share))
    return math.copysign(math.log1p(abs(known)), known)
