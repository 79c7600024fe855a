"""Drafts under a larger model's eyes: one forward pass over prompts and drafts says how much of each stands.

What is left is a batch that continues after the accepted prefixes: the logits there are known, so the first
new token costs no pass. Scope: tokens and logits; the rules are `asd.stopping.acceptance`.
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

from asd.engines import Acceptance, Sampling
from asd.engines.hf.decoder import Batch
from asd.engines.hf.retokenizer import Carried
from asd.engines.hf.sampler import probabilities
from asd.engines.sampling import check_sampling
from asd.errors import ConfigError
from asd.stopping.acceptance import accept_lenient, accept_lossless, draw, n_leading, residual

__all__ = ["Judged", "first_tokens", "read_drafts"]


Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Judged:
    """What logits say of drafts, by row.

    Attributes:
        tokens: What was judged: the drafts, ending in the verifier's most probable stop token where any will
            do.
        logprobs: Natural log-probability of each of them at temperature 1.
        n_accepted: Length of the accepted prefix.
        after: Logits after the accepted prefix, [n, vocab]; of a closed draft accepted whole, meaningless.
        drop: Tokens that were read beyond the accepted prefix.
    """

    tokens: list[tuple[int, ...]]
    logprobs: list[tuple[float, ...]]
    n_accepted: list[int]
    after: Tensor
    drop: list[int]


def read_drafts(
    batch: Batch,
    pieces: Sequence[Sequence[int]],
    drafts: Sequence[Carried],
    acceptance: Acceptance,
    q: Array | None = None,
) -> Judged:
    """Let every row read a piece and then its draft, in one forward pass.

    Args:
        batch: What the rows have read so far.
        pieces: What comes before the drafts, by row, none empty.
        drafts: By row.
        acceptance: The rule.
        q: Probability of every drafted token when it was drawn, all rows in one; None: point masses.

    Raises:
        ConfigError: `acceptance` cannot be followed.
    """
    fed = [len(draft.fed) for draft in drafts]
    texts = [[*piece, *draft.fed] for piece, draft in zip(pieces, drafts, strict=True)]
    logits = batch.read(texts, [n + 1 for n in fed])
    starts = list(accumulate((n + 1 for n in fed), initial=0))[:-1]
    at = [start + i for start, draft in zip(starts, drafts, strict=True) for i in range(len(draft.tokens))]
    drafted = _ids([token for draft in drafts for token in draft.tokens], logits)
    scores = logits if len(at) == len(logits) else logits[_ids(at, logits)]
    bounds = list(pairwise(accumulate((len(draft.tokens) for draft in drafts), initial=0)))
    ends = [b - 1 for (_, b), draft in zip(bounds, drafts, strict=True) if draft.any_stop]
    _take_own_stops(drafted, ends, scores, batch.loaded.stop_ids)
    logprobs, accepted = _judge(scores, drafted, acceptance, q)
    tokens = drafted.tolist()
    n_accepted = [n_leading(accepted[a:b]) for a, b in bounds]
    last = [min(n, n_fed) for n, n_fed in zip(n_accepted, fed, strict=True)]
    after = _ids([start + n for start, n in zip(starts, last, strict=True)], logits)
    return Judged(
        tokens=[tuple(tokens[a:b]) for a, b in bounds],
        logprobs=[tuple(logprobs[a:b]) for a, b in bounds],
        n_accepted=n_accepted,
        after=logits[after],
        drop=[n_fed - n for n_fed, n in zip(fed, last, strict=True)],
    )


def _take_own_stops(drafted: Tensor, ends: list[int], scores: Tensor, stop_ids: Sequence[int]) -> None:
    """Put the verifier's most probable stop token in these places; exact, as it looks at no draw."""
    if ends and len(stop_ids) > 1:
        at, stops = _ids(ends, scores), _ids(sorted(stop_ids), scores)  # of equals, argmax takes the first
        drafted[at] = stops[scores[at][:, stops].argmax(-1)]


def _judge(
    scores: Tensor, drafted: Tensor, acceptance: Acceptance, q: Array | None
) -> tuple[list[float], BoolArray]:
    """Log-probability of every drafted token and whether it passes, from the logits before it [k, vocab]."""
    rng = check_sampling(acceptance.sampling)
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
        p = probabilities(scores, acceptance.sampling).gather(1, drafted.unsqueeze(1)).squeeze(1)
        accepted = accept_lossless(
            _host(p), np.ones(len(drafted)) if q is None else q, rng.random(len(drafted))
        )
    return logprobs.tolist(), accepted


def first_tokens(
    logits: Tensor, q: Sequence[Array | None], sampling: Sampling, rng: np.random.Generator
) -> Tensor:
    """What follows each accepted prefix, drawn so that the answer is distributed as the verifier's own.

    Args:
        logits: After the accepted prefix, [n, vocab].
        q: What the token rejected there was drawn from, shape (vocab,), by row; None where none was rejected.
        sampling: Its temperature is positive.
        rng: Gives one number a row.
    """
    rows = _host(probabilities(logits, sampling, torch.float64))
    left = [
        p if drawn_from is None else residual(p, drawn_from) for p, drawn_from in zip(rows, q, strict=True)
    ]
    chosen = [draw(p, uniform) for p, uniform in zip(left, rng.random(len(left)), strict=True)]
    return torch.tensor(chosen, device=logits.device)


def _ids(values: list[int], beside: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.long, device=beside.device)  # an empty list has no type


def _host(values: Tensor) -> Any:
    return values.cpu().numpy()
