"""How the next token is chosen from logits: the most probable, a draw, or one that is given.

Scope: tensors in, token ids out. What makes a draw exact after a rejection is `asd.stopping.acceptance`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from asd.engines import Sampling
from asd.engines.sampling import check_sampling

__all__ = ["Choose", "beginning_with", "chooser", "greedy", "probabilities", "sampler"]

Choose = Callable[[Tensor, Tensor, int], Tensor]
"""(logits [n, vocab], rows [n], step) -> token ids [n]; `rows` are the prompts' indices of the rows left."""


def greedy(logits: Tensor, rows: Tensor, step: int) -> Tensor:  # noqa: ARG001 - one signature for all choosers
    """The most probable token of every row."""
    return logits.argmax(-1)


def probabilities(logits: Tensor, sampling: Sampling, dtype: torch.dtype = torch.float32) -> Tensor:
    """What is drawn from, [..., vocab]: softmax at the temperature, zero outside of the nucleus.

    The nucleus is found in float32 whatever `dtype` is asked for, so that it is the same tokens everywhere;
    of equally probable ones the smaller ids come first.
    """
    if sampling.top_p < 1:
        p, order = (logits / sampling.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
        is_outside = (p.cumsum(-1) - p >= sampling.top_p).gather(-1, order.argsort(-1))
        logits = logits.masked_fill(is_outside, -torch.inf)
    return (logits.to(dtype) / sampling.temperature).softmax(-1)


def sampler(uniforms: Tensor, sampling: Sampling) -> Choose:
    """Draws by inverting the distribution function at `uniforms[row, step]`.

    One uniform number per prompt and step, drawn beforehand: a row's answer depends on neither the order
    in which other rows stop nor the device's own generator. Exact up to float32 rounding of the sum.

    Args:
        uniforms: [prompts, steps] in [0, 1).
        sampling: Its temperature is positive.
    """

    def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
        cumulative = probabilities(logits, sampling).cumsum(-1)
        total = cumulative[:, -1:].contiguous()
        target = uniforms[rows, step].unsqueeze(1) * total
        token = torch.searchsorted(cumulative, target, right=True)
        last = torch.searchsorted(cumulative, total)  # the product may round up to the total
        return torch.minimum(token, last).squeeze(1)

    return choose


def beginning_with(tokens: Tensor, choose: Choose) -> Choose:
    """The first token of every prompt is given, `tokens` [prompts]; `choose` takes the others."""

    def first_given(logits: Tensor, rows: Tensor, step: int) -> Tensor:
        return tokens[rows] if step == 0 else choose(logits, rows, step)

    return first_given


def chooser(sampling: Sampling, n_prompts: int, n_steps: int, device: torch.device) -> Choose:
    """What `sampling` asks for; draws all its uniform numbers at once.

    Raises:
        ConfigError: As `check_sampling`.
    """
    rng = check_sampling(sampling)
    if rng is None:
        return greedy
    uniforms = rng.random((n_prompts, n_steps), dtype=np.float32)
    return sampler(torch.from_numpy(uniforms).to(device), sampling)
