"""Training batches: a pure function of (seed, phase, step), so resuming needs no generator state.

A step's items are sorted by length and cut into groups, each padded to its own longest row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from asd.errors import ConfigError
from asd.tiny.tasks import FAMILIES, LEVELS, RETIRED, Item, Maker, draw, letters_of, spaced


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """Token ids of a prompt and of its answer, and which answer tokens can be known from the prompt."""

    prompt: list[int]
    answer: list[int]
    knowable: list[bool]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Right-padded token ids (rows, length) and the loss weight of predicting each of them (same shape)."""

    ids: torch.Tensor
    weights: torch.Tensor


def _repeat(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Training only: copy a string of letters."""
    letters = [chr(97 + i) for i in rng.integers(26, size=4 + 3 * level)]
    return f"repeat{spaced(letters)}", spaced(letters)


def _pairs(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Training only: every pair of a table asked again, in another order. Many look-ups a row."""
    letters = letters_of(rng, 3 + 2 * level)
    digits = rng.integers(10, size=len(letters)).tolist()
    shown = [f" {letter}{digit}" for letter, digit in zip(letters, digits, strict=True)]
    return f"pairs{''.join(shown)}", "".join(shown[i] for i in rng.permutation(len(shown)))


def _links(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Training only: the same with letters behind letters."""
    letters = letters_of(rng, 3 + 2 * level)
    shown = [spaced(pair) for pair in zip(letters, rng.permutation(letters).tolist(), strict=True)]
    return f"links{';'.join(shown)}", "".join(shown[i] for i in rng.permutation(len(shown)))


AUXILIARY: dict[str, Maker] = {"repeat": _repeat, "pairs": _pairs, "links": _links}
"""Families that only teach to look things up in the prompt; never asked."""

ASKED_BACK = frozenset({"pairs", "links"})
"""Of these every other answer token is a question that no model can foresee; it carries no loss."""


def step_items(
    rng: np.random.Generator, n: int, mix: Mapping[str, float], levels: Sequence[float]
) -> list[Item]:
    """`n` training items; families drawn by `mix`, levels by the five weights `levels`.

    Raises:
        ConfigError: `mix` names an unknown family.
    """
    if unknown := set(mix) - set(FAMILIES) - set(RETIRED) - set(AUXILIARY):
        raise ConfigError(f"unknown families in the mix: {', '.join(sorted(unknown))}")
    names, weights = list(mix), np.array(list(mix.values()))
    families = rng.choice(len(names), size=n, p=weights / weights.sum())
    chosen = rng.choice(LEVELS, size=n, p=np.array(levels) / sum(levels))
    return [_item(rng, names[f], int(level)) for f, level in zip(families, chosen, strict=True)]


def _item(rng: np.random.Generator, family: str, level: int) -> Item:
    if family in AUXILIARY:
        body, answer = AUXILIARY[family](rng, level)
        return Item(family, level, body + "\n", answer)
    return draw(rng, family, level, "train")


def batches(
    items: Sequence[Item], tokenizer: PreTrainedTokenizerFast, groups: int = 1
) -> list[TrainingBatch]:
    """Encode items as up to `groups` batches of similar length.

    An answer's tokens weigh length^-1/2 each, so that long answers count more, but not in proportion; all
    weights of the returned batches sum to 1.
    """
    rows = sorted(encode(items, tokenizer), key=len)
    scale = sum(sum(row.knowable) ** 0.5 for row in rows)
    bounds = [len(rows) * k // groups for k in range(groups + 1)]
    return [pad(rows[a:b], scale) for a, b in pairwise(bounds) if b > a]


def encode(items: Sequence[Item], tokenizer: PreTrainedTokenizerFast) -> list[TrainingExample]:
    """Token ids of prompt and answer (stop token included) of each item."""
    prompts = tokenizer([item.prompt for item in items])["input_ids"]
    answers = tokenizer([item.answer for item in items], add_special_tokens=False)["input_ids"]
    rows = zip(items, prompts, answers, strict=True)
    return [_row(item.family, prompt, [*answer, tokenizer.eos_token_id]) for item, prompt, answer in rows]


def _row(family: str, prompt: list[int], answer: list[int]) -> TrainingExample:
    asked_back = family in ASKED_BACK
    return TrainingExample(prompt, answer, [not asked_back or k % 2 == 1 for k in range(len(answer))])


def pad(rows: Sequence[TrainingExample], scale: float) -> TrainingBatch:
    """Right-padded ids and weights of some rows; a knowable token weighs (their number)^-1/2 / scale."""
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    weights = torch.zeros(len(rows), length)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = torch.tensor(row.prompt + row.answer)
        knowable = torch.tensor(row.knowable, dtype=torch.float32)
        weights[k, len(row.prompt) : len(row)] = knowable * sum(row.knowable) ** -0.5 / scale
    return TrainingBatch(ids, weights)
