"""How the next token is chosen from logits: the most probable, a draw, or one that is given.

Scope: tensors in, token ids out. What makes a draw exact after a rejection is `asd.stopping.acceptance`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from asd.engines import Sampling
from asd.errors import ConfigError

__all__ = ["Choose", "beginning_with", "chooser", "generator_of", "greedy", "sampler"]

Choose = Callable[[Tensor, Tensor, int], Tensor]
"""(logits [n, vocab], rows [n], step) -> token ids [n]; `rows` are the prompts' indices of the rows left."""


def greedy(logits: Tensor, rows: Tensor, step: int) -> Tensor:  # noqa: ARG001 - one signature for all choosers
    """The most probable token of every row."""
    return logits.argmax(-1)


def sampler(uniforms: Tensor, temperature: float) -> Choose:
    """Draws by inverting the distribution function at `uniforms[row, step]`.

    One uniform number per prompt and step, drawn beforehand: a row's answer depends on neither the order
    in which other rows stop nor the device's own generator. Exact up to float32 rounding of the sum.

    Args:
        uniforms: [prompts, steps] in [0, 1).
        temperature: Positive; the distribution is softmax(logits / temperature).
    """

    def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
        cumulative = (logits / temperature).softmax(-1).cumsum(-1)
        target = uniforms[rows, step].unsqueeze(1) * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, target, right=True).squeeze(1)
        return token.clamp_(max=logits.shape[-1] - 1)  # the product may round up to the total

    return choose


def beginning_with(tokens: Tensor, choose: Choose) -> Choose:
    """The first token of every prompt is given, `tokens` [prompts]; `choose` takes the others."""

    def first_given(logits: Tensor, rows: Tensor, step: int) -> Tensor:
        return tokens[rows] if step == 0 else choose(logits, rows, step)

    return first_given


def chooser(sampling: Sampling, n_prompts: int, n_steps: int, device: torch.device) -> Choose:
    """What `sampling` asks for; draws all its uniform numbers at once.

    Raises:
        ConfigError: As `generator_of`.
    """
    rng = generator_of(sampling)
    if rng is None:
        return greedy
    uniforms = rng.random((n_prompts, n_steps), dtype=np.float32)
    return sampler(torch.from_numpy(uniforms).to(device), sampling.temperature)


def generator_of(sampling: Sampling) -> np.random.Generator | None:
    """Where the draws come from; None: nothing is drawn.

    Raises:
        ConfigError: The temperature is no number of at least 0, or is positive and there is no generator.
    """
    temperature = sampling.temperature
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ConfigError(f"temperature must be a number of at least 0, not {temperature}")
    if temperature == 0:
        return None
    if sampling.rng is None:
        raise ConfigError(
            f"sampling at temperature {temperature} needs a random generator: Sampling(rng=...)"
        )
    return sampling.rng
