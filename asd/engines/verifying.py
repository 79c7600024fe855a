"""Drafts under a larger model's eyes: one forward pass over prompts and drafts says how much of each stands.

What is left is a batch that goes on after the accepted prefixes: the logits there are known, so the first new
token costs no pass. The border: tokens and logits; the rules are `asd.stopping.acceptance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asd.engines import Acceptance
from asd.engines.carrying import Carried
from asd.engines.choosing import generator_of
from asd.engines.decoding import Batch, PaddingSide, open_batch, read
from asd.engines.loading import Loaded
from asd.errors import ConfigError
from asd.stopping.acceptance import accept_lenient, accept_lossless, draw, n_leading, point_mass, residual

__all__ = ["Verified", "first_tokens", "verify"]


BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Verified:
    """What one pass said, by row.

    Attributes:
        logprobs: Natural log-probability of every drafted token at temperature 1.
        n_accepted: Length of the accepted prefix.
        batch: All that was read; its logits are those after the accepted prefix.
        drop: Tokens to take back from each row before it goes on.
    """

    logprobs: list[tuple[float, ...]]
    n_accepted: list[int]
    batch: Batch
    drop: list[int]


def verify(
    loaded: Loaded,
    prompts: Sequence[Sequence[int]],
    drafts: Sequence[Carried],
    acceptance: Acceptance,
    side: PaddingSide,
) -> Verified:
    """Read every prompt with its draft in one forward pass.

    Raises:
        ConfigError: `acceptance` cannot be followed.
        EngineError: As `asd.engines.decoding.read`.
    """
    batch = open_batch(loaded.model, len(prompts), loaded.context)
    pieces = [[*prompt, *draft.fed] for prompt, draft in zip(prompts, drafts, strict=True)]
    n_last = [len(draft.fed) + 1 for draft in drafts]
    logits = read(batch, pieces, n_last, side)
    starts = list(accumulate(n_last, initial=0))
    at = [start + i for start, draft in zip(starts, drafts, strict=False) for i in range(len(draft.tokens))]
    drafted = torch.tensor([token for draft in drafts for token in draft.tokens], device=logits.device)
    scores = logits if len(at) == len(logits) else logits[torch.tensor(at, device=logits.device)]
    logprobs, accepted = _judge(scores, drafted.long(), acceptance)
    bounds = list(pairwise(accumulate((len(draft.tokens) for draft in drafts), initial=0)))
    n_accepted = [n_leading(accepted[a:b]) for a, b in bounds]
    went_on = [min(n, len(draft.fed)) for n, draft in zip(n_accepted, drafts, strict=True)]
    after = [start + n for start, n in zip(starts, went_on, strict=False)]
    batch.logits = logits[torch.tensor(after, device=logits.device)]
    return Verified(
        logprobs=[tuple(logprobs[a:b]) for a, b in bounds],
        n_accepted=n_accepted,
        batch=batch,
        drop=[len(draft.fed) - n for draft, n in zip(drafts, went_on, strict=True)],
    )


def _judge(scores: Tensor, drafted: Tensor, acceptance: Acceptance) -> tuple[list[float], BoolArray]:
    """Log-probability of every drafted token and whether it passes, from the logits before it [k, vocab]."""
    rng = generator_of(acceptance.sampling)
    everything = scores.log_softmax(-1)
    logprobs = everything.gather(1, drafted.unsqueeze(1)).squeeze(1)
    if acceptance.tolerance is not None:
        if rng is not None:
            raise ConfigError("lenient acceptance is greedy: give a tolerance or a temperature, not both")
        most = everything.amax(-1).exp()
        accepted = accept_lenient(_host(logprobs.exp()), _host(most), acceptance.tolerance)
    elif rng is None:
        accepted = _host(scores.argmax(-1) == drafted)
    else:
        p = (scores / acceptance.sampling.temperature).softmax(-1).gather(1, drafted.unsqueeze(1)).squeeze(1)
        accepted = accept_lossless(_host(p), np.ones(len(drafted)), rng.random(len(drafted)))
    return logprobs.tolist(), accepted


def first_tokens(
    logits: Tensor, rejected: Sequence[int | None], temperature: float, rng: np.random.Generator
) -> Tensor:
    """What follows each accepted prefix, drawn so that the answer is distributed as the verifier's own.

    Args:
        logits: After the accepted prefix, [n, vocab].
        rejected: The token rejected there, by row; None where the whole draft was accepted.
        temperature: Positive.
        rng: Gives one number a row.
    """
    rows = _host((logits.double() / temperature).softmax(-1))
    left = [
        p if token is None else residual(p, point_mass(token, len(p)))
        for p, token in zip(rows, rejected, strict=True)
    ]
    chosen = [draw(p, uniform) for p, uniform in zip(left, rng.random(len(left)), strict=True)]
    return torch.tensor(chosen, device=logits.device)


def _host(values: Tensor) -> Any:
    return values.cpu().numpy()
