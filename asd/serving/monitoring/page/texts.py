"""How the live page writes what it shows."""

from __future__ import annotations

import math

__all__ = ["NONE", "NO_END", "seconds_text"]

NONE = "-"
NO_END = "no end"


def seconds_text(seconds: float | None) -> str:
    """A time to three digits; `NONE` where it is not known, `NO_END` where it is infinite."""
    if seconds is None:
        return NONE
    if seconds == math.inf:
        return NO_END
    return f"{seconds * 1e3:.3g} ms" if seconds < 1.0 else f"{seconds:.3g} s"
