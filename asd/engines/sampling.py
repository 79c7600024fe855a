"""How engines are told to choose tokens: checked in one place, and in the words of servers and of vLLM."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from asd.engines import Sampling
from asd.errors import ConfigError

__all__ = ["check_sampling", "choices"]


def check_sampling(sampling: Sampling) -> np.random.Generator | None:
    """Where the draws come from; None: nothing is drawn.

    Raises:
        ConfigError: The temperature is no number of at least 0, or is positive and there is no generator;
            `top_p` is not in (0, 1].
    """
    temperature, top_p = sampling.temperature, sampling.top_p
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ConfigError(f"temperature must be a number of at least 0, not {temperature}")
    if not 0 < top_p <= 1:
        raise ConfigError(f"top_p must be in (0, 1], not {top_p}; 1 draws from all tokens")
    if temperature == 0:
        return None
    if sampling.rng is None:
        raise ConfigError(
            f"sampling at temperature {temperature} needs a random generator: Sampling(rng=...)"
        )
    return sampling.rng


def choices(sampling: Sampling, n: int) -> list[dict[str, Any]]:
    """The same for each of n requests, with a seed of its own drawn here, so that a run repeats.

    Raises:
        ConfigError: As `check_sampling`.
    """
    rng = check_sampling(sampling)
    if rng is None:
        return [{"temperature": 0.0, "top_p": 1.0}] * n
    choice = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    return [choice | {"seed": int(seed)} for seed in rng.integers(2**31, size=n)]
