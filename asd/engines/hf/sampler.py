"""How the next token is chosen from logits: the most probable, a draw, or one that is given.

Scope: tensors in, token ids out. What makes a draw exact after a rejection is `asd.stopping.acceptance`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asd.engines import GREEDY, Sampling
from asd.engines.sampling import check_sampling

__all__ = ["TokenSampler", "chooser", "draw", "probabilities", "softened"]


@dataclass(frozen=True, slots=True)
class TokenSampler:
    """How the rows of a batch choose their tokens.

    One uniform number per prompt and step, drawn beforehand: a row's answer depends on neither the order in
    which other rows stop nor the device's own generator.

    Attributes:
        sampling: Greedy or drawn.
        uniforms: What draws go by, [prompts, steps] in [0, 1); None: greedy.
        first: The first token of every prompt, [prompts], where it is given.
        n_vocab: Only so many tokens may be chosen, the first ones; None: all.
    """

    sampling: Sampling = GREEDY
    uniforms: Tensor | None = None
    first: Tensor | None = None
    n_vocab: int | None = None

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """Token ids [n] from logits [n, vocab]; `rows` are the prompts' indices of the rows left."""
        if self.first is not None and step == 0:
            return self.first[rows]
        logits = logits[:, : self.n_vocab]
        if self.uniforms is None:
            return logits.argmax(-1)
        return draw(logits, self.uniforms[rows, step], self.sampling.temperature, nucleus(self.sampling))


def nucleus(sampling: Sampling) -> float | None:
    """The probability that the nucleus has together; None: everything is drawn from."""
    return sampling.top_p if sampling.top_p < 1 else None


def probabilities(logits: Tensor, sampling: Sampling, dtype: torch.dtype = torch.float32) -> Tensor:
    """What is drawn from, [..., vocab]: softmax at the temperature, zero outside of the nucleus."""
    return softened(logits, sampling.temperature, nucleus(sampling), dtype)


def softened(
    logits: Tensor,
    temperature: float | Tensor,
    top_p: float | Tensor | None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The same for numbers that may be on the device.

    The nucleus is found in float32 whatever `dtype` is asked for, so that it is the same tokens everywhere;
    of equally probable ones the smaller ids come first.
    """
    if top_p is not None:
        p, order = (logits / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
        is_outside = (p.cumsum(-1) - p >= top_p).gather(-1, order.argsort(-1))
        logits = logits.masked_fill(is_outside, -torch.inf)
    return (logits.to(dtype) / temperature).softmax(-1)


def draw(
    logits: Tensor, uniforms: Tensor, temperature: float | Tensor, top_p: float | Tensor | None
) -> Tensor:
    """Invert the distribution function of every row at its uniform number; exact up to float32 rounding.

    Args:
        logits: [n, vocab].
        uniforms: [n] in [0, 1).
        temperature: Positive.
        top_p: Of the nucleus; None: everything is drawn from.
    """
    cumulative = softened(logits, temperature, top_p).cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    token = torch.searchsorted(cumulative, uniforms.unsqueeze(1) * total, right=True)
    last = torch.searchsorted(cumulative, total)  # the product may round up to the total
    return torch.minimum(token, last).squeeze(1)


def chooser(sampling: Sampling, n_prompts: int, n_steps: int, device: torch.device) -> TokenSampler:
    """What `sampling` asks for; draws all its uniform numbers at once.

    Raises:
        ConfigError: As `check_sampling`.
    """
    rng = check_sampling(sampling)
    if rng is None:
        return TokenSampler(sampling)
    uniforms = rng.random((n_prompts, n_steps), dtype=np.float32)
    return TokenSampler(sampling, torch.from_numpy(uniforms).to(device))
