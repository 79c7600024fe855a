"""What the arguments of several policies have in common."""

from __future__ import annotations

import math

from asd.errors import ConfigError

__all__ = ["check_lam", "check_stages"]


def check_lam(lam: float) -> None:
    """`ConfigError` unless it is a worth: finite and not negative."""
    if not 0 <= lam < math.inf:
        raise ConfigError(f"lam must be finite and not negative, got {lam}")


def check_stages(stages: tuple[str, ...]) -> None:
    """`ConfigError` unless there is one, and none is named twice."""
    if not stages or len(set(stages)) < len(stages):
        raise ConfigError(f"stages must be one or more different names, got {stages}")
