"""Queries, drafts that agree with a stage's answers for a while, and what comparisons of answers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from asd.engines import LOSSLESS, Acceptance, Engine, Verifier
from asd.engines.hf.engine import TransformersEngine
from asd.types import Draft, Query, Verification


def questions(n: int, seed: int = 0) -> list[Query]:
    """Prompts of mixed lengths with different room for their answers."""
    rng = np.random.default_rng(seed)
    letters = list("abcdefghijklmnopqrstuvwxyz 0123456789+.")
    return [
        Query(
            str(i),
            "d",
            "".join(rng.choice(letters, size=rng.integers(2, 20))),
            None,
            int(rng.integers(6, 20)),
        )
        for i in range(n)
    ]


def spoiled(own: Sequence[Draft], seed: int = 1) -> list[Draft]:
    """Drafts of a stage "S" that agree with these answers for a while: wholly, not at all, for some tokens;
    cut short, empty, and longer than there is room for."""
    rng = np.random.default_rng(seed)
    return [_spoil(draft, kind % 6, rng) for kind, draft in enumerate(own)]


def _spoil(draft: Draft, kind: int, rng: np.random.Generator) -> Draft:
    tokens = list(draft.tokens)
    at = {0: len(tokens), 1: 0}.get(kind, int(rng.integers(len(tokens))))
    if kind in (1, 2):  # another token, then as if nothing had happened
        tokens[at] = (tokens[at] + 1) % 100 + 5
        still_ends = draft.finished and at < len(tokens) - 1
        return replace(draft, stage="S", text="?", tokens=tuple(tokens), finished=still_ends)
    if kind == 3:
        return replace(draft, stage="S", text="?", tokens=tuple(tokens[:at]), finished=False)
    if kind == 4:
        return replace(draft, stage="S", text="", tokens=(), finished=False)
    if kind == 5:
        return replace(draft, stage="S", text="?", tokens=tuple(tokens + [50] * 30), finished=False)
    return replace(draft, stage="S")


def with_texts(engine: TransformersEngine, drafts: Sequence[Draft]) -> list[Draft]:
    """The same drafts saying in their texts what their tokens say."""
    decode = engine.loaded.tokenizer.decode
    return [replace(draft, text=decode(draft.tokens, skip_special_tokens=True)) for draft in drafts]


def texts_only(drafts: Sequence[Draft]) -> list[Draft]:
    """The same drafts as a server tells them: without token ids."""
    return [replace(draft, stage="S", tokens=(), logprobs=()) for draft in drafts]


def in_batches(engine: Engine, asked: Sequence[Query], size: int) -> list[Draft]:
    return [d for i in range(0, len(asked), size) for d in engine.generate(asked[i : i + size])]


def verify_all(
    engine: Verifier,
    asked: Sequence[Query],
    drafts: Sequence[Draft],
    size: int,
    acceptance: Acceptance = LOSSLESS,
) -> list[Verification]:
    starts = range(0, len(asked), size)
    return [v for i in starts for v in engine.verify(asked[i : i + size], drafts[i : i + size], acceptance)]


def continue_all(
    engine: Verifier, asked: Sequence[Query], verifications: Sequence[Verification], size: int
) -> list[Draft]:
    starts = range(0, len(asked), size)
    return [d for i in starts for d in engine.continue_(asked[i : i + size], verifications[i : i + size])]


def assert_same_answers(continued: Sequence[Draft], own: Sequence[Draft]) -> None:
    assert [(d.tokens, d.text, d.finished, d.stage) for d in continued] == [
        (d.tokens, d.text, d.finished, d.stage) for d in own
    ]
    for draft, expected in zip(continued, own, strict=True):
        np.testing.assert_allclose(draft.logprobs, expected.logprobs, atol=1e-3)


def by_generate(model: Any, tokenizer: Any, asked: Sequence[Query]) -> list[tuple[int, ...]]:
    """What `generate()` writes for one batch, each row cut at its stop token or its limit."""
    batch = tokenizer(
        [query.prompt for query in asked], return_tensors="pt", padding=True, padding_side="left"
    ).to(model.device)
    most = max(query.max_new_tokens for query in asked)
    out = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        do_sample=False,
        max_new_tokens=most,
        pad_token_id=0,
    )
    stops = model.generation_config.eos_token_id or []
    stops = stops if isinstance(stops, list) else [stops]
    rows = []
    for row, query in zip(out[:, batch["input_ids"].shape[1] :].tolist(), asked, strict=True):
        end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
        rows.append(tuple(row[: min(end, query.max_new_tokens)]))
    return rows


NEAR_TIE = 1e-5
"""Logits that are no further apart than this may change places by rounding."""


def assert_written_as_by_generate(
    path: Path, asked: Sequence[Query], written: Sequence[Draft], size: int, device: str = "cpu"
) -> int:
    """Answers are those of `generate()` in batches of a size, or differ first where two tokens are tied.

    Returns:
        How many differ at a tie.
    """
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).to(device)
    tokenizer = AutoTokenizer.from_pretrained(path)
    n_ties = 0
    for start in range(0, len(asked), size):
        batch = asked[start : start + size]
        for query, draft, tokens in zip(
            batch, written[start : start + size], by_generate(model, tokenizer, batch), strict=True
        ):
            if draft.tokens != tokens:
                n_same = next(i for i, (a, b) in enumerate(zip(draft.tokens, tokens, strict=False)) if a != b)
                gap = _top_gap(model, [*tokenizer(query.prompt)["input_ids"], *tokens[:n_same]])
                assert gap < NEAR_TIE, (query, draft.tokens, tokens, gap)
                n_ties += 1
    return n_ties


def _top_gap(model: Any, tokens: list[int]) -> float:
    """How far the two largest logits after a text are apart."""
    with torch.no_grad():
        top = model(torch.tensor([tokens], device=model.device)).logits[0, -1].double().topk(2).values
    return float(top[0] - top[1])
