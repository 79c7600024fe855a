"""Training batches: a pure function of (seed, phase, step), so resuming needs no generator state.

A step's items are sorted by length and cut into groups, each padded to its own longest row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from asd.errors import ConfigError
from asd.tiny.tasks import FAMILIES, LEVELS, Item, Maker, _letters, _spaced, draw

GROUPS = 4
Row = tuple[list[int], list[int]]
"""Token ids of a prompt and of its answer."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded token ids (rows, length) and the loss weight of predicting each of them (same shape)."""

    ids: torch.Tensor
    weights: torch.Tensor


def _repeat(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Training only: copy a string of letters."""
    letters = [chr(97 + i) for i in rng.integers(26, size=4 + 3 * level)]
    return f"repeat{_spaced(letters)}", _spaced(letters)


def _pairs(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Training only: every pair of a table asked again, in another order. Many look-ups a row."""
    letters = _letters(rng, 3 + 2 * level)
    digits = rng.integers(10, size=len(letters)).tolist()
    shown = [f" {letter}{digit}" for letter, digit in zip(letters, digits, strict=True)]
    return f"pairs{''.join(shown)}", "".join(shown[i] for i in rng.permutation(len(shown)))


def _links(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Training only: the same with letters behind letters."""
    letters = _letters(rng, 3 + 2 * level)
    shown = [_spaced(pair) for pair in zip(letters, rng.permutation(letters).tolist(), strict=True)]
    return f"links{';'.join(shown)}", "".join(shown[i] for i in rng.permutation(len(shown)))


AUXILIARY: dict[str, Maker] = {"repeat": _repeat, "pairs": _pairs, "links": _links}
"""Families that only teach to look things up in the prompt; never asked."""


def step_items(rng: np.random.Generator, n: int, mix: Mapping[str, float], levels: Sequence[float]) -> list[Item]:
    """`n` training items; families drawn by `mix`, levels by the five weights `levels`.

    Raises:
        ConfigError: `mix` names an unknown family.
    """
    if unknown := set(mix) - set(FAMILIES) - set(AUXILIARY):
        raise ConfigError(f"unknown families in the mix: {', '.join(sorted(unknown))}")
    names, weights = list(mix), np.array(list(mix.values()))
    families = rng.choice(len(names), size=n, p=weights / weights.sum())
    chosen = rng.choice(LEVELS, size=n, p=np.array(levels) / sum(levels))
    return [_item(rng, names[f], int(level)) for f, level in zip(families, chosen, strict=True)]


def _item(rng: np.random.Generator, family: str, level: int) -> Item:
    if family in FAMILIES:
        return draw(rng, family, level, "train")
    body, answer = AUXILIARY[family](rng, level)
    return Item(family, level, body + "\n", answer)


def batches(items: Sequence[Item], tokenizer: PreTrainedTokenizerFast) -> list[Batch]:
    """Encode items as `GROUPS` batches of similar length.

    An answer's tokens weigh length^-1/2 each, so that long answers count more, but not in proportion; all
    weights of the returned batches sum to 1.
    """
    rows = sorted(encode(items, tokenizer), key=lambda row: len(row[0]) + len(row[1]))
    scale = sum(len(answer) ** 0.5 for _, answer in rows)
    bounds = [len(rows) * k // GROUPS for k in range(GROUPS + 1)]
    return [pad(rows[a:b], scale) for a, b in zip(bounds, bounds[1:], strict=False) if b > a]


def encode(items: Sequence[Item], tokenizer: PreTrainedTokenizerFast) -> list[Row]:
    """Token ids of prompt and answer (stop token included) of each item."""
    prompts = tokenizer([item.prompt for item in items])["input_ids"]
    answers = tokenizer([item.answer for item in items], add_special_tokens=False)["input_ids"]
    return [(p, [*a, tokenizer.eos_token_id]) for p, a in zip(prompts, answers, strict=True)]


def pad(rows: Sequence[Row], scale: float) -> Batch:
    """Right-padded ids and weights of some rows; a weight is length^-1/2 / scale."""
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    weights = torch.zeros(len(rows), length)
    for k, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[k, :end] = torch.tensor(prompt + answer)
        weights[k, len(prompt) : end] = len(answer) ** -0.5 / scale
    return Batch(ids, weights)
