"""Random pairs of a drafting and a verifying stage, whatever their tokenizers, and drafts that half agree.

The verifier is a random model whose next token mostly follows the last one as in a corpus, so that its text
is like text: random weights alone write tokens that no tokenizer would split their text into, and no draft in
words would stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from asd.engines import GREEDY, Sampling
from asd.engines.prompts import encode
from asd.ladder import Stage
from asd.types import Draft, Query, Usage
from tests.models import config_of, stage
from tests.tokenizers import CORPUS, random_tokenizer

__all__ = ["DraftWriter", "Pair", "half_right", "random_pair", "random_queries", "with_more_room"]

FAMILIES = ("llama", "llama", "qwen2", "gpt2", "mistral", "gemma3_text", "lfm2")


@dataclass(frozen=True)
class Pair:
    """What is to be verified by what.

    Attributes:
        name: What it is, in words.
        verifier: The larger stage, saved with `generation_config.eos_token_id` as drawn.
        drafter: Tokenizer of the smaller one; None: a server that tells no tokens.
        n_context: The verifier's positions.
    """

    name: str
    verifier: Stage
    drafter: PreTrainedTokenizerFast | None
    n_context: int


def random_pair(
    rng: np.random.Generator, to: Path, families: Sequence[str] = FAMILIES, kinds: Sequence[str] = ()
) -> Pair:
    """Draw two tokenizers and a model, with 0, 1 or 3 stop tokens, and save the larger stage at `to`."""
    tokenizer, other = random_tokenizer(rng, kinds), random_tokenizer(rng)
    family, n_stops = str(rng.choice(families)), int(rng.choice([0, 1, 3]))
    n_context = int(rng.choice([64, 96, 256]))
    model = _model(rng, family, tokenizer, n_context)
    stops = _stops(rng, model, tokenizer, n_stops)
    model.generation_config.eos_token_id = stops or None
    model.generation_config.pad_token_id = 0
    if not stops:
        tokenizer.eos_token = None
    model.save_pretrained(to)
    tokenizer.save_pretrained(to)
    drafter = [None, tokenizer, other][int(rng.choice(3, p=[0.3, 0.2, 0.5]))]
    kind = "text" if drafter is None else drafter.name_or_path
    name = f"{family}, {tokenizer.name_or_path} <- {kind}, stops {stops}, {n_context} positions"
    return Pair(name, stage(to, "L", chat_template=bool(rng.random() < 0.4)), drafter, n_context)


def _model(rng: np.random.Generator, family: str, tokenizer: PreTrainedTokenizerFast, n_context: int) -> Any:
    """Mostly a chain of the corpus's tokens, disturbed by attention; some know more tokens than are named."""
    n_vocab = len(tokenizer) + int(rng.choice([0, 5]))
    torch.manual_seed(int(rng.integers(2**31)))
    model = AutoModelForCausalLM.from_config(
        config_of(family, n_layers=2, n_vocab=n_vocab, max_position_embeddings=n_context)
    )
    follows = torch.rand(n_vocab, n_vocab) * 0.3
    for line in CORPUS:
        for a, b in pairwise([*tokenizer(line)["input_ids"], 2]):
            follows[a, b] += 1.0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5 * 0.5)
        embedding = model.get_input_embeddings().weight
        embedding.normal_()
        directions = embedding / embedding.norm(dim=1, keepdim=True)
        model.get_output_embeddings().weight.copy_(follows.T @ directions)
    return model.eval()


def _stops(rng: np.random.Generator, model: Any, tokenizer: PreTrainedTokenizerFast, n: int) -> list[int]:
    """Stop tokens, some of them tokens that the model writes: signs, words, ends."""
    model.generation_config.eos_token_id = None
    prompt = torch.tensor([tokenizer(CORPUS[int(rng.integers(len(CORPUS)))])["input_ids"][:12]])
    written = model.generate(prompt, do_sample=False, max_new_tokens=24, pad_token_id=0)[0, prompt.shape[1] :]
    candidates = [2, *written[2:].tolist()]
    return list(dict.fromkeys(int(token) for token in rng.choice(candidates, n)))


def random_queries(rng: np.random.Generator, pair: Pair, tokenizer: Any, n: int) -> list[Query]:
    """Beginnings of lines, with any room down to one token and up to what the context allows."""
    queries = []
    for i in range(n):
        line = CORPUS[int(rng.integers(len(CORPUS)))]
        prompt = line[: int(rng.integers(1, 40))].strip() or "a"
        room = int(rng.choice([1, 2, 4, 8, 16, 24]))
        query = Query(str(i), "d", prompt, None, 1)
        left = pair.n_context - len(encode(query, pair.verifier, tokenizer, None, 2**31))
        exactly = rng.random() < 0.1
        queries.append(replace(query, max_new_tokens=left if exactly and left < 40 else min(room, left)))
    return queries


class DraftWriter:
    """A small stage that writes texts given beforehand; implements `asd.engines.Engine`.

    Args:
        drafts: By query id.
    """

    stage_name = "S"

    def __init__(self, drafts: dict[str, Draft]) -> None:
        self._drafts = drafts

    def load(self) -> None: ...

    def unload(self) -> None: ...

    def synchronise(self) -> None: ...

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:  # noqa: ARG002
        return [self._drafts[query.id] for query in queries]


def with_more_room(query: Query, pair: Pair, own: Draft) -> Query:
    """The same question with more room than it was answered in, as far as the context allows."""
    return replace(query, max_new_tokens=min(query.max_new_tokens + 8, pair.n_context - own.usage.n_prompt))


def half_right(
    rng: np.random.Generator, pair: Pair, own: Sequence[Draft], longer: Sequence[Draft]
) -> list[Draft]:
    """Drafts like the verifier's answers: whole, cut, changed, gone on with, too long, empty, and odd.

    Args:
        rng: Draws what becomes of each.
        pair: Whose drafter writes them.
        own: What the verifier writes in the room it has.
        longer: What it would write with more.
    """
    return [_spoiled(rng, pair, *both) for both in zip(own, longer, strict=True)]


def _spoiled(rng: np.random.Generator, pair: Pair, own: Draft, longer: Draft) -> Draft:
    text = (own if rng.random() < 0.6 else longer).text
    at = int(rng.integers(len(text) // 3, len(text) + 1))
    ways = [
        text,
        text[:at],
        text[:at] + "z" + text[at + 1 :],
        text[:at] + " " + text[at:],
        text[:at] + text[at + 1 :],
        text.strip(),
        f"\n{text}",
        f"{text} {CORPUS[int(rng.integers(len(CORPUS)))]}",
        f"{text[:at]}</s>{text[at:]}",
        f"{text[:at]}\r\n\u00a0\U0001f600e\u0301",
        "",
    ]
    way = int(rng.choice(len(ways), p=[0.3, *[0.7 / (len(ways) - 1)] * (len(ways) - 1)]))
    as_written = way == 0 and text == own.text and rng.random() < 0.5
    return _written(pair, ways[way], own if as_written else None, finished=bool(rng.random() < 0.7))


def _written(pair: Pair, text: str, own: Draft | None, *, finished: bool) -> Draft:
    """A draft in the drafter's tokens, or in those of an answer; its last is the drafter's end."""
    if own is not None:
        tokens, finished = own.tokens, own.finished
    elif pair.drafter is None:
        tokens = ()
    else:
        tokens = tuple(pair.drafter(text, add_special_tokens=False)["input_ids"]) + (2,) * finished
    n = len(tokens) or 1
    return Draft("S", text, tokens, (-0.1,) * len(tokens), finished, Usage(1, n, n), 0.0)
